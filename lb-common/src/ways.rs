//! Which record of a bucket is whose, without locks.
//!
//! A set-associative table in an array: each bucket has some records, its ways, and for each of them a word that
//! says whose it is. A look-up reads the words, which lie in one cache line, and goes to one record. Whoever inserts claims a
//! way by exchanging its word, makes the claim firm by exchanging it again, writes the record, and publishes it by
//! writing the word. Nobody waits for anybody, so
//! that a process that dies in the midst of it costs one way of one bucket, and the key that it wanted to insert is refused, until
//! somebody [frees](clear) what was claimed.
//!
//! Of two that insert the same tag at the same moment, one succeeds at most: after its claim, each looks at all other
//! words. What is published there, or firm, goes first; of two claims, the one of the lower way, which takes the other one
//! its tag away. A claim is firm before its record is written, and not exchanged afterwards: an exchange waits until
//! the processor has written everything before it, and a record's lines are in no cache.
//!
//! The words are all that is shared by these rules. A record that is displaced or removed may be another one's while it
//! is being read: whoever needs all of it as it was compares the word before with the one after, in which a number counts
//! the claims. Reads of the record must not be moved behind that of the second word: on x86 they are not; elsewhere it
//! takes a barrier, and programs have none.

use core::array;

mod word;

use self::word::TAG_BITS;
pub use self::word::{Tag, Word};

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
    /// Replaces a word that nobody else changes, and may do so without comparing; false if it has seen that somebody has changed
    /// it. Who reads it sees everything that was written before.
    fn store(&self, way: usize, from: Word, to: Word) -> bool;
    /// The same number, of which the optimiser knows nothing: where it would see a comparison, there would be a branch, and
    /// the verifier follows every one on its own.
    #[inline(always)]
    fn hide(bits: u64) -> u64 {
        bits
    }
}

