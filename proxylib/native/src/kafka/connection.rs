//! One client's connection: requests are judged on their way in, answers keep their order on their way out.
//!
//! Sans-IO: the shell gives bytes of either side and carries out what `Output` and the fields say. What a policy lets pass
//! whole passes untouched, as it arrives. Only what names entries is held until it is complete; Produce is judged by its
//! first topic's name where it has just one, and as its topics come where it is long.
//!
//! `requests.rs` and `responses.rs` hold the two directions.

use std::collections::VecDeque;
use std::sync::Arc;

use super::description::Api;
use super::judge::Judged;
use super::policy::Policy;
use super::report::{told, Event, Kind, Reason};
use super::request::Content;
use super::requests::Requests;
use super::responses::Responses;
use super::session::Session;
use super::slots::Slot;
use super::topics::Broker;

/// Requests of one connection that wait for their responses; clients keep five to a thousand in flight.
pub const PENDING_MAX: usize = 65_536;
/// Bytes that come while a request waits for a topic's name; one read of Envoy's is at most a buffer's limit.
pub const BACKLOG_BYTES_MAX: usize = 4 << 20;
/// Denied partitions that a fetch session is reminded of.
pub const SESSION_PARTITIONS_MAX: usize = 100_000;

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// After what was written has gone out.
    Flush(Reason),
    Now(Reason),
}

/// What a response needs.
pub(super) enum Plan {
    /// To pass untouched.
    Pass,
    /// A raw SASL token: a frame without a correlation id.
    Token,
    /// The response of SaslHandshake v0: then so many tokens follow.
    Handshake(u8),
    Edit(Box<Edit>),
    /// The names of topics that we asked for ourselves.
    Names,
    /// Nobody is to see it; then the connection closes.
    Swallow,
}

/// How a response is edited.
pub(super) struct Edit {
    pub client: Vec<u8>,
    /// The request's content and verdicts: denied entries are put in.
    pub content: Content,
    pub errors: Vec<i16>,
    /// Only the head need be read, denied entries go in front of what the broker sends.
    pub head_only: bool,
    /// Entries of the broker's that the policy doesn't allow go out.
    pub filter: bool,
    /// The response tells a fetch session's id.
    pub opens_session: bool,
    pub generation: u64,
}

pub(super) enum What {
    Await(Plan),
    /// Our own answer, and whether the connection closes behind it.
    Ready(Vec<u8>, Option<Reason>),
}

/// A request whose response is due.
pub(super) struct Pending {
    pub correlation: i32,
    pub api: Option<&'static Api>,
    pub version: i16,
    pub what: What,
    pub event: Option<Box<Event>>,
}

impl Pending {
    /// A request whose response is awaited.
    pub fn of(api: Option<&'static Api>, version: i16, correlation: i32, plan: Plan) -> Pending {
        Pending {
            correlation,
            api,
            version,
            what: What::Await(plan),
            event: None,
        }
    }
}

/// Where SASL's raw tokens (handshake v0) stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sasl {
    None,
    /// So many frames are tokens.
    Tokens(u8),
}

/// See the module's text.
pub struct Connection {
    pub(super) slot: Arc<Slot>,
    pub(super) policy: Arc<Policy>,
    pub(super) generation: u64,
    pub(super) broker: Broker,
    pub(super) requests: Requests,
    pub(super) responses: Responses,
    pub(super) pending: VecDeque<Pending>,
    pub(super) session: Option<Session>,
    pub(super) sasl: Sasl,
    /// Bytes behind a request that waits.
    pub(super) backlog: Vec<u8>,
    pub(super) blocked: bool,
    /// Names were asked for, for the request that is held.
    pub(super) resolved: bool,
    pub(super) allowed_count: u64,
    /// Nanoseconds of a monotonic clock; the shell sets it before each call.
    pub now_ns: u64,
    /// To be written to the client at once.
    pub to_client: Vec<u8>,
    /// To be given to the broker at once.
    pub to_broker: Vec<u8>,
    pub closing: Option<Close>,
    /// What happened; the shell takes it.
    pub events: Vec<Event>,
}

impl Connection {
    /// A new connection under a slot's rules; None when the slot has none.
    pub fn new(slot: Arc<Slot>, broker: Broker) -> Option<Connection> {
        let (generation, policy) = slot.current()?;
        Some(Connection {
            slot,
            policy,
            generation,
            broker,
            requests: Requests::default(),
            responses: Responses::default(),
            pending: VecDeque::new(),
            session: None,
            sasl: Sasl::None,
            backlog: Vec::new(),
            blocked: false,
            resolved: false,
            allowed_count: 0,
            now_ns: 0,
            to_client: Vec::new(),
            to_broker: Vec::new(),
            closing: None,
            events: Vec::new(),
        })
    }

    /// Whether the client's bytes should be left where they are for now.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// The rules in force.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Look whether the rules changed.
    pub(super) fn refresh(&mut self) {
        if self.slot.generation() != self.generation {
            if let Some((generation, policy)) = self.slot.current() {
                self.generation = generation;
                self.policy = policy;
            }
        }
    }

    pub(super) fn close(&mut self, reason: Reason) {
        if self.closing.is_none() {
            self.closing = Some(Close::Now(reason));
            self.events.push(Event::closed(reason));
        }
    }

    /// Queue what answers a request, behind what is due before it.
    pub(super) fn queue(&mut self, pending: Pending) {
        if self.pending.len() >= PENDING_MAX {
            self.close(Reason::Pipelined);
            return;
        }
        self.pending.push_back(pending);
    }

    /// Take our own answers from the front of the queue.
    pub(super) fn flush(&mut self, mut out: impl FnMut(Vec<u8>)) {
        while let Some(Pending {
            what: What::Ready(..),
            ..
        }) = self.pending.front()
        {
            if let Some(Pending {
                what: What::Ready(bytes, closes),
                ..
            }) = self.pending.pop_front()
            {
                out(bytes);
                if let Some(reason) = closes {
                    self.closing = Some(Close::Flush(reason));
                    self.pending.clear();
                }
            }
        }
    }

    /// Tell what became of a request: denials at once, every so-maniest allowed one when its response has come.
    pub(super) fn verdict(
        &mut self,
        mut event: Event,
        client: &[u8],
        judged: Option<&Judged>,
        content: Option<&Content>,
    ) -> Option<Box<Event>> {
        if let Some(judged) = judged {
            event.origin = judged.origin.clone();
            event.error = judged.error();
            event.kind = match (judged.passes(), judged.audited) {
                (false, _) => Kind::Denied,
                (true, true) => Kind::Audited,
                (true, false) => Kind::Allowed,
            };
        }
        event.at_ns = self.now_ns;
        if event.kind == Kind::Allowed {
            self.allowed_count += 1;
            let every = self.policy.allowed_every;
            event.told = every != 0 && self.allowed_count % every == 0;
        } else {
            event.told = true;
        }
        if event.told {
            event.client = told(client);
            if let Some(content) = content {
                event.name(content, judged, self.broker);
            }
        }
        if event.told && event.kind != Kind::Denied {
            return Some(Box::new(event));
        }
        self.events.push(event);
        None
    }
}
