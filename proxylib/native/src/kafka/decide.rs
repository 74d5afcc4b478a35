//! What becomes of a request that is understood: it passes, is edited, is answered, or waits for a topic's name.

use std::sync::Arc;

use super::connection::{Connection, Edit, Pending, Plan};
use super::description::Api;
use super::judge::{self, Bench, Judged};
use super::produce::head as produce_head;
use super::reply::{self, Answer, Splice};
use super::report::{Event, Reason};
use super::request::{Content, NONE};
use super::requests::{Action, Examined, Frame};
use super::schema::APIS;
use super::topics::TopicId;
use super::walk::{Malformed, Span};

/// Ids in one question for names.
const IDS_ASKED_MAX: usize = 1_000;

/// The correlation id of our own questions.
const OWN_CORRELATION: i32 = 0x7469_6465;

/// The version of Metadata that our own questions have: the first that is asked by ids alone and tells names.
const QUESTION_VERSION: i16 = 12;

impl Connection {
    /// A request that a rule allows whatever it names.
    pub(super) fn free(
        &mut self,
        frame: Frame<'_>,
        origin: Arc<str>,
    ) -> Result<Examined, Malformed> {
        let mut answered = true;
        if frame.api.number == judge::PRODUCE {
            answered = match produce_head(frame, false)? {
                None => return Ok(Examined::Need(frame.bytes.len() + 1)),
                Some(collector) => collector.content.acks != Some(0),
            };
        }
        let mut event = frame.event();
        event.origin = Some(origin);
        let event = self.verdict(event, frame.header.client, None, None);
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
        let event = self.verdict(
            frame.event(),
            frame.header.client,
            Some(&judged),
            Some(&content),
        );
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
            // Brokers are told whatever becomes of the topics.
            judge::METADATA => false,
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
