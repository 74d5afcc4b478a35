//! The broker's direction: responses matched with their requests, passed or edited; answers of our own put where they belong.

use super::connection::{Close, Connection, Edit, Pending, Plan, Sasl, What};
use super::description::{Api, Field, Role};
use super::judge::{self, TOPIC_AUTHORIZATION_FAILED};
use super::memory::Share;
use super::output::Output;
use super::policy::{Ask, Place};
use super::reply::{self, Answer};
use super::report::Reason;
use super::request::{named, Content, Entry, Named, NONE};
use super::session::{session_entry, Session};
use super::topics;
use super::walk::{number, tags_size, Malformed, Progress, Span, Value, Visitor, Walk};

/// Responses that are held whole, which fetched records are not: Metadata of 100,000 partitions has 10 MB.
pub const RESPONSE_HELD_BYTES_MAX: usize = 64 << 20;
/// Where Fetch's and Produce's topics begin.
const RESPONSE_HEAD_BYTES_MAX: usize = 16 << 10;

/// Where the broker's bytes are.
#[derive(Default)]
pub(super) struct Responses {
    state: State,
    held: Vec<u8>,
    need: usize,
    share: Share,
}

#[derive(Clone, Copy)]
enum State {
    Head,
    Pass(usize),
    Drop(usize),
}

impl Default for State {
    fn default() -> State {
        State::Head
    }
}

enum Found {
    Need(usize),
    Pass(usize),
    Drop(usize),
    /// The first bytes, so many of them, become these; then so many pass.
    Replace(Vec<u8>, usize, usize),
    Closed,
}

/// What is done once a response is through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    Nothing,
    Unblock,
    Close,
}

impl Connection {
    /// Take what the broker sent; `out` is what goes on to the client.
    pub fn response(&mut self, input: &[u8], out: &mut Output) {
        let mut at = 0;
        while at < input.len() && self.closing.is_none() {
            let rest = &input[at..];
            match self.responses.state {
                State::Pass(left) | State::Drop(left) => {
                    let taken = rest.len().min(left);
                    if let State::Pass(left) = &mut self.responses.state {
                        out.pass(at..at + taken);
                        *left -= taken;
                    } else if let State::Drop(left) = &mut self.responses.state {
                        *left -= taken;
                    }
                    at += taken;
                    if left == taken {
                        self.finish(out);
                    }
                }
                State::Head => {
                    let mut held = std::mem::take(&mut self.responses.held);
                    if held.is_empty() {
                        let found = self.found(rest);
                        at += self.apply(found, rest, Some(at), out);
                    } else {
                        let more = self
                            .responses
                            .need
                            .saturating_sub(held.len())
                            .min(rest.len());
                        held.extend(&rest[..more]);
                        at += more;
                        if held.len() < self.responses.need {
                            self.keep(held);
                            return;
                        }
                        let found = self.found(&held);
                        self.apply(found, &held, None, out);
                    }
                }
            }
        }
    }

    fn keep(&mut self, held: Vec<u8>) {
        if !self.responses.share.hold(held.len()) {
            self.close(Reason::Memory);
            return;
        }
        self.responses.held = held;
    }

    /// Returns how many bytes of `view` were taken.
    fn apply(
        &mut self,
        found: Found,
        view: &[u8],
        place: Option<usize>,
        out: &mut Output,
    ) -> usize {
        let (taken, left) = match found {
            Found::Closed => return view.len(),
            Found::Need(need) => {
                self.responses.need = need;
                self.keep(view.to_vec());
                return view.len();
            }
            Found::Pass(total) => {
                let here = total.min(view.len());
                match place {
                    Some(start) => out.pass(start..start + here),
                    None => out.own(view[..here].to_vec()),
                }
                self.responses.state = State::Pass(total - here);
                (here, total - here)
            }
            Found::Drop(total) => {
                let here = total.min(view.len());
                self.responses.state = State::Drop(total - here);
                (here, total - here)
            }
            Found::Replace(bytes, consumed, left) => {
                out.own(bytes);
                let here = left.min(view.len() - consumed);
                match place {
                    Some(start) => out.pass(start + consumed..start + consumed + here),
                    None => out.own(view[consumed..consumed + here].to_vec()),
                }
                self.responses.state = State::Pass(left - here);
                (consumed + here, left - here)
            }
        };
        let _ = self.responses.share.hold(0);
        if left == 0 {
            self.finish(out);
        }
        taken
    }

