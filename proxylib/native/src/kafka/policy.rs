//! What a slot allows: rules as Python wrote them. Semantics: docs/kafka.md and `l7filters/kafka.py`, which judges the same way.
//!
//! The configuration is JSON:
//! ```text
//! {"slot": 7, "sides": [side, ...], "report": {"socket": PATH, "allowed_every": N}, "counts": LINES}
//! side: {"audit": bool, "allow": [rule, ...], "deny": [rule, ...]}
//! rule: {"origin": TEXT, "apis": [KEY, ...], "version": N?, "client": TEXT?, "topics": [match, ...], "groups": [match, ...]}
//! match: {"exact": TEXT} | {"prefix": TEXT} | {"program": [...]}   (see `pattern`)
//! ```
//! Each side (a local pair has two: the client's egress, the server's ingress) must allow. `apis` names all that the rule
//! covers; ApiVersions and SASL are never judged. `allowed_every`: 0 reports no allowed request, 1 each, N every Nth.
//! `counts`: what `crate::report` must know to count each request; without it none is.

use std::sync::Arc;

use super::json::{parse, Json};
use super::pattern::Program;
use crate::report::Settings;

/// What a request asks for, but for its places.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub key: i16,
    pub version: i16,
    pub client: &'a [u8],
}

/// What of a request is judged at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place<'a> {
    pub topic: Option<&'a [u8]>,
    pub group: Option<&'a [u8]>,
    /// A typed resource: a rule that names topics or groups allows only such; one of the cluster's only a rule without both.
    pub resource: bool,
}

/// What the rules say of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling<'a> {
    pub allowed: bool,
    /// It is allowed, but only because a side audits.
    pub audited: bool,
    /// The rule that decided; None: no rule matched.
    pub origin: Option<&'a Arc<str>>,
}

#[derive(Debug)]
enum Match {
    Exact(Vec<u8>),
    Prefix(Vec<u8>),
    Pattern(Program),
}

#[derive(Debug)]
struct Rule {
    origin: Arc<str>,
    apis: u128,
    version: Option<i16>,
    client: Option<Vec<u8>>,
    topics: Vec<Match>,
    groups: Vec<Match>,
}

#[derive(Debug)]
struct Side {
    audit: bool,
    allow: Vec<Rule>,
    deny: Vec<Rule>,
}

/// The rules of one slot.
#[derive(Debug)]
pub struct Policy {
    pub slot: u32,
    /// Unix datagram socket that reports go to; empty: none.
    pub socket: String,
    pub allowed_every: u64,
    /// How requests are counted; None: they aren't.
    pub counts: Option<Settings>,
    sides: Vec<Side>,
    names_topics: bool,
}

impl Policy {
    /// Read the configuration; the error says what is wrong with it.
    pub fn of(text: &str) -> Result<Policy, String> {
        let json = parse(text).ok_or("the configuration is not JSON")?;
        let slot = json.get("slot").number();
        let slot = slot.and_then(|slot| u32::try_from(slot).ok());
        let sides: Result<Vec<Side>, String> = json.get("sides").list().iter().map(side).collect();
        let sides = sides?;
        if sides.is_empty() {
            return Err("there is no side".into());
        }
        let report = json.get("report");
        let counts = json.get("counts").text().map(Settings::parse);
        let counts = counts
            .transpose()
            .map_err(|error| format!("counts: {}", error))?;
        let names_topics = sides
            .iter()
            .flat_map(|side| side.allow.iter().chain(&side.deny))
            .any(|rule| !rule.topics.is_empty());
        Ok(Policy {
            slot: slot.ok_or("slot is not a number")?,
            socket: report.get("socket").text().unwrap_or("").to_string(),
            allowed_every: report.get("allowed_every").number().unwrap_or(0).max(0) as u64,
            counts,
            sides,
            names_topics,
        })
    }

