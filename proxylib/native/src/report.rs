//! From a judged request to its count: the settings of a slot, who the two ends are, which record.
//!
//! What has been found out is kept by each worker for itself, in tables of fixed size: an address's identity for
//! as long as the kernel's maps stay as they are (`tg_config.epoch`), a key's record for as long as it is that key's.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use crate::abi::system::monotonic_ns;
use crate::counters::{self, Key, Kind, Side};
use crate::node::{self, Node, IDENTITY_HOST, LOOK_NS};

/// ABI TG_ABI_VERSION: the layout of the maps that this module was built for.
pub const ABI_VERSION: u32 = 2;

const ADDRESSES: usize = 512;
const WORKLOADS: usize = 256;
const RECORDS: usize = 1024;
/// The longest text of an IPv6 address.
const TEXT_BYTES_MAX: usize = 45;

/// What Envoy is told of a slot: lines of `key value`, see `l7filters/envoy/counts.py`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub slot: u16,
    pub proxy_port: u16,
    pub egress: bool,
    pub ingress: bool,
    pub maps: PathBuf,
}

impl Settings {
    /// Reads the settings; Err says what is wrong.
    pub fn parse(text: &str) -> Result<Settings, String> {
        let mut slot = None;
        let mut proxy_port = None;
        let mut maps = None;
        let (mut egress, mut ingress) = (false, false);
        for line in text.lines() {
            let (key, value) = line
                .split_once(' ')
                .ok_or_else(|| format!("no value: {line}"))?;
            match key {
                "abi" if number::<u32>(value)? == ABI_VERSION => {}
                "abi" => {
                    return Err(format!(
                        "the maps are of ABI {value}, this module is for {ABI_VERSION}"
                    ))
                }
                "slot" => slot = Some(number(value)?),
                "port" => proxy_port = Some(number(value)?),
                "maps" => maps = Some(PathBuf::from(value)),
                "judges" => {
                    egress = value.split(',').any(|side| side == "egress");
                    ingress = value.split(',').any(|side| side == "ingress");
                }
                _ => return Err(format!("unknown setting: {key}")),
            }
        }
        match (slot, proxy_port, maps, egress || ingress) {
            (Some(slot), Some(proxy_port), Some(maps), true) => Ok(Settings {
                slot,
                proxy_port,
                egress,
                ingress,
                maps,
            }),
            _ => Err("slot, port, maps and judges are needed".to_string()),
        }
    }

    /// The side that judges, where it is one.
    pub fn side(&self) -> Side {
        match (self.egress, self.ingress) {
            (true, true) => Side::Both,
            (true, false) => Side::Egress,
            _ => Side::Ingress,
        }
    }
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("not a number: {text}"))
}

/// The two ends of a connection, as Envoy writes them.
#[derive(Clone, Copy)]
pub struct Ends<'a> {
    pub client: &'a [u8],
    pub client_port: u16,
    pub server: &'a [u8],
    /// Envoy's number of the client's connection; a number is never used twice.
    pub connection: u64,
}

#[derive(Clone, Copy)]
struct KnownAddress {
    text: [u8; TEXT_BYTES_MAX],
    length: u8,
    epoch: u32,
    identity: u32,
    address: [u8; 16],
}

#[derive(Clone, Copy)]
struct KnownWorkload {
    connection: u64,
    identity: u32,
}

#[derive(Clone, Copy)]
struct KnownRecord {
    words: (u64, u64),
    index: usize,
}

/// What a worker knows.
struct Worker {
    node: Option<Arc<Node>>,
    directory: PathBuf,
    looked_ns: u64,
    addresses: Vec<KnownAddress>,
    workloads: Vec<KnownWorkload>,
    records: Vec<KnownRecord>,
}

thread_local! {
    static WORKER: RefCell<Option<Box<Worker>>> = RefCell::new(None);
}