    /// A response is through: what was due behind it follows.
    fn finish(&mut self, out: &mut Output) {
        self.responses.state = State::Head;
        let mut after = After::Nothing;
        if let Some(done) = self.pending.pop_front() {
            if let Some(mut event) = done.event {
                event.latency_ns = self.now_ns.saturating_sub(event.at_ns);
                self.events.push(*event);
            }
            after = match done.what {
                What::Await(Plan::Names | Plan::Handshake(_)) => After::Unblock,
                What::Await(Plan::Swallow) => After::Close,
                _ => After::Nothing,
            };
        }
        self.flush(|bytes| out.own(bytes));
        if after == After::Close {
            self.closing = Some(Close::Flush(Reason::NoAnswer));
        }
        if after == After::Unblock {
            self.unblock();
            // Answers of our own to what was held back come behind what is passing now.
            out.own(std::mem::take(&mut self.to_client));
        }
    }

    fn found(&mut self, view: &[u8]) -> Found {
        match self.find(view) {
            Ok(found) => found,
            Err(Malformed(_)) => self.close_response(Reason::Malformed),
        }
    }

    fn close_response(&mut self, reason: Reason) -> Found {
        self.close(reason);
        Found::Closed
    }

    fn find(&mut self, view: &[u8]) -> Result<Found, Malformed> {
        if view.len() < 4 {
            return Ok(Found::Need(4));
        }
        let length = number(&view[..4]);
        let (api, version, correlation) = match self.pending.front() {
            None => return Ok(self.close_response(Reason::Unasked)),
            Some(Pending {
                what: What::Await(Plan::Token),
                ..
            }) if length >= 0 => {
                return Ok(Found::Pass(4 + length as usize));
            }
            Some(pending) => (pending.api, pending.version, pending.correlation),
        };
        if length < 4 {
            return Err(Malformed("a response is shorter than its header"));
        }
        let total = 4 + length as usize;
        if view.len() < 8 {
            return Ok(Found::Need(8));
        }
        if number(&view[4..8]) as i32 != correlation {
            return Ok(self.close_response(Reason::Unasked));
        }
        let is_whole = view.len() >= total;
        let frame = &view[..total.min(view.len())];
        let api = api.ok_or(Malformed("a response of no request"))?;
        let mut plan = match self.pending.front_mut() {
            Some(Pending {
                what: What::Await(plan),
                ..
            }) => std::mem::replace(plan, Plan::Pass),
            _ => return Ok(self.close_response(Reason::Fault)),
        };
        let found = match &mut plan {
            Plan::Pass | Plan::Token => Ok(Found::Pass(total)),
            Plan::Swallow => Ok(Found::Drop(total)),
            Plan::Handshake(_) | Plan::Names if total > RESPONSE_HELD_BYTES_MAX => {
                Ok(self.close_response(Reason::ResponseTooLong))
            }
            Plan::Handshake(_) | Plan::Names if !is_whole => Ok(Found::Need(total)),
            Plan::Handshake(tokens) => {
                let error = frame.get(8..10).map_or(-1, number);
                if error == 0 {
                    self.sasl = Sasl::Tokens(*tokens);
                }
                Ok(Found::Pass(total))
            }
            Plan::Names => self.names(api, version, frame).map(|()| Found::Drop(total)),
            Plan::Edit(edit) if edit.head_only => self.edit_head(api, version, edit, frame, total),
            Plan::Edit(edit) if total > RESPONSE_HELD_BYTES_MAX => {
                if edit.filter || edit.errors.iter().any(|error| *error != 0) {
                    Ok(self.close_response(Reason::ResponseTooLong))
                } else {
                    // Ids that are not learned here are asked for later.
                    Ok(Found::Pass(total))
                }
            }
            Plan::Edit(_) if !is_whole => Ok(Found::Need(total)),
            Plan::Edit(edit) => self.edit_whole(api, version, edit, frame),
        };
        if let Some(Pending {
            what: What::Await(place),
            ..
        }) = self.pending.front_mut()
        {
            *place = plan;
        }
        found
    }

