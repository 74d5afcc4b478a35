//! The node's maps as the module has them open, and who is behind an address.
//!
//! One `Node` for each directory of pins, shared by all workers. The agent replaces a map by another of the same
//! name when its size is changed, so the pins are looked at again now and then.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicU8};
use std::sync::{Arc, Mutex};

use crate::abi::system::{monotonic_ns, BpfMap, MappedArray};
use crate::counters::{self, Record};
use crate::offload::Buckets;

/// How often the pins are looked at.
pub const LOOK_NS: u64 = 1_000_000_000;

pub const IDENTITY_HOST: u32 = 1;
pub const IDENTITY_WORLD: u32 = 2;

const MAPS: [&str; 6] = [
    "tg_l7_verdicts",
    "tg_slots",
    "tg_config",
    "tg_ipcache",
    "tg_origins",
    "tg_offload",
];
const SLOT_AUDITED: u8 = 1 << 0;
const IPCACHE_PREFIX_MAX: u32 = 128;
const SECOND_NS: u64 = 1_000_000_000;

/// `tg_ipcache_key`, `tg_origin_key`, `tg_offload_key`: an address and four bytes.
type Key20 = [u8; 20];
/// `struct tg_ipcache_value`: the identity comes first.
type IpcacheValue = [u32; 3];
/// `struct tg_connect`: the identity comes last.
type Origin = [u32; 6];
/// `struct tg_offload`: until when, packets.
type Offload = [u64; 2];

/// `struct tg_slot`.
#[repr(C)]
pub struct SlotEntry {
    port_be: [AtomicU8; 2],
    ready: AtomicU8,
    flags: AtomicU8,
    denies_per_second: AtomicU32,
    offload_seconds: AtomicU32,
    pad: AtomicU32,
}

/// `struct tg_config`, of which only the epoch is of interest here.
#[repr(C)]
pub struct ConfigEntry {
    epoch: AtomicU32,
    rest: [AtomicU32; 5],
    more: [AtomicU64; 6],
}

/// The maps of one directory of pins.
pub struct Node {
    directory: PathBuf,
    pins: [u64; MAPS.len()],
    pub table: MappedArray<Record>,
    slots: MappedArray<SlotEntry>,
    config: MappedArray<ConfigEntry>,
    ipcache: BpfMap,
    origins: BpfMap,
    offload: BpfMap,
    buckets: Mutex<Buckets>,
}

static NODES: Mutex<Vec<Arc<Node>>> = Mutex::new(Vec::new());

/// Returns the maps of `directory` as they are pinned now.
pub fn obtain(directory: &Path) -> io::Result<Arc<Node>> {
    let pins = pins_of(directory)?;
    let mut nodes = NODES
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(known) = nodes
        .iter()
        .find(|node| node.directory == directory && node.pins == pins)
    {
        return Ok(Arc::clone(known));
    }
    let node = Arc::new(Node::open(directory, pins)?);
    nodes.retain(|other| other.directory != directory);
    nodes.push(Arc::clone(&node));
    Ok(node)
}

fn pins_of(directory: &Path) -> io::Result<[u64; MAPS.len()]> {
    let mut pins = [0; MAPS.len()];
    for (pin, name) in pins.iter_mut().zip(MAPS) {
        *pin = fs::metadata(directory.join(name))?.ino();
    }
    Ok(pins)
}

impl Node {
    fn open(directory: &Path, pins: [u64; MAPS.len()]) -> io::Result<Node> {
        let node = Node {
            directory: directory.to_path_buf(),
            pins,
            table: MappedArray::open(directory, "tg_l7_verdicts", true)?,
            slots: MappedArray::open(directory, "tg_slots", false)?,
            config: MappedArray::open(directory, "tg_config", false)?,
            ipcache: BpfMap::open::<Key20, IpcacheValue>(directory, "tg_ipcache")?,
            origins: BpfMap::open::<Key20, Origin>(directory, "tg_origins")?,
            offload: BpfMap::open::<Key20, Offload>(directory, "tg_offload")?,
            buckets: Mutex::new(Buckets::default()),
        };
        counters::sign(&node.table, monotonic_ns());
        Ok(node)
    }

    /// Grows with every change of the other maps.
    pub fn epoch(&self) -> u32 {
        self.config
            .first()
            .map_or(0, |config| config.epoch.load(Acquire))
    }

    /// Whether policies in audit mode speak in a slot.
    pub fn is_audited(&self, slot: u16) -> bool {
        self.slots
            .get(usize::from(slot))
            .map_or(false, |entry| entry.flags.load(Relaxed) & SLOT_AUDITED != 0)
    }

    /// Who is behind an address, as the kernel's programs see it.
    pub fn identity_of(&self, address: &[u8; 16]) -> u32 {
        let mut key = [0; 20];
        key[..4].copy_from_slice(&IPCACHE_PREFIX_MAX.to_ne_bytes());
        key[4..].copy_from_slice(address);
        self.ipcache
            .lookup::<_, IpcacheValue>(&key)
            .map_or(IDENTITY_WORLD, |value| value[0])
    }

    /// Which host workload dialled a proxy port from this host's address and `port`.
    pub fn workload_of(&self, address: &[u8; 16], port: u16, proxy_port: u16) -> Option<u32> {
        let mut key = [0; 20];
        key[..16].copy_from_slice(address);
        key[16..18].copy_from_slice(&port.to_be_bytes());
        key[18..].copy_from_slice(&proxy_port.to_be_bytes());
        let value: Origin = self.origins.lookup(&key)?;
        Some(value[5])
    }

    /// Notes a denial of a peer, and has the kernel drop it where it is one too many.
    pub fn note_denial(&self, address: &[u8; 16], slot: u16, now_ns: u64) {
        let (per_second, seconds) = match self.offload_of(slot) {
            Some(limits) => limits,
            None => return,
        };
        let mut buckets = self
            .buckets
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if !buckets.is_too_many((*address, slot), per_second, now_ns) {
            return;
        }
        let mut key = [0; 20];
        key[..16].copy_from_slice(address);
        key[16..].copy_from_slice(&u32::from(slot).to_ne_bytes());
        let until_ns = now_ns + u64::from(seconds) * SECOND_NS;
        // It fails only where the map is gone, and then so are the programs that read it.
        let _ = self.offload.update(&key, &[until_ns, 0_u64]);
    }

    fn offload_of(&self, slot: u16) -> Option<(u32, u32)> {
        let entry = self.slots.get(usize::from(slot))?;
        let per_second = entry.denies_per_second.load(Relaxed);
        (per_second > 0).then(|| (per_second, entry.offload_seconds.load(Relaxed)))
    }
}