/// Who may be displaced by an insertion. Stamps tell a million ticks apart: what is not touched for longer is taken for
/// newer than it is, unless somebody has [held it back](Word::held_back) meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Displace {
    /// The one that was touched first.
    First,
    /// Nobody.
    Nobody,
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
pub fn find<B: Words<WAYS>, const WAYS: usize>(bucket: &B, tag: Tag) -> Option<(usize, Word)> {
    // The way and a bit above it at once: each by itself would lie on the small stack.
    let found = WAYS.next_power_of_two();
    let mut at = 0;
    for way in 0..WAYS {
        // Multiplied: where a mask meets a constant, the verifier of Linux 6.18 follows both outcomes.
        let is_it = B::hide(bucket.word(way).is_published_of(tag, B::hide));
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

/// Whether somebody has claimed a way for this tag, and has neither published nor given it up.
#[inline(always)]
pub fn is_claimed<B: Words<WAYS>, const WAYS: usize>(bucket: &B, tag: Tag) -> bool {
    let mut claims = 0;
    for way in 0..WAYS {
        claims |= bucket.word(way).is_claimed_of(tag, B::hide);
    }
    claims != 0
}

/// Inserts a record: `write` is told where, and writes all of it. It must not panic: what is claimed would stay so.
#[inline(always)]
pub fn insert<B: Words<WAYS>, const WAYS: usize>(
    bucket: &B,
    tag: Tag,
    tick: u64,
    displace: Displace,
    write: impl FnOnce(usize),
) -> Insertion {
    let claim = begin(bucket, tag, tick, displace);
    let result = claim.result().and_then(|way| {
        write(way);
        publish(bucket, tag, way)
            .then_some(way)
            .ok_or(Refused::There)
    });
    Insertion {
        result,
        has_displaced: claim.has_displaced(),
    }
}

/// Claims a way for a record. It is this caller's to write, until he [publishes](publish) it.
#[inline(always)]
pub fn begin<B: Words<WAYS>, const WAYS: usize>(
    bucket: &B,
    tag: Tag,
    tick: u64,
    displace: Displace,
) -> Claim {
    begin_by(bucket, tag, || claim(bucket, tag, tick, displace))
}

/// The same for whoever has a way of his own to [claim] one.
#[inline(always)]
pub fn begin_by<B: Words<WAYS>, const WAYS: usize>(
    bucket: &B,
    tag: Tag,
    claim: impl Fn() -> Claim,
) -> Claim {
    for _ in 0..TRIES {
        let claim = claim();
        if claim.is_outrun() {
            continue;
        }
        let Ok(way) = claim.result() else {
            return claim;
        };
        return if confirm(bucket, tag, way) {
            claim
        } else {
            claim.refused()
        };
    }
    Claim::NONE
}

/// Publishes the record that was written where a claim was [confirmed](confirm). False if it is this caller's no more:
/// programs of a former version revoke what is firm, and [`clear`] frees what is too old.
#[inline(always)]
pub fn publish<B: Words<WAYS>, const WAYS: usize>(bucket: &B, tag: Tag, way: usize) -> bool {
    let word = bucket.word(way);
    let is_published = word.has(tag) && bucket.store(way, word, word.published());
    if !is_published {
        give_up(bucket, tag, way);
    }
    is_published
}

/// What came of a claim, in one number: what is returned by memory lies on the small stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim(pub u32);

impl Claim {
    /// Of nobody: there is no room.
    pub const NONE: Self = Self(Self::NO_ROOM);

    const THERE: u32 = 1 << 8;
    const NO_ROOM: u32 = 2 << 8;
    const DISPLACED: u32 = 4 << 8;
    /// Somebody else has exchanged the word of the way that was chosen.
    const OUTRUN: u32 = 8 << 8;

    #[inline(always)]
    fn of(way: usize, before: Word) -> Self {
        let displaced = u32::from(!before.is_free()) * Self::DISPLACED;
        Self(way as u32 | displaced)
    }

    #[inline(always)]
    fn refused(self) -> Self {
        Self(self.0 | Self::THERE)
    }

    #[inline(always)]
    const fn is_outrun(self) -> bool {
        self.0 & Self::OUTRUN != 0
    }

    /// The way, or why there is none.
    ///
    /// # Errors
    ///
    /// [`Refused`]
    #[inline(always)]
    pub fn result(self) -> Result<usize, Refused> {
        if self.0 & Self::THERE != 0 {
            Err(Refused::There)
        } else if self.0 & Self::NO_ROOM != 0 {
            Err(Refused::NoRoom)
        } else {
            Ok((self.0 & 0xff) as usize)
        }
    }

    /// Whether another record had to go for it.
    #[inline(always)]
    #[must_use]
    pub fn has_displaced(self) -> bool {
        self.0 & Self::DISPLACED != 0
    }
}

/// Claims a way, which is [confirmed](confirm) or given up then.
#[inline(always)]
pub fn claim<B: Words<WAYS>, const WAYS: usize>(
    bucket: &B,
    tag: Tag,
    tick: u64,
    displace: Displace,
) -> Claim {
    const { assert!(WAYS > 0 && WAYS <= 64) };
    let mut is_there = 0;
    let (mut best, mut before) = (0, 0);
    for way in 0..WAYS {
        let word = bucket.word(way);
        is_there |= word.is_of(tag, B::hide);
        let rank = word.rank(tick, B::hide) << 8 | way as u64;
        let is_better = B::hide(is_less(best, rank, B::hide));
        best ^= (best ^ rank) & is_better;
        before ^= (before ^ word.0) & is_better;
    }
    if is_there != 0 {
        return Claim(Claim::THERE);
    }
    let (way, before) = ((best & 0xff) as usize % WAYS, Word(before));
    let may_go = displace == Displace::First && best >> 8 != 0;
    if !before.is_free() && !may_go {
        return Claim::NONE;
    }
    if bucket.exchange(way, before, before.claimed(tag, tick)) {
        Claim::of(way, before)
    } else {
        Claim(Claim::OUTRUN)
    }
}

/// Makes a claim firm, if it stands. One that has to give way to another one is given up.
#[inline(always)]
pub fn confirm<B: Words<WAYS>, const WAYS: usize>(bucket: &B, tag: Tag, way: usize) -> bool {
    let stands = prevails(bucket, tag, way) && make_firm(bucket, tag, way);
    if !stands {
        give_up(bucket, tag, way);
    }
    stands
}

/// False if somebody has revoked the claim meanwhile.
#[inline(always)]
fn make_firm<const WAYS: usize>(bucket: &impl Words<WAYS>, tag: Tag, way: usize) -> bool {
    let word = bucket.word(way);
    word.has(tag) && bucket.exchange(way, word, word.firm())
}

/// Whether a claim goes before all others of its tag.
#[inline(always)]
fn prevails<const WAYS: usize>(bucket: &impl Words<WAYS>, tag: Tag, way: usize) -> bool {
    let rivals = rivals(bucket, tag, way);
    rivals == 0 || outrivals(bucket, tag, way, rivals)
}

/// Other ways with the tag, as bits.
#[inline(always)]
fn rivals<B: Words<WAYS>, const WAYS: usize>(bucket: &B, tag: Tag, mine: usize) -> u64 {
    let mut rivals = 0;
    for way in 0..WAYS {
        rivals |= bucket.word(way).is_of(tag, B::hide) << way;
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
            if !word.is_revocable() || way < mine {
                return false;
            }
            // It fails if the rival has just become firm, or given up.
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
#[inline(always)]
fn give_up<B: Words<WAYS>, const WAYS: usize>(bucket: &B, tag: Tag, way: usize) {
    let word = bucket.word(way);
    if word.has(tag) && !bucket.exchange(way, word, word.freed()) || word.is_revoked() {
        // Nobody but its owner goes on from here.
        bucket.exchange(way, word.revoked(), word.freed());
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

/// Frees what was claimed more than `ticks` ago, by somebody who is no more; how many ways that were. Whoever
/// still writes that long after its claim, and then meets another one there, leaves half a record, or publishes what is not
/// written yet.
pub fn clear<const WAYS: usize>(bucket: &impl Words<WAYS>, tick: u64, ticks: u64) -> usize {
    let words = all(bucket);
    let claimed = |&(way, word): &(usize, Word)| {
        let is_left = word.is_claimed() && word.is_older(tick, ticks);
        is_left && bucket.exchange(way, word, word.freed())
    };
    words.into_iter().enumerate().filter(claimed).count()
}

/// All bits if a number is less than another one, neither of them with its highest bit set; else none.
#[inline(always)]
fn is_less(a: u64, b: u64, hide: impl Fn(u64) -> u64) -> u64 {
    (hide(a.wrapping_sub(b)) >> 63).wrapping_neg()
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