    /// Learn what the broker answered our question.
    fn names(&mut self, api: &'static Api, version: i16, frame: &[u8]) -> Result<(), Malformed> {
        let start = body_start(api, version, frame)?
            .ok_or(Malformed("a response ends within its header"))?;
        let content = Content::of(api.response, api, version, &frame[start..])?;
        self.learn(&content);
        self.resolved = true;
        Ok(())
    }

    fn learn(&self, content: &Content) {
        let named = content
            .entries
            .iter()
            .filter(|entry| entry.named == Named::Topic);
        let told = named.filter_map(|entry| Some((entry.id?, entry.name.as_deref()?)));
        topics::learn(self.broker, told);
    }

    /// Put denied entries in front of the broker's, and note the session; the rest passes as it comes.
    fn edit_head(
        &mut self,
        api: &'static Api,
        version: i16,
        edit: &Edit,
        frame: &[u8],
        total: usize,
    ) -> Result<Found, Malformed> {
        let short = || {
            if frame.len() == total || frame.len() > RESPONSE_HEAD_BYTES_MAX {
                return Err(Malformed("a response ends within its head"));
            }
            Ok(Found::Need(frame.len() + 1))
        };
        let start = match body_start(api, version, frame)? {
            None => return short(),
            Some(start) => start,
        };
        let mut head = Head::default();
        let flexible = api.flexible.has(version);
        let mut walk = Walk::new(api.response, version, flexible, (total - start) as u64);
        if walk.feed(&frame[start..], &mut head)? == Progress::More {
            return short();
        }
        let denied = || {
            edit.content
                .entries
                .iter()
                .zip(&edit.errors)
                .filter(|(_, error)| **error != 0)
        };
        if api.number == judge::FETCH && head.error != 0 {
            self.session = None;
        } else if edit.opens_session && head.session != 0 {
            self.session = Some(Session {
                id: head.session,
                generation: edit.generation,
                denied: denied()
                    .map(|(entry, error)| (session_entry(entry), *error))
                    .collect(),
            });
        }
        let (field, count, at) = match head.array {
            Some(array) if head.error == 0 && denied().next().is_some() => array,
            _ => return Ok(Found::Pass(total)),
        };
        let answer = Answer {
            errors: &edit.errors,
            ..Answer::of(api, version, 0, &edit.content)
        };
        let (added, elements) = reply::elements(answer, field, NONE);
        let mut bytes = frame[..start + at.start as usize].to_vec();
        reply::count(Some(count.unwrap_or(0) + added), flexible, &mut bytes);
        bytes.extend(elements);
        let consumed = start + at.end as usize;
        let left = total - consumed;
        let length = (bytes.len() + left - 4) as u32;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        Ok(Found::Replace(bytes, consumed, left))
    }

