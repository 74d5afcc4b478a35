//! The filter as a whole, on random messages of every API and version, and on cases of its own.

use super::connection::{Close, Connection};
use super::description::{Api, Field, Kind, Role, Scope};
use super::judge;
use super::output::Output;
use super::policy::{publish, Policy, Published};
use super::report::{Kind as Verdict, Reason};
use super::request::{Content, Named};
use super::schema::APIS;
use super::topics;
use super::walk::{Progress, Span, Value, Visitor, Walk};

use std::sync::atomic::{AtomicU32, Ordering};

const ORDERS: [u8; 16] = [1; 16];
const SECRET: [u8; 16] = [2; 16];
const CLIENT: &[u8] = b"app";

/// xorshift64: the same numbers in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn one_of<'a>(&mut self, items: &[&'a [u8]]) -> &'a [u8] {
        items[self.below(items.len() as u64) as usize]
    }
}

/// Writes a random message, independently of the walker and the builder.
struct Maker<'a> {
    version: i16,
    flexible: bool,
    dice: &'a mut Dice,
    out: Vec<u8>,
    topics: u32,
}

impl Maker<'_> {
    fn size(&mut self, size: usize, prefix: usize) {
        if self.flexible {
            let mut left = size + 1;
            while left > 127 {
                self.out.push((left % 128) as u8 + 128);
                left /= 128;
            }
            self.out.push(left as u8);
        } else if prefix == 2 {
            self.out.extend((size as u16).to_be_bytes());
        } else {
            self.out.extend((size as u32).to_be_bytes());
        }
    }

    fn null(&mut self, prefix: usize) {
        if self.flexible {
            self.out.push(0);
        } else {
            self.out.extend(vec![0xff; prefix]);
        }
    }

    fn fields(&mut self, fields: &'static [Field]) {
        for field in fields {
            let here = field.versions.0 <= self.version && self.version <= field.versions.1;
            if field.tag < 0 && here {
                self.field(field);
            }
        }
        if self.flexible {
            match self.dice.below(4) {
                0 => self.out.extend([1, 99, 3, 7, 7, 7]),
                _ => self.out.push(0),
            }
        }
    }

    fn field(&mut self, field: &'static Field) {
        let nullable = field.nullable.0 <= self.version && self.version <= field.nullable.1;
        let names = matches!(
            field.role,
            Role::Topic | Role::Group | Role::TransactionalId
        );
        let is_null = nullable && !names && self.dice.below(5) == 0;
        if field.array {
            if is_null {
                return self.null(4);
            }
            let count = 1 + self.dice.below(3) as usize;
            self.size(count, 4);
            for _ in 0..count {
                if field.kind == Kind::Struct {
                    self.fields(field.fields);
                } else {
                    self.value(field);
                }
            }
            return;
        }
        match (field.kind, is_null) {
            (Kind::Struct, _) => {
                if nullable {
                    self.out.push(if is_null { 0xff } else { 1 });
                }
                if !is_null {
                    self.fields(field.fields);
                }
            }
            (Kind::String, true) => self.null(2),
            (Kind::Bytes | Kind::Records, true) => self.null(4),
            _ => self.value(field),
        }
    }

    fn value(&mut self, field: &Field) {
        let text: &[u8] = match field.role {
            Role::Topic => {
                self.topics += 1;
                self.dice.one_of(&[b"orders", b"secret", b"o"])
            }
            Role::Group => self.dice.one_of(&[b"mine", b"theirs"]),
            Role::CoordinatorKey | Role::ResourceName => {
                self.dice.one_of(&[b"mine", b"orders", b"x"])
            }
            _ => self.dice.one_of(&[b"", b"some text"]),
        };
        match field.kind {
            Kind::Bool => {
                let bit = self.dice.below(2) as u8;
                self.out.push(bit);
            }
            Kind::Int8 => {
                let number = self.dice.below(4) as u8;
                self.out.push(number);
            }
            Kind::Int16 if field.role == Role::Error => self.out.extend([0, 0]),
            Kind::Int16 | Kind::Uint16 => self.out.extend([0, 1]),
            Kind::Int32 => {
                let number = self.dice.below(9) as u32;
                self.out.extend(number.to_be_bytes());
            }
            Kind::Int64 | Kind::Float64 => self.out.extend([0, 0, 0, 0, 0, 0, 0, 5]),
            Kind::Uuid => {
                let id = if self.dice.below(2) == 0 {
                    ORDERS
                } else {
                    SECRET
                };
                self.out.extend(id);
            }
            Kind::String => {
                self.size(text.len(), 2);
                self.out.extend(text);
            }
            Kind::Bytes | Kind::Records => {
                let size = self.dice.below(300) as usize;
                self.size(size, 4);
                self.out.extend(vec![0xab; size]);
            }
            Kind::Struct => unreachable!("structs have fields"),
        }
    }
}

fn made(fields: &'static [Field], api: &Api, version: i16, dice: &mut Dice) -> (Vec<u8>, u32) {
    let mut maker = Maker {
        version,
        flexible: version >= api.flexible.0 && version <= api.flexible.1,
        dice,
        out: Vec::new(),
        topics: 0,
    };
    maker.fields(fields);
    (maker.out, maker.topics)
}

