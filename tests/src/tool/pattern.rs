//! Bytes that both ends know, so that what arrives can be told from what was sent.

use std::io::{self, BufRead, ErrorKind, Write};

/// Bytes that are made, sent and compared at once.
const BLOCK: usize = 64 * 1024;

/// A stream of bytes without order (xorshift64), the same in every process.
#[derive(Debug)]
struct Pattern(u64);

impl Pattern {
    fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    fn next_block(&mut self) -> Vec<u8> {
        let mut block = Vec::with_capacity(BLOCK);
        while block.len() < BLOCK {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            block.extend(self.0.to_le_bytes());
        }
        block
    }
}

/// The blocks of a stream of so many bytes.
fn blocks(bytes: u64) -> impl Iterator<Item = Vec<u8>> {
    let mut pattern = Pattern::new();
    let mut left = bytes;
    std::iter::from_fn(move || {
        let mut block = (left > 0).then(|| pattern.next_block())?;
        block.truncate(usize::try_from(left).unwrap_or(BLOCK));
        left -= block.len() as u64;
        Some(block)
    })
}

/// Sends so many bytes.
pub(super) fn send(stream: &mut impl Write, bytes: u64) -> io::Result<()> {
    blocks(bytes).try_for_each(|block| stream.write_all(&block))
}

/// Receives so many bytes.
///
/// # Errors
/// When they are not those that [`send`] has sent.
pub(super) fn receive(stream: &mut impl BufRead, bytes: u64) -> io::Result<()> {
    let mut buffer = vec![0; BLOCK];
    for (number, block) in blocks(bytes).enumerate() {
        let received = &mut buffer[..block.len()];
        stream.read_exact(received)?;
        if received != block {
            let reason = format!("other bytes than were sent, from {} on", number * BLOCK);
            return Err(io::Error::new(ErrorKind::InvalidData, reason));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_known_again() {
        for bytes in [0, 1, 65_536, 100_000] {
            let mut wire = Vec::new();
            send(&mut wire, bytes).unwrap();
            assert_eq!(wire.len() as u64, bytes);
            receive(&mut wire.as_slice(), bytes).unwrap();
        }
    }

    #[test]
    fn a_wrong_byte_and_a_missing_one_are_noticed() {
        let mut wire = Vec::new();
        send(&mut wire, 100_000).unwrap();
        receive(&mut &wire[..99_999], 100_000).unwrap_err();
        wire[99_999] ^= 1;
        receive(&mut wire.as_slice(), 100_000).unwrap_err();
    }
}