    /// Learn ids, take out what the policy doesn't allow, put in what was denied.
    fn edit_whole(
        &mut self,
        api: &'static Api,
        version: i16,
        edit: &mut Edit,
        frame: &[u8],
    ) -> Result<Found, Malformed> {
        let total = frame.len();
        let start = body_start(api, version, frame)?
            .ok_or(Malformed("a response ends within its header"))?;
        let body = &frame[start..];
        let content = Content::of(api.response, api, version, body)?;
        self.learn(&content);
        self.refresh();
        let mut out = vec![false; content.entries.len()];
        if edit.filter {
            for (index, entry) in content.entries.iter().enumerate() {
                out[index] = self.is_hidden(api, version, edit, &content, entry);
                if out[index] {
                    answer_by_id(edit, entry);
                }
            }
        }
        let answer = Answer {
            errors: &edit.errors,
            ..Answer::of(api, version, 0, &edit.content)
        };
        let mut added = Vec::new();
        for (index, array) in content.arrays.iter().enumerate() {
            let parent = content.entries.get(array.parent as usize);
            let parent = match parent {
                None => Some(NONE),
                Some(parent) => edit
                    .content
                    .entries
                    .iter()
                    .position(|entry| entry.named == parent.named && entry.name == parent.name)
                    .map(|index| index as u32),
            };
            if let Some(parent) = parent {
                let (count, elements) = reply::elements(answer, array.field, parent);
                if count > 0 {
                    added.push((index, count, elements));
                }
            }
        }
        let flexible = api.flexible.has(version);
        let splices = reply::splices(&content, flexible, &|index| out[index], added);
        if splices.is_empty() {
            return Ok(Found::Pass(total));
        }
        let mut bytes = frame[..start].to_vec();
        reply::spliced(body, &splices, &mut bytes);
        let length = (bytes.len() - 4) as u32;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        Ok(Found::Replace(bytes, total, 0))
    }

    /// Whether a client must not see an entry that it didn't name.
    fn is_hidden(
        &self,
        api: &'static Api,
        version: i16,
        edit: &Edit,
        content: &Content,
        entry: &Entry,
    ) -> bool {
        let name = match &entry.name {
            Some(name) => Some(&name[..]),
            None => return false,
        };
        let ask = Ask {
            key: api.number,
            version,
            client: &edit.client,
        };
        let place = match (api.number, entry.named) {
            (judge::LIST_GROUPS, Named::Group) => Place {
                group: name,
                ..Place::default()
            },
            (judge::METADATA | judge::DESCRIBE_TOPIC_PARTITIONS, Named::Topic) => Place {
                topic: name,
                ..Place::default()
            },
            (judge::OFFSET_FETCH, Named::Topic) => {
                let parent = content.entries.get(entry.parent as usize);
                let group = parent.and_then(|parent| parent.name.as_deref());
                Place {
                    topic: name,
                    group: group.or(edit.content.group.as_deref()),
                    resource: false,
                }
            }
            _ => return false,
        };
        !self.policy.judge(ask, place).allowed
    }
}

/// Where the body of a response begins; None when its header isn't whole yet.
fn body_start(api: &Api, version: i16, frame: &[u8]) -> Result<Option<usize>, Malformed> {
    if !api.flexible.has(version) {
        return Ok(Some(8));
    }
    Ok(tags_size(&frame[8..])?.map(|size| 8 + size))
}

/// A topic was asked for by its id, and only the response told that it is denied.
fn answer_by_id(edit: &mut Edit, hidden: &Entry) {
    for (entry, error) in edit.content.entries.iter().zip(&mut edit.errors) {
        if entry.name.is_none() && entry.id.is_some() && entry.id == hidden.id {
            *error = TOPIC_AUTHORIZATION_FAILED;
        }
    }
}

/// What stands before a response's topics.
#[derive(Default)]
struct Head {
    error: i16,
    session: i32,
    array: Option<(&'static Field, Option<u32>, Span)>,
}

impl Visitor for Head {
    fn array(&mut self, field: &'static Field, count: Option<u32>, at: Span) -> bool {
        if named(field) == Some(Named::Topic) {
            self.array = Some((field, count, at));
            return false;
        }
        true
    }

    fn value(&mut self, field: &'static Field, value: Value<'_>, _at: Span) -> bool {
        if let Value::Number(number) = value {
            match field.role {
                Role::Error => self.error = number as i16,
                _ if field.name == "session_id" => self.session = number as i32,
                _ => {}
            }
        }
        true
    }
}