/// Runs `use_it` with the maps of the slot; None where they can't be had.
pub fn with<T>(settings: &Settings, use_it: impl FnOnce(&mut Scope) -> T) -> Option<T> {
    WORKER.with(|cell| {
        let mut guard = cell.try_borrow_mut().ok()?;
        let worker = guard.get_or_insert_with(|| Box::new(Worker::new()));
        let now_ns = monotonic_ns();
        worker.look(settings, now_ns);
        let node = Arc::clone(worker.node.as_ref()?);
        Some(use_it(&mut Scope {
            settings,
            worker,
            node: &node,
            now_ns,
        }))
    })
}

/// Counts one request: what was said of it and by which side, and the bytes of its bodies.
pub fn count(settings: &Settings, ends: Ends, kind: Kind, side: Side, bytes: u64) {
    with(settings, |scope| scope.count(ends, kind, side, bytes));
}

/// The maps during one call.
pub struct Scope<'a> {
    settings: &'a Settings,
    worker: &'a mut Worker,
    node: &'a Node,
    now_ns: u64,
}

impl Scope<'_> {
    /// Whether policies in audit mode speak in this slot.
    pub fn is_audited(&self) -> bool {
        self.node.is_audited(self.settings.slot)
    }

    /// Counts one request.
    pub fn count(&mut self, ends: Ends, kind: Kind, side: Side, bytes: u64) {
        let epoch = self.node.epoch();
        let client = self.worker.whois(self.node, ends.client, epoch);
        let server = self.worker.whois(self.node, ends.server, epoch);
        let mut client_identity = client.identity;
        let mut dropped_as = client.address;
        if client.identity == IDENTITY_HOST {
            client_identity = self
                .worker
                .workload(self.node, self.settings, &client.address, ends);
            if client_identity != IDENTITY_HOST {
                dropped_as = [0; 16];
                dropped_as[12..].copy_from_slice(&client_identity.to_be_bytes());
            }
        }
        let (subject, peer) = match side {
            Side::Ingress => (server.identity, client_identity),
            Side::Egress | Side::Both => (client_identity, server.identity),
        };
        let key = Key {
            subject,
            peer,
            slot: self.settings.slot,
            kind,
            side,
        };
        match self.worker.record(self.node, key.words()) {
            Some(index) => self.node.table[index].add(1, bytes, self.now_ns),
            None => counters::overflow(&self.node.table, kind, bytes, self.now_ns),
        }
        if kind == Kind::Denied {
            self.node
                .note_denial(&dropped_as, self.settings.slot, self.now_ns);
        }
    }
}

impl Worker {
    fn new() -> Worker {
        Worker {
            node: None,
            directory: PathBuf::new(),
            looked_ns: 0,
            addresses: Vec::new(),
            workloads: Vec::new(),
            records: Vec::new(),
        }
    }

    /// Makes sure that the maps are those that are pinned, as of a moment ago.
    fn look(&mut self, settings: &Settings, now_ns: u64) {
        if now_ns.wrapping_sub(self.looked_ns) < LOOK_NS && self.directory == settings.maps {
            return;
        }
        self.looked_ns = now_ns;
        // While pins are being replaced, what was open goes on.
        let found = match node::obtain(&settings.maps) {
            Ok(found) => found,
            Err(_) if self.directory == settings.maps => return,
            Err(_) => {
                self.node = None;
                return;
            }
        };
        if self
            .node
            .as_ref()
            .map_or(true, |node| !Arc::ptr_eq(node, &found))
        {
            self.directory = settings.maps.clone();
            self.node = Some(found);
            self.forget();
        }
    }

    fn forget(&mut self) {
        let nobody = KnownAddress {
            text: [0; TEXT_BYTES_MAX],
            length: 0,
            epoch: 0,
            identity: 0,
            address: [0; 16],
        };
        self.addresses = vec![nobody; ADDRESSES];
        self.workloads = vec![
            KnownWorkload {
                connection: 0,
                identity: 0
            };
            WORKLOADS
        ];
        self.records = vec![
            KnownRecord {
                words: (0, 0),
                index: 0
            };
            RECORDS
        ];
    }

