//! The filter as a whole: messages made independently of the walker and the builder, a connection to give them to.

mod cases;
mod every;
mod walking;

use crate::kafka::connection::{Close, Connection};
use crate::kafka::description::{Api, Field, Kind, Role, Scope};
use crate::kafka::judge;
use crate::kafka::output::Output;
use crate::kafka::policy::Policy;
use crate::kafka::report::{Kind as Verdict, Reason};
use crate::kafka::request::{Content, Named};
use crate::kafka::schema::APIS;
use crate::kafka::slots::{publish, Published};
use crate::kafka::topics;
use crate::kafka::walk::{Progress, Span, Value, Visitor, Walk};

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
    let (key, version, _) = crate::kafka::request::fixed_header(frame).expect("a header");
    let api = api(key);
    let header = crate::kafka::request::header(frame, api.flexible.has(version));
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
