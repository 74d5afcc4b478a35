//! Between Envoy's hooks and a `Connection`: bytes to and fro, what happened to those who count and read.
//!
//! A hook may bring about another one of the same connection before it returns (closing flushes, which writes), so the
//! connection is borrowed for as long as bytes are judged, and no call to Envoy is made meanwhile.

use std::cell::RefCell;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::connection::{Close, Connection};
use super::output::{Output, Piece};
use super::policy::Policy;
use super::report::{Event, Kind, Reason};
use super::slots::{publish, Published, Slot};
use super::teller;
use super::topics::Broker;
use crate::counters;
use crate::report::{self, Ends};

/// The name by which Envoy's configuration asks for this filter.
pub const NAME: &[u8] = b"kafka";

/// How a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Flush,
    Now,
}

/// What Envoy does for us in a hook.
pub trait Carrier {
    /// Put bytes before those of the hook's buffer.
    fn prepend(&mut self, bytes: &[u8]);
    /// Take bytes from the front of the hook's buffer.
    fn drain(&mut self, length: usize);
    fn to_broker(&mut self, bytes: &[u8]);
    fn to_client(&mut self, bytes: &[u8]);
    /// Read no more from the client for now.
    fn pause(&mut self, pause: bool);
    fn close(&mut self, ending: Ending, details: &str);
}

/// One configuration of Envoy's: its rules are in force while it lives.
pub struct Config {
    published: Published,
}

impl Config {
    /// Read and publish a configuration.
    pub fn of(name: &[u8], config: &[u8]) -> Result<Config, String> {
        if name != NAME {
            return Err(format!(
                "there is no filter {}",
                String::from_utf8_lossy(name)
            ));
        }
        let text = std::str::from_utf8(config).map_err(|_| "the configuration is not UTF-8")?;
        Ok(Config {
            published: publish(Policy::of(text)?),
        })
    }
}

/// What is to be done with a hook's buffer, and besides.
pub struct Decision {
    /// The buffer passes as it is, behind these bytes.
    passes: bool,
    before: Vec<u8>,
    /// Else: so many bytes of it go, and all that passes is in `before`.
    length: usize,
    to_client: Vec<u8>,
    to_broker: Vec<u8>,
    pause: Option<bool>,
    close: Option<(Ending, Reason)>,
}

/// The two ends of a connection as those who count want them.
#[derive(Default)]
struct Peers {
    client: String,
    client_port: u16,
    server: String,
    connection: u64,
}

/// The filter of one connection.
pub struct Filter {
    slot: Arc<Slot>,
    state: RefCell<State>,
}

struct State {
    connection: Option<Connection>,
    /// Members of a report's line that tell the connection.
    peers: String,
    ends: Peers,
    paused: bool,
    ended: bool,
    start: Instant,
}

impl Filter {
    pub fn new(config: &Config) -> Filter {
        Filter {
            slot: config.published.slot.clone(),
            state: RefCell::new(State {
                connection: None,
                peers: String::new(),
                ends: Peers::default(),
                paused: false,
                ended: false,
                start: Instant::now(),
            }),
        }
    }

    /// A connection has come from `client`, who dialled `server`. Returns whether it goes on.
    pub fn begin(
        &self,
        carrier: &mut dyn Carrier,
        client: Option<(IpAddr, u16)>,
        server: Option<(IpAddr, u16)>,
        number: u64,
    ) -> bool {
        let connection = Connection::new(self.slot.clone(), server.map_or(([0; 16], 0), broker));
        let begun = connection.is_some();
        {
            let mut state = self.state.borrow_mut();
            for (name, peer) in [("client", client), ("server", server)] {
                if let Some((address, port)) = peer {
                    let _ = write!(
                        state.peers,
                        "\"{}\":\"{}\",\"{}_port\":{},",
                        name, address, name, port
                    );
                }
            }
            if let (Some(client), Some(server)) = (client, server) {
                state.ends = Peers {
                    client: client.0.to_string(),
                    client_port: client.1,
                    server: server.0.to_string(),
                    connection: number,
                };
            }
            state.connection = connection;
            state.ended = !begun;
        }
        if !begun {
            carrier.close(Ending::Now, "tidegate_kafka_no_rules");
        }
        begun
    }

    /// Judge what the client sent.
    pub fn request(&self, input: &[&[u8]]) -> Decision {
        self.judge(input, true)
    }

    /// Look at what the broker sent.
    pub fn response(&self, input: &[&[u8]]) -> Decision {
        self.judge(input, false)
    }

