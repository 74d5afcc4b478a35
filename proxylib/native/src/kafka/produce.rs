//! Produce: records may be a hundred megabytes, so a request is judged before it has come.
//!
//! 1. One topic: by its name, which is in the head. Allowed: the rest passes as it comes. Denied: the rest is dropped.
//! 2. Several topics in a request of usual size: held, then judged and edited like any other.
//! 3. Several topics in a long one: it passes as it comes and each topic is judged when its name does. Where one is denied, the
//!    client is answered: denied topics with their error, the others with one that makes it send them again. The broker, which
//!    has but a part and never acts on it, loses the connection, as has the client then.

use super::connection::{Connection, Pending, Plan};
use super::description::Api;
use super::description::Field;
use super::judge::{self, Bench, Judged};
use super::output::Output;
use super::policy::{Ask, Policy};
use super::reply::{self, Answer};
use super::report::{Event, Reason};
use super::request::{Collector, Content};
use super::requests::{Action, Examined, Frame, State};
use super::walk::{Malformed, Progress, Span, Value, Visitor, Walk};

/// A Produce of several topics is held up to a producer's usual greatest (`max.request.size`); longer ones stream.
pub const PRODUCE_HELD_BYTES_MAX: usize = (1 << 20) + (64 << 10);
/// Where Produce's first topic has been named: two strings of the greatest length.
const PRODUCE_HEAD_BYTES_MAX: usize = 112 << 10;

/// A Produce that is judged as it comes.
pub(super) struct Streaming {
    api: &'static Api,
    version: i16,
    correlation: i32,
    client: Vec<u8>,
    walk: Walk,
    collector: Collector,
    errors: Vec<i16>,
    judged: Judged,
    /// Bytes before the body.
    head: usize,
    left: usize,
    /// Bytes that the walk wants again.
    tail: Vec<u8>,
    swallows: bool,
    /// Something of it has gone to the broker.
    sent: bool,
}

impl Connection {
    pub(super) fn produce(&mut self, frame: Frame<'_>) -> Result<Examined, Malformed> {
        let collector = match head(frame, true)? {
            None => return Ok(Examined::Need(frame.bytes.len() + 1)),
            Some(collector) => collector,
        };
        let whole = frame.bytes.len() == frame.total;
        let count = collector
            .content
            .arrays
            .first()
            .and_then(|array| array.count);
        let single = count == Some(1);
        let long = count.unwrap_or(0) > 1 && frame.total > PRODUCE_HELD_BYTES_MAX;
        if !single && (whole || !long) {
            if whole {
                return self.produced(frame);
            }
            if frame.total > PRODUCE_HELD_BYTES_MAX {
                return Err(Malformed("a long produce of no topic"));
            }
            return Ok(Examined::Need(frame.total));
        }
        let policy = self.policy.clone();
        let bench = self.bench(&policy, frame.api, frame.ask());
        let mut judged = Judged::default();
        let error = match collector.content.entries.first() {
            None => return Err(Malformed("a produce without a topic")),
            Some(entry) => bench.topic(entry, None, &mut judged),
        };
        if !judged.unknown.is_empty() && !self.resolved {
            let unknown = std::mem::take(&mut judged.unknown);
            return Ok(self.wait(&unknown, frame.total));
        }
        self.resolved = false;
        if error == 0 && single {
            judged.errors = vec![0];
            let event = self.verdict(
                frame.event(),
                frame.header.client,
                Some(&judged),
                Some(&collector.content),
            );
            if collector.content.acks == Some(0) {
                self.events.extend(event.map(|event| *event));
            } else {
                self.await_response(frame, Plan::Pass, event);
            }
            return Ok(Examined::Act(frame.total, Action::Forward));
        }
        if whole {
            return self.produced(frame);
        }
        let body = frame.total - 4 - frame.header.size;
        Ok(Examined::Act(
            frame.total,
            Action::Stream(Box::new(Streaming {
                api: frame.api,
                version: frame.header.version,
                correlation: frame.header.correlation,
                client: frame.header.client.to_vec(),
                walk: Walk::new(
                    frame.api.request,
                    frame.header.version,
                    frame.is_flexible(),
                    body as u64,
                ),
                collector: Collector::default(),
                errors: Vec::new(),
                judged: Judged::default(),
                head: 4 + frame.header.size,
                left: frame.total,
                tail: Vec::new(),
                swallows: error != 0,
                sent: false,
            })),
        ))
    }

    /// A Produce that is here as a whole.
    fn produced(&mut self, frame: Frame<'_>) -> Result<Examined, Malformed> {
        let (api, version) = (frame.api, frame.header.version);
        let content = Content::of(api.request, api, version, frame.body())?;
        Ok(self.decide(frame, content))
    }

