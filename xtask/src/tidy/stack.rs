//! What the calls of a program take on its stack, as the verifiers count that count most: Linux 6.1 refuses programs that
//! newer kernels take.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SectionKind, SymbolKind};

use super::calls::{self, INSTRUCTION, LOAD_WIDE};

/// Bytes for all calls of a program together (`MAX_BPF_STACK`).
const MOST: u32 = 512;

/// Each frame is counted in whole blocks of so many bytes, and as one block at least (`check_max_stack_depth` before Linux 6.6).
const BLOCK: u32 = 32;

/// The register that points to the end of the frame.
const FRAME: u8 = 10;

/// `mov` of a register, and `add` of a constant, in 64 bits.
const MOVE: u8 = 0xbf;
const ADD: u8 = 0x07;

/// Finds chains of calls that take too much.
pub(super) fn check(object: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(object).context("cannot read the eBPF object")?;
    let frames = frames(&file)?;
    let mut callees = BTreeMap::<_, BTreeSet<_>>::new();
    for (caller, callee) in calls::all(&file)? {
        callees.entry(caller).or_default().insert(callee);
    }
    let deepest = Deepest { frames, callees };
    let mut problems = Vec::new();
    let mut known = BTreeMap::new();
    for name in deepest.frames.keys() {
        let (depth, chain) = deepest.from(name, &mut known);
        // Whoever calls too deep a chain would say the same again.
        if depth > MOST && depth - deepest.block(name) <= MOST {
            problems.push(format!("{depth} of {MOST} bytes: {}", chain.join(", ")));
        }
    }
    Ok(problems)
}

/// The chain of calls that takes most, from each function.
struct Deepest {
    frames: BTreeMap<String, u32>,
    callees: BTreeMap<String, BTreeSet<String>>,
}

impl Deepest {
    fn block(&self, name: &str) -> u32 {
        let bytes = self.frames.get(name).copied().unwrap_or_default();
        bytes.max(1).next_multiple_of(BLOCK)
    }

    /// Bytes, and who they are of. Programs have no recursion.
    fn from(
        &self,
        name: &str,
        known: &mut BTreeMap<String, (u32, Vec<String>)>,
    ) -> (u32, Vec<String>) {
        if let Some(known) = known.get(name) {
            return known.clone();
        }
        let callees = self.callees.get(name).into_iter().flatten();
        let below = callees.map(|callee| self.from(callee, known));
        let (depth, mut chain) = below.max_by_key(|(depth, _)| *depth).unwrap_or_default();
        let depth = depth + self.block(name);
        let bytes = self.frames.get(name).copied().unwrap_or_default();
        chain.insert(0, format!("{name} ({bytes})"));
        known.insert(name.to_owned(), (depth, chain.clone()));
        (depth, chain)
    }
}

/// Bytes of each function's frame.
fn frames(file: &object::File<'_>) -> Result<BTreeMap<String, u32>> {
    let mut frames = BTreeMap::new();
    for section in file
        .sections()
        .filter(|section| section.kind() == SectionKind::Text)
    {
        let code = section.data().context("cannot read the code")?;
        let mut functions: Vec<_> = file
            .symbols()
            .filter(|symbol| symbol.kind() == SymbolKind::Text)
            .filter(|symbol| symbol.section_index() == Some(section.index()))
            .filter_map(|symbol| {
                Some((usize::try_from(symbol.address()).ok()?, symbol.name().ok()?))
            })
            .collect();
        functions.sort_unstable();
        for (at, (begin, name)) in functions.iter().enumerate() {
            let end = functions.get(at + 1).map_or(code.len(), |(next, _)| *next);
            let depth = depth(code.get(*begin..end).unwrap_or_default());
            let frame = frames.entry((*name).to_owned()).or_default();
            *frame = depth.max(*frame);
        }
    }
    Ok(frames)
}

