//! One request against the rules: which of its entries are denied, with which of Kafka's errors.
//!
//! Modelled on the authorizer of Apache Kafka 4's broker; docs/kafka.md tells it API by API.

use std::sync::Arc;

use super::description::{Api, Scope};
use super::policy::{Ask, Place, Policy, Ruling};
use super::reply::is_forgotten;
use super::request::{Content, Entry, Named};
use super::topics::{self, Broker, TopicId};

pub const TOPIC_AUTHORIZATION_FAILED: i16 = 29;
pub const GROUP_AUTHORIZATION_FAILED: i16 = 30;
pub const CLUSTER_AUTHORIZATION_FAILED: i16 = 31;
pub const UNSUPPORTED_VERSION: i16 = 35;
pub const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: i16 = 53;
pub const OPERATION_NOT_ATTEMPTED: i16 = 55;
pub const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;
pub const UNKNOWN_TOPIC_ID: i16 = 100;
/// A client tries again what it is answered with this.
pub const NETWORK_EXCEPTION: i16 = 13;

pub const PRODUCE: i16 = 0;
pub const FETCH: i16 = 1;
pub const METADATA: i16 = 3;
pub const OFFSET_FETCH: i16 = 9;
pub const LIST_GROUPS: i16 = 16;
pub const SASL_HANDSHAKE: i16 = 17;
pub const CREATE_TOPICS: i16 = 19;
pub const ADD_PARTITIONS_TO_TXN: i16 = 24;
pub const CONSUMER_GROUP_HEARTBEAT: i16 = 68;
pub const DESCRIBE_TOPIC_PARTITIONS: i16 = 75;
pub const SHARE_GROUP_HEARTBEAT: i16 = 76;
pub const SHARE_FETCH: i16 = 78;
pub const SHARE_ACKNOWLEDGE: i16 = 79;
pub const STREAMS_GROUP_HEARTBEAT: i16 = 88;

/// Stands among the API keys of a rule for the use of transactional ids.
const TRANSACTIONS: i16 = 126;
/// Types of DescribeConfigs and its like.
const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_GROUP: i8 = 32;
/// Types of FindCoordinator's keys.
const KEY_GROUP: i8 = 0;
const KEY_SHARE: i8 = 2;

/// What a request is judged by.
#[derive(Clone, Copy)]
pub struct Bench<'a> {
    pub policy: &'a Policy,
    pub api: &'static Api,
    pub ask: Ask<'a>,
    pub broker: Broker,
}

/// What became of a request.
#[derive(Debug, Default)]
pub struct Judged {
    /// By entry; 0: allowed, or not judged.
    pub errors: Vec<i16>,
    /// The request as a whole is denied with this.
    pub whole: Option<i16>,
    /// Topic ids whose names the broker hasn't told.
    pub unknown: Vec<TopicId>,
    /// The rule that denied first, or else that allowed first.
    pub origin: Option<Arc<str>>,
    pub audited: bool,
    denied: bool,
}

impl Judged {
    fn note(&mut self, ruling: Ruling<'_>) -> bool {
        self.audited |= ruling.audited;
        if !ruling.allowed && !self.denied {
            self.denied = true;
            self.origin = ruling.origin.cloned();
        } else if !self.denied && self.origin.is_none() {
            self.origin = ruling.origin.cloned();
        }
        ruling.allowed
    }

    /// Whether everything passes.
    pub fn passes(&self) -> bool {
        self.whole.is_none() && self.errors.iter().all(|error| *error == 0)
    }

    /// The error that a report tells: the first.
    pub fn error(&self) -> i16 {
        let first = self.errors.iter().find(|error| **error != 0);
        self.whole.or_else(|| first.copied()).unwrap_or(0)
    }
}

