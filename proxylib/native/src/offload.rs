//! Who is denied too often: a token bucket for each (peer, slot), in a table of fixed size.
//!
//! Asked only when a request was denied, by all workers, behind a lock. A peer that is pushed out of the table by
//! others begins anew: that only delays its being dropped.

/// Buckets that share a place; the one longest unused makes room.
const WAYS: usize = 8;
const SETS: usize = 512;
const MILLI: u64 = 1000;
const NS_PER_MILLI_TOKEN_AT_1HZ: u64 = 1_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// Whose requests: the address that the kernel compares, and where they were denied.
pub type Peer = ([u8; 16], u16);

#[derive(Clone, Copy, Default)]
struct Bucket {
    peer: Peer,
    milli_tokens: u64,
    refilled_ns: u64,
}

/// The table.
pub struct Buckets {
    sets: Vec<[Bucket; WAYS]>,
}

impl Default for Buckets {
    fn default() -> Self {
        Buckets {
            sets: vec![[Bucket::default(); WAYS]; SETS],
        }
    }
}

impl Buckets {
    /// Notes a denial; tells whether it is one too many: more than `per_second` within a second, or than it refills.
    pub fn is_too_many(&mut self, peer: Peer, per_second: u32, now_ns: u64) -> bool {
        let full = u64::from(per_second) * MILLI;
        let set = &mut self.sets[place(&peer)];
        let at = match set
            .iter()
            .position(|b| b.refilled_ns != 0 && b.peer == peer)
        {
            Some(at) => at,
            None => {
                let oldest = (0..WAYS).min_by_key(|at| set[*at].refilled_ns).unwrap_or(0);
                set[oldest] = Bucket {
                    peer,
                    milli_tokens: full,
                    refilled_ns: now_ns.max(1),
                };
                oldest
            }
        };
        let bucket = &mut set[at];
        let elapsed_ns = now_ns.saturating_sub(bucket.refilled_ns).min(SECOND_NS);
        let earned = elapsed_ns * u64::from(per_second) / NS_PER_MILLI_TOKEN_AT_1HZ;
        if earned > 0 {
            bucket.milli_tokens += earned;
            bucket.refilled_ns = now_ns;
        }
        bucket.milli_tokens = bucket.milli_tokens.min(full);
        if bucket.milli_tokens < MILLI {
            // What it is dropped for has been paid: after that it has a full bucket again.
            *bucket = Bucket::default();
            return true;
        }
        bucket.milli_tokens -= MILLI;
        false
    }
}

fn place(peer: &Peer) -> usize {
    let mut mixed = u64::from(peer.1);
    for byte in peer.0 {
        mixed = (mixed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    (mixed ^ (mixed >> 32)) as usize % SETS
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Peer = ([7; 16], 3);
    const OTHER: Peer = ([8; 16], 3);
    const MILLISECOND_NS: u64 = 1_000_000;

    #[test]
    fn the_denial_after_the_limit_is_one_too_many() {
        let mut buckets = Buckets::default();
        let told: Vec<bool> = (0..6)
            .map(|_| buckets.is_too_many(PEER, 5, 1_000))
            .collect();
        assert_eq!(told, [false, false, false, false, false, true]);
        assert!(!buckets.is_too_many(OTHER, 5, 1_000));
    }

    #[test]
    fn a_peer_below_the_rate_is_never_dropped() {
        let mut buckets = Buckets::default();
        for tick in 1..1000 {
            assert!(!buckets.is_too_many(PEER, 10, tick * 100 * MILLISECOND_NS));
        }
    }

    #[test]
    fn after_being_dropped_a_peer_has_its_whole_limit_again() {
        let mut buckets = Buckets::default();
        while !buckets.is_too_many(PEER, 3, 1_000) {}
        let told: Vec<bool> = (0..4)
            .map(|_| buckets.is_too_many(PEER, 3, 2_000))
            .collect();
        assert_eq!(told, [false, false, false, true]);
    }

    #[test]
    fn any_number_of_peers_takes_no_more_room() {
        let mut buckets = Buckets::default();
        for number in 0..100_000_u32 {
            let mut address = [0; 16];
            address[..4].copy_from_slice(&number.to_be_bytes());
            buckets.is_too_many((address, 1), 1, u64::from(number) + 1);
        }
        assert_eq!(buckets.sets.len(), SETS);
    }
}
