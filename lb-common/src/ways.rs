//! Which record of a bucket is whose, without locks.
//!
//! A set-associative table in an array: each bucket has some records, its ways, and for each of them a word that
//! says whose it is. A look-up reads the words, which lie in one cache line, and goes to one record. Whoever inserts claims a
//! way by exchanging its word, writes the record, and publishes it by exchanging the word again. Nobody waits for anybody, so
//! that a process that dies in the midst of it costs one way of one bucket, and the key that it wanted to insert is refused, until
//! somebody [frees](clear) what was claimed.
//!
//! Of two that insert the same tag at the same moment, one succeeds at most: after its claim, each looks at all other
//! words. What is published there goes first; of two claims, the one of the lower way, which takes the other one its tag
//! away.
//!
//! The words are all that is shared by these rules. A record that is displaced or removed may be another one's while it
//! is being read: whoever needs all of it as it was compares the word before with the one after, in which a number counts
//! the claims. Reads of the record must not be moved behind that of the second word: on x86 they are not; elsewhere it
//! takes a barrier, and programs have none.

use core::{array, hint::black_box};

/// What a way's word says. From the lowest bit: a number that each claim counts up (16), when it was claimed or
/// [touched](touch) (20), whether it is a claim (1), whether it is [kept](keep) (1), and the tag (26), of which 0 is
/// nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(pub u64);

const NUMBER: u64 = (1 << STAMP_SHIFT) - 1;
const STAMP_SHIFT: u32 = 16;
const STAMP_BITS: u32 = 20;
const STAMP: u64 = (1 << STAMP_BITS) - 1;
const CLAIM: u64 = 1 << (STAMP_SHIFT + STAMP_BITS);
const KEPT: u64 = CLAIM << 1;
const TAG_SHIFT: u32 = STAMP_SHIFT + STAMP_BITS + 2;
const TAG_BITS: u32 = 26;

const _: () = assert!(TAG_SHIFT + TAG_BITS == u64::BITS);

impl Word {
    /// Of a way that was never used.
    pub const FREE: Self = Self(0);

    /// What this way's word is when it is claimed.
    #[inline(always)]
    #[must_use]
    pub fn claimed(self, tag: Tag, tick: u64) -> Self {
        let number = self.0.wrapping_add(1) & NUMBER;
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
        Self(self.0 & ((1 << TAG_SHIFT) - 1))
    }

    /// Nobody's.
    #[inline(always)]
    #[must_use]
    pub fn freed(self) -> Self {
        Self(self.revoked().published().0 & !KEPT)
    }