impl Bench<'_> {
    /// Judge all that `content` names.
    pub fn judge(&self, content: &Content) -> Judged {
        let mut judged = Judged {
            errors: vec![0; content.entries.len()],
            ..Judged::default()
        };
        let scope = self.api.scope;
        let mut any = false;
        if let (true, Some(group)) = (scope.has(Scope::GROUP), &content.group) {
            any = true;
            if !judged.note(self.group(group)) {
                judged.whole = Some(GROUP_AUTHORIZATION_FAILED);
                self.transactional(content, &mut judged);
                return judged;
            }
        }
        if let (true, Some(key)) = (scope.has(Scope::COORDINATOR), &content.key) {
            any = true;
            let error = self.coordinator(content.coordinator, key, &mut judged);
            if error != 0 {
                judged.whole = Some(error);
                return judged;
            }
        }
        for (index, entry) in content.entries.iter().enumerate() {
            if let Some(error) = self.entry(content, entry, &mut judged) {
                any = true;
                judged.errors[index] = error;
            }
        }
        if !any {
            let place = Place {
                resource: scope.has(Scope::RESOURCE),
                ..Place::default()
            };
            let ruling = self.policy.judge(self.ask, place);
            // Who asks for all that there is gets what rules allow of it, be it nothing.
            let lists = matches!(
                self.api.number,
                METADATA | DESCRIBE_TOPIC_PARTITIONS | LIST_GROUPS
            );
            if (ruling.allowed || !lists) && !judged.note(ruling) {
                judged.whole = Some(self.api.error);
            }
        }
        self.transactional(content, &mut judged);
        self.settle(content, &mut judged);
        judged
    }

    /// Judge one topic of a request that names nothing else; 0, or the error.
    pub fn topic(&self, entry: &Entry, group: Option<&[u8]>, judged: &mut Judged) -> i16 {
        let told;
        let name = match (&entry.name, entry.id) {
            (Some(name), _) => &name[..],
            (None, Some(id)) => match topics::name(self.broker, id) {
                None => {
                    judged.unknown.push(id);
                    return UNKNOWN_TOPIC_ID;
                }
                Some(name) => {
                    told = name;
                    &told[..]
                }
            },
            (None, None) => &[],
        };
        let place = Place {
            topic: Some(name),
            group,
            resource: false,
        };
        if judged.note(self.policy.judge(self.ask, place)) {
            0
        } else {
            TOPIC_AUTHORIZATION_FAILED
        }
    }

    /// None: the API isn't judged by such entries.
    fn entry(&self, content: &Content, entry: &Entry, judged: &mut Judged) -> Option<i16> {
        let scope = self.api.scope;
        let name = entry.name.as_deref().unwrap_or(b"");
        match entry.named {
            Named::Topic if scope.has(Scope::TOPIC) => {
                // What a member owns already it tells by ids alone; Kafka judges what it asks for.
                let owned = self.api.number == CONSUMER_GROUP_HEARTBEAT && entry.name.is_none();
                if owned || is_forgotten(content, entry) {
                    return None;
                }
                if judged
                    .errors
                    .get(entry.parent as usize)
                    .map_or(false, |error| *error != 0)
                {
                    return None;
                }
                let parent = content.entries.get(entry.parent as usize);
                let parent = parent.filter(|parent| parent.named == Named::Group);
                let group = parent.and_then(|parent| parent.name.as_deref());
                let group = group.or(content.group.as_deref());
                let by_id = entry.name.is_none() && entry.id.is_some();
                if by_id && self.api.number == METADATA {
                    // Ids that nobody knows are told apart in the response, where their names are.
                    if topics::name(self.broker, entry.id?).is_none() {
                        return Some(0);
                    }
                }
                Some(self.topic(entry, group.filter(|_| scope.has(Scope::GROUP)), judged))
            }
            Named::Group if scope.has(Scope::GROUP) => {
                let allowed = judged.note(self.group(name));
                Some(if allowed {
                    0
                } else {
                    GROUP_AUTHORIZATION_FAILED
                })
            }
            Named::Resource if scope.has(Scope::RESOURCE) => {
                let (place, error) = match entry.resource {
                    RESOURCE_TOPIC => (
                        Place {
                            topic: Some(name),
                            resource: true,
                            ..Place::default()
                        },
                        TOPIC_AUTHORIZATION_FAILED,
                    ),
                    RESOURCE_GROUP => (
                        Place {
                            group: Some(name),
                            resource: true,
                            ..Place::default()
                        },
                        GROUP_AUTHORIZATION_FAILED,
                    ),
                    _ => (
                        Place {
                            resource: true,
                            ..Place::default()
                        },
                        CLUSTER_AUTHORIZATION_FAILED,
                    ),
                };
                let allowed = judged.note(self.policy.judge(self.ask, place));
                Some(if allowed { 0 } else { error })
            }
            Named::Coordinator if scope.has(Scope::COORDINATOR) => {
                Some(self.coordinator(content.coordinator, name, judged))
            }
            _ => None,
        }
    }

    /// Kafka asks for the transactional id first; where no rule speaks of any, that is what a denial says.
    fn transactional(&self, content: &Content, judged: &mut Judged) {
        // Of a produce the broker looks at the records themselves, and nobody gets there without having been told before.
        let asked = content.transactional
            && self.api.number != PRODUCE
            && self.api.scope.has(Scope::TRANSACTION);
        if asked && !judged.passes() && !self.transactions().allowed {
            judged.whole = Some(TRANSACTIONAL_ID_AUTHORIZATION_FAILED);
        }
    }

    fn transactions(&self) -> Ruling<'_> {
        let ask = Ask {
            key: TRANSACTIONS,
            ..self.ask
        };
        self.policy.judge(ask, Place::default())
    }

    fn group(&self, group: &[u8]) -> Ruling<'_> {
        let place = Place {
            group: Some(group),
            ..Place::default()
        };
        self.policy.judge(self.ask, place)
    }

    fn coordinator(&self, kind: i8, key: &[u8], judged: &mut Judged) -> i16 {
        let ruling = match kind {
            KEY_GROUP => self.group(key),
            // A share partition's key is "group:topic id:partition".
            KEY_SHARE => self.group(key.split(|byte| *byte == b':').next().unwrap_or(b"")),
            _ => self.transactions(),
        };
        match (judged.note(ruling), kind) {
            (true, _) => 0,
            (false, KEY_GROUP | KEY_SHARE) => GROUP_AUTHORIZATION_FAILED,
            (false, _) => TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        }
    }

    /// Where Kafka does all or nothing.
    fn settle(&self, content: &Content, judged: &mut Judged) {
        if judged.passes() {
            return;
        }
        match self.api.number {
            CONSUMER_GROUP_HEARTBEAT | SHARE_GROUP_HEARTBEAT | STREAMS_GROUP_HEARTBEAT => {
                judged.whole = Some(judged.error());
                judged.errors.iter_mut().for_each(|error| *error = 0);
            }
            ADD_PARTITIONS_TO_TXN if judged.whole.is_none() => {
                for (entry, error) in content.entries.iter().zip(&mut judged.errors) {
                    if entry.named == Named::Topic && *error == 0 {
                        *error = OPERATION_NOT_ATTEMPTED;
                    }
                }
            }
            _ => {}
        }
    }
}