fn framed(parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&(body.len() as u32).to_be_bytes()[..], &body].concat()
}

fn request(api: &Api, version: i16, correlation: i32, body: &[u8]) -> Vec<u8> {
    let flexible = version >= api.flexible.0 && version <= api.flexible.1;
    framed(&[
        &api.number.to_be_bytes(),
        &version.to_be_bytes(),
        &correlation.to_be_bytes(),
        &(CLIENT.len() as u16).to_be_bytes(),
        CLIENT,
        if flexible { &[0] } else { &[] },
        body,
    ])
}

fn response(api: &Api, version: i16, correlation: i32, body: &[u8]) -> Vec<u8> {
    let flexible = version >= api.flexible.0 && version <= api.flexible.1;
    let tags: &[u8] = if flexible && api.number != 18 {
        &[0]
    } else {
        &[]
    };
    framed(&[&correlation.to_be_bytes(), tags, body])
}

fn pairs() -> impl Iterator<Item = (&'static Api, i16)> {
    let apis = APIS.iter().copied().flatten();
    apis.flat_map(|api| (api.versions.0..=api.versions.1).map(move |version| (api, version)))
}

fn api(number: i16) -> &'static Api {
    APIS[number as usize].expect("an API")
}

static SLOT: AtomicU32 = AtomicU32::new(1);

fn published(slot: u32, sides: &str) -> Published {
    let text = format!(
        r#"{{"slot": {}, "sides": {}, "report": {{"allowed_every": 1}}}}"#,
        slot, sides
    );
    publish(Policy::of(&text).expect("a policy"))
}

/// A connection under rules of its own.
struct Bed {
    slot: u32,
    published: Published,
    connection: Connection,
}

/// What left: to the broker, to the client.
type Left = (Vec<u8>, Vec<u8>);

impl Bed {
    fn new(sides: &str) -> Bed {
        let slot = SLOT.fetch_add(1, Ordering::Relaxed);
        let published = published(slot, sides);
        let broker = ([9; 16], slot as u16);
        topics::learn(
            broker,
            [(ORDERS, &b"orders"[..]), (SECRET, &b"secret"[..])].into_iter(),
        );
        Bed {
            slot,
            connection: Connection::new(published.slot.clone(), broker).expect("rules"),
            published,
        }
    }

    /// Only the topic orders and the group mine.
    fn scoped() -> Bed {
        Bed::new(&scoped())
    }

    fn edit(&mut self, sides: &str) {
        self.published = published(self.slot, sides);
    }

    fn client(&mut self, bytes: &[u8]) -> Left {
        let mut out = Output::default();
        self.connection.request(bytes, &mut out);
        self.left(out.bytes(bytes), Vec::new())
    }

    fn broker(&mut self, bytes: &[u8]) -> Left {
        let mut out = Output::default();
        self.connection.response(bytes, &mut out);
        self.left(Vec::new(), out.bytes(bytes))
    }

    fn left(&mut self, mut to_broker: Vec<u8>, mut to_client: Vec<u8>) -> Left {
        to_broker.append(&mut self.connection.to_broker);
        to_client.append(&mut self.connection.to_client);
        (to_broker, to_client)
    }

    fn closed(&self) -> Option<Close> {
        self.connection.closing
    }
}

fn scoped() -> String {
    let apis: Vec<String> = (0..95).map(|number| number.to_string()).collect();
    format!(
        r#"[{{"allow": [{{"origin": "r", "apis": [{}], "topics": [{{"exact": "orders"}}], "groups": [{{"exact": "mine"}}]}}]}}]"#,
        apis.join(",")
    )
}

const ALL: &str = r#"[{"allow": [{"origin": "all", "apis": [0, 1, 3]}]}]"#;
const NOTHING: &str = r#"[{"allow": []}]"#;

fn frames(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let size = u32::from_be_bytes(bytes[..4].try_into().expect("four bytes")) as usize;
        found.push(&bytes[4..4 + size]);
        bytes = &bytes[4 + size..];
    }
    found
}

fn correlation(frame: &[u8]) -> i32 {
    i32::from_be_bytes(frame[..4].try_into().expect("four bytes"))
}

fn read_response(api: &'static Api, version: i16, frame: &[u8]) -> Content {
    let flexible = version >= api.flexible.0 && version <= api.flexible.1;
    let start = if flexible && api.number != 18 { 5 } else { 4 };
    Content::of(api.response, api, version, &frame[start..]).expect("a whole response")
}

fn read_request(frame: &[u8]) -> Content {
    let (key, version, _) = super::request::fixed_header(frame).expect("a header");
    let api = api(key);
    let header = super::request::header(frame, api.flexible.has(version));
    let header = header.expect("a header").expect("a whole header");
    Content::of(api.request, api, version, &frame[header.size..]).expect("a whole request")
}

