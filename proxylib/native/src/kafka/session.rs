//! Fetch sessions (KIP-227): a broker remembers what a client reads, and the client then tells changes only.

use super::connection::{Connection, Plan, SESSION_PARTITIONS_MAX};
use super::decide::rewritten;
use super::judge::{self, Judged};
use super::reply::{self, is_forgotten, Answer};
use super::report::Reason;
use super::request::{Content, Entry, NONE};
use super::requests::{Action, Examined, Frame};

/// A fetch session of the broker's, which was opened with allowed topics alone.
pub(super) struct Session {
    pub id: i32,
    /// Of the rules that its partitions were judged by.
    pub generation: u64,
    /// Partitions that the client put in and the broker doesn't know of, with their errors.
    pub denied: Vec<(Entry, i16)>,
}

impl Session {
    /// Take over what a request changes: partitions forgotten, denied ones put in.
    fn change(&mut self, content: &Content, errors: &[i16]) {
        for (entry, error) in content.entries.iter().zip(errors) {
            let forgets = is_forgotten(content, entry);
            if !forgets && *error == 0 {
                continue;
            }
            for (known, _) in &mut self.denied {
                if known.name == entry.name && known.id == entry.id {
                    known
                        .partitions
                        .retain(|partition| !entry.partitions.contains(partition));
                }
            }
            self.denied
                .retain(|(known, _)| !known.partitions.is_empty());
            if !forgets {
                self.denied.push((session_entry(entry), *error));
            }
        }
    }
}

/// An entry that stands by itself.
pub(super) fn session_entry(entry: &Entry) -> Entry {
    Entry {
        array: NONE,
        parent: NONE,
        ..entry.clone()
    }
}

impl Connection {
    /// A fetch in a session. The broker knows only what was allowed when it was put in; what was denied we remember, and tell
    /// each time, as Kafka does. Rules that changed since, and sessions of other connections, begin anew: Kafka's own error for
    /// a session that it lost makes the client name all its partitions again.
    pub(super) fn fetch_on(
        &mut self,
        frame: Frame<'_>,
        content: Content,
        judged: Judged,
    ) -> Examined {
        let generation = self.generation;
        let known = |session: &&mut Session| {
            session.id == content.session && session.generation == generation
        };
        let session = match self.session.as_mut().filter(known) {
            None => {
                self.session = None;
                let version = frame.header.version;
                let mut out = Vec::new();
                let nothing = Content::default();
                reply::answer(
                    Answer {
                        error: judge::FETCH_SESSION_ID_NOT_FOUND,
                        ..Answer::of(frame.api, version, frame.header.correlation, &nothing)
                    },
                    &mut out,
                );
                self.answered(frame, out, None);
                return Examined::Act(frame.total, Action::Swallow);
            }
            Some(session) => session,
        };
        session.change(&content, &judged.errors);
        let too_many = session.denied.len() > SESSION_PARTITIONS_MAX;
        let (entries, errors): (Vec<_>, Vec<_>) = session.denied.iter().cloned().unzip();
        if too_many {
            return self.closed(Reason::Memory);
        }
        let event = self.verdict(
            frame.event(),
            frame.header.client,
            Some(&judged),
            Some(&content),
        );
        let action = if judged.passes() {
            Action::Forward
        } else {
            Action::Rewrite(rewritten(frame, &content, &judged.errors))
        };
        let plan = if entries.is_empty() {
            Plan::Pass
        } else {
            let told = Content {
                entries,
                ..Content::default()
            };
            Plan::Edit(Box::new(self.edit_of(frame, told, errors)))
        };
        self.await_response(frame, plan, event);
        Examined::Act(frame.total, action)
    }
}
