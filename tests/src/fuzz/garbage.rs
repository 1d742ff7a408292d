//! Frames that no host should send.

use fastrand::Rng;

use super::shapes;

/// Spoils a frame.
pub(super) fn spoil(rng: &mut Rng, frame: &mut Vec<u8>) {
    for _ in 0..rng.usize(1..4) {
        spoil_once(rng, frame);
    }
    // `BPF_PROG_TEST_RUN` takes nothing shorter.
    if frame.len() < 14 {
        frame.resize(14, 0);
    }
}

fn spoil_once(rng: &mut Rng, frame: &mut Vec<u8>) {
    if frame.is_empty() {
        return;
    }
    let at = rng.usize(..frame.len());
    match rng.u8(..14) {
        0..3 => frame[at] ^= 1 << rng.u8(..8),
        3 => frame[at] = rng.u8(..),
        4 => frame.truncate(at.max(14)),
        5 => frame.resize(frame.len() + rng.usize(1..60), 0x55),
        // The length that the IP header says.
        6 => put(frame, 16, rng.u16(..)),
        7 => put(frame, 18, rng.u16(..)),
        // Version, length of the header.
        8 => put_byte(
            frame,
            14,
            rng.choice([0x44, 0x46, 0x4f, 0x60, 0x55]).unwrap_or(0),
        ),
        // A fragment, or bits that mean nothing.
        9 => put(
            frame,
            20,
            rng.choice([0x2000, 0x2003, 0x0003, 0x8000, 0x4000])
                .unwrap_or(0),
        ),
        10 => insert_tag(rng, frame),
        11 => shapes::extend(rng, frame),
        12 => spoil_sum(rng, frame),
        _ => put_byte(frame, 47, rng.u8(..)),
    }
}

fn put(frame: &mut [u8], at: usize, value: u16) {
    if let Some(bytes) = frame.get_mut(at..at + 2) {
        bytes.copy_from_slice(&value.to_be_bytes());
    }
}

fn put_byte(frame: &mut [u8], at: usize, value: u8) {
    if let Some(byte) = frame.get_mut(at) {
        *byte = value;
    }
}

/// A VLAN tag.
fn insert_tag(rng: &mut Rng, frame: &mut Vec<u8>) {
    if frame.len() >= 14 {
        let kind: [u8; 2] = if rng.bool() { [0x81, 0] } else { [0x88, 0xa8] };
        let vid = rng.choice([0, 0, 1, 100]).unwrap_or(0);
        frame.splice(12..12, [kind[0], kind[1], 0, vid]);
    }
}

/// One of the checksums, or what stands where it would be.
fn spoil_sum(rng: &mut Rng, frame: &mut [u8]) {
    let at = rng.choice([24, 40, 50, 60, 70]).unwrap_or(24);
    let any = rng.u16(..);
    put(frame, at, rng.choice([0, 0xffff, any]).unwrap_or(0));
}

/// Bytes without sense.
pub(super) fn noise(rng: &mut Rng) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..rng.usize(54..200)).map(|_| rng.u8(..)).collect();
    let kind = rng
        .choice([[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0]])
        .unwrap_or([8, 0]);
    frame[12..14].copy_from_slice(&kind);
    frame
}