fn topics_of(content: &Content) -> Vec<String> {
    let topics = content
        .entries
        .iter()
        .filter(|entry| entry.named == Named::Topic);
    let names = topics.map(|entry| match (&entry.name, entry.id) {
        (Some(name), _) => String::from_utf8_lossy(name).to_string(),
        (None, Some(SECRET)) => "secret".into(),
        (None, _) => "orders".into(),
    });
    names.collect()
}

// ---- the walker -------------------------------------------------------------------------------------------------------

/// Writes down what a walk tells.
#[derive(Default, PartialEq, Debug)]
struct Log(Vec<String>, u32);

impl Visitor for Log {
    fn array(&mut self, field: &'static Field, count: Option<u32>, at: Span) -> bool {
        self.0
            .push(format!("array {} {:?} {:?}", field.name, count, at));
        true
    }
    fn array_end(&mut self, field: &'static Field) {
        self.0.push(format!("end {}", field.name));
    }
    fn enter(&mut self, field: &'static Field, at: u64) {
        self.0.push(format!("enter {} {}", field.name, at));
    }
    fn leave(&mut self, field: &'static Field, at: u64) {
        self.0.push(format!("leave {} {}", field.name, at));
    }
    fn value(&mut self, field: &'static Field, value: Value<'_>, at: Span) -> bool {
        self.1 += (field.role == Role::Topic && value != Value::Null) as u32;
        self.0.push(format!("{} {:?} {:?}", field.name, value, at));
        true
    }
}

#[test]
fn every_message_is_walked_to_its_end_and_every_topic_is_seen() {
    let mut dice = Dice(1);
    for (api, version) in pairs() {
        for fields in [api.request, api.response] {
            for _ in 0..5 {
                let (body, topics) = made(fields, api, version, &mut dice);
                let mut log = Log::default();
                let mut walk = Walk::new(
                    fields,
                    version,
                    api.flexible.has(version),
                    body.len() as u64,
                );
                let progress = walk.feed(&body, &mut log);
                assert_eq!(progress, Ok(Progress::Done), "{} v{}", api.name, version);
                assert_eq!(
                    (walk.at(), log.1),
                    (body.len() as u64, topics),
                    "{} v{}",
                    api.name,
                    version
                );
            }
        }
    }
}

#[test]
fn a_walk_split_anywhere_tells_the_same() {
    let mut dice = Dice(2);
    for (api, version) in pairs() {
        let (body, _) = made(api.request, api, version, &mut dice);
        let flexible = api.flexible.has(version);
        let mut whole = Log::default();
        let mut walk = Walk::new(api.request, version, flexible, body.len() as u64);
        walk.feed(&body, &mut whole).expect("a message");
        let mut log = Log::default();
        let mut walk = Walk::new(api.request, version, flexible, body.len() as u64);
        for end in 0..=body.len() {
            let at = walk.at() as usize;
            walk.feed(&body[at.min(end)..end], &mut log)
                .expect("a message");
        }
        assert_eq!(log, whole, "{} v{}", api.name, version);
    }
}

#[test]
fn no_tagged_field_means_anything_to_an_authorizer() {
    fn check(api: &Api, fields: &'static [Field], tagged: bool) {
        for field in fields {
            let tagged = tagged || field.tag >= 0;
            let means = !matches!(
                field.role,
                Role::None | Role::Error | Role::ErrorMessage | Role::Throttle
            );
            assert!(!(tagged && means), "{} {}", api.name, field.name);
            check(api, field.fields, tagged);
        }
    }
    for api in APIS.iter().copied().flatten() {
        check(api, api.request, false);
        check(api, api.response, false);
    }
}

// ---- every API and version ---------------------------------------------------------------------------------------------

/// One request and, if it reaches the broker, a random response; `step`: bytes given at once.
fn exchange(number: i16, version: i16, seed: u64, step: usize) -> (Left, Left, Option<Close>) {
    let mut dice = Dice(seed);
    let api = api(number);
    let (body, _) = made(api.request, api, version, &mut dice);
    let (answer, _) = made(api.response, api, version, &mut dice);
    let mut bed = Bed::scoped();
    let mut asked = (Vec::new(), Vec::new());
    for part in request(api, version, 7, &body).chunks(step) {
        let (to_broker, to_client) = bed.client(part);
        asked.0.extend(to_broker);
        asked.1.extend(to_client);
    }
    let mut told = (Vec::new(), Vec::new());
    if asked.1.is_empty() {
        for part in response(api, version, 7, &answer).chunks(step) {
            let (to_broker, to_client) = bed.broker(part);
            told.0.extend(to_broker);
            told.1.extend(to_client);
        }
    }
    (asked, told, bed.closed())
}

fn judged_pairs() -> impl Iterator<Item = (&'static Api, i16)> {
    pairs().filter(|(api, _)| api.judged)
}

#[test]
fn an_exchange_split_at_every_byte_is_the_same_as_whole() {
    for (api, version) in judged_pairs() {
        for seed in 1..4 {
            let whole = exchange(api.number, version, seed, usize::MAX);
            assert_eq!(
                exchange(api.number, version, seed, 1),
                whole,
                "{} v{}",
                api.name,
                version
            );
            assert_eq!(
                exchange(api.number, version, seed, 13),
                whole,
                "{} v{}",
                api.name,
                version
            );
        }
    }
}