    fn judge(&self, input: &[&[u8]], from_client: bool) -> Decision {
        let length = input.iter().map(|chunk| chunk.len()).sum();
        let mut decision = Decision {
            passes: true,
            before: Vec::new(),
            length,
            to_client: Vec::new(),
            to_broker: Vec::new(),
            pause: None,
            close: None,
        };
        let mut state = match self.state.try_borrow_mut() {
            Ok(state) => state,
            // Bytes of our own, on their way out while a hook runs.
            Err(_) => return decision,
        };
        let state = &mut *state;
        let connection = match &mut state.connection {
            Some(connection) if !state.ended => connection,
            _ => {
                // What is still on its way once the connection ends: our last answer was injected behind this filter.
                decision.passes = false;
                return decision;
            }
        };
        connection.now_ns = state.start.elapsed().as_nanos() as u64;
        let mut joined = Vec::new();
        let mut whole = true;
        for (index, chunk) in input.iter().enumerate() {
            let mut out = Output::default();
            if from_client {
                connection.request(chunk, &mut out);
            } else {
                connection.response(chunk, &mut out);
            }
            if whole && out.is_whole(chunk.len()) {
                continue;
            }
            if whole {
                // Bytes of ours before all the rest are put there without a copy of the rest.
                if let ([Piece::Own(_), Piece::Pass(range)], 0, 1) =
                    (out.pieces.as_slice(), index, input.len())
                {
                    if *range == (0..chunk.len()) {
                        if let Some(Piece::Own(bytes)) = out.pieces.into_iter().next() {
                            decision.before = bytes;
                        }
                        break;
                    }
                }
                whole = false;
                input[..index]
                    .iter()
                    .for_each(|chunk| joined.extend(*chunk));
            }
            for piece in &out.pieces {
                match piece {
                    Piece::Pass(range) => joined.extend(&chunk[range.clone()]),
                    Piece::Own(bytes) => joined.extend(bytes),
                }
            }
        }
        if !whole {
            decision.passes = false;
            decision.before = joined;
        }
        decision.to_client = std::mem::take(&mut connection.to_client);
        decision.to_broker = std::mem::take(&mut connection.to_broker);
        if connection.is_blocked() != state.paused {
            state.paused = connection.is_blocked();
            decision.pause = Some(state.paused);
        }
        decision.close = connection.closing.map(|close| match close {
            Close::Flush(reason) => (Ending::Flush, reason),
            Close::Now(reason) => (Ending::Now, reason),
        });
        if decision.close.is_some() {
            // What goes to the client goes out first; the broker gets no more.
            if !from_client && decision.passes {
                input
                    .iter()
                    .for_each(|chunk| decision.before.extend(*chunk));
            }
            decision.passes = false;
            let mut last = std::mem::take(&mut decision.before);
            if !from_client {
                last.append(&mut decision.to_client);
                decision.to_client = last;
            }
            decision.to_broker.clear();
        }
        state.ended = decision.close.is_some();
        if !connection.events.is_empty() {
            let events = std::mem::take(&mut connection.events);
            tell(connection.policy(), &state.peers, &state.ends, &events);
        }
        decision
    }

    /// Do with Envoy what a decision says. Returns whether the buffer goes on.
    pub fn carry_out(&self, carrier: &mut dyn Carrier, decision: Decision) -> bool {
        if !decision.passes && decision.length > 0 {
            carrier.drain(decision.length);
        }
        if !decision.before.is_empty() {
            carrier.prepend(&decision.before);
        }
        if !decision.to_client.is_empty() {
            carrier.to_client(&decision.to_client);
        }
        if !decision.to_broker.is_empty() {
            carrier.to_broker(&decision.to_broker);
        }
        if let Some(pause) = decision.pause {
            carrier.pause(pause);
        }
        if let Some((ending, reason)) = decision.close {
            let details = format!("tidegate_kafka_{}", reason.name());
            carrier.close(ending, &details);
            return false;
        }
        true
    }

    /// A hook has panicked: nothing passes any more.
    pub fn fault(&self) {
        if let Ok(mut state) = self.state.try_borrow_mut() {
            state.ended = true;
            if let Some(connection) = &state.connection {
                tell(
                    connection.policy(),
                    &state.peers,
                    &state.ends,
                    &[Event::closed(Reason::Fault)],
                );
            }
        }
    }
}

fn tell(policy: &Policy, peers: &str, ends: &Peers, events: &[Event]) {
    for event in events {
        if let Some(settings) = &policy.counts {
            let kind = match event.kind {
                Kind::Allowed => counters::Kind::Allowed,
                Kind::Denied => counters::Kind::Denied,
                Kind::Audited => counters::Kind::Audited,
                Kind::Closed => counters::Kind::Error,
            };
            let ends = Ends {
                client: ends.client.as_bytes(),
                client_port: ends.client_port,
                server: ends.server.as_bytes(),
                connection: ends.connection,
            };
            report::count(settings, ends, kind, settings.side(), 0);
        }
        if event.told && !policy.socket.is_empty() {
            teller::tell(&policy.socket, event, |lost| {
                event.line(policy.slot, peers, lost)
            });
        }
    }
}

/// An address as the key of its topics' ids.
fn broker(server: (IpAddr, u16)) -> Broker {
    let address = match server.0 {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    (address.octets(), server.1)
}
