//! What stands beside each record.

/// What a way's word says. From the lowest bit: a number that each claim counts up (15), whether a claim is firm (1),
/// when it was claimed or [touched](super::touch) (20), whether it is a claim (1), and the tag (27), of which 0 is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(pub u64);

const NUMBER: u64 = FIRM - 1;
const FIRM: u64 = 1 << (STAMP_SHIFT - 1);
const STAMP_SHIFT: u32 = 16;
const STAMP_BITS: u32 = 20;
const STAMP: u64 = (1 << STAMP_BITS) - 1;
/// So many ticks may one processor's be ahead of another's.
const AHEAD: u64 = 1 << 12;
const CLAIM: u64 = 1 << (STAMP_SHIFT + STAMP_BITS);
const TAG_SHIFT: u32 = STAMP_SHIFT + STAMP_BITS + 1;
pub(super) const TAG_BITS: u32 = 27;

const _: () = assert!(TAG_SHIFT + TAG_BITS == u64::BITS);

impl Word {
    /// Of a way that was never used.
    pub const FREE: Self = Self(0);

    /// What was not used for so many ticks is old, however long it was: half of what a stamp can tell apart, nine
    /// minutes at the least.
    pub const OLD: u64 = 1 << (STAMP_BITS - 1);

    /// What this way's word is when it is claimed.
    #[inline(always)]
    #[must_use]
    pub fn claimed(self, tag: Tag, tick: u64) -> Self {
        let number = self.0.wrapping_add(1) & NUMBER;
        Self(number | (tick & STAMP) << STAMP_SHIFT | CLAIM | u64::from(tag.0) << TAG_SHIFT)
    }

    /// A claim that nobody revokes any more.
    #[inline(always)]
    #[must_use]
    pub fn firm(self) -> Self {
        Self(self.0 | FIRM)
    }

    /// A claim whose record is written.
    #[inline(always)]
    #[must_use]
    pub fn published(self) -> Self {
        Self(self.0 & !(CLAIM | FIRM))
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
        self.revoked().published()
    }

    /// The same at another time.
    #[inline(always)]
    #[must_use]
    pub fn touched(self, tick: u64) -> Self {
        Self(self.0 & !(STAMP << STAMP_SHIFT) | (tick & STAMP) << STAMP_SHIFT)
    }

    /// The same as if it had been claimed or touched so many ticks earlier.
    #[must_use]
    pub fn aged(self, ticks: u64) -> Self {
        self.touched((self.0 >> STAMP_SHIFT).wrapping_sub(ticks))
    }

    /// Whether the record is being written.
    #[inline(always)]
    #[must_use]
    pub fn is_claimed(self) -> bool {
        self.0 & CLAIM != 0
    }

    /// Whether it is a claim that somebody else may revoke.
    #[inline(always)]
    pub(super) fn is_revocable(self) -> bool {
        self.0 & (CLAIM | FIRM) == CLAIM
    }

    /// Whether it is a claim that was revoked.
    #[inline(always)]
    pub(super) fn is_revoked(self) -> bool {
        self.is_claimed() && self.tag() == 0
    }

    /// Whether the record is there.
    #[inline(always)]
    #[must_use]
    pub fn is_published(self) -> bool {
        !self.is_claimed() && !self.is_free()
    }

    /// Whether both are of one claim: whoever has read a record in between has read that of one key.
    #[must_use]
    pub fn is_same(self, other: Self) -> bool {
        self.0 & NUMBER == other.0 & NUMBER && self.tag() == other.tag()
    }

    /// Whether it was claimed or touched more than so many ticks ago.
    #[inline(always)]
    #[must_use]
    pub fn is_older(self, tick: u64, ticks: u64) -> bool {
        self.age(tick, |bits| bits) > ticks
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

    /// How long ago in ticks it was claimed or touched, less than what a stamp can tell apart. Ticks of different
    /// CPUs may be apart: what was touched in a moment was touched now.
    #[inline(always)]
    pub(super) fn age(self, tick: u64, hide: Hide) -> u64 {
        let age = tick.wrapping_sub(self.0 >> STAMP_SHIFT) & STAMP;
        let is_ahead = hide(age + AHEAD) >> STAMP_BITS;
        age & is_ahead.wrapping_sub(1)
    }

    /// The same if it is not older than [`Word::OLD`], else as if it were as old: its stamp would tell a
    /// time that has not been yet one day.
    #[must_use]
    pub fn held_back(self, tick: u64) -> Self {
        if self.is_older(tick, Self::OLD) {
            self.touched(tick.wrapping_sub(Self::OLD))
        } else {
            self
        }
    }

    /// How gladly a way is given to somebody else at `tick`, the larger the more: a free one most, then the
    /// one that was touched first; 0 is not at all.
    #[inline(always)]
    pub(super) fn rank(self, tick: u64, hide: Hide) -> u64 {
        let age = self.age(tick, hide) + 1;
        let is_free = is_none(self.0 >> TAG_SHIFT, hide);
        let is_claimed = hide((self.0 / CLAIM) & 1);
        (age | is_free << (STAMP_BITS + 1)) & is_claimed.wrapping_sub(1)
    }

    /// 1 if it is of this tag and published, else 0.
    #[inline(always)]
    pub(super) fn is_published_of(self, tag: Tag, hide: Hide) -> u64 {
        is_none((self.0 / CLAIM) ^ (u64::from(tag.0) << 1), hide)
    }

    /// 1 if it is of this tag and claimed, else 0.
    #[inline(always)]
    pub(super) fn is_claimed_of(self, tag: Tag, hide: Hide) -> u64 {
        is_none((self.0 / CLAIM) ^ (u64::from(tag.0) << 1 | 1), hide)
    }

    /// 1 if it is of this tag, claimed or published, else 0.
    #[inline(always)]
    pub(super) fn is_of(self, tag: Tag, hide: Hide) -> u64 {
        is_none(self.0 >> TAG_SHIFT ^ u64::from(tag.0), hide)
    }
}

/// What stands for a key in the words of its bucket; not 0. Keys that share bucket and tag exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(pub(super) u32);

/// [`Words::hide`](super::Words::hide).
pub(super) type Hide = fn(u64) -> u64;

/// 1 if no bit is set of a number that has not the highest one, else 0.
#[inline(always)]
fn is_none(bits: u64, hide: Hide) -> u64 {
    hide(bits).wrapping_sub(1) >> 63
}
