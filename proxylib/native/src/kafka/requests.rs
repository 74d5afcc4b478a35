//! The client's direction: frames apart, judged, passed, edited or answered.

use super::connection::{Connection, Pending, Plan, Sasl, What, BACKLOG_BYTES_MAX};
use super::description::Api;
use super::judge;
use super::memory::Share;
use super::output::Output;
use super::policy::Ask;
use super::produce::Streaming;
use super::reply::{self, Answer};
use super::report::{Event, Kind, Reason};
use super::request::{fixed_header, header, Content, Header, HEADER_BYTES_MAX};
use super::schema::APIS;
use super::walk::{number, Malformed};

/// The longest request: Kafka's default (`socket.request.max.bytes`) is 100 MB; TLS and HTTP read as a length are longer.
pub const REQUEST_BYTES_MAX: usize = 256 << 20;
/// Requests that are held whole, which Produce is not: a fetch of 100,000 partitions has 5 MB.
pub const REQUEST_HELD_BYTES_MAX: usize = 16 << 20;
/// Kafka's own limit of a token (`sasl.server.max.receive.size`).
pub const TOKEN_BYTES_MAX: usize = 512 << 10;

/// Where the client's bytes are.
#[derive(Default)]
pub(super) struct Requests {
    pub state: State,
    held: Vec<u8>,
    /// So many bytes of a frame are wanted before it is looked at again.
    need: usize,
    share: Share,
}

pub(super) enum State {
    Head,
    Pass(usize),
    Swallow(usize),
    Stream(Box<Streaming>),
}

impl Default for State {
    fn default() -> State {
        State::Head
    }
}

pub(super) enum Examined {
    Need(usize),
    Act(usize, Action),
    Closed,
}

pub(super) enum Action {
    Forward,
    Rewrite(Vec<u8>),
    Swallow,
    Stream(Box<Streaming>),
    /// Hold it while this question is answered.
    Wait(Vec<u8>),
}

/// What all parts of an examination need.
#[derive(Clone, Copy)]
pub(super) struct Frame<'a> {
    pub api: &'static Api,
    pub header: Header<'a>,
    /// The frame, as far as it has come.
    pub bytes: &'a [u8],
    pub total: usize,
}

impl<'a> Frame<'a> {
    pub(super) fn ask(&self) -> Ask<'a> {
        Ask {
            key: self.header.key,
            version: self.header.version,
            client: self.header.client,
        }
    }

    pub(super) fn body(&self) -> &'a [u8] {
        &self.bytes[4 + self.header.size..]
    }

    pub(super) fn event(&self) -> Event {
        let header = self.header;
        Event::of(header.key, header.version, header.correlation)
    }

    pub(super) fn is_flexible(&self) -> bool {
        self.api.flexible.has(self.header.version)
    }
}

impl Connection {
    /// Take what the client sent; `out` is what goes on to the broker.
    pub fn request(&mut self, input: &[u8], out: &mut Output) {
        let mut at = 0;
        while self.closing.is_none() {
            if self.blocked {
                self.backlog.extend(&input[at..]);
                if self.backlog.len() > BACKLOG_BYTES_MAX {
                    self.close(Reason::Memory);
                }
                return;
            }
            let rest = &input[at..];
            if let State::Head = self.requests.state {
                let held = std::mem::take(&mut self.requests.held);
                if held.is_empty() {
                    if rest.is_empty() {
                        return;
                    }
                    let found = self.examine(rest);
                    at = self.act(found, rest, Some(at), out, at);
                } else {
                    let mut held = held;
                    let more = self
                        .requests
                        .need
                        .saturating_sub(held.len())
                        .min(rest.len());
                    held.extend(&rest[..more]);
                    at += more;
                    if held.len() < self.requests.need {
                        self.hold(held);
                        return;
                    }
                    let found = self.examine(&held);
                    self.act(found, &held, None, out, at);
                }
                continue;
            }
            if rest.is_empty() {
                return;
            }
            at = self.carry_on(rest, at, out);
        }
    }

    fn hold(&mut self, held: Vec<u8>) {
        if !self.requests.share.hold(held.len()) {
            self.close(Reason::Memory);
            return;
        }
        self.requests.held = held;
    }

