//! The part of a packet that lies in one piece, read and written in place.

use core::ptr;

use bytemuck::Pod;

/// A context that shows a packet's bytes.
pub(crate) trait Linear {
    /// Address of the first byte, and of the one after the last.
    fn bounds(&self) -> (usize, usize);
}

/// The place of a `T` at `offset`, if all of it lies before the end.
#[inline(always)]
fn at<T>(packet: &impl Linear, offset: usize) -> Option<*mut T> {
    let (data, end) = packet.bounds();
    let start = data + offset;
    if start + size_of::<T>() > end {
        return None;
    }
    Some(start as *mut T)
}

/// The value at `offset`.
#[inline(always)]
pub(crate) fn read<T: Pod>(packet: &impl Linear, offset: usize) -> Option<T> {
    // SAFETY: `at` checked that the whole value lies before the packet's end.
    at(packet, offset).map(|place| unsafe { ptr::read_unaligned(place) })
}

/// Overwrites the value at `offset`.
#[inline(always)]
pub(crate) fn store<T: Pod>(packet: &mut impl Linear, offset: usize, value: &T) -> Option<()> {
    let place = at(packet, offset)?;
    // SAFETY: `at` checked that the whole value lies before the packet's end. The kernel unshares
    // an skb at the start of a program that writes, and XDP owns its frame.
    unsafe { ptr::write_unaligned(place, *value) };
    Some(())
}
