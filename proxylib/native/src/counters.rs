//! The table of verdict counts: a hash table with open addressing in shared memory.
//!
//! `tg_l7_verdicts` in `bpf_redirect/include/abi.h` says what a record means and who may change what. Here is the
//! writers' side: find or take the record of a key, and add. Nothing waits, nothing allocates; a writer
//! that dies at any point leaves a record that others can use.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, Ordering};

/// Records at the beginning that belong to no key: ABI TG_L7_RESERVED.
pub const RESERVED: usize = 8;
/// How far from its place a record may lie: ABI TG_L7_PROBES_MAX. Bounds the cost where the table is nearly full.
pub const PROBES_MAX: usize = 32;

const STATE_LIVE: u8 = 1;
const STATE_OVERFLOW: u8 = 3;
const STATE_WRITER: u8 = 4;

/// What was said of a request: ABI enum tg_l7_kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Allowed = 1,
    Denied = 2,
    Audited = 3,
    Error = 4,
}

/// Whose policy it was: ABI enum tg_direction, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    Both = 0,
    Ingress = 1,
    Egress = 2,
}

/// Who, by which slot, with what verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub subject: u32,
    pub peer: u32,
    pub slot: u16,
    pub kind: Kind,
    pub side: Side,
}

impl Key {
    /// The two words of a record that is in use for this key, as they lie in memory.
    pub fn words(&self) -> (u64, u64) {
        let s = self.subject.to_ne_bytes();
        let p = self.peer.to_ne_bytes();
        let who = u64::from_ne_bytes([s[0], s[1], s[2], s[3], p[0], p[1], p[2], p[3]]);
        (
            who,
            what(self.slot, self.kind as u8, self.side as u8, STATE_LIVE),
        )
    }
}

fn what(slot: u16, kind: u8, side: u8, state: u8) -> u64 {
    let n = slot.to_ne_bytes();
    u64::from_ne_bytes([n[0], n[1], kind, side, state, 0, 0, 0])
}

/// One record, `struct tg_l7_verdict`.
#[repr(C)]
#[derive(Default)]
pub struct Record {
    who: AtomicU64,
    what: AtomicU64,
    requests: AtomicU64,
    bytes: AtomicU64,
    last_seen_ns: AtomicU64,
    spare: [AtomicU64; 3],
}

impl Record {
    /// Whether this record is in use for the key.
    pub fn is_of(&self, words: (u64, u64)) -> bool {
        self.who.load(Relaxed) == words.0 && self.what.load(Acquire) == words.1
    }

    /// Counts.
    pub fn add(&self, requests: u64, bytes: u64, now_ns: u64) {
        self.requests.fetch_add(requests, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.last_seen_ns.store(now_ns, Relaxed);
    }

    /// What was counted: requests, bytes, when last.
    pub fn counts(&self) -> (u64, u64, u64) {
        (
            self.requests.load(Relaxed),
            self.bytes.load(Relaxed),
            self.last_seen_ns.load(Relaxed),
        )
    }
}

fn place(words: (u64, u64), count: usize) -> usize {
    // Multiplication and shift mix the few bits that differ between keys into all of them.
    let mut mixed = words.0 ^ words.1.rotate_left(32);
    mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 32)) as usize % count
}

/// Returns the index of the record of a key, taking a free one where it has none; None: no room near its place.
pub fn find(table: &[Record], words: (u64, u64)) -> Option<usize> {
    let count = table
        .len()
        .checked_sub(RESERVED)
        .filter(|count| *count > 0)?;
    let start = place(words, count);
    for step in 0..PROBES_MAX.min(count) {
        let index = RESERVED + (start + step) % count;
        let record = &table[index];
        if take(&record.who, words.0) && take(&record.what, words.1) {
            return Some(index);
        }
    }
    None
}

/// Makes a word that is 0 the wanted one; tells whether it is the wanted one now.
fn take(word: &AtomicU64, wanted: u64) -> bool {
    let mut found = word.load(Acquire);
    if found == 0 {
        found = match word.compare_exchange(0, wanted, AcqRel, Ordering::Acquire) {
            Ok(_) => wanted,
            Err(other) => other,
        };
    }
    found == wanted
}

/// Counts one request where its key has no record of its own.
pub fn overflow(table: &[Record], kind: Kind, bytes: u64, now_ns: u64) {
    if let Some(record) = table.get(kind as usize) {
        record
            .what
            .store(what(0, kind as u8, 0, STATE_OVERFLOW), Release);
        record.add(1, bytes, now_ns);
    }
}

