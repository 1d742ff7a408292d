//! Which record of a bucket is whose, without locks.
//!
//! A set-associative table in an array: each bucket has some records, its ways, and for each of them a word that
//! says whose it is. A look-up reads the words, which lie in one cache line, and goes to one record. Whoever inserts claims a
//! way by exchanging its word, writes the record, and publishes it by exchanging the word again. Nobody waits for anybody, so
//! that a process that dies in the midst of it costs one way of one bucket, until somebody [frees](clear) what was claimed.
//!
//! Of two that insert the same tag at the same moment, one succeeds at most: after its claim, each looks at all other
//! words. What is published there goes first; of two claims, the one of the lower way, which takes the other one its tag
//! away.
//!
//! The words are all that is shared by these rules. A record that is displaced or removed may be another one's while it
//! is being read: whoever needs all of it as it was compares the word before with the one after, in which a number counts
//! the claims.

use core::array;

/// What a way's word says. From the lowest bit: a number that each claim counts up (16), when it was claimed or
/// [touched](touch) (20), whether it is a claim (1), nothing (1), and the tag (26), of which 0 is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(pub u64);

const STAMP_SHIFT: u32 = 16;
const STAMP: u64 = 0xf_ffff;
const CLAIM: u64 = 1 << 36;
const TAG_SHIFT: u32 = 38;

impl Word {
    /// Of a way that was never used.
    pub const FREE: Self = Self(0);

    /// What this way's word is when it is claimed.
    #[inline(always)]
    #[must_use]
    pub fn claimed(self, tag: Tag, tick: u64) -> Self {
        let number = self.0.wrapping_add(1) & 0xffff;
        Self(number | (tick & STAMP) << STAMP_SHIFT | CLAIM | u64::from(tag.0) << TAG_SHIFT)
    }

    /// A claim whose record is written.
    #[inline(always)]
    #[must_use]
    pub fn published(self) -> Self {
        Self(self.0 & !CLAIM)
    }

    /// A claim that is not to be published.
    #[inline(always)]
    #[must_use]
    pub fn revoked(self) -> Self {
        Self(self.0 & (CLAIM | ((1 << TAG_SHIFT) - 1)))
    }

    /// Nobody's.
    #[inline(always)]
    #[must_use]
    pub fn freed(self) -> Self {
        Self(self.revoked().published().0)
    }

    /// The same at another time.
    #[inline(always)]
    #[must_use]
    pub fn touched(self, tick: u64) -> Self {
        Self(self.0 & !(STAMP << STAMP_SHIFT) | (tick & STAMP) << STAMP_SHIFT)
    }

    /// Whether the record is being written.
    #[inline(always)]
    #[must_use]
    pub fn is_claimed(self) -> bool {
        self.0 & CLAIM != 0
    }

    /// Whether the record is there.
    #[inline(always)]
    #[must_use]
    pub fn is_published(self) -> bool {
        !self.is_claimed() && !self.is_free()
    }

    /// Whether the way is nobody's.
    #[inline(always)]
    #[must_use]
    pub fn is_free(self) -> bool {
        self.0 >> STAMP_SHIFT >> 20 == 0
    }

    /// Whether it is of this tag, claimed or published.
    #[inline(always)]
    #[must_use]
    pub fn has(self, tag: Tag) -> bool {
        self.0 >> TAG_SHIFT == u64::from(tag.0)
    }

    /// Whose it is; nobody's is 0.
    #[must_use]
    pub fn tag(self) -> u32 {
        (self.0 >> TAG_SHIFT) as u32
    }

    /// How gladly a way is given to somebody else at `tick`, the larger the more: a free one most, then the
    /// one that was touched first; 0 is not at all.
    #[inline(always)]
    fn rank(self, tick: u64) -> u64 {
        let age = (tick.wrapping_sub(self.0 >> STAMP_SHIFT) & STAMP) + 1;
        let is_free = u64::from(self.is_free()) << 21;
        let may_be = u64::from(!self.is_claimed());
        (age | is_free) * may_be
    }
}

