//! The client's direction: frames apart, judged, passed, edited or answered.

use super::connection::{Connection, Edit, Pending, Plan, Sasl, What, BACKLOG_BYTES_MAX};
use super::description::Api;
use super::judge::{self, Bench, Judged};
use super::memory::Share;
use super::output::Output;
use super::policy::{Ask, Place};
use super::produce::{head as produce_head, Streaming};
use super::reply::{self, Answer, Splice};
use super::report::{Event, Kind, Reason};
use super::request::{fixed_header, header, Content, Header, HEADER_BYTES_MAX, NONE};
use super::schema::APIS;
use super::topics::TopicId;
use super::walk::{number, Malformed, Span};

/// The longest request: Kafka's default (`socket.request.max.bytes`) is 100 MB; TLS and HTTP read as a length are longer.
pub const REQUEST_BYTES_MAX: usize = 256 << 20;
/// Requests that are held whole, which Produce is not: a fetch of 100,000 partitions has 5 MB.
pub const REQUEST_HELD_BYTES_MAX: usize = 16 << 20;
/// Kafka's own limit of a token (`sasl.server.max.receive.size`).
pub const TOKEN_BYTES_MAX: usize = 512 << 10;
/// Ids in one question for names.
const IDS_ASKED_MAX: usize = 1_000;
/// The correlation id of our own questions.
const OWN_CORRELATION: i32 = 0x7469_6465;

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
        Event::of(
            header.key,
            header.version,
            header.correlation,
            header.client,
        )
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
        let free = self.policy.unconditional(frame.ask()).map(str::to_string);
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

    /// A request that a rule allows whatever it names.
    fn free(&mut self, frame: Frame<'_>, origin: String) -> Result<Examined, Malformed> {
        let mut answered = true;
        if frame.api.number == judge::PRODUCE {
            answered = match produce_head(frame, false)? {
                None => return Ok(Examined::Need(frame.bytes.len() + 1)),
                Some(collector) => collector.content.acks != Some(0),
            };
        }
        let mut event = frame.event();
        event.origin = Some(origin);
        let event = self.verdict(event, None, None);
        if answered {
            let plan = if self.learns(frame.api) {
                Plan::Edit(Box::new(Edit {
                    filter: false,
                    ..self.edit_of(frame, Content::default(), Vec::new())
                }))
            } else {
                Plan::Pass
            };
            self.await_response(frame, plan, event);
        } else {
            self.events.extend(event.map(|event| *event));
        }
        Ok(Examined::Act(frame.total, Action::Forward))
    }

    /// Whether a response tells ids of topics that rules need.
    fn learns(&self, api: &Api) -> bool {
        self.policy.names_topics()
            && matches!(
                api.number,
                judge::METADATA | judge::CREATE_TOPICS | judge::DESCRIBE_TOPIC_PARTITIONS
            )
    }

    pub(super) fn edit_of(&self, frame: Frame<'_>, content: Content, errors: Vec<i16>) -> Edit {
        Edit {
            client: frame.header.client.to_vec(),
            content,
            errors,
            head_only: matches!(frame.api.number, judge::PRODUCE | judge::FETCH),
            filter: matches!(
                frame.api.number,
                judge::METADATA
                    | judge::DESCRIBE_TOPIC_PARTITIONS
                    | judge::LIST_GROUPS
                    | judge::OFFSET_FETCH
            ),
            opens_session: false,
            generation: self.generation,
        }
    }

    pub(super) fn await_response(
        &mut self,
        frame: Frame<'_>,
        plan: Plan,
        event: Option<Box<Event>>,
    ) {
        let header = frame.header;
        self.queue(Pending {
            event,
            ..Pending::of(Some(frame.api), header.version, header.correlation, plan)
        });
    }

    /// A whole request, read.
    pub(super) fn decide(&mut self, frame: Frame<'_>, content: Content) -> Examined {
        let policy = self.policy.clone();
        let bench = Bench {
            policy: &policy,
            api: frame.api,
            ask: frame.ask(),
            broker: self.broker,
        };
        let judged = bench.judge(&content);
        if !judged.unknown.is_empty() && !self.resolved {
            return self.wait(&judged.unknown, frame.total);
        }
        self.resolved = false;
        let is_fetch = frame.api.number == judge::FETCH;
        let epoch = content.epoch.filter(|_| is_fetch).unwrap_or(-1);
        if is_fetch && epoch > 0 {
            return self.fetch_on(frame, content, judged);
        }
        if is_fetch && (epoch == 0 || content.session != 0) {
            self.session = None;
        }
        let event = self.verdict(frame.event(), Some(&judged), Some(&content));
        if judged.whole.is_some() {
            return self.answer_alone(frame, &content, &judged);
        }
        if judged.passes() {
            let nothing_to_edit =
                !self.learns(frame.api) && epoch != 0 && !needs_filter(frame.api, &content);
            let plan = if nothing_to_edit {
                Plan::Pass
            } else {
                Plan::Edit(Box::new(Edit {
                    opens_session: epoch == 0,
                    ..self.edit_of(frame, content, judged.errors)
                }))
            };
            self.await_response(frame, plan, event);
            return Examined::Act(frame.total, Action::Forward);
        }
        let in_session = content.epoch.map_or(false, |epoch| epoch > 0);
        let mut kept = content.entries.iter().zip(&judged.errors);
        let is_left = kept.any(|(entry, error)| {
            entry.parent == NONE && *error == 0 && !reply::is_forgotten(&content, entry)
        });
        let alone = match frame.api.number {
            // Brokers are told whatever becomes of the topics, if a rule covers Metadata at all.
            judge::METADATA => !policy.judge(frame.ask(), Place::default()).allowed,
            judge::ADD_PARTITIONS_TO_TXN => true,
            _ => !is_left && !in_session,
        };
        if alone {
            return self.answer_alone(frame, &content, &judged);
        }
        let unanswered = content.acks == Some(0);
        let bytes = rewritten(frame, &content, &judged.errors);
        let plan = if unanswered {
            Plan::Swallow
        } else {
            Plan::Edit(Box::new(Edit {
                opens_session: epoch == 0,
                ..self.edit_of(frame, content, judged.errors)
            }))
        };
        self.await_response(frame, plan, event);
        Examined::Act(frame.total, Action::Rewrite(bytes))
    }

    fn answer_alone(&mut self, frame: Frame<'_>, content: &Content, judged: &Judged) -> Examined {
        if content.acks == Some(0) {
            self.answered(frame, Vec::new(), Some(Reason::NoAnswer));
            return Examined::Act(frame.total, Action::Swallow);
        }
        let version = frame.header.version;
        let mut errors = judged.errors.clone();
        let mut top = 0;
        if let Some(whole) = judged.whole {
            let at_top = reply::has_top_error(frame.api, version);
            top = whole;
            errors
                .iter_mut()
                .for_each(|error| *error = if at_top { 0 } else { whole });
        }
        let mut out = Vec::new();
        reply::answer(
            Answer {
                error: top,
                errors: &errors,
                ..Answer::of(frame.api, version, frame.header.correlation, content)
            },
            &mut out,
        );
        self.answered(frame, out, None);
        Examined::Act(frame.total, Action::Swallow)
    }

    /// Queue an answer of our own, and let it go if nothing is due before it.
    pub(super) fn answered(&mut self, frame: Frame<'_>, bytes: Vec<u8>, closes: Option<Reason>) {
        let header = frame.header;
        self.ready(frame.api, header.version, header.correlation, bytes, closes);
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
        let mut event = Event::of(key, version, correlation, b"");
        event.kind = Kind::Denied;
        event.error = judge::UNSUPPORTED_VERSION;
        let event = self.verdict(event, None, None);
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

    /// Ask the broker for the names behind ids, and hold the request meanwhile.
    pub(super) fn wait(&mut self, ids: &[TopicId], total: usize) -> Examined {
        let mut wanted = ids.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        wanted.truncate(IDS_ASKED_MAX);
        let metadata = match APIS[judge::METADATA as usize] {
            Some(api) => api,
            None => return self.closed(Reason::Fault),
        };
        self.queue(Pending::of(
            Some(metadata),
            QUESTION_VERSION,
            OWN_CORRELATION,
            Plan::Names,
        ));
        Examined::Act(total, Action::Wait(question(&wanted)))
    }
}

