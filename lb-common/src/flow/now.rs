//! Time, as the programs have it.

use bytemuck::Zeroable;

/// The time of a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Zeroable)]
pub struct Now {
    /// Kernel ticks since some time before boot.
    pub tick: u64,
    /// How many there are in a second; not 0.
    pub ticks_per_second: u32,
}

impl Now {
    /// Whether `tick` has passed. Ticks of different CPUs may be apart, and order is all that
    /// counts: the difference is signed.
    #[inline(always)]
    #[must_use]
    pub fn is_after(self, tick: u64) -> bool {
        tick.wrapping_sub(self.tick).cast_signed() < 0
    }

    /// The tick `seconds` from now.
    #[inline(always)]
    #[must_use]
    pub fn after_s(self, seconds: u32) -> u64 {
        let ticks = u64::from(seconds).wrapping_mul(u64::from(self.ticks_per_second));
        self.tick.wrapping_add(ticks)
    }
}