/// What stands for a key in the words of its bucket; not 0. Keys that share bucket and tag exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(u32);

/// Where the record of a key may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the bucket.
    pub bucket: u32,
    /// Its tag there.
    pub tag: Tag,
}

impl Place {
    /// Of a key with this hash, among so many buckets.
    #[inline(always)]
    #[must_use]
    pub fn of(hash: u64, buckets: u32) -> Self {
        let tag = hash as u32 >> (32 - 26);
        Self {
            bucket: ((hash >> 32).wrapping_mul(u64::from(buckets)) >> 32) as u32,
            tag: Tag(tag | u32::from(tag == 0)),
        }
    }
}

/// The words of a bucket in shared memory.
pub trait Words<const WAYS: usize> {
    /// A word as it is now. What is read afterwards is no older.
    fn word(&self, way: usize) -> Word;
    /// Replaces a word if it still is `from`; whether it was. Like BPF's `cmpxchg`, it is a full barrier: nothing is
    /// moved across it.
    fn exchange(&self, way: usize, from: Word, to: Word) -> bool;
}

/// Who may be displaced by an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Displace {
    /// Nobody.
    Nobody,
    /// The one that was touched first.
    First,
}

/// Why a record was not inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its tag is there, or another one inserts it at this moment: whoever looks for that may have to look again.
    There,
    /// There is no room, or too many want the same.
    NoRoom,
}

/// What came of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insertion {
    /// The way of the record.
    pub result: Result<usize, Refused>,
    /// Whether another record had to go for it.
    pub has_displaced: bool,
}

/// So often is a way claimed that somebody else has just claimed.
const TRIES: usize = 4;

fn all<const WAYS: usize>(bucket: &impl Words<WAYS>) -> [Word; WAYS] {
    array::from_fn(|way| bucket.word(way))
}

/// The way of a published tag, and its word.
///
/// The lowest bit of a set: the verifier follows every branch on its own.
#[inline(always)]
pub fn find<const WAYS: usize>(bucket: &impl Words<WAYS>, tag: Tag) -> Option<(usize, Word)> {
    let mut found = 0_u64;
    for way in 0..WAYS {
        let word = bucket.word(way);
        let is_it = u64::from(word.has(tag) & !word.is_claimed());
        found |= is_it << way;
    }
    if found == 0 {
        return None;
    }
    let way = lowest(found);
    let word = bucket.word(way);
    (word.has(tag) && !word.is_claimed()).then_some((way, word))
}

/// Inserts a record: `write` is told where, and writes all of it.
#[inline(always)]
pub fn insert<const WAYS: usize>(
    bucket: &impl Words<WAYS>,
    tag: Tag,
    tick: u64,
    displace: Displace,
    write: impl FnOnce(usize),
) -> Insertion {
    let refused = |result, has_displaced| Insertion {
        result: Err(result),
        has_displaced,
    };
    let (way, before) = match claim(bucket, tag, tick, displace) {
        Ok(claimed) => claimed,
        Err(why) => return refused(why, false),
    };
    let has_displaced = !before.is_free();
    let word = before.claimed(tag, tick);
    let rivals = rivals(bucket, tag, way);
    if rivals != 0 && !outrivals(bucket, tag, way, rivals) {
        give_up(bucket, way, word);
        return refused(Refused::There, has_displaced);
    }
    write(way);
    if !bucket.exchange(way, word, word.published()) {
        give_up(bucket, way, word);
        return refused(Refused::There, has_displaced);
    }
    Insertion {
        result: Ok(way),
        has_displaced,
    }
}