    /// Go on with a frame that was begun; returns where in the input it came to.
    fn carry_on(&mut self, rest: &[u8], at: usize, out: &mut Output) -> usize {
        let (left, passes) = match &mut self.requests.state {
            State::Pass(left) => (left, true),
            State::Swallow(left) => (left, false),
            State::Stream(_) => return at + self.stream(rest, Some(at), out),
            State::Head => return at,
        };
        let taken = rest.len().min(*left);
        *left -= taken;
        if *left == 0 {
            self.requests.state = State::Head;
        }
        if passes {
            out.pass(at..at + taken);
        }
        at + taken
    }

    /// Do what an examination found. `view` is what was examined: at `place` in the input, or held. Returns where in the input
    /// it came to, `at` being where the input stands.
    fn act(
        &mut self,
        found: Examined,
        view: &[u8],
        place: Option<usize>,
        out: &mut Output,
        at: usize,
    ) -> usize {
        let (total, action) = match found {
            Examined::Closed => return at,
            Examined::Need(need) => {
                self.requests.need = need;
                self.hold(view.to_vec());
                return place.map_or(at, |start| start + view.len());
            }
            Examined::Act(total, action) => (total, action),
        };
        let here = total.min(view.len());
        let end = place.map_or(at, |start| start + here);
        match action {
            Action::Forward => {
                match place {
                    Some(start) => out.pass(start..start + here),
                    None => out.own(view[..here].to_vec()),
                }
                self.requests.state = state_of(State::Pass, total - here);
            }
            Action::Rewrite(bytes) => out.own(bytes),
            Action::Swallow => self.requests.state = state_of(State::Swallow, total - here),
            Action::Stream(streaming) => {
                self.requests.state = State::Stream(streaming);
                self.stream(&view[..here], place, out);
            }
            Action::Wait(question) => {
                out.own(question);
                self.requests.need = here;
                self.hold(view[..here].to_vec());
                self.blocked = true;
                return end;
            }
        }
        if self.requests.held.is_empty() && !self.requests.share.hold(0) {
            self.close(Reason::Fault);
        }
        end
    }

    /// Names have come, or SASL's first answer: go on with what was held back.
    pub(super) fn unblock(&mut self) {
        self.blocked = false;
        let backlog = std::mem::take(&mut self.backlog);
        let mut out = Output::default();
        self.request(&backlog, &mut out);
        let bytes = out.bytes(&backlog);
        self.to_broker.extend(bytes);
    }

    fn examine(&mut self, view: &[u8]) -> Examined {
        match self.examined(view) {
            Ok(found) => found,
            Err(Malformed(_)) => self.closed(Reason::Malformed),
        }
    }

    pub(super) fn closed(&mut self, reason: Reason) -> Examined {
        self.close(reason);
        Examined::Closed
    }

    fn examined(&mut self, view: &[u8]) -> Result<Examined, Malformed> {
        if view.len() < 4 {
            return Ok(Examined::Need(4));
        }
        let length = number(&view[..4]);
        if let Sasl::Tokens(left) = self.sasl {
            return Ok(self.token(length, left));
        }
        if view[0] == 0x16 && view[1] == 3 && view[2] <= 4 {
            return Ok(self.closed(Reason::Tls));
        }
        if !(0..=REQUEST_BYTES_MAX as i64).contains(&length) {
            return Ok(self.closed(Reason::FrameTooLong));
        }
        if length < 10 {
            return Err(Malformed("a request is shorter than its header"));
        }
        let total = 4 + length as usize;
        let bytes = &view[..total.min(view.len())];
        let (key, version, correlation) = match fixed_header(&bytes[4..]) {
            None => return Ok(Examined::Need(12)),
            Some(fixed) => fixed,
        };
        let known = usize::try_from(key)
            .ok()
            .and_then(|key| APIS.get(key).copied().flatten());
        let api = match known {
            None => return Ok(self.unsupported(None, key, version, correlation, total)),
            Some(api) => api,
        };
        self.refresh();
        if api.number == judge::SASL_HANDSHAKE && version == 0 {
            return self.handshake(api, bytes, total);
        }
        if !api.judged {
            self.queue(Pending::of(Some(api), version, correlation, Plan::Pass));
            return Ok(Examined::Act(total, Action::Forward));
        }
        if !api.versions.has(version) {
            return Ok(self.unsupported(Some(api), key, version, correlation, total));
        }
        let header = match header(&bytes[4..], api.flexible.has(version))? {
            Some(header) => header,
            None if bytes.len() == total || bytes.len() > HEADER_BYTES_MAX => {
                return Err(Malformed("the header goes beyond the frame"))
            }
            None => return Ok(Examined::Need(bytes.len() + 1)),
        };
        let frame = Frame {
            api,
            header,
            bytes,
            total,
        };
        let free = self.policy.unconditional(frame.ask()).cloned();
        if let (Some(origin), false) = (free, api.number == judge::FETCH && self.session.is_some())
        {
            return self.free(frame, origin);
        }
        if api.number == judge::PRODUCE {
            return self.produce(frame);
        }
        if total > REQUEST_HELD_BYTES_MAX {
            return Ok(self.closed(Reason::RequestTooLong));
        }
        if bytes.len() < total {
            return Ok(Examined::Need(total));
        }
        let content = Content::of(api.request, api, version, frame.body())?;
        Ok(self.decide(frame, content))
    }

