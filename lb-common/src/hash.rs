//! Hashes that the kernel and the agent compute alike.

use crate::Addr;

/// 2^32 divided by the golden ratio, made odd: the multiplier of Fibonacci hashing.
pub const GOLDEN: u32 = 0x9e37_79b1;

/// The odd multiplier of splitmix64's first round, a well-mixing 64-bit constant.
pub(crate) const MULTIPLIER: u64 = 0xbf58_476d_1ce4_e5b9;

/// One round: takes a word into a state.
#[inline(always)]
pub(crate) fn mix(state: u64, word: u64) -> u64 {
    let product = (state ^ word).wrapping_mul(MULTIPLIER);
    product ^ (product >> 32)
}

/// The upper and the lower half of an address, as they lie in memory.
#[inline(always)]
pub(crate) fn halves(addr: Addr) -> (u64, u64) {
    let [a, b, c, d] = addr.to_wire_words();
    (
        u64::from(a) | u64::from(b) << 32,
        u64::from(c) | u64::from(d) << 32,
    )
}

/// Mixes two addresses and a word under a seed.
#[inline(always)]
#[must_use]
pub fn pair(a: Addr, b: Addr, word: u64, seed: u32) -> u32 {
    let state = mix(u64::from(seed), word);
    let (high, low) = halves(a);
    let state = mix(mix(state, high), low);
    let (high, low) = halves(b);
    let state = mix(mix(state, high), low);
    (mix(state, MULTIPLIER) >> 32) as u32
}

/// Mixes one address and a word in a hurry: its upper bits are the better ones.
///
/// Neighbouring addresses are apart by one and the same step (Fibonacci hashing), so that many of them
/// in a row have different upper bits.
#[inline(always)]
#[must_use]
pub fn wide(addr: Addr, word: u64) -> u64 {
    let (high, low) = halves(addr);
    let point = mix(word, u64::from_be(high)).wrapping_add(u64::from_be(low));
    point.wrapping_mul(MULTIPLIER)
}

/// Mixes two addresses and a word in a hurry: its upper half is the better one.
#[inline(always)]
#[must_use]
pub fn both(a: Addr, b: Addr, word: u64) -> u64 {
    let ((a_high, a_low), (b_high, b_low)) = (halves(a), halves(b));
    // All of IPv4's addresses have the same upper half.
    let high = a_high ^ b_high.rotate_left(u32::BITS);
    mix(mix(mix(word, a_low), b_low), high).wrapping_mul(MULTIPLIER)
}

/// Mixes two addresses and a word under a seed that nobody knows: nobody knows, either, which of them have a hash in common.
#[inline(always)]
#[must_use]
pub fn secret(a: Addr, b: Addr, word: u64, seed: u64) -> u64 {
    let ((a_high, a_low), (b_high, b_low)) = (halves(a), halves(b));
    let state = keyed(seed, word, seed);
    let state = keyed(keyed(state, a_high, seed), a_low, seed);
    keyed(keyed(state, b_high, seed), b_low, seed).wrapping_mul(MULTIPLIER)
}

/// One round. The upper half comes into the lower one by a secret multiplier: by a shift alone, what changes
/// in the highest bit would change in two that are known, and the next word could undo it.
#[inline(always)]
fn keyed(state: u64, word: u64, key: u64) -> u64 {
    let product = (state ^ word).wrapping_mul(MULTIPLIER);
    product.wrapping_add((product >> 32).wrapping_mul(key | 1))
}

/// The upper half of [`wide`].
#[inline(always)]
#[must_use]
pub fn short(addr: Addr, word: u64) -> u32 {
    (wide(addr, word) >> 32) as u32
}

/// Mixes one address and a word into 64 bits under a seed.
#[must_use]
pub fn address(addr: Addr, word: u64, seed: u64) -> u64 {
    let (high, low) = halves(addr);
    let state = mix(mix(mix(seed, word), high), low);
    mix(mix(state, MULTIPLIER), seed)
}