#[test]
fn no_denied_topic_reaches_the_broker_and_every_request_gets_a_whole_answer() {
    for (api, version) in judged_pairs() {
        for seed in 1..40 {
            let (asked, told, closing) = exchange(api.number, version, seed, usize::MAX);
            let what = format!("{} v{} seed {}: {:?}", api.name, version, seed, closing);
            for frame in frames(&asked.0) {
                if api.scope.has(Scope::TOPIC) {
                    let content = read_request(frame);
                    let forgotten = |entry: &&super::request::Entry| {
                        !super::reply::is_forgotten(&content, entry)
                    };
                    let judged: Vec<_> =
                        content.entries.iter().filter(forgotten).cloned().collect();
                    let judged = Content {
                        entries: judged,
                        ..Content::default()
                    };
                    assert!(
                        topics_of(&judged).iter().all(|topic| topic == "orders"),
                        "{}",
                        what
                    );
                }
            }
            if closing == Some(Close::Flush(Reason::NoAnswer)) {
                continue;
            }
            assert_eq!(closing, None, "{}", what);
            let answer = if asked.1.is_empty() {
                &told.1
            } else {
                &asked.1
            };
            let answers = frames(answer);
            assert_eq!(answers.len(), 1, "{}", what);
            assert_eq!(correlation(answers[0]), 7, "{}", what);
            read_response(api, version, answers[0]);
        }
    }
}

#[test]
fn an_all_denied_request_is_answered_for_every_api_and_version() {
    let mut dice = Dice(3);
    for (api, version) in judged_pairs() {
        let mut bed = Bed::new(NOTHING);
        let (body, _) = made(api.request, api, version, &mut dice);
        let (to_broker, to_client) = bed.client(&request(api, version, 7, &body));
        assert_eq!(to_broker, b"", "{} v{}", api.name, version);
        if bed.closed() == Some(Close::Flush(Reason::NoAnswer)) {
            continue;
        }
        let answers = frames(&to_client);
        assert_eq!(answers.len(), 1, "{} v{}", api.name, version);
        let content = read_response(api, version, answers[0]);
        if content.error == judge::FETCH_SESSION_ID_NOT_FOUND {
            continue; // of a session that this connection never had: the client names its topics anew
        }
        let event = bed.connection.events.last().expect("an event");
        assert_eq!(event.kind, Verdict::Denied, "{} v{}", api.name, version);
        assert_ne!(event.error, 0, "{} v{}", api.name, version);
    }
}

#[test]
fn what_a_rule_allows_whole_passes_byte_for_byte() {
    let apis: Vec<String> = (0..95).map(|number| number.to_string()).collect();
    let sides = format!(
        r#"[{{"allow": [{{"origin": "all", "apis": [{}]}}]}}]"#,
        apis.join(",")
    );
    let mut dice = Dice(4);
    for (api, version) in pairs().filter(|(api, _)| api.number != judge::SASL_HANDSHAKE) {
        let mut bed = Bed::new(&sides);
        let asked = request(
            api,
            version,
            7,
            &made(api.request, api, version, &mut dice).0,
        );
        assert_eq!(
            bed.client(&asked),
            (asked, Vec::new()),
            "{} v{}",
            api.name,
            version
        );
        let told = response(
            api,
            version,
            7,
            &made(api.response, api, version, &mut dice).0,
        );
        assert_eq!(
            bed.broker(&told),
            (Vec::new(), told),
            "{} v{}",
            api.name,
            version
        );
    }
}

#[test]
fn mutated_bytes_end_the_connection_or_pass_and_nothing_else() {
    let mut dice = Dice(5);
    let all: Vec<_> = judged_pairs().collect();
    for _ in 0..20_000 {
        let (api, version) = all[dice.below(all.len() as u64) as usize];
        let mut bed = Bed::scoped();
        let mut asked = request(
            api,
            version,
            7,
            &made(api.request, api, version, &mut dice).0,
        );
        let mut told = response(
            api,
            version,
            7,
            &made(api.response, api, version, &mut dice).0,
        );
        for bytes in [&mut asked, &mut told] {
            for _ in 0..dice.below(4) {
                let at = dice.below(bytes.len() as u64) as usize;
                match dice.below(3) {
                    0 => bytes[at] = dice.below(256) as u8,
                    1 => bytes[at] = 0xff,
                    _ => bytes.truncate(at.max(1)),
                }
            }
        }
        bed.client(&asked);
        bed.broker(&told);
    }
}

// ---- cases -------------------------------------------------------------------------------------------------------------

/// The body of a Produce v9: acks and topics with one partition each.
fn produce(acks: i16, topics: &[&str], record_bytes: usize) -> Vec<u8> {
    let mut out = vec![0];
    out.extend(acks.to_be_bytes());
    out.extend(1000u32.to_be_bytes());
    super::reply::count(Some(topics.len() as u32), true, &mut out);
    for topic in topics {
        super::reply::count(Some(topic.len() as u32), true, &mut out);
        out.extend(topic.as_bytes());
        super::reply::count(Some(1), true, &mut out);
        out.extend(3u32.to_be_bytes());
        super::reply::count(Some(record_bytes as u32), true, &mut out);
        out.extend(vec![0xcd; record_bytes]);
        out.extend([0, 0]);
    }
    out.push(0);
    out
}

