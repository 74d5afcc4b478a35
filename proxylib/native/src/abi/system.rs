//! The border to the kernel: bpf(2) on pinned maps, maps that are mapped into memory, the clock.
//!
//! Declared by hand, as there is no libc crate; the C library itself is there, for Envoy uses it.

use std::ffi::CString;
use std::io;
use std::ops::Deref;
use std::os::raw::{c_char, c_int, c_long, c_void};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::io::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicU8};

extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn mmap(
        address: *mut c_void,
        length: usize,
        protection: c_int,
        flags: c_int,
        fd: c_int,
        offset: i64,
    ) -> *mut c_void;
    fn munmap(address: *mut c_void, length: usize) -> c_int;
    fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int;
}

#[cfg(target_arch = "x86_64")]
const SYS_BPF: c_long = 321;
#[cfg(not(target_arch = "x86_64"))]
const SYS_BPF: c_long = 280;

const BPF_MAP_LOOKUP_ELEM: c_long = 1;
const BPF_MAP_UPDATE_ELEM: c_long = 2;
const BPF_OBJ_GET: c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: c_long = 15;

const PROT_READ: c_int = 1;
const PROT_WRITE: c_int = 2;
const MAP_SHARED: c_int = 1;
const CLOCK_MONOTONIC_COARSE: c_int = 6;
const NANOSECONDS: u64 = 1_000_000_000;

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

/// `union bpf_attr` of the commands on elements; the size passed on tells the kernel how much of it counts.
#[repr(C)]
struct ElementAttr {
    fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ObjectAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

/// The head of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_bytes: u32,
    value_bytes: u32,
    max_entries: u32,
    flags: u32,
}

/// # Safety
/// `attr` is what the kernel reads for `command`, and what it points at is alive and large enough.
unsafe fn bpf<T>(command: c_long, attr: &mut T) -> io::Result<c_long> {
    let size = std::mem::size_of::<T>();
    let result = unsafe { syscall(SYS_BPF, command, attr as *mut T, size) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn about(name: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{name}: {error}"))
}

/// What may lie in a map as bytes: no padding, and every bit pattern is a value.
///
/// # Safety
/// As said.
pub unsafe trait Plain {}

unsafe impl Plain for u32 {}
unsafe impl<const N: usize> Plain for [u8; N] {}
unsafe impl<const N: usize> Plain for [u32; N] {}
unsafe impl<const N: usize> Plain for [u64; N] {}

/// A pinned map, open.
#[derive(Debug)]
pub struct BpfMap {
    fd: OwnedFd,
    key_bytes: usize,
    value_bytes: usize,
    max_entries: usize,
}

impl BpfMap {
    /// Opens a map pinned in `directory`, of these keys and values; the error says which.
    pub fn open<K: Plain, V: Plain>(directory: &Path, name: &str) -> io::Result<BpfMap> {
        let map = BpfMap::get(&directory.join(name)).map_err(|error| about(name, error))?;
        map.check::<K, V>().map_err(|error| about(name, error))?;
        Ok(map)
    }

    fn get(path: &Path) -> io::Result<BpfMap> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        let mut attr = ObjectAttr {
            path: name.as_ptr() as *const c_char as u64,
            fd: 0,
            flags: 0,
        };
        let fd = unsafe { bpf(BPF_OBJ_GET, &mut attr) }?;
        let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        let mut info = MapInfo::default();
        let mut attr = InfoAttr {
            fd: fd.as_raw_fd() as u32,
            length: std::mem::size_of::<MapInfo>() as u32,
            info: &mut info as *mut MapInfo as u64,
        };
        unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
        Ok(BpfMap {
            fd,
            key_bytes: info.key_bytes as usize,
            value_bytes: info.value_bytes as usize,
            max_entries: info.max_entries as usize,
        })
    }

    fn check<K, V>(&self) -> io::Result<()> {
        if std::mem::size_of::<K>() == self.key_bytes
            && std::mem::size_of::<V>() == self.value_bytes
        {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the map has another layout",
        ))
    }

    /// Reads the value under `key`; None where there is none, or it can't be read.
    pub fn lookup<K: Plain, V: Plain + Default>(&self, key: &K) -> Option<V> {
        self.check::<K, V>().ok()?;
        let mut value = V::default();
        let mut attr = ElementAttr {
            fd: self.fd.as_raw_fd() as u32,
            pad: 0,
            key: key as *const K as u64,
            value: &mut value as *mut V as u64,
            flags: 0,
        };
        unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut attr) }.ok()?;
        Some(value)
    }

    /// Writes the value under `key`.
    pub fn update<K: Plain, V: Plain>(&self, key: &K, value: &V) -> io::Result<()> {
        self.check::<K, V>()?;
        let mut attr = ElementAttr {
            fd: self.fd.as_raw_fd() as u32,
            pad: 0,
            key: key as *const K as u64,
            value: value as *const V as u64,
            flags: 0,
        };
        unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr) }.map(|_| ())
    }
}

/// What may be mapped: shared memory that others write, so atomics only.
///
/// # Safety
/// The type consists of atomic integers, without padding.
pub unsafe trait Shared {}

unsafe impl Shared for crate::counters::Record {}
unsafe impl Shared for crate::node::SlotEntry {}
unsafe impl Shared for crate::node::ConfigEntry {}

// What the three consist of.
const _: fn(AtomicU8, AtomicU32, AtomicU64) = |_, _, _| {};

/// An array map (BPF_F_MMAPABLE) in memory.
pub struct MappedArray<T: Shared> {
    start: *const T,
    count: usize,
    bytes: usize,
}

// The memory is shared with other processes anyway, and consists of atomics.
unsafe impl<T: Shared> Send for MappedArray<T> {}
unsafe impl<T: Shared> Sync for MappedArray<T> {}

impl<T: Shared> MappedArray<T> {
    /// Maps an array pinned in `directory`; the error says which.
    pub fn open(directory: &Path, name: &str, writable: bool) -> io::Result<MappedArray<T>> {
        let map = BpfMap::get(&directory.join(name)).map_err(|error| about(name, error))?;
        map.check::<u32, T>().map_err(|error| about(name, error))?;
        let bytes = map.max_entries * std::mem::size_of::<T>();
        let protection = if writable {
            PROT_READ | PROT_WRITE
        } else {
            PROT_READ
        };
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                MAP_SHARED,
                map.fd.as_raw_fd(),
                0,
            )
        };
        if start as isize == -1 {
            return Err(about(name, io::Error::last_os_error()));
        }
        Ok(MappedArray {
            start: start as *const T,
            count: map.max_entries,
            bytes,
        })
    }
}

impl<T: Shared> Deref for MappedArray<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        unsafe { std::slice::from_raw_parts(self.start, self.count) }
    }
}

impl<T: Shared> Drop for MappedArray<T> {
    fn drop(&mut self) {
        unsafe { munmap(self.start as *mut c_void, self.bytes) };
    }
}

/// The kernel's monotonic clock, a few milliseconds coarse: a read of memory, no system call.
pub fn monotonic_ns() -> u64 {
    let mut now = Timespec {
        seconds: 0,
        nanoseconds: 0,
    };
    unsafe { clock_gettime(CLOCK_MONOTONIC_COARSE, &mut now) };
    now.seconds as u64 * NANOSECONDS + now.nanoseconds as u64
}