/// Claims a way: which, and what it was.
#[inline(always)]
fn claim<const WAYS: usize>(
    bucket: &impl Words<WAYS>,
    tag: Tag,
    tick: u64,
    displace: Displace,
) -> Result<(usize, Word), Refused> {
    for _ in 0..TRIES {
        let mut is_there = false;
        let mut best = 0;
        for way in 0..WAYS {
            let word = bucket.word(way);
            is_there |= word.has(tag);
            best = larger(best, word.rank(tick) << 8 | way as u64);
        }
        if is_there {
            return Err(Refused::There);
        }
        let way = (best & 0xff) as usize % WAYS;
        let before = bucket.word(way);
        if before.has(tag) {
            return Err(Refused::There);
        }
        let may_be = before.is_free() || displace == Displace::First && !before.is_claimed();
        if !may_be {
            return Err(Refused::NoRoom);
        }
        if bucket.exchange(way, before, before.claimed(tag, tick)) {
            return Ok((way, before));
        }
    }
    Err(Refused::NoRoom)
}

/// Other ways with the tag, as bits.
#[inline(always)]
fn rivals<const WAYS: usize>(bucket: &impl Words<WAYS>, tag: Tag, mine: usize) -> u64 {
    let mut rivals = 0;
    for way in 0..WAYS {
        rivals |= u64::from(bucket.word(way).has(tag)) << way;
    }
    rivals & !(1 << mine)
}

/// Whether a claim goes before those of its rivals, which are revoked then.
fn outrivals<const WAYS: usize>(
    bucket: &impl Words<WAYS>,
    tag: Tag,
    mine: usize,
    rivals: u64,
) -> bool {
    for way in 0..WAYS {
        let word = bucket.word(way);
        let is_rival = rivals >> way & 1 != 0 && word.has(tag);
        if !is_rival {
            continue;
        }
        if !word.is_claimed() || way < mine {
            return false;
        }
        // It fails if the rival has just published, or given up.
        if !bucket.exchange(way, word, word.revoked()) && bucket.word(way).has(tag) {
            return false;
        }
    }
    true
}

/// Frees a way that was claimed, whether or not the claim was revoked meanwhile.
fn give_up<const WAYS: usize>(bucket: &impl Words<WAYS>, way: usize, claim: Word) {
    if !bucket.exchange(way, claim, claim.freed()) {
        // Nobody but its owner goes on from here.
        bucket.exchange(way, claim.revoked(), claim.freed());
    }
}

/// Removes the record of a way, unless its word has changed since; whether it was removed.
#[inline(always)]
pub fn remove<const WAYS: usize>(bucket: &impl Words<WAYS>, way: usize, word: Word) -> bool {
    bucket.exchange(way, word, word.freed())
}

/// Notes that a record is in use. Best effort.
#[inline(always)]
pub fn touch<const WAYS: usize>(bucket: &impl Words<WAYS>, way: usize, word: Word, tick: u64) {
    bucket.exchange(way, word, word.touched(tick));
}

/// Frees what was claimed by somebody who is no more; how many ways that were. Only for one who knows that
/// nobody inserts anything.
pub fn clear<const WAYS: usize>(bucket: &impl Words<WAYS>) -> usize {
    let words = all(bucket);
    let claimed = |&(way, word): &(usize, Word)| {
        word.is_claimed() && bucket.exchange(way, word, word.freed())
    };
    words.into_iter().enumerate().filter(claimed).count()
}

#[inline(always)]
fn larger(a: u64, b: u64) -> u64 {
    let is_smaller = (a.wrapping_sub(b).cast_signed() >> 63).cast_unsigned();
    a ^ (a ^ b) & is_smaller
}

/// The number of the lowest bit of a set that is not empty, of 64 at most; by halves, since BPF has no instruction for it.
#[inline(always)]
fn lowest(set: u64) -> usize {
    let bit = set & set.wrapping_neg();
    let has = |mask: u64| u64::from(bit & mask != 0);
    let number = has(0xffff_ffff_0000_0000) << 5
        | has(0xffff_0000_ffff_0000) << 4
        | has(0xff00_ff00_ff00_ff00) << 3
        | has(0xf0f0_f0f0_f0f0_f0f0) << 2
        | has(0xcccc_cccc_cccc_cccc) << 1
        | has(0xaaaa_aaaa_aaaa_aaaa);
    number as usize
}

#[cfg(test)]
mod tests;