/// A Produce v9 response with one entry for each topic.
fn produced(correlation: i32, topics: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    super::reply::count(Some(topics.len() as u32), true, &mut out);
    for topic in topics {
        super::reply::count(Some(topic.len() as u32), true, &mut out);
        out.extend(topic.as_bytes());
        super::reply::count(Some(1), true, &mut out);
        out.extend([0, 0, 0, 3, 0, 0]);
        out.extend([0; 24]);
        out.extend([1, 0, 0, 0]);
    }
    out.extend([0, 0, 0, 0, 0]);
    response(api(0), 9, correlation, &out)
}

#[test]
fn a_partly_denied_produce_is_cut_and_its_answer_completed() {
    let mut bed = Bed::scoped();
    let (to_broker, to_client) = bed.client(&request(
        api(0),
        9,
        1,
        &produce(-1, &["secret", "orders", "other"], 50),
    ));
    assert_eq!(to_client, b"");
    assert_eq!(
        to_broker,
        request(api(0), 9, 1, &produce(-1, &["orders"], 50))
    );
    let (_, answer) = bed.broker(&produced(1, &["orders"]));
    let content = read_response(api(0), 9, frames(&answer)[0]);
    assert_eq!(topics_of(&content), ["secret", "other", "orders"]);
    assert_eq!(content.entries[0].partitions, [3]);
}

#[test]
fn answers_keep_the_order_of_requests() {
    let mut bed = Bed::scoped();
    let allowed = |correlation| request(api(0), 9, correlation, &produce(1, &["orders"], 9));
    let denied = |correlation| request(api(0), 9, correlation, &produce(1, &["secret"], 9));
    let all = [
        denied(1),
        allowed(2),
        denied(3),
        denied(4),
        allowed(5),
        denied(6),
    ]
    .concat();
    let (to_broker, first) = bed.client(&all);
    assert_eq!(to_broker, [allowed(2), allowed(5)].concat());
    let answers = [produced(2, &["orders"]), produced(5, &["orders"])].concat();
    let (_, rest) = bed.broker(&answers);
    let found: Vec<i32> = frames(&first)
        .into_iter()
        .chain(frames(&rest))
        .map(correlation)
        .collect();
    assert_eq!(found, [1, 2, 3, 4, 5, 6]);
    assert_eq!(frames(&first).len(), 1);
}

#[test]
fn a_denied_produce_without_an_answer_closes_behind_what_is_due() {
    let mut bed = Bed::scoped();
    let first = request(api(0), 9, 1, &produce(1, &["orders"], 9));
    let second = request(api(0), 9, 2, &produce(0, &["secret"], 9));
    bed.client(&[first, second].concat());
    assert_eq!(bed.closed(), None);
    bed.broker(&produced(1, &["orders"]));
    assert_eq!(bed.closed(), Some(Close::Flush(Reason::NoAnswer)));
}

#[test]
fn a_partly_denied_produce_without_an_answer_is_done_and_then_closes() {
    let mut bed = Bed::scoped();
    let (to_broker, _) = bed.client(&request(
        api(0),
        9,
        1,
        &produce(0, &["orders", "secret"], 9),
    ));
    assert_eq!(
        to_broker,
        request(api(0), 9, 1, &produce(1, &["orders"], 9))
    );
    let (_, to_client) = bed.broker(&produced(1, &["orders"]));
    assert_eq!(to_client, b"");
    assert_eq!(bed.closed(), Some(Close::Flush(Reason::NoAnswer)));
}

#[test]
fn records_are_never_held() {
    let mut bed = Bed::scoped();
    let asked = request(api(0), 9, 1, &produce(1, &["orders"], 64 << 20));
    let mut passed = 0;
    for part in asked.chunks(64 << 10) {
        passed += bed.client(part).0.len();
        assert!(super::memory::held() < 40 << 20, "other tests hold some");
    }
    assert_eq!(passed, asked.len());
    let denied = request(api(0), 9, 2, &produce(1, &["secret"], 64 << 20));
    for part in denied.chunks(64 << 10) {
        assert_eq!(bed.client(part).0, b"");
    }
    let (_, answers) = bed.broker(&produced(1, &["orders"]));
    let found: Vec<i32> = frames(&answers).into_iter().map(correlation).collect();
    assert_eq!(found, [1, 2]);
}