    /// Judge one place.
    pub fn judge(&self, ask: Ask<'_>, place: Place<'_>) -> Ruling<'_> {
        let mut ruling = Ruling {
            allowed: true,
            audited: false,
            origin: None,
        };
        for side in &self.sides {
            let denies = side.deny.iter().find(|rule| rule.denies(ask, place));
            let allows = side.allow.iter().find(|rule| rule.allows(ask, place));
            match (denies, allows) {
                (None, Some(rule)) => {
                    if ruling.origin.is_none() {
                        ruling.origin = Some(&rule.origin);
                    }
                }
                (found, _) if side.audit => {
                    ruling.audited = true;
                    ruling.origin = found.map(|rule| &rule.origin);
                }
                (found, _) => {
                    return Ruling {
                        allowed: false,
                        audited: false,
                        origin: found.map(|rule| &rule.origin),
                    }
                }
            }
        }
        ruling
    }

    /// The rule that allows all that such a request could name, if there is one: then its body need not be read.
    pub fn unconditional(&self, ask: Ask<'_>) -> Option<&Arc<str>> {
        let mut origin = None;
        for side in &self.sides {
            if side.deny.iter().any(|rule| rule.covers(ask)) {
                return None;
            }
            let free =
                |rule: &&Rule| rule.covers(ask) && rule.topics.is_empty() && rule.groups.is_empty();
            let found = side.allow.iter().find(free)?;
            origin = origin.or(Some(&found.origin));
        }
        origin
    }

    /// Whether any rule speaks of topics, so that topic ids must be learned.
    pub fn names_topics(&self) -> bool {
        self.names_topics
    }
}

impl Rule {
    fn covers(&self, ask: Ask<'_>) -> bool {
        let known = (0..128).contains(&ask.key);
        known
            && self.apis & (1 << ask.key) != 0
            && self.version.map_or(true, |version| version == ask.version)
            && self
                .client
                .as_deref()
                .map_or(true, |client| client == ask.client)
    }

    fn allows(&self, ask: Ask<'_>, place: Place<'_>) -> bool {
        self.covers(ask)
            && if place.resource {
                self.allows_resource(place)
            } else {
                named(&self.topics, place.topic, true) && named(&self.groups, place.group, true)
            }
    }

    fn allows_resource(&self, place: Place<'_>) -> bool {
        match (place.topic, place.group) {
            (Some(_), _) if !self.topics.is_empty() => named(&self.topics, place.topic, false),
            (_, Some(_)) if !self.groups.is_empty() => named(&self.groups, place.group, false),
            _ => self.topics.is_empty() && self.groups.is_empty(),
        }
    }

    fn denies(&self, ask: Ask<'_>, place: Place<'_>) -> bool {
        self.covers(ask)
            && named(&self.topics, place.topic, false)
            && named(&self.groups, place.group, false)
    }
}

/// Whether one of `wanted`, if any, matches; `unnamed`: what holds where the place has no such name.
fn named(wanted: &[Match], found: Option<&[u8]>, unnamed: bool) -> bool {
    if wanted.is_empty() {
        return true;
    }
    found.map_or(unnamed, |name| {
        wanted.iter().any(|one| match one {
            Match::Exact(exact) => exact == name,
            Match::Prefix(prefix) => name.starts_with(prefix),
            Match::Pattern(program) => program.matches(name),
        })
    })
}

fn side(json: &Json) -> Result<Side, String> {
    let rules = |name: &str| -> Result<Vec<Rule>, String> {
        json.get(name).list().iter().map(rule).collect()
    };
    Ok(Side {
        audit: json.get("audit").is_true(),
        allow: rules("allow")?,
        deny: rules("deny")?,
    })
}

fn rule(json: &Json) -> Result<Rule, String> {
    let origin = json.get("origin").text().ok_or("a rule has no origin")?;
    let mut apis = 0;
    for api in json.get("apis").list() {
        let number = api.number().filter(|number| (0..128).contains(number));
        apis |= 1 << number.ok_or_else(|| format!("{}: apis holds no API key", origin))?;
    }
    let version = match json.get("version") {
        Json::Null => None,
        Json::Number(number) => {
            Some(i16::try_from(*number).map_err(|_| format!("{}: version", origin))?)
        }
        _ => return Err(format!("{}: version is not a number", origin)),
    };
    let client = match json.get("client") {
        Json::Null => None,
        Json::Text(text) => Some(text.clone().into_bytes()),
        _ => return Err(format!("{}: client is not a text", origin)),
    };
    let matches = |name: &str| -> Result<Vec<Match>, String> {
        let items = json.get(name);
        if !matches!(items, Json::Null | Json::List(_)) {
            return Err(format!("{}: {} is not a list", origin, name));
        }
        let found: Option<Vec<Match>> = items.list().iter().map(one_match).collect();
        found.ok_or_else(|| format!("{}: {} holds what is no match", origin, name))
    };
    Ok(Rule {
        apis,
        version,
        client,
        topics: matches("topics")?,
        groups: matches("groups")?,
        origin: origin.into(),
    })
}

