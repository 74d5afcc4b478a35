//! The rules in force, by slot: what configurations publish and live connections read.
//!
//! Envoy gives a network filter's new configuration to new connections only. So a configuration puts its rules here, and every
//! connection looks at each request whether they changed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::policy::Policy;

/// The place of a slot's rules: what configurations publish and connections read.
#[derive(Debug)]
pub struct Slot {
    number: u32,
    /// Changes with `current`.
    generation: AtomicU64,
    /// All that are alive, oldest first, by generation; the last one counts.
    policies: Mutex<Vec<(u64, Arc<Policy>)>>,
}

static SLOTS: Mutex<Vec<Arc<Slot>>> = Mutex::new(Vec::new());
static GENERATION: AtomicU64 = AtomicU64::new(1);

/// A configuration in force; dropping it withdraws its rules, and those before it count again.
#[derive(Debug)]
pub struct Published {
    pub slot: Arc<Slot>,
    generation: u64,
}

/// Put `policy` in force for its slot, at once and on all connections.
pub fn publish(policy: Policy) -> Published {
    let mut slots = SLOTS
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let found = slots.iter().find(|slot| slot.number == policy.slot);
    let slot = found.cloned().unwrap_or_else(|| {
        let slot = Arc::new(Slot {
            number: policy.slot,
            generation: AtomicU64::new(0),
            policies: Mutex::new(Vec::new()),
        });
        slots.push(slot.clone());
        slot
    });
    let generation = GENERATION.fetch_add(1, Ordering::Relaxed);
    slot.change(|policies| policies.push((generation, Arc::new(policy))));
    Published { slot, generation }
}

impl Drop for Published {
    fn drop(&mut self) {
        let mut slots = SLOTS
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let generation = self.generation;
        let left = self.slot.change(|policies| {
            policies.retain(|(found, _)| *found != generation);
        });
        if left == 0 {
            slots.retain(|slot| slot.number != self.slot.number);
        }
    }
}

impl Slot {
    fn change(&self, change: impl FnOnce(&mut Vec<(u64, Arc<Policy>)>)) -> usize {
        let mut policies = self
            .policies
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        change(&mut policies);
        // Nothing left: connections, if there were any, keep the last rules.
        if let Some((generation, _)) = policies.last() {
            self.generation.store(*generation, Ordering::Release);
        }
        policies.len()
    }

    /// The generation in force.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The rules in force, and their generation.
    pub fn current(&self) -> Option<(u64, Arc<Policy>)> {
        let policies = self
            .policies
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        policies.last().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::policy::Ask;

    #[test]
    fn the_last_that_was_published_is_in_force_until_it_goes() {
        let text = |origin: &str| {
            let sides = format!(
                r#"[{{"allow": [{{"origin": "{}", "apis": [0]}}]}}]"#,
                origin
            );
            Policy::of(&format!(r#"{{"slot": 90001, "sides": {}}}"#, sides)).expect("a policy")
        };
        let ask = Ask {
            key: 0,
            version: 9,
            client: b"app",
        };
        let first = publish(text("first"));
        let slot = first.slot.clone();
        let origin = || {
            let (_, policy) = slot.current().expect("a policy");
            policy.unconditional(ask).expect("a rule").to_string()
        };
        let second = publish(text("second"));
        assert_eq!(origin(), "second");
        let third = publish(text("third"));
        drop(second);
        assert_eq!(origin(), "third");
        drop(third);
        assert_eq!(origin(), "first");
        assert!(Arc::ptr_eq(&publish(text("again")).slot, &slot));
    }
}