#[test]
fn a_long_produce_is_judged_as_it_comes() {
    let long = 2 << 20;
    let mut bed = Bed::scoped();
    let allowed = request(api(0), 9, 1, &produce(1, &["orders", "orders"], long));
    let passed: Vec<u8> = allowed
        .chunks(65_536)
        .flat_map(|part| bed.client(part).0)
        .collect();
    assert_eq!(passed, allowed);
    // Denied first: the broker gets nothing, what was allowed is to be sent again.
    let mut bed = Bed::scoped();
    let mixed = request(api(0), 9, 1, &produce(1, &["secret", "orders"], long));
    let left: Vec<Left> = mixed.chunks(65_536).map(|part| bed.client(part)).collect();
    assert!(left.iter().all(|left| left.0.is_empty()));
    let answer = left
        .iter()
        .flat_map(|left| left.1.clone())
        .collect::<Vec<u8>>();
    let content = read_response(api(0), 9, frames(&answer)[0]);
    assert_eq!(topics_of(&content), ["secret", "orders"]);
    assert_eq!(bed.closed(), None);
    // Denied late: the broker's part is never completed.
    let mut bed = Bed::scoped();
    let mixed = request(api(0), 9, 1, &produce(1, &["orders", "secret"], long));
    let left: Vec<Left> = mixed.chunks(65_536).map(|part| bed.client(part)).collect();
    let passed: usize = left.iter().map(|left| left.0.len()).sum();
    assert!(passed > 0 && passed < long + 70_000, "{}", passed);
    assert_eq!(bed.closed(), Some(Close::Flush(Reason::Partial)));
}

/// A Metadata v12 response of topics (name, id).
fn metadata(correlation: i32, topics: &[(&str, [u8; 16])]) -> Vec<u8> {
    let mut out = vec![0, 0, 0, 0, 1, 0, 0, 0, 0, 1];
    super::reply::count(Some(topics.len() as u32), true, &mut out);
    for (name, id) in topics {
        out.extend([0, 0]);
        super::reply::count(Some(name.len() as u32), true, &mut out);
        out.extend(name.as_bytes());
        out.extend(id);
        out.extend([0, 1, 0, 0, 0, 0, 0]);
    }
    out.push(0);
    response(api(3), 12, correlation, &out)
}

fn metadata_request(topics: Option<&[&str]>) -> Vec<u8> {
    let mut out = Vec::new();
    super::reply::count(topics.map(|topics| topics.len() as u32), true, &mut out);
    for name in topics.unwrap_or(&[]) {
        out.extend([0; 16]);
        super::reply::count(Some(name.len() as u32), true, &mut out);
        out.extend(name.as_bytes());
        out.push(0);
    }
    out.extend([1, 0, 0]);
    out
}

#[test]
fn a_list_of_all_topics_is_filtered() {
    let mut bed = Bed::scoped();
    let asked = request(api(3), 12, 1, &metadata_request(None));
    assert_eq!(bed.client(&asked).0, asked);
    let (_, answer) = bed.broker(&metadata(
        1,
        &[("secret", SECRET), ("orders", ORDERS), ("x", [3; 16])],
    ));
    assert_eq!(answer, metadata(1, &[("orders", ORDERS)]));
}

#[test]
fn a_denied_topic_of_metadata_is_answered_without_its_id_and_never_asked_for() {
    let mut bed = Bed::scoped();
    let (to_broker, _) = bed.client(&request(
        api(3),
        12,
        1,
        &metadata_request(Some(&["secret"])),
    ));
    assert_eq!(
        to_broker,
        request(api(3), 12, 1, &metadata_request(Some(&[])))
    );
    let (_, answer) = bed.broker(&metadata(1, &[]));
    let content = read_response(api(3), 12, frames(&answer)[0]);
    assert_eq!(topics_of(&content), ["secret"]);
    assert_eq!(content.entries[0].id, None);
}

/// A Fetch v13 of ids, one partition each.
fn fetch(session: i32, epoch: i32, ids: &[[u8; 16]], forgotten: &[[u8; 16]]) -> Vec<u8> {
    let mut out = vec![0xff; 4];
    out.extend([0, 0, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0]);
    out.extend(session.to_be_bytes());
    out.extend(epoch.to_be_bytes());
    super::reply::count(Some(ids.len() as u32), true, &mut out);
    for id in ids {
        out.extend(id);
        out.extend([2, 0, 0, 0, 5]);
        out.extend([0; 4 + 8 + 4 + 8 + 4]);
        out.extend([0, 0]);
    }
    super::reply::count(Some(forgotten.len() as u32), true, &mut out);
    for id in forgotten {
        out.extend(id);
        out.extend([2, 0, 0, 0, 5, 0]);
    }
    out.extend([1, 0]);
    out
}

/// A Fetch v13 response of ids.
fn fetched(correlation: i32, session: i32, ids: &[[u8; 16]]) -> Vec<u8> {
    let mut out = vec![0, 0, 0, 0, 0, 0];
    out.extend(session.to_be_bytes());
    super::reply::count(Some(ids.len() as u32), true, &mut out);
    for id in ids {
        out.extend(id);
        out.extend([2, 0, 0, 0, 5, 0, 0]);
        out.extend([0; 24]);
        out.extend([1, 0, 0, 0, 0, 1, 0, 0]);
    }
    out.push(0);
    response(api(1), 13, correlation, &out)
}

