//! Topic ids and the names behind them, as brokers told them.
//!
//! Ids are kept by the broker's address and never looked up under another's: what one cluster says must not open a topic of
//! another. An address that hasn't told an id yet is asked (see `connection`). Shared by all workers.

use std::collections::HashMap;
use std::sync::RwLock;

/// Where a broker is dialled: IPv4 as v4-mapped IPv6, and the port.
pub type Broker = ([u8; 16], u16);
/// A topic's id.
pub type TopicId = [u8; 16];

/// Ids in one generation of the cache; two are kept. 100 brokers of 1,000 topics fit; about 12 MB when full.
pub const IDS_MAX: usize = 100_000;
/// Kafka's limit of a topic's name is 249.
pub const NAME_BYTES_MAX: usize = 255;

type Names = HashMap<(Broker, TopicId), Box<[u8]>>;

/// Two generations: when the young one is full it becomes the old one, which is forgotten.
#[derive(Default)]
pub struct Ids {
    young: Names,
    old: Names,
}

impl Ids {
    /// Note that `broker` calls the topic `id` `name`.
    pub fn learn(&mut self, broker: Broker, id: TopicId, name: &[u8]) {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return;
        }
        if self.young.len() >= IDS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert((broker, id), name.into());
    }

    /// The name that `broker` gave, and whether it is about to be forgotten.
    fn find(&self, broker: Broker, id: TopicId) -> Option<(&[u8], bool)> {
        if let Some(name) = self.young.get(&(broker, id)) {
            return Some((name, false));
        }
        self.old.get(&(broker, id)).map(|name| (&name[..], true))
    }
}

static IDS: RwLock<Option<Ids>> = RwLock::new(None);

/// Note names that `broker` gave.
pub fn learn<'a>(broker: Broker, names: impl Iterator<Item = (TopicId, &'a [u8])>) {
    let mut new = Vec::new();
    {
        let ids = IDS.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let known = |id: &TopicId, name: &[u8]| {
            let found = ids.as_ref().and_then(|ids| ids.find(broker, *id));
            found == Some((name, false))
        };
        new.extend(names.filter(|(id, name)| !known(id, name)));
    }
    if new.is_empty() {
        return;
    }
    let mut ids = IDS.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    let ids = ids.get_or_insert_with(Ids::default);
    for (id, name) in new {
        ids.learn(broker, id, name);
    }
}

/// The name that `broker` gave the topic `id`.
pub fn name(broker: Broker, id: TopicId) -> Option<Vec<u8>> {
    let found = {
        let ids = IDS.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (name, old) = ids.as_ref()?.find(broker, id)?;
        (name.to_vec(), old)
    };
    if found.1 {
        learn(broker, std::iter::once((id, &found.0[..])));
    }
    Some(found.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(port: u16) -> Broker {
        ([0; 16], port)
    }

    #[test]
    fn an_id_is_known_only_where_it_was_told() {
        learn(broker(1), std::iter::once(([1; 16], &b"orders"[..])));
        assert_eq!(name(broker(1), [1; 16]), Some(b"orders".to_vec()));
        assert_eq!(name(broker(2), [1; 16]), None);
        learn(broker(2), std::iter::once(([1; 16], &b"other"[..])));
        assert_eq!(name(broker(1), [1; 16]), Some(b"orders".to_vec()));
    }

    #[test]
    fn ids_are_bounded_and_those_in_use_stay() {
        let mut ids = Ids::default();
        let id = |number: usize| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            id
        };
        for number in 0..3 * IDS_MAX {
            ids.learn(broker(1), id(number), b"x");
            assert!(ids.young.len() + ids.old.len() <= 2 * IDS_MAX);
        }
        assert_eq!(ids.find(broker(1), id(0)), None);
        let last = id(3 * IDS_MAX - 1);
        assert_eq!(ids.find(broker(1), last), Some((&b"x"[..], false)));
    }
}