/// How far below the end of its frame some code reaches: by what it reads and writes there, and by what it takes the address of.
fn depth(code: &[u8]) -> u32 {
    let mut depth = 0;
    let mut addresses = 0_u16;
    let mut instructions = code.chunks_exact(INSTRUCTION);
    while let Some(&[operation, registers, o0, o1, i0, i1, i2, i3]) = instructions.next() {
        let (to, from) = (registers & 0xf, registers >> 4);
        let offset = i32::from(i16::from_ne_bytes([o0, o1]));
        let immediate = i32::from_ne_bytes([i0, i1, i2, i3]);
        match operation {
            LOAD_WIDE => {
                instructions.next();
            }
            MOVE if from == FRAME => addresses |= 1 << to,
            ADD if addresses & 1 << to != 0 => {
                addresses &= !(1 << to);
                depth = depth.max(-immediate);
            }
            _ if is_access(operation, to, from) => depth = depth.max(-offset),
            _ => {}
        }
    }
    depth.unsigned_abs()
}

/// Whether memory is read or written by the frame's register.
fn is_access(operation: u8, to: u8, from: u8) -> bool {
    // The class of an instruction: `BPF_LDX`, `BPF_ST`, `BPF_STX`.
    const LOAD: u8 = 1;
    const STORE: u8 = 2;
    const STORE_REGISTER: u8 = 3;
    match operation & 7 {
        LOAD => from == FRAME,
        STORE | STORE_REGISTER => to == FRAME,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::calls::tests::{EXIT, call, function, object},
        *,
    };
    use object::write::StandardSection;

    /// `*(u64 *)(r10 - bytes) = 0`
    fn store(bytes: i16) -> [u8; 8] {
        let [o0, o1] = (-bytes).to_ne_bytes();
        [0x7a, FRAME, o0, o1, 0, 0, 0, 0]
    }

    #[test]
    fn frame_reaches_as_far_as_what_is_read_written_or_pointed_to() {
        let load = |register: u8| [0x79, register << 4, 0xf0, 0xff, 0, 0, 0, 0];
        let address = [[MOVE, FRAME << 4 | 2, 0, 0, 0, 0, 0, 0], {
            let [i0, i1, i2, i3] = (-40_i32).to_ne_bytes();
            [ADD, 2, 0, 0, i0, i1, i2, i3]
        }];
        assert_eq!(depth([store(24), EXIT].as_flattened()), 24);
        assert_eq!(depth([load(FRAME), EXIT].as_flattened()), 16);
        assert_eq!(depth([load(3), EXIT].as_flattened()), 0);
        assert_eq!(depth(address.as_flattened()), 40);
        let other = [address[1], EXIT];
        assert_eq!(depth(other.as_flattened()), 0, "no address of the frame");
        let wide = [[LOAD_WIDE, 1, 0, 0, 0, 0, 0, 0], store(64), EXIT];
        assert_eq!(depth(wide.as_flattened()), 0, "half of a constant");
    }

    /// A program that calls `middle`, which calls `last`.
    fn chain(program: i16, middle: i16, last: i16) -> Vec<String> {
        let mut object = object();
        let text = object.section_id(StandardSection::Text);
        function(
            &mut object,
            text,
            "program",
            &[store(program), call(1), EXIT],
        );
        function(&mut object, text, "middle", &[store(middle), call(1), EXIT]);
        function(&mut object, text, "last", &[store(last), EXIT]);
        check(&object.write().unwrap()).unwrap()
    }

    #[test]
    fn frames_of_a_chain_are_counted_in_whole_blocks() {
        assert_eq!(chain(256, 192, 64), Vec::<String>::new());
        assert_eq!(chain(249, 185, 33), Vec::<String>::new());
        assert_eq!(
            chain(256, 193, 64),
            ["544 of 512 bytes: program (256), middle (193), last (64)"]
        );
        assert_eq!(
            chain(8, 264, 256),
            ["544 of 512 bytes: middle (264), last (256)"],
            "said once"
        );
    }
}
