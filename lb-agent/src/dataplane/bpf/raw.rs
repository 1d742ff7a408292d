//! Maps by their bytes, whatever keys and values mean.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    path::Path,
};

use aya::{
    maps::{MapData, MapError},
    util::nr_cpus,
};
use bytemuck::{Pod, Zeroable};
use lb_common::{
    FlowKey, Pin,
    maps::{Kind, MapSpec, OPENING, OPENING_WORDS},
};
use nix::errno::Errno;

use super::{
    error::{Error, is_absent},
    load::spec_of,
    opening::{self, Opening},
    opening_pins::{self, OpeningPins},
    pins::Pins,
    syscall::{BATCH, Batch, bpf, command},
};

/// What an insertion does to an element that is there.
#[repr(u64)]
#[derive(Clone, Copy, Debug)]
pub(super) enum Put {
    /// Replaces it (`BPF_ANY`).
    Any = 0,
    /// Leaves it alone (`BPF_NOEXIST`).
    IfAbsent = 1,
}

/// What takes a key and its value.
type Take<'a> = dyn FnMut(&[u8], &[u8]) -> io::Result<()> + 'a;

/// A pinned map.
pub(super) struct RawMap {
    pub(super) spec: MapSpec,
    data: MapData,
    /// Its records, of an array in which they are found by their keys.
    records: Option<Opening>,
    /// Its pins, of an array in which they are found by hashes of their keys.
    pins: Option<OpeningPins>,
    key_len: usize,
    /// Bytes of a value as system calls have it: of all CPUs, where each has its own.
    value_len: usize,
}