/// Leaves a sign that there is a writer.
pub fn sign(table: &[Record], now_ns: u64) {
    if let Some(record) = table.first() {
        record.what.store(what(0, 0, 0, STATE_WRITER), Release);
        record.add(1, 0, now_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::thread;

    fn table(count: usize) -> Vec<Record> {
        (0..RESERVED + count).map(|_| Record::default()).collect()
    }

    fn key(subject: u32, peer: u32, slot: u16, kind: Kind) -> Key {
        Key {
            subject,
            peer,
            slot,
            kind,
            side: Side::Ingress,
        }
    }

    fn add(table: &[Record], key: Key) {
        match find(table, key.words()) {
            Some(index) => table[index].add(1, 10, 5),
            None => overflow(table, key.kind, 10, 5),
        }
    }

    fn requests_of(table: &[Record], key: Key) -> u64 {
        let words = key.words();
        table[RESERVED..]
            .iter()
            .filter(|r| r.is_of(words))
            .map(|r| r.counts().0)
            .sum()
    }

    #[test]
    fn a_record_is_64_bytes() {
        assert_eq!(std::mem::size_of::<Record>(), 64);
    }

    #[test]
    fn every_key_has_its_own_count() {
        let table = table(256);
        for subject in 1..=5 {
            for slot in 1..=3 {
                for kind in [Kind::Allowed, Kind::Denied, Kind::Audited, Kind::Error] {
                    for _ in 0..subject {
                        add(&table, key(subject, 9, slot, kind));
                    }
                }
            }
        }
        for subject in 1..=5 {
            assert_eq!(
                requests_of(&table, key(subject, 9, 2, Kind::Denied)),
                u64::from(subject)
            );
        }
        assert_eq!(table[Kind::Denied as usize].counts().0, 0);
    }

    #[test]
    fn a_full_table_counts_in_the_overflow_of_the_kind() {
        let table = table(16);
        for subject in 1..=100 {
            add(&table, key(subject, 9, 1, Kind::Allowed));
        }
        for subject in 101..=130 {
            add(&table, key(subject, 9, 1, Kind::Denied));
        }
        let held: u64 = table[RESERVED..].iter().map(|r| r.counts().0).sum();
        let allowed = table[Kind::Allowed as usize].counts();
        let denied = table[Kind::Denied as usize].counts();
        assert_eq!(held, 16);
        assert_eq!(held + allowed.0 + denied.0, 130);
        assert_eq!(denied, (30, 300, 5));
    }

    #[test]
    fn threads_that_race_for_records_lose_no_count() {
        let table = Arc::new(table(64));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let table = Arc::clone(&table);
                thread::spawn(move || {
                    for round in 0..20_000_u32 {
                        add(
                            &table,
                            key(1 + round % 3, 7, 1 + (round % 5) as u16, Kind::Allowed),
                        );
                    }
                })
            })
            .collect();
        for one in threads {
            one.join().unwrap();
        }
        let mut sum = 0;
        for subject in 1..=3 {
            for slot in 1..=5 {
                let matching: Vec<_> = table[RESERVED..]
                    .iter()
                    .filter(|r| r.is_of(key(subject, 7, slot, Kind::Allowed).words()))
                    .collect();
                assert_eq!(matching.len(), 1, "one record a key while nobody frees");
                sum += matching[0].counts().0;
            }
        }
        assert_eq!(sum, 160_000);
    }

    /// The agent's side, as it is in `bpf_redirect/l7_verdicts.py`: retire, wait, read, free, while threads write. Here
    /// the wait ends when each writer has begun anew: nobody can be on the way to a record any more.
    #[test]
    fn freeing_under_writers_loses_no_count() {
        let table = Arc::new(table(4));
        let stop = Arc::new(AtomicU64::new(0));
        let mut writers = Vec::new();
        for _ in 0..4 {
            let (table, stop) = (Arc::clone(&table), Arc::clone(&stop));
            let written = Arc::new(AtomicU64::new(0));
            let told = Arc::clone(&written);
            let thread = thread::spawn(move || {
                while stop.load(Relaxed) == 0 {
                    let number = told.load(Relaxed);
                    add(&table, key(1 + (number % 2) as u32, 7, 1, Kind::Allowed));
                    told.store(number + 1, Release);
                }
            });
            writers.push((thread, written));
        }
        let mut collected = 0;
        for _ in 0..50 {
            let old: Vec<_> = table[RESERVED..]
                .iter()
                .filter(|record| record.what.load(Acquire) != 0)
                .collect();
            for record in &old {
                record.what.store(what(1, 1, 1, 2), Release);
            }
            let begun: Vec<u64> = writers
                .iter()
                .map(|(_, written)| written.load(Acquire))
                .collect();
            for ((_, written), before) in writers.iter().zip(begun) {
                while written.load(Acquire) < before + 2 {
                    thread::yield_now();
                }
            }
            for record in old {
                collected += record.counts().0;
                record.requests.store(0, Relaxed);
                record.bytes.store(0, Relaxed);
                record.who.store(0, Release);
                record.what.store(0, Release);
            }
        }
        stop.store(1, Relaxed);
        let mut written_by_all = 0;
        for (thread, written) in writers {
            thread.join().unwrap();
            written_by_all += written.load(Acquire);
        }
        let left: u64 = table.iter().map(|r| r.counts().0).sum();
        assert!(collected > 0);
        assert_eq!(collected + left, written_by_all);
    }

    #[test]
    fn a_record_that_a_dead_writer_half_took_is_used_by_the_next_of_the_same_pair() {
        let table = table(1);
        let half = key(3, 4, 1, Kind::Denied);
        table[RESERVED].who.store(half.words().0, Relaxed);
        add(&table, half);
        assert_eq!(requests_of(&table, half), 1);
    }

    #[test]
    fn the_sign_of_life_says_how_often_and_when() {
        let table = table(1);
        sign(&table, 7);
        sign(&table, 9);
        assert_eq!(table[0].counts(), (2, 0, 9));
    }
}
