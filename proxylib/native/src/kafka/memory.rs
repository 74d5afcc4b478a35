//! A budget for what all connections hold together.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes held by all connections: eight requests of the greatest length, or 250 of a producer's usual greatest.
pub const HELD_BYTES_MAX: usize = 256 << 20;

static HELD: AtomicUsize = AtomicUsize::new(0);

/// A connection's share; what it holds beyond is refused.
#[derive(Debug, Default)]
pub struct Share(usize);

/// Below this a connection's bytes are not worth counting.
const FREE_BYTES: usize = 16 << 10;

impl Share {
    /// Claim `bytes` in all; false when there is no room.
    #[must_use]
    pub fn hold(&mut self, bytes: usize) -> bool {
        let wanted = if bytes <= FREE_BYTES { 0 } else { bytes };
        if wanted > self.0 {
            let more = wanted - self.0;
            if HELD.fetch_add(more, Ordering::Relaxed) + more > HELD_BYTES_MAX {
                HELD.fetch_sub(more, Ordering::Relaxed);
                return false;
            }
        } else {
            HELD.fetch_sub(self.0 - wanted, Ordering::Relaxed);
        }
        self.0 = wanted;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        HELD.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// Bytes that are held now.
pub fn held() -> usize {
    HELD.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_beyond_the_budget_is_refused_and_given_back_when_dropped() {
        let mut first = Share::default();
        assert!(first.hold(FREE_BYTES));
        assert!(first.hold(HELD_BYTES_MAX - (32 << 20)));
        let mut second = Share::default();
        assert!(!second.hold(40 << 20));
        assert!(first.hold(0));
        assert!(second.hold(40 << 20));
    }
}