    pub(super) fn ready(
        &mut self,
        api: &'static Api,
        version: i16,
        correlation: i32,
        bytes: Vec<u8>,
        closes: Option<Reason>,
    ) {
        self.queue(Pending {
            what: What::Ready(bytes, closes),
            ..Pending::of(Some(api), version, correlation, Plan::Pass)
        });
        let mut out = std::mem::take(&mut self.to_client);
        self.flush(|bytes| out.extend(bytes));
        self.to_client = out;
    }

    fn unsupported(
        &mut self,
        api: Option<&'static Api>,
        key: i16,
        version: i16,
        correlation: i32,
        total: usize,
    ) -> Examined {
        let mut event = Event::of(key, version, correlation);
        event.kind = Kind::Denied;
        event.error = judge::UNSUPPORTED_VERSION;
        let event = self.verdict(event, b"", None, None);
        self.events.extend(event.map(|event| *event));
        if let Some(api) = api {
            let nearest = version.clamp(api.versions.0, api.versions.1);
            if reply::has_top_error(api, nearest) {
                let mut out = Vec::new();
                let content = Content::default();
                reply::answer(
                    Answer {
                        error: judge::UNSUPPORTED_VERSION,
                        ..Answer::of(api, nearest, correlation, &content)
                    },
                    &mut out,
                );
                self.ready(api, nearest, correlation, out, None);
                return Examined::Act(total, Action::Swallow);
            }
        }
        self.closed(Reason::Unsupported)
    }

    fn token(&mut self, length: i64, left: u8) -> Examined {
        if !(0..=TOKEN_BYTES_MAX as i64).contains(&length) {
            return self.closed(Reason::FrameTooLong);
        }
        self.sasl = match left {
            0 | 1 => Sasl::None,
            more => Sasl::Tokens(more - 1),
        };
        self.queue(Pending::of(None, 0, 0, Plan::Token));
        Examined::Act(4 + length as usize, Action::Forward)
    }

    /// SaslHandshake v0: tokens follow that are no Kafka requests, so many as the mechanism has messages of the client.
    fn handshake(
        &mut self,
        api: &'static Api,
        bytes: &[u8],
        total: usize,
    ) -> Result<Examined, Malformed> {
        if total > 1_024 {
            return Err(Malformed("a handshake is too long"));
        }
        if bytes.len() < total {
            return Ok(Examined::Need(total));
        }
        let header =
            header(&bytes[4..], false)?.ok_or(Malformed("the header goes beyond the frame"))?;
        let mechanism = bytes.get(4 + header.size + 2..).unwrap_or(&[]);
        let tokens = match mechanism {
            b"GSSAPI" => 3,
            scram if scram.starts_with(b"SCRAM-") => 2,
            _ => 1,
        };
        self.queue(Pending::of(
            Some(api),
            0,
            header.correlation,
            Plan::Handshake(tokens),
        ));
        self.blocked = true;
        Ok(Examined::Act(total, Action::Forward))
    }
}

fn state_of(state: fn(usize) -> State, left: usize) -> State {
    if left == 0 {
        State::Head
    } else {
        state(left)
    }
}