    /// The same, not to be displaced.
    #[inline(always)]
    #[must_use]
    pub fn kept(self) -> Self {
        Self(self.0 | KEPT)
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

    /// Whether nobody may displace the record.
    #[inline(always)]
    #[must_use]
    pub fn is_kept(self) -> bool {
        self.0 & KEPT != 0
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
        self.0 < CLAIM
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

    /// How long ago in ticks it was claimed or touched, at most half of what a stamp can tell apart. Ticks of different
    /// CPUs may be apart: what was touched in a moment was touched now.
    #[inline(always)]
    fn age(self, tick: u64) -> u64 {
        let age = tick.wrapping_sub(self.0 >> STAMP_SHIFT) & STAMP;
        age & black_box(age >> (STAMP_BITS - 1)).wrapping_sub(1)
    }

    /// How gladly a way is given to somebody else at `tick`, the larger the more: a free one most, then the
    /// one that was touched first; 0 is not at all.
    #[inline(always)]
    fn rank(self, tick: u64) -> u64 {
        let age = self.age(tick) + 1;
        let is_free = 1 - is_any(self.0 >> TAG_SHIFT);
        // The two lowest bits say whether it is claimed and whether it is kept.
        let flags = self.0 / CLAIM;
        let stays = black_box((flags | flags >> 1) & 1);
        (age | is_free << (STAMP_BITS + 1)) & stays.wrapping_sub(1)
    }

    /// 1 if it is of this tag and published, else 0.
    #[inline(always)]
    fn is_published_of(self, tag: Tag) -> u64 {
        let differs = (self.0 ^ u64::from(tag.0) << TAG_SHIFT) & !(KEPT | (CLAIM - 1));
        1 - is_any(differs)
    }

    /// 1 if it is of this tag, claimed or published, else 0.
    #[inline(always)]
    fn is_of(self, tag: Tag) -> u64 {
        1 - is_any(self.0 >> TAG_SHIFT ^ u64::from(tag.0))
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
        let tag = hash as u32 >> (u32::BITS - TAG_BITS);
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
    /// Replaces a word if it still is `from`; whether it was. Then it is a full barrier, as BPF's `cmpxchg` is: nothing is
    /// moved across it.
    fn exchange(&self, way: usize, from: Word, to: Word) -> bool;
}

/// Who may be displaced by an insertion. Stamps tell 2^19 ticks apart: what is not touched for longer may be taken for
/// newer than it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Displace {
    /// Nobody.
    Nobody,
    /// The one that was touched first, of those that are not kept.
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

/// So often is a way chosen whose word somebody else has just exchanged.
const TRIES: usize = 3;

fn all<const WAYS: usize>(bucket: &impl Words<WAYS>) -> [Word; WAYS] {
    array::from_fn(|way| bucket.word(way))
}

/// The way of a published tag, and its word.
#[inline(always)]
pub fn find<const WAYS: usize>(bucket: &impl Words<WAYS>, tag: Tag) -> Option<(usize, Word)> {
    // The way and a bit above it at once: each by itself would lie on the small stack.
    let found = WAYS.next_power_of_two();
    let mut at = 0;
    for way in 0..WAYS {
        // Multiplied: where a mask meets a constant, the verifier of Linux 6.18 follows both outcomes.
        let is_it = black_box(bucket.word(way).is_published_of(tag));
        at |= is_it.wrapping_mul((found | way) as u64);
    }
    if at == 0 {
        return None;
    }
    // There is one at most; should it have moved meanwhile, its word is not this one.
    let way = (at as usize & (found - 1)) % WAYS;
    let word = bucket.word(way);
    (word.has(tag) && !word.is_claimed()).then_some((way, word))
}

/// Inserts a record: `write` is told where, and writes all of it. It must not panic: what is claimed would stay so.
#[inline(always)]
pub fn insert<const WAYS: usize>(
    bucket: &impl Words<WAYS>,
    tag: Tag,
    tick: u64,
    displace: Displace,
    write: impl FnOnce(usize),
) -> Insertion {
    const { assert!(WAYS > 0 && WAYS <= 64) };
    let refused = |result, has_displaced| Insertion {
        result: Err(result),
        has_displaced,
    };
    let mut word = Word::FREE;
    let claimed = claim(bucket, tag, tick, displace, &mut word);
    match claimed {
        Claim::THERE => return refused(Refused::There, false),
        Claim::NO_ROOM => return refused(Refused::NoRoom, false),
        _ => {}
    }
    let (way, has_displaced) = (claimed.way(), claimed.has_displaced());
    if !prevails(bucket, tag, way) {
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

/// What came of a claim, in one number: what is returned by memory lies on the small stack.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Claim(u32);

impl Claim {
    const THERE: Self = Self(1 << 8);
    const NO_ROOM: Self = Self(2 << 8);
    const DISPLACED: u32 = 4 << 8;

    fn of(way: usize, before: Word) -> Self {
        let displaced = u32::from(!before.is_free()) * Self::DISPLACED;
        Self(way as u32 | displaced)
    }

    fn way(self) -> usize {
        (self.0 & 0xff) as usize
    }

    fn has_displaced(self) -> bool {
        self.0 & Self::DISPLACED != 0
    }
}

/// Claims a way: which, and as which `word`. Out of line: the stack of all calls together is small.
#[inline(never)]
fn claim<const WAYS: usize>(
    bucket: &impl Words<WAYS>,
    tag: Tag,
    tick: u64,
    displace: Displace,
    word: &mut Word,
) -> Claim {
    for _ in 0..TRIES {
        let mut is_there = 0;
        let (mut best, mut before) = (0, 0);
        for way in 0..WAYS {
            let word = bucket.word(way);
            is_there |= word.is_of(tag);
            let rank = word.rank(tick) << 8 | way as u64;
            let is_better = black_box(is_less(best, rank));
            best ^= (best ^ rank) & is_better;
            before ^= (before ^ word.0) & is_better;
        }
        if is_there != 0 {
            return Claim::THERE;
        }
        let (way, before) = ((best & 0xff) as usize % WAYS, Word(before));
        let may_go = displace == Displace::First && best >> 8 != 0;
        if !before.is_free() && !may_go {
            return Claim::NO_ROOM;
        }
        *word = before.claimed(tag, tick);
        if bucket.exchange(way, before, *word) {
            return Claim::of(way, before);
        }
    }
    Claim::NO_ROOM
}

/// Whether a claim goes before all others of its tag. Out of line, as [`claim`].
#[inline(never)]
fn prevails<const WAYS: usize>(bucket: &impl Words<WAYS>, tag: Tag, way: usize) -> bool {
    let rivals = rivals(bucket, tag, way);
    rivals == 0 || outrivals(bucket, tag, way, rivals)
}

/// Other ways with the tag, as bits.
#[inline(always)]
fn rivals<const WAYS: usize>(bucket: &impl Words<WAYS>, tag: Tag, mine: usize) -> u64 {
    let mut rivals = 0;
    for way in 0..WAYS {
        rivals |= bucket.word(way).is_of(tag) << way;
    }
    rivals & !(1 << mine)
}

/// Whether a claim goes before those of its rivals, which are revoked then. Two at most: whoever meets more gives up.
#[inline(always)]
fn outrivals<const WAYS: usize>(
    bucket: &impl Words<WAYS>,
    tag: Tag,
    mine: usize,
    mut rivals: u64,
) -> bool {
    for _ in 0..2 {
        let way = lowest(rivals) % WAYS;
        let word = bucket.word(way);
        if word.has(tag) {
            if !word.is_claimed() || way < mine {
                return false;
            }
            // It fails if the rival has just published, or given up.
            if !bucket.exchange(way, word, word.revoked()) && bucket.word(way).has(tag) {
                return false;
            }
        }
        rivals &= rivals.wrapping_sub(1);
        if rivals == 0 {
            return true;
        }
    }
    false
}

/// Frees a way that was claimed, whether or not the claim was revoked meanwhile.
fn give_up<const WAYS: usize>(bucket: &impl Words<WAYS>, way: usize, claim: Word) {
    if !bucket.exchange(way, claim, claim.freed()) {
        // Nobody but its owner goes on from here.
        bucket.exchange(way, claim.revoked(), claim.freed());
    }
}

/// Removes the record of a way, unless its word has changed since; whether it was removed. Somebody may only have
/// touched it: whoever has to be sure looks again.
#[inline(always)]
pub fn remove<const WAYS: usize>(bucket: &impl Words<WAYS>, way: usize, word: Word) -> bool {
    word.is_published() && bucket.exchange(way, word, word.freed())
}

/// Notes that a record is in use. Best effort.
#[inline(always)]
pub fn touch<const WAYS: usize>(bucket: &impl Words<WAYS>, way: usize, word: Word, tick: u64) {
    if word.is_published() {
        bucket.exchange(way, word, word.touched(tick));
    }
}

/// Keeps a record from being displaced, unless its word has changed since; whether it is kept. As with
/// [`remove`], whoever has to be sure looks again.
#[inline(always)]
pub fn keep<const WAYS: usize>(bucket: &impl Words<WAYS>, way: usize, word: Word) -> bool {
    word.is_published() && bucket.exchange(way, word, word.kept())
}

/// Frees what was claimed more than `ticks` ago, by somebody who is no more; how many ways that were. Whoever
/// still writes that long after its claim, and then meets another one there, leaves half a record.
pub fn clear<const WAYS: usize>(bucket: &impl Words<WAYS>, tick: u64, ticks: u64) -> usize {
    let words = all(bucket);
    let claimed = |&(way, word): &(usize, Word)| {
        let is_left = word.is_claimed() && word.age(tick) > ticks;
        is_left && bucket.exchange(way, word, word.freed())
    };
    words.into_iter().enumerate().filter(claimed).count()
}

/// 1 if any bit is set, else 0. Without a comparison, which is hidden from the optimiser here and where it would see one
/// else: the verifier follows every branch on its own, and there are several for each way.
#[inline(always)]
fn is_any(bits: u64) -> u64 {
    black_box((bits | black_box(bits.wrapping_neg())) >> 63)
}

/// All bits if a number is less than another one, neither of them with its highest bit set; else none.
#[inline(always)]
fn is_less(a: u64, b: u64) -> u64 {
    (a.wrapping_sub(b).cast_signed() >> 63).cast_unsigned()
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
