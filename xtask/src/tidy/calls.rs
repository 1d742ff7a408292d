//! Calls of functions in an eBPF object, and those of `memcpy` and its kin.
//!
//! For BPF the latter are loops over bytes: a 63-instruction program with one visits 304. The object
//! always contains the functions; what matters is whether a program calls one.

use anyhow::{Context as _, Result};
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionIndex,
    SectionKind, SymbolKind,
};

/// The functions that LLVM calls for what it cannot expand into loads and stores.
const SLOW: [&str; 5] = ["bcmp", "memcmp", "memcpy", "memmove", "memset"];

/// Bytes of an instruction; `lddw` has two of them.
pub(super) const INSTRUCTION: usize = 8;

/// `lddw`, load a 64-bit constant.
pub(super) const LOAD_WIDE: u8 = 0x18;

/// `call`, of a helper or (source register 1) of a function.
const CALL: u8 = 0x85;

/// Finds calls of slow functions from anything but slow functions.
pub(super) fn check(object: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(object).context("cannot read the eBPF object")?;
    let is_slow = |name: &String| SLOW.contains(&name.as_str());
    let slow = all(&file)?
        .into_iter()
        .filter(|(caller, callee)| is_slow(callee) && !is_slow(caller));
    let mut problems: Vec<_> = slow
        .map(|(caller, callee)| format!("{caller} calls {callee}"))
        .collect();
    problems.dedup();
    Ok(problems)
}

/// Who calls whom, by name.
pub(super) fn all(file: &object::File<'_>) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    let is_code = |section: &object::Section<'_, '_>| section.kind() == SectionKind::Text;
    for section in file.sections().filter(is_code) {
        let code = section.data().context("cannot read the code")?;
        for (offset, immediate) in calls(code) {
            let index = section.index();
            let target = relocated(file, index, offset, immediate)
                .unwrap_or((index, offset + 8 + immediate * 8));
            let caller = function_at(file, (index, offset));
            all.push((caller, function_at(file, target)));
        }
    }
    Ok(all)
}

/// Offsets and immediates of the calls of functions.
fn calls(code: &[u8]) -> Vec<(i64, i64)> {
    let mut found = Vec::new();
    let mut offset = 0;
    while let Some(&[operation, registers, _, _, i0, i1, i2, i3]) =
        code.get(offset..offset + INSTRUCTION)
    {
        if operation == CALL && registers >> 4 == 1 {
            let immediate = i32::from_ne_bytes([i0, i1, i2, i3]);
            found.push((offset as i64, i64::from(immediate)));
        }
        offset += if operation == LOAD_WIDE {
            2 * INSTRUCTION
        } else {
            INSTRUCTION
        };
    }
    found
}

/// Where a call goes that the loader has to relocate: the symbol's place, and from there as many
/// instructions as the immediate says, plus one.
fn relocated(
    file: &object::File<'_>,
    section: SectionIndex,
    offset: i64,
    immediate: i64,
) -> Option<(SectionIndex, i64)> {
    let section = file.section_by_index(section).ok()?;
    let mut relocations = section.relocations();
    let (_, relocation) = relocations.find(|&(at, _)| i64::try_from(at) == Ok(offset))?;
    let RelocationTarget::Symbol(symbol) = relocation.target() else {
        return None;
    };
    let symbol = file.symbol_by_index(symbol).ok()?;
    let address = i64::try_from(symbol.address()).ok()?;
    Some((symbol.section_index()?, address + (immediate + 1) * 8))
}

/// Name of the function around a place, or the place itself.
fn function_at(file: &object::File<'_>, (section, offset): (SectionIndex, i64)) -> String {
    let functions = file.symbols().filter(|symbol| {
        symbol.kind() == SymbolKind::Text && symbol.section_index() == Some(section)
    });
    let offset = u64::try_from(offset).unwrap_or(u64::MAX);
    let around = functions
        .filter(|symbol| symbol.address() <= offset)
        .max_by_key(|symbol| symbol.address());
    let name = around.and_then(|symbol| symbol.name().ok().map(str::to_owned));
    name.unwrap_or_else(|| format!("section {} at {offset}", section.0))
}

#[cfg(test)]
pub(super) mod tests {
    use object::{
        Architecture, BinaryFormat, Endianness, RelocationFlags, SymbolFlags, SymbolScope, elf,
        write::{Object, Relocation, SectionId, StandardSection, Symbol, SymbolId, SymbolSection},
    };

    use super::*;

    pub(in crate::tidy) const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];

    pub(in crate::tidy) fn call(immediate: i32) -> [u8; 8] {
        let [i0, i1, i2, i3] = immediate.to_ne_bytes();
        [CALL, 0x10, 0, 0, i0, i1, i2, i3]
    }

    fn endianness() -> Endianness {
        if cfg!(target_endian = "big") {
            Endianness::Big
        } else {
            Endianness::Little
        }
    }

    pub(in crate::tidy) fn function(
        object: &mut Object<'_>,
        section: SectionId,
        name: &str,
        code: &[[u8; 8]],
    ) -> SymbolId {
        let symbol = object.add_symbol(Symbol {
            name: name.as_bytes().to_vec(),
            value: 0,
            size: 0,
            kind: SymbolKind::Text,
            scope: SymbolScope::Linkage,
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        });
        object.add_symbol_data(symbol, section, code.as_flattened(), 8);
        symbol
    }

    /// An object with nothing in it.
    pub(in crate::tidy) fn object() -> Object<'static> {
        Object::new(BinaryFormat::Elf, Architecture::Bpf, endianness())
    }

    /// An object with `memcpy` in `.text`, and a program that calls it if `calls`, by relocation.
    fn with_memcpy(calls: bool) -> Vec<u8> {
        let mut object = object();
        let text = object.section_id(StandardSection::Text);
        let memcpy = function(&mut object, text, "memcpy", &[EXIT]);
        let programs = object.add_section(vec![], b"xdp".to_vec(), SectionKind::Text);
        let code = if calls {
            [call(-1), EXIT]
        } else {
            [EXIT, EXIT]
        };
        function(&mut object, programs, "uplink", &code);
        if calls {
            let flags = RelocationFlags::Elf {
                r_type: elf::R_BPF_64_32,
            };
            object
                .add_relocation(
                    programs,
                    Relocation {
                        offset: 0,
                        symbol: memcpy,
                        addend: 0,
                        flags,
                    },
                )
                .unwrap();
        }
        object.write().unwrap()
    }

    #[test]
    fn call_from_a_program_is_found() {
        assert_eq!(check(&with_memcpy(true)).unwrap(), ["uplink calls memcpy"]);
    }

    #[test]
    fn function_that_nobody_calls_does_no_harm() {
        assert_eq!(check(&with_memcpy(false)).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn call_within_the_section_needs_no_relocation() {
        let mut object = object();
        let text = object.section_id(StandardSection::Text);
        function(&mut object, text, "helper", &[call(1), EXIT]);
        function(&mut object, text, "memset", &[EXIT, EXIT]);
        function(&mut object, text, "memmove", &[call(-3), EXIT]);
        assert_eq!(
            check(&object.write().unwrap()).unwrap(),
            ["helper calls memset"]
        );
    }

    #[test]
    fn constant_that_looks_like_a_call_is_none() {
        let wide = [LOAD_WIDE, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(calls([wide, call(0), EXIT].as_flattened()), []);
        assert_eq!(calls([EXIT, call(0)].as_flattened()), [(8, 0)]);
    }
}