/// `struct` of the commands for one element in `union bpf_attr`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl RawMap {
    /// Opens the map `name` that is pinned at `path`; none if there is none.
    pub(super) fn open(name: &'static str, path: &Path) -> Result<Option<Self>, Error> {
        let failed = |source: MapError| Error::Map {
            action: "open the pin of",
            map: name,
            source: Box::new(source),
        };
        let data = match MapData::from_pin(path) {
            Ok(data) => data,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let spec = spec_of(name, &data.info().map_err(failed)?);
        let value_size = spec.value_size as usize;
        let value_len = if is_per_cpu(&spec) {
            let cpus = nr_cpus().map_err(|(_, error)| failed(MapError::IoError(error)))?;
            value_size.next_multiple_of(8) * cpus
        } else {
            value_size
        };
        let mut map = Self {
            key_len: spec.key_size as usize,
            spec,
            data,
            records: None,
            pins: None,
            value_len,
        };
        if map.spec.has_words() {
            let records = Opening::open(path)?;
            let records = records.ok_or_else(|| {
                Error::of_map("open", OPENING_WORDS, io::ErrorKind::NotFound.into())
            })?;
            (map.key_len, map.value_len) = (size_of::<FlowKey>(), records.value_len());
            map.records = Some(records);
        }
        if map.spec.has_pins() {
            let seed = opening::pinned_seed(&path.with_file_name(OPENING))?;
            let pins = OpeningPins::new(map.as_fd(), &map.spec, seed);
            let pins = pins.map_err(|source| Error::Mmap { map: name, source })?;
            (map.key_len, map.value_len) = (opening_pins::KEY, size_of::<Pin>());
            map.pins = Some(pins);
        }
        Ok(Some(map))
    }

    /// Opens the map `name` that is pinned among `pins`, and must be.
    pub(super) fn pinned(name: &'static str, pins: &Pins) -> Result<Self, Error> {
        let map = Self::open(name, &pins.map(name))?;
        map.ok_or_else(|| Error::of_map("open", name, io::ErrorKind::NotFound.into()))
    }

    /// Pins it at `path`, too.
    pub(super) fn pin(&self, path: &Path) -> Result<(), Error> {
        self.data.pin(path).map_err(|source| Error::Link {
            action: "pin a map at",
            path: path.into(),
            source: source.into(),
        })
    }

    /// Passes every element to `take`. Those that come and go meanwhile may be missed.
    ///
    /// # Errors
    ///
    /// What the kernel says, or `take`.
    pub(super) fn for_each(
        &self,
        mut take: impl FnMut(&[u8], &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        if let Some(records) = &self.records {
            return records.for_each(&mut take);
        }
        if let Some(pins) = &self.pins {
            // Whoever puts them in this order elsewhere has the newest of a bucket first again.
            let mut all = pins.all().into_iter().rev();
            return all
                .try_for_each(|(hash, pin)| take(&hash.to_ne_bytes(), bytemuck::bytes_of(&pin)));
        }
        let kind = self.spec.kind;
        if [Kind::Hash, Kind::LruHash, Kind::Array]
            .map(|kind| kind as u32)
            .contains(&kind)
        {
            self.by_batches(&mut take)
        } else if kind == Kind::PerCpuArray as u32 {
            let mut value = vec![0; self.value_len];
            for index in 0..self.spec.max_entries {
                let key = index.to_ne_bytes();
                if self.get(&key, &mut value)? {
                    take(&key, &value)?;
                }
            }
            Ok(())
        } else {
            self.by_keys(&mut take)
        }
    }

    fn by_keys(&self, take: &mut Take<'_>) -> io::Result<()> {
        let mut value = vec![0; self.value_len];
        let mut next = vec![0; self.spec.key_size as usize];
        let mut key: Option<Vec<u8>> = None;
        // Where an element is removed under the iteration, it starts anew: there must be an end.
        for _ in 0..2 * u64::from(self.spec.max_entries) {
            let last = key.as_deref().map_or(0, address);
            let command = command::NEXT_KEY;
            if !self.element(command, last, address_mut(&mut next), 0)? {
                break;
            }
            if self.get(&next, &mut value)? {
                take(&next, &value)?;
            }
            key.get_or_insert_default().clone_from(&next);
        }
        Ok(())
    }

    fn by_batches(&self, take: &mut Take<'_>) -> io::Result<()> {
        let key_len = self.spec.key_size as usize;
        let mut keys = vec![0; BATCH * key_len];
        let mut values = vec![0; BATCH * self.value_len];
        let (mut bucket, mut next): (Option<u32>, u32) = (None, 0);
        loop {
            let mut batch = Batch {
                in_batch: bucket
                    .as_ref()
                    .map_or(0, |b| address(bytemuck::bytes_of(b))),
                out_batch: address_mut(bytemuck::bytes_of_mut(&mut next)),
                keys: address_mut(&mut keys),
                values: address_mut(&mut values),
                count: BATCH as u32,
                map_fd: self.fd(),
                elem_flags: 0,
                flags: 0,
            };
            // SAFETY: the kernel reads four bytes of `bucket`, writes four of `next`, and at most
            // `count` keys and values; all of it outlives the call.
            let result = unsafe { bpf(command::LOOKUP_BATCH, &mut batch) };
            let is_last = match result {
                Ok(_) => false,
                Err(Errno::ENOENT) => true,
                Err(error) => return Err(error.into()),
            };
            let keys = keys.chunks_exact(key_len);
            let values = values.chunks_exact(self.value_len);
            for (key, value) in keys.zip(values).take(batch.count as usize) {
                take(key, value)?;
            }
            if is_last {
                return Ok(());
            }
            bucket = Some(next);
        }
    }

    /// Reads the element `key` into `value`; false if there is none.
    pub(super) fn get(&self, key: &[u8], value: &mut Vec<u8>) -> io::Result<bool> {
        self.check(key, None)?;
        if let Some(records) = &self.records {
            let there = records.get(key);
            return Ok(there.map(|there| *value = there).is_some());
        }
        if let Some(pins) = &self.pins {
            let there = pins.get(bytemuck::pod_read_unaligned(key));
            return Ok(there
                .map(|pin| *value = bytemuck::bytes_of(&pin).to_vec())
                .is_some());
        }
        value.resize(self.value_len, 0);
        self.element(command::LOOKUP, address(key), address_mut(value), 0)
    }

    /// What stands for a key in this map: a hash, for those of pins in earlier layouts.
    pub(super) fn own_key(&self, key: Vec<u8>) -> Vec<u8> {
        match (&self.pins, bytemuck::try_pod_read_unaligned(&key)) {
            (Some(pins), Ok(key)) => pins.hash(&key).to_ne_bytes().to_vec(),
            _ => key,
        }
    }

    /// Writes the element `key`. False if it is there and is to be left alone.
    pub(super) fn put(&self, key: &[u8], value: &[u8], put: Put) -> io::Result<bool> {
        self.check(key, Some(value))?;
        if let Some(records) = &self.records {
            return Ok(records.put(key, value, put));
        }
        if let Some(pins) = &self.pins {
            let (hash, pin) = (
                bytemuck::pod_read_unaligned(key),
                bytemuck::pod_read_unaligned(value),
            );
            return Ok(pins.put(hash, pin, put));
        }
        let put = put as u64;
        match self.element(command::UPDATE, address(key), address(value), put) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            result => result,
        }
    }

    /// Removes the element `key`, if it is there.
    pub(super) fn remove(&self, key: &[u8]) -> io::Result<()> {
        self.check(key, None)?;
        if let Some(records) = &self.records {
            records.remove(key);
            return Ok(());
        }
        if let Some(pins) = &self.pins {
            pins.remove(bytemuck::pod_read_unaligned(key));
            return Ok(());
        }
        self.element(command::DELETE, address(key), 0, 0)
            .map(|_| ())
    }

    /// How much of its capacity is taken: of an array, all up to the last element that is not zero; of pins
    /// that the next ones displace, nothing.
    pub(super) fn used(&self) -> io::Result<u32> {
        if let Some(records) = &self.records {
            return Ok(records.count() as u32);
        }
        if self.pins.is_some() {
            return Ok(0);
        }
        let is_array = self.spec.kind == Kind::Array as u32;
        let mut used = 0;
        self.for_each(|key, value| {
            if !is_array {
                used += 1;
            } else if value.iter().any(|byte| *byte != 0) {
                used = bytemuck::pod_read_unaligned::<u32>(key) + 1;
            }
            Ok(())
        })?;
        Ok(used)
    }

    /// Keys and values must have the lengths that the kernel is going to read.
    fn check(&self, key: &[u8], value: Option<&[u8]>) -> io::Result<()> {
        let is_right =
            key.len() == self.key_len && value.is_none_or(|value| value.len() == self.value_len);
        if is_right {
            Ok(())
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }

    /// Carries out a command for one element; false if there is no such element.
    fn element(&self, command: libc::c_long, key: u64, value: u64, flags: u64) -> io::Result<bool> {
        let mut attributes = Element {
            map_fd: self.fd(),
            pad: 0,
            key,
            value,
            flags,
        };
        // SAFETY: the callers pass addresses of a whole key and of a whole value, which live until
        // the kernel is done; the value is writable where the command writes one.
        match unsafe { bpf(command, &mut attributes) } {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Its descriptor.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.data.fd().as_fd()
    }

    fn fd(&self) -> u32 {
        self.as_fd().as_raw_fd().cast_unsigned()
    }
}

pub(super) fn is_per_cpu(spec: &MapSpec) -> bool {
    spec.kind == Kind::PerCpuArray as u32 || spec.kind == Kind::PerCpuHash as u32
}

fn address(bytes: &[u8]) -> u64 {
    bytes.as_ptr().expose_provenance() as u64
}

fn address_mut(bytes: &mut [u8]) -> u64 {
    bytes.as_mut_ptr().expose_provenance() as u64
}