    fn whois(&mut self, node: &Node, text: &[u8], epoch: u32) -> KnownAddress {
        let known = &mut self.addresses[hash(text) % ADDRESSES];
        let length = text.len().min(TEXT_BYTES_MAX);
        if usize::from(known.length) == length
            && known.epoch == epoch
            && known.text[..length] == text[..length]
        {
            return *known;
        }
        known.length = length as u8;
        known.text[..length].copy_from_slice(&text[..length]);
        known.epoch = epoch;
        known.address = parse_address(text);
        known.identity = node.identity_of(&known.address);
        *known
    }

    fn workload(
        &mut self,
        node: &Node,
        settings: &Settings,
        address: &[u8; 16],
        ends: Ends,
    ) -> u32 {
        let known = &mut self.workloads[ends.connection as usize % WORKLOADS];
        if known.connection != ends.connection || known.identity == 0 {
            known.connection = ends.connection;
            known.identity = node
                .workload_of(address, ends.client_port, settings.proxy_port)
                .unwrap_or(IDENTITY_HOST);
        }
        known.identity
    }

    fn record(&mut self, node: &Node, words: (u64, u64)) -> Option<usize> {
        let mixed = words.0 ^ words.0 >> 27 ^ words.1 ^ words.1 >> 21;
        let known = &mut self.records[mixed as usize % RECORDS];
        if known.words == words && node.table[known.index].is_of(words) {
            return Some(known.index);
        }
        let index = counters::find(&node.table, words)?;
        *known = KnownRecord { words, index };
        Some(index)
    }
}

fn hash(text: &[u8]) -> usize {
    let mut mixed = 0xcbf2_9ce4_8422_2325_u64;
    for byte in text {
        mixed = (mixed ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    (mixed ^ (mixed >> 32)) as usize
}

/// Returns 16 bytes in wire order, IPv4 as v4-mapped; all zero for what is no address.
pub fn parse_address(text: &[u8]) -> [u8; 16] {
    let parsed = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok());
    match parsed.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "abi 2\nslot 12\nport 19012\njudges egress,ingress\nmaps /sys/fs/bpf/x/v2/maps";

    #[test]
    fn settings_are_read() {
        let settings = Settings::parse(TEXT).unwrap();
        assert_eq!((settings.slot, settings.proxy_port), (12, 19012));
        assert_eq!(settings.maps, PathBuf::from("/sys/fs/bpf/x/v2/maps"));
        assert_eq!(settings.side(), Side::Both);
        let one = Settings::parse(&TEXT.replace("egress,", "")).unwrap();
        assert_eq!(one.side(), Side::Ingress);
    }

    #[test]
    fn settings_of_another_abi_or_with_unknown_words_are_refused() {
        assert!(Settings::parse(&TEXT.replace("abi 2", "abi 3"))
            .unwrap_err()
            .contains("ABI 3"));
        assert!(Settings::parse(&format!("{TEXT}\ncolour blue"))
            .unwrap_err()
            .contains("colour"));
        assert!(Settings::parse("slot 1").is_err());
        assert!(Settings::parse(&TEXT.replace("slot 12", "slot 70000")).is_err());
    }

    #[test]
    fn addresses_are_as_the_kernel_has_them() {
        assert_eq!(parse_address(b"10.0.0.1")[10..], [0xff, 0xff, 10, 0, 0, 1]);
        assert_eq!(parse_address(b"2001:db8::7")[..4], [0x20, 1, 0x0d, 0xb8]);
        assert_eq!(
            parse_address(b"::ffff:10.0.0.1"),
            parse_address(b"10.0.0.1")
        );
        assert_eq!(parse_address(b"rubbish"), parse_address(b"0.0.0.0"));
    }

    #[test]
    fn without_maps_nothing_is_counted_and_nothing_breaks() {
        let mut settings = Settings::parse(TEXT).unwrap();
        settings.maps = PathBuf::from("/nonexistent");
        assert!(with(&settings, |_| ()).is_none());
    }
}
