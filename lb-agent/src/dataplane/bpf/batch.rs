//! Reads and writes maps many elements at a time (`BPF_MAP_LOOKUP_BATCH` and `BPF_MAP_UPDATE_BATCH`,
//! Linux 5.6).

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use aya::maps::IterableMap;
use bytemuck::Pod;
use nix::errno::Errno;

use super::syscall::{BATCH, Batch, bpf, command};

/// Room for a batch of elements.
pub(super) struct Batches<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K: Pod, V: Pod> Batches<K, V> {
    pub(super) fn new() -> Self {
        Self {
            keys: vec![K::zeroed(); BATCH],
            values: vec![V::zeroed(); BATCH],
        }
    }

    /// Passes all elements of `map` to `take`, batch by batch. Those that come and go meanwhile may
    /// be missed; none comes twice unless it was inserted twice. Of an array, all.
    pub(super) fn read<Q: aya::Pod, W: aya::Pod>(
        &mut self,
        map: &impl IterableMap<Q, W>,
        mut take: impl FnMut(&[K], &[V]),
    ) -> nix::Result<()> {
        // The map's keys and values have the sizes of these: aya has seen to that.
        const { assert!(size_of::<Q>() == size_of::<K>() && size_of::<W>() == size_of::<V>()) };
        let map = map.map().fd().as_fd();
        let mut bucket = None;
        loop {
            let (count, next) = self.next(map, bucket)?;
            let (keys, values) = (self.keys.get(..count), self.values.get(..count));
            if let (Some(keys), Some(values)) = (keys, values) {
                take(keys, values);
            }
            if next.is_none() {
                return Ok(());
            }
            bucket = next;
        }
    }

    /// Reads the elements from a bucket on. How many there are, and the bucket after them; none if
    /// that was all.
    fn next(
        &mut self,
        map: BorrowedFd<'_>,
        bucket: Option<u32>,
    ) -> nix::Result<(usize, Option<u32>)> {
        let mut next = 0_u32;
        let mut attributes = Batch {
            in_batch: bucket.as_ref().map_or(0, address),
            out_batch: (&raw mut next).expose_provenance() as u64,
            keys: self.keys.as_mut_ptr().expose_provenance() as u64,
            values: self.values.as_mut_ptr().expose_provenance() as u64,
            count: BATCH as u32,
            map_fd: map.as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel reads four bytes of `bucket`, writes four of `next`, at most `count`
        // keys and values (any bytes are one), and `count` itself. All of it outlives the call.
        let result = unsafe { bpf(command::LOOKUP_BATCH, &mut attributes) };
        let next = match result {
            Ok(_) => Some(next),
            Err(Errno::ENOENT) => None,
            Err(error) => return Err(error),
        };
        Ok((attributes.count as usize, next))
    }
}

/// Inserts or replaces elements of `map`, in their order. Returns how many are there: fewer than
/// asked for if the kernel refuses one, or knows no such command.
pub(super) fn write<Q: aya::Pod, W: aya::Pod, K: Pod, V: Pod>(
    map: &impl IterableMap<Q, W>,
    elements: impl Iterator<Item = (K, V)>,
) -> usize {
    const { assert!(size_of::<Q>() == size_of::<K>() && size_of::<W>() == size_of::<V>()) };
    let (keys, values): (Vec<K>, Vec<V>) = elements.unzip();
    let mut written = 0;
    for (keys, values) in keys.chunks(BATCH).zip(values.chunks(BATCH)) {
        let mut attributes = Batch {
            in_batch: 0,
            out_batch: 0,
            keys: keys.as_ptr().expose_provenance() as u64,
            values: values.as_ptr().expose_provenance() as u64,
            count: keys.len() as u32,
            map_fd: map.map().fd().as_fd().as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel reads `count` keys and values, of the sizes that the map has (aya has
        // seen to that), and writes `count`. All of it outlives the call.
        let result = unsafe { bpf(command::UPDATE_BATCH, &mut attributes) };
        match result {
            Ok(_) => written += keys.len(),
            // An old kernel has not touched the count.
            Err(_) if attributes.count as usize >= keys.len() => return written,
            Err(_) => return written + attributes.count as usize,
        }
    }
    written
}

fn address<T>(value: &T) -> u64 {
    std::ptr::from_ref(value).expose_provenance() as u64
}