    fn bench<'a>(&self, policy: &'a Policy, api: &'static Api, ask: Ask<'a>) -> Bench<'a> {
        Bench {
            policy,
            api,
            ask,
            broker: self.broker,
        }
    }

    /// Go on with a Produce that is judged as it comes; returns how many bytes it took. `place`: where they are in the input.
    pub(super) fn stream(&mut self, bytes: &[u8], place: Option<usize>, out: &mut Output) -> usize {
        let mut streaming = match std::mem::take(&mut self.requests.state) {
            State::Stream(streaming) => streaming,
            _ => return 0,
        };
        let taken = bytes.len().min(streaming.left);
        let bytes = &bytes[..taken];
        streaming.left -= taken;
        let policy = self.policy.clone();
        let client = streaming.client.clone();
        let ask = Ask {
            key: streaming.api.number,
            version: streaming.version,
            client: &client,
        };
        let bench = self.bench(&policy, streaming.api, ask);
        let done = match streaming.walk_on(bytes, &bench) {
            Err(Malformed(_)) => {
                self.close(Reason::Malformed);
                return taken;
            }
            Ok(done) => done,
        };
        if !streaming.swallows {
            streaming.sent = true;
            match place {
                Some(start) => out.pass(start..start + taken),
                None => out.own(bytes.to_vec()),
            }
        }
        if streaming.left > 0 {
            self.requests.state = State::Stream(streaming);
            return taken;
        }
        if !done {
            self.close(Reason::Malformed);
            return taken;
        }
        self.streamed(*streaming);
        taken
    }

    /// A Produce that was judged as it came has come.
    fn streamed(&mut self, mut streaming: Streaming) {
        let content = &streaming.collector.content;
        let unanswered = content.acks == Some(0);
        streaming.judged.errors = streaming.errors;
        let event = Event::of(
            streaming.api.number,
            streaming.version,
            streaming.correlation,
        );
        let event = self.verdict(
            event,
            &streaming.client,
            Some(&streaming.judged),
            Some(content),
        );
        if !streaming.swallows {
            let pending = Pending {
                event,
                ..Pending::of(
                    Some(streaming.api),
                    streaming.version,
                    streaming.correlation,
                    Plan::Pass,
                )
            };
            if !unanswered {
                self.queue(pending);
            } else {
                self.events.extend(pending.event.map(|event| *event));
            }
            return;
        }
        // The broker has nothing, or a part that it will drop: what was allowed the client tries again, alone.
        let retried = |error: &i16| {
            if *error == 0 {
                judge::NETWORK_EXCEPTION
            } else {
                *error
            }
        };
        let errors: Vec<i16> = streaming.judged.errors.iter().map(retried).collect();
        let mut bytes = Vec::new();
        let mut closes = if streaming.sent {
            Some(Reason::Partial)
        } else {
            None
        };
        if unanswered {
            closes = Some(Reason::NoAnswer);
        } else {
            reply::answer(
                Answer {
                    errors: &errors,
                    ..Answer::of(
                        streaming.api,
                        streaming.version,
                        streaming.correlation,
                        content,
                    )
                },
                &mut bytes,
            );
        }
        self.ready(
            streaming.api,
            streaming.version,
            streaming.correlation,
            bytes,
            closes,
        );
    }
}

impl Streaming {
    /// Walk on; tells whether the message is complete.
    fn walk_on(&mut self, bytes: &[u8], bench: &Bench<'_>) -> Result<bool, Malformed> {
        let skipped = self.head.min(bytes.len());
        self.head -= skipped;
        let before = self.walk.at();
        let held = !self.tail.is_empty();
        let progress = if held {
            self.tail.extend(&bytes[skipped..]);
            self.walk.feed(&self.tail, &mut self.collector)?
        } else {
            self.walk.feed(&bytes[skipped..], &mut self.collector)?
        };
        let walked = (self.walk.at() - before) as usize;
        if held {
            self.tail.drain(..walked);
        } else {
            self.tail.extend(&bytes[skipped + walked..]);
        }
        if progress == Progress::Stopped {
            return Err(Malformed("too many entries"));
        }
        let content = &self.collector.content;
        for entry in &content.entries[self.errors.len()..] {
            if entry.name.is_none() && entry.id.is_none() && progress != Progress::Done {
                break;
            }
            let error = bench.topic(entry, None, &mut self.judged);
            self.swallows |= error != 0;
            self.errors.push(error);
        }
        Ok(progress == Progress::Done)
    }
}

/// Stops a walk at acks, or at the first topic's name.
struct Until<'a> {
    collector: &'a mut Collector,
    topic: bool,
}

impl Visitor for Until<'_> {
    fn array(&mut self, field: &'static Field, count: Option<u32>, at: Span) -> bool {
        self.collector.array(field, count, at) && count.unwrap_or(0) > 0
    }
    fn array_end(&mut self, field: &'static Field) {
        self.collector.array_end(field)
    }
    fn enter(&mut self, field: &'static Field, at: u64) {
        self.collector.enter(field, at)
    }
    fn leave(&mut self, field: &'static Field, at: u64) {
        self.collector.leave(field, at)
    }
    fn value(&mut self, field: &'static Field, value: Value<'_>, at: Span) -> bool {
        self.collector.value(field, value, at);
        if self.topic {
            let first = self.collector.content.entries.first();
            return first.map_or(true, |entry| entry.name.is_none() && entry.id.is_none());
        }
        self.collector.content.acks.is_none()
    }
}

/// Read a Produce up to its acks or the name of its first `topic`; None when that hasn't come yet.
pub(super) fn head(frame: Frame<'_>, topic: bool) -> Result<Option<Collector>, Malformed> {
    let mut collector = Collector::default();
    let length = frame.total - 4 - frame.header.size;
    let mut walk = Walk::new(
        frame.api.request,
        frame.header.version,
        frame.is_flexible(),
        length as u64,
    );
    let mut until = Until {
        collector: &mut collector,
        topic,
    };
    let progress = walk.feed(frame.body(), &mut until)?;
    if progress == Progress::More {
        if frame.bytes.len() == frame.total || frame.bytes.len() > PRODUCE_HEAD_BYTES_MAX {
            return Err(Malformed("a produce ends within its head"));
        }
        return Ok(None);
    }
    Ok(Some(collector))
}