#[test]
fn topic_ids_are_judged_by_name_and_an_unknown_one_is_asked_for() {
    let mut bed = Bed::scoped();
    let unknown = [7; 16];
    let asked = request(api(1), 13, 1, &fetch(0, -1, &[unknown], &[]));
    let later = request(api(1), 13, 2, &fetch(0, -1, &[ORDERS], &[]));
    let (question, nothing) = bed.client(&[asked.clone(), later.clone()].concat());
    assert_eq!(nothing, b"");
    assert!(bed.connection.is_blocked());
    let questions = frames(&question);
    assert_eq!(read_request(questions[0]).entries[0].id, Some(unknown));
    let own = i32::from_be_bytes(questions[0][4..8].try_into().expect("four bytes"));
    let (to_broker, to_client) = bed.broker(&metadata(own, &[("orders", unknown)]));
    assert_eq!(
        (to_broker, to_client),
        ([asked, later].concat(), Vec::new())
    );
    assert!(!bed.connection.is_blocked());
}

#[test]
fn an_id_that_the_broker_does_not_know_is_refused() {
    let mut bed = Bed::scoped();
    let (question, _) = bed.client(&request(api(1), 13, 1, &fetch(0, -1, &[[8; 16]], &[])));
    let own = i32::from_be_bytes(frames(&question)[0][4..8].try_into().expect("four bytes"));
    let (to_broker, to_client) = bed.broker(&metadata(own, &[]));
    assert_eq!(to_broker, b"");
    let answers = frames(&to_client);
    assert_eq!(correlation(answers[0]), 1);
    assert_eq!(
        bed.connection.events.last().expect("an event").error,
        judge::UNKNOWN_TOPIC_ID
    );
}

#[test]
fn a_fetch_session_is_told_of_its_denied_partitions_each_time_until_it_forgets_them() {
    let mut bed = Bed::scoped();
    let (to_broker, _) = bed.client(&request(
        api(1),
        13,
        1,
        &fetch(0, 0, &[ORDERS, SECRET], &[]),
    ));
    assert_eq!(
        to_broker,
        request(api(1), 13, 1, &fetch(0, 0, &[ORDERS], &[]))
    );
    let (_, answer) = bed.broker(&fetched(1, 77, &[ORDERS]));
    assert_eq!(
        topics_of(&read_response(api(1), 13, frames(&answer)[0])),
        ["secret", "orders"]
    );
    for correlation in 2..4 {
        let asked = request(
            api(1),
            13,
            correlation,
            &fetch(77, correlation - 1, &[], &[]),
        );
        assert_eq!(bed.client(&asked).0, asked);
        let (_, answer) = bed.broker(&fetched(correlation, 77, &[]));
        assert_eq!(
            topics_of(&read_response(api(1), 13, frames(&answer)[0])),
            ["secret"]
        );
    }
    let asked = request(api(1), 13, 4, &fetch(77, 3, &[], &[SECRET]));
    assert_eq!(bed.client(&asked).0, asked);
    assert_eq!(bed.broker(&fetched(4, 77, &[])).1, fetched(4, 77, &[]));
}

#[test]
fn a_fetch_session_begins_anew_after_an_edit_and_on_another_connection() {
    let lost = |answer: &[u8]| read_response(api(1), 13, frames(answer)[0]).error;
    let mut bed = Bed::scoped();
    bed.client(&request(api(1), 13, 1, &fetch(0, 0, &[ORDERS], &[])));
    bed.broker(&fetched(1, 77, &[ORDERS]));
    bed.edit(NOTHING);
    let (to_broker, answer) = bed.client(&request(api(1), 13, 2, &fetch(77, 1, &[], &[])));
    assert_eq!(
        (to_broker.len(), lost(&answer)),
        (0, judge::FETCH_SESSION_ID_NOT_FOUND)
    );
    let (to_broker, answer) =
        Bed::scoped().client(&request(api(1), 13, 2, &fetch(77, 1, &[], &[])));
    assert_eq!(
        (to_broker.len(), lost(&answer)),
        (0, judge::FETCH_SESSION_ID_NOT_FOUND)
    );
}

#[test]
fn an_edit_reaches_the_next_request() {
    let mut bed = Bed::new(ALL);
    let asked = request(api(0), 9, 1, &produce(1, &["secret"], 9));
    assert_eq!(bed.client(&asked).0, asked);
    bed.edit(NOTHING);
    assert_eq!(bed.client(&asked).0, b"");
    bed.edit(ALL);
    assert_eq!(bed.client(&asked).0, asked);
}

#[test]
fn a_version_that_nobody_knows_is_answered_or_closes() {
    let mut bed = Bed::new(ALL);
    let (to_broker, answer) = bed.client(&framed(&[&[0, 1, 0, 99, 0, 0, 0, 5, 0xff, 0xff, 0, 0]]));
    assert_eq!(to_broker, b"");
    let content = read_response(api(1), 18, frames(&answer)[0]);
    assert_eq!(content.error, judge::UNSUPPORTED_VERSION);
    assert_eq!(bed.closed(), None);
    bed.client(&framed(&[&[0, 0, 0, 2, 0, 0, 0, 5, 0xff, 0xff]]));
    assert_eq!(bed.closed(), Some(Close::Now(Reason::Unsupported)));
    let mut bed = Bed::new(ALL);
    bed.client(&framed(&[&[3, 0, 0, 0, 0, 0, 0, 5, 0xff, 0xff]]));
    assert_eq!(bed.closed(), Some(Close::Now(Reason::Unsupported)));
}