fn state_of(state: fn(usize) -> State, left: usize) -> State {
    if left == 0 {
        State::Head
    } else {
        state(left)
    }
}

/// Whether the response holds entries that the request didn't name.
fn needs_filter(api: &Api, content: &Content) -> bool {
    match api.number {
        judge::METADATA | judge::DESCRIBE_TOPIC_PARTITIONS | judge::LIST_GROUPS => true,
        judge::OFFSET_FETCH => content.arrays.iter().any(|array| array.count.is_none()),
        _ => false,
    }
}

/// The frame without its denied entries. A Produce that nobody would answer is made one that the broker answers.
pub(super) fn rewritten(frame: Frame<'_>, content: &Content, errors: &[i16]) -> Vec<u8> {
    let denied = |index: usize| errors.get(index).map_or(false, |error| *error != 0);
    let mut splices = reply::splices(content, frame.is_flexible(), &denied, Vec::new());
    if content.acks == Some(0) {
        let span = Span {
            start: content.acks_at,
            end: content.acks_at + 2,
        };
        let with = 1i16.to_be_bytes().to_vec();
        splices.insert(0, Splice { span, with });
    }
    let mut out = vec![0; 4];
    out.extend(&frame.bytes[4..4 + frame.header.size]);
    reply::spliced(frame.body(), &splices, &mut out);
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

/// The version of Metadata that our own questions have: the first that is asked by ids alone and tells names.
const QUESTION_VERSION: i16 = 12;

/// A Metadata request for the names of topics.
fn question(ids: &[TopicId]) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.extend(judge::METADATA.to_be_bytes());
    out.extend(QUESTION_VERSION.to_be_bytes());
    out.extend(OWN_CORRELATION.to_be_bytes());
    out.extend((-1i16).to_be_bytes());
    out.push(0);
    reply::count(Some(ids.len() as u32), true, &mut out);
    for id in ids {
        out.extend(id);
        out.extend([0, 0]); // no name, no tagged fields
    }
    out.extend([0, 0, 0]); // create no topic, no authorized operations, no tagged fields
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}
