//! What is told of requests: exact counts for all, a line of JSON for denied and sampled ones.

use std::fmt::Write;
use std::sync::Arc;

use super::json::quoted;
use super::judge::Judged;
use super::reply::is_forgotten;
use super::request::{Content, Named};
use super::topics::{self, Broker};

/// Topics told of one request.
pub const NAMES_MAX: usize = 16;
/// Bytes of a client id, a topic's or a group's name that are told: a line of 33 stays below 64 KB, escaped too.
pub const CLIENT_BYTES_MAX: usize = 256;

/// What was said of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Allowed,
    Denied,
    /// Denied, but for a policy that audits.
    Audited,
    /// The connection was closed.
    Closed,
}

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    None,
    /// A TLS ClientHello where Kafka was expected.
    Tls,
    /// A length beyond all limits: no Kafka at all, or a lie.
    FrameTooLong,
    /// A request that must be read whole is longer than the limit.
    RequestTooLong,
    /// A response that must be read whole is longer than the limit.
    ResponseTooLong,
    /// Lengths or counts that contradict each other.
    Malformed,
    /// A response that nobody asked for.
    Unasked,
    /// A key or version that can't be answered.
    Unsupported,
    /// More requests in flight than are remembered.
    Pipelined,
    /// All connections together hold too many bytes.
    Memory,
    /// As Kafka closes: a denied produce with acks=0 has no answer.
    NoAnswer,
    /// A denied topic late in a long produce: answered, and closed as the broker has part of it.
    Partial,
    /// A fault of ours.
    Fault,
}

impl Reason {
    /// The name in reports and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Reason::None => "",
            Reason::Tls => "tls",
            Reason::FrameTooLong => "frame_too_long",
            Reason::RequestTooLong => "request_too_long",
            Reason::ResponseTooLong => "response_too_long",
            Reason::Malformed => "malformed",
            Reason::Unasked => "unasked",
            Reason::Unsupported => "unsupported",
            Reason::Pipelined => "pipelined",
            Reason::Memory => "memory",
            Reason::NoAnswer => "no_answer",
            Reason::Partial => "partial",
            Reason::Fault => "fault",
        }
    }
}

/// One request, or the end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: Kind,
    pub key: i16,
    pub version: i16,
    pub correlation: i32,
    pub error: i16,
    pub reason: Reason,
    /// Whether a line is written of it; all are counted.
    pub told: bool,
    pub client: Vec<u8>,
    pub origin: Option<Arc<str>>,
    /// Denied ones first.
    pub topics: Vec<Vec<u8>>,
    pub groups: Vec<Vec<u8>>,
    pub at_ns: u64,
    /// Until the response had gone; 0 for what we answered ourselves.
    pub latency_ns: u64,
}

impl Event {
    /// A request whose verdict isn't known yet.
    pub fn of(key: i16, version: i16, correlation: i32) -> Event {
        Event {
            kind: Kind::Allowed,
            key,
            version,
            correlation,
            error: 0,
            reason: Reason::None,
            told: false,
            client: Vec::new(),
            origin: None,
            topics: Vec::new(),
            groups: Vec::new(),
            at_ns: 0,
            latency_ns: 0,
        }
    }

    /// The end of a connection.
    pub fn closed(reason: Reason) -> Event {
        Event {
            kind: Kind::Closed,
            reason,
            told: true,
            ..Event::of(-1, -1, 0)
        }
    }

    /// Take names from a request.
    pub fn name(&mut self, content: &Content, judged: Option<&Judged>, broker: Broker) {
        self.groups.extend(content.group.as_deref().map(told));
        let error = |index: usize| judged.and_then(|judged| judged.errors.get(index).copied());
        for denied in [true, false] {
            for (index, entry) in content.entries.iter().enumerate() {
                if (error(index).unwrap_or(0) != 0) != denied || is_forgotten(content, entry) {
                    continue;
                }
                let names = match entry.named {
                    Named::Topic => &mut self.topics,
                    Named::Resource if entry.resource == 2 => &mut self.topics,
                    Named::Group => &mut self.groups,
                    Named::Coordinator if content.coordinator == 0 => &mut self.groups,
                    _ => continue,
                };
                if names.len() < NAMES_MAX {
                    let by_id = || topics::name(broker, entry.id?);
                    names.extend(entry.name.clone().or_else(by_id).map(|name| told(&name)));
                }
            }
        }
        if content.coordinator == 0 {
            self.groups.extend(content.key.as_deref().map(told));
        }
    }

    /// The line, without an end of line. `peers`: members that tell the connection; `lost`: lines that were not sent before it.
    pub fn line(&self, slot: u32, peers: &str, lost: u64) -> String {
        let mut out = String::with_capacity(256);
        let verdict = match self.kind {
            Kind::Allowed => "allowed",
            Kind::Denied => "denied",
            Kind::Audited => "audited",
            Kind::Closed => "closed",
        };
        let _ = write!(
            out,
            "{{\"slot\":{},{}\"verdict\":\"{}\",\"api_key\":{},\"api_version\":{},\"correlation_id\":{},\"error_code\":{},\"latency_ns\":{}",
            slot, peers, verdict, self.key, self.version, self.correlation, self.error, self.latency_ns
        );
        if lost > 0 {
            let _ = write!(out, ",\"lost\":{}", lost);
        }
        if self.reason != Reason::None {
            let _ = write!(out, ",\"reason\":\"{}\"", self.reason.name());
        }
        out.push_str(",\"client_id\":");
        quoted(&self.client, &mut out);
        for (name, values) in [("topics", &self.topics), ("groups", &self.groups)] {
            let _ = write!(out, ",\"{}\":[", name);
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                quoted(value, &mut out);
            }
            out.push(']');
        }
        out.push_str(",\"rule\":");
        match &self.origin {
            Some(origin) => quoted(origin.as_bytes(), &mut out),
            None => out.push_str("null"),
        }
        out.push('}');
        out
    }
}

/// As much of a name as is told.
pub fn told(name: &[u8]) -> Vec<u8> {
    name[..name.len().min(CLIENT_BYTES_MAX)].to_vec()
}