fn one_match(json: &Json) -> Option<Match> {
    if let Some(text) = json.get("exact").text() {
        return Some(Match::Exact(text.as_bytes().to_vec()));
    }
    if let Some(text) = json.get("prefix").text() {
        return Some(Match::Prefix(text.as_bytes().to_vec()));
    }
    Program::of(json.get("program")).map(Match::Pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(sides: &str) -> Policy {
        Policy::of(&format!(r#"{{"slot": 1, "sides": {}}}"#, sides)).expect("a policy")
    }

    fn ask(key: i16) -> Ask<'static> {
        Ask {
            key,
            version: 9,
            client: b"app",
        }
    }

    fn topic(name: &str) -> Place<'_> {
        Place {
            topic: Some(name.as_bytes()),
            ..Place::default()
        }
    }

    #[test]
    fn allow_needs_a_rule_and_deny_wins() {
        let found = policy(
            r#"[{"allow": [{"origin": "a", "apis": [0, 3], "topics": [{"prefix": "or"}]}],
                 "deny": [{"origin": "d", "apis": [0], "topics": [{"exact": "orders"}]}]}]"#,
        );
        let judged = |key, name| {
            let ruling = found.judge(ask(key), topic(name));
            (
                ruling.allowed,
                ruling.origin.map_or("", |origin| &origin[..]).to_string(),
            )
        };
        assert_eq!(judged(0, "oranges"), (true, "a".into()));
        assert_eq!(judged(0, "orders"), (false, "d".into()));
        assert_eq!(judged(3, "orders"), (true, "a".into()));
        assert_eq!(judged(3, "x"), (false, "".into()));
        assert_eq!(judged(1, "oranges"), (false, "".into()));
        assert!(found.judge(ask(3), Place::default()).allowed);
        let cluster = Place {
            resource: true,
            ..Place::default()
        };
        assert!(!found.judge(ask(3), cluster).allowed);
    }

    #[test]
    fn both_sides_must_allow_and_an_audit_only_tells() {
        let both = policy(
            r#"[{"allow": [{"origin": "e", "apis": [0]}]}, {"allow": [{"origin": "i", "apis": [1]}]}]"#,
        );
        assert!(!both.judge(ask(0), topic("x")).allowed);
        assert_eq!(both.unconditional(ask(0)), None);
        let audit =
            policy(r#"[{"allow": [{"origin": "e", "apis": [0]}]}, {"audit": true, "allow": []}]"#);
        let ruling = audit.judge(ask(0), topic("x"));
        assert!(ruling.allowed && ruling.audited);
    }

    #[test]
    fn version_client_and_groups_are_judged() {
        let found = policy(
            r#"[{"allow": [{"origin": "a", "apis": [8], "version": 9, "client": "app", "groups": [{"exact": "g"}]}]}]"#,
        );
        let group = |name: &'static str| Place {
            group: Some(name.as_bytes()),
            ..Place::default()
        };
        assert!(found.judge(ask(8), group("g")).allowed);
        assert!(!found.judge(ask(8), group("h")).allowed);
        let other = Ask {
            client: b"other",
            ..ask(8)
        };
        assert!(!found.judge(other, group("g")).allowed);
        let older = Ask {
            version: 8,
            ..ask(8)
        };
        assert!(!found.judge(older, group("g")).allowed);
    }

    #[test]
    fn what_is_no_policy_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "not JSON"),
            (r#"{"slot": 1}"#, "no side"),
            (r#"{"sides": [{}]}"#, "slot"),
            (
                r#"{"slot": 1, "sides": [{"allow": [{"apis": [0]}]}]}"#,
                "no origin",
            ),
            (
                r#"{"slot": 1, "sides": [{"allow": [{"origin": "a", "apis": [128]}]}]}"#,
                "apis",
            ),
            (
                r#"{"slot": 1, "sides": [{"allow": [{"origin": "a", "topics": [{"glob": "x"}]}]}]}"#,
                "topics",
            ),
            (
                r#"{"slot": 1, "sides": [{"allow": [{"origin": "a", "topics": "x"}]}]}"#,
                "topics",
            ),
        ] {
            let error = Policy::of(text).expect_err(text);
            assert!(error.contains(reason), "{}: {}", text, error);
        }
    }
}