#[test]
fn api_versions_of_any_version_passes() {
    let mut bed = Bed::new(NOTHING);
    let asked = framed(&[&[0, 18, 0, 99, 0, 0, 0, 5, 0xff, 0xff, 0, 0, 1, 2, 3]]);
    assert_eq!(bed.client(&asked).0, asked);
    let told = framed(&[&[0, 0, 0, 5, 0, 35, 0, 0, 0, 0]]);
    assert_eq!(bed.broker(&told).1, told);
}

#[test]
fn what_is_not_kafka_closes_with_its_reason() {
    for (bytes, reason) in [
        (
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
            Reason::Tls,
        ),
        (b"GET / HTTP/1.1\r\n", Reason::FrameTooLong),
        (b"\xff\xff\xff\xff", Reason::FrameTooLong),
        (b"\x00\x00\x00\x01\x00", Reason::Malformed),
        (
            b"\x00\x00\x00\x0c\x00\x03\x00\x0c\x00\x00\x00\x00\x7f\xff\x00\x00",
            Reason::Malformed,
        ),
    ] {
        let mut bed = Bed::scoped();
        let mut passed = 0;
        for byte in bytes {
            passed += bed.client(&[*byte]).0.len();
        }
        assert_eq!((bed.closed(), passed), (Some(Close::Now(reason)), 0));
        assert_eq!(bed.connection.events[0].reason, reason);
    }
}

#[test]
fn a_response_that_nobody_asked_for_closes() {
    let mut bed = Bed::new(ALL);
    assert_eq!(bed.broker(b"SSH-2.0-x\r\n").1, b"");
    assert_eq!(bed.closed(), Some(Close::Now(Reason::Unasked)));
    let mut bed = Bed::new(ALL);
    bed.client(&request(api(0), 9, 1, &produce(1, &["orders"], 9)));
    assert_eq!(bed.broker(&produced(2, &["orders"])).1, b"");
    assert_eq!(bed.closed(), Some(Close::Now(Reason::Unasked)));
}

#[test]
fn counts_that_lie_allocate_nothing() {
    // A Metadata v12 that claims 2^31 topics in a frame of 16 MB, of which ten bytes have come.
    let mut bed = Bed::scoped();
    let mut bytes = request(
        api(3),
        12,
        1,
        &[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0, 0],
    );
    bytes[..4].copy_from_slice(&(16_000_000u32).to_be_bytes());
    bed.client(&bytes);
    assert_eq!(bed.closed(), None);
    let small = request(
        api(3),
        12,
        1,
        &[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0, 0],
    );
    let mut bed = Bed::scoped();
    bed.client(&small);
    assert_eq!(bed.closed(), Some(Close::Now(Reason::Malformed)));
    let mut bed = Bed::scoped();
    bytes[..4].copy_from_slice(&(17u32 << 20).to_be_bytes());
    bed.client(&bytes);
    assert_eq!(bed.closed(), Some(Close::Now(Reason::RequestTooLong)));
}

#[test]
fn raw_sasl_tokens_pass_and_are_counted() {
    let mut bed = Bed::new(NOTHING);
    let handshake = request(api(17), 0, 1, b"\x00\x0dSCRAM-SHA-256");
    assert_eq!(bed.client(&handshake).0, handshake);
    let early = framed(&[b"n,,n=user,r=x"]);
    assert_eq!(bed.client(&early).0, b"");
    let told = response(api(17), 0, 1, &[0, 0, 0, 0, 0, 0]);
    assert_eq!(bed.broker(&told), (early, told));
    let token = framed(&[b"\x00\x03\x00\x0c"]);
    assert_eq!(bed.client(&token).0, token);
    for _ in 0..2 {
        assert_eq!(bed.broker(&token).1, token);
    }
    // Both of the client's messages are through: Kafka again.
    let denied = request(api(0), 9, 1, &produce(1, &["orders"], 9));
    assert_eq!(bed.client(&denied).0, b"");
}

#[test]
fn a_refused_handshake_opens_no_gap() {
    let mut bed = Bed::new(NOTHING);
    bed.client(&request(api(17), 0, 1, b"\x00\x05PLAIN"));
    bed.broker(&response(api(17), 0, 1, &[0, 34, 0, 0, 0, 0]));
    let denied = request(api(0), 9, 2, &produce(1, &["orders"], 9));
    assert_eq!(bed.client(&denied).0, b"");
}

#[test]
fn an_audit_lets_pass_and_tells() {
    let mut bed = Bed::new(r#"[{"audit": true, "allow": []}]"#);
    let asked = request(api(0), 9, 1, &produce(1, &["secret"], 9));
    assert_eq!(bed.client(&asked).0, asked);
    bed.broker(&produced(1, &["secret"]));
    let event = &bed.connection.events[0];
    assert_eq!(
        (event.kind, &event.topics[0][..]),
        (Verdict::Audited, &b"secret"[..])
    );
}
