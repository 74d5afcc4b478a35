//! One walker for every Kafka message: bytes in, fields out, driven by the tables in `schema`.
//!
//! It stops wherever the bytes end and goes on when more have come: only the primitive at hand is ever wanted whole, the
//! content of `Bytes` and `Records` is skipped as it streams by. Nothing is believed that the frame's length contradicts:
//! a count of elements is at most the bytes that are left, as each takes a byte at least.
//! Source: Kafka's protocol guide; KIP-482 (flexible versions).

use super::description::{Field, Kind};

/// Levels of structs and arrays in one another; the deepest message of Kafka 4 has 11 (StreamsGroupDescribe).
pub const DEPTH_MAX: usize = 24;
/// Kafka's own limit: a string's length is an int16, in its compact form too.
pub const STRING_BYTES_MAX: u64 = 32_767;

/// The peer's bytes contradict its own lengths or the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// The value of a primitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    Number(i64),
    /// A string's or uuid's bytes.
    Text(&'a [u8]),
    /// The length of `Bytes` or `Records`, whose content is skipped.
    Long(u64),
}

/// Where something stands, in bytes from the start of the message's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: u64,
    pub end: u64,
}

/// What is told of a message, in the order of the wire. Each returns whether to go on.
pub trait Visitor {
    /// An array begins; `count` is None for null. `at`: its count.
    fn array(&mut self, _field: &'static Field, _count: Option<u32>, _at: Span) -> bool {
        true
    }
    fn array_end(&mut self, _field: &'static Field) {}
    /// A struct begins: a field, or an element of the array `field`.
    fn enter(&mut self, _field: &'static Field, _at: u64) {}
    fn leave(&mut self, _field: &'static Field, _at: u64) {}
    /// A primitive: a field, or an element of the array `field`.
    fn value(&mut self, _field: &'static Field, _value: Value<'_>, _at: Span) -> bool {
        true
    }
}

/// How far a walk came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The bytes end within the message.
    More,
    /// The visitor has seen enough for now.
    Stopped,
    /// The message is complete.
    Done,
}

#[derive(Clone, Copy)]
enum Level {
    Struct {
        owner: Option<&'static Field>,
        fields: &'static [Field],
        next: usize,
    },
    Tags {
        owner: Option<&'static Field>,
        left: u32,
    },
    Array {
        field: &'static Field,
        left: u32,
    },
}

/// A walk through the body of one message.
pub struct Walk {
    levels: [Level; DEPTH_MAX],
    depth: usize,
    version: i16,
    flexible: bool,
    /// Bytes of the body that were walked.
    at: u64,
    /// Length of the body.
    end: u64,
    /// Bytes to pass over before the next field.
    skip: u64,
}

enum Read<T> {
    Got(T, usize),
    Short,
}

impl Walk {
    /// A walk of a body of `length` bytes.
    pub fn new(fields: &'static [Field], version: i16, flexible: bool, length: u64) -> Walk {
        let root = Level::Struct {
            owner: None,
            fields,
            next: 0,
        };
        Walk {
            levels: [root; DEPTH_MAX],
            depth: 1,
            version,
            flexible,
            at: 0,
            end: length,
            skip: 0,
        }
    }

    /// Bytes walked so far.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Walk on through `input`, which begins at `at()`. What lies behind the new `at()` must come again, with more.
    pub fn feed(&mut self, input: &[u8], visitor: &mut dyn Visitor) -> Result<Progress, Malformed> {
        let base = self.at;
        loop {
            let mut rest = input.get((self.at - base) as usize..).unwrap_or(&[]);
            if rest.len() as u64 > self.end - self.at {
                rest = &rest[..(self.end - self.at) as usize];
            }
            if self.skip > 0 {
                let skipped = self.skip.min(rest.len() as u64);
                self.skip -= skipped;
                self.at += skipped;
                if self.skip > 0 {
                    return Ok(Progress::More);
                }
                continue;
            }
            if self.depth == 0 {
                return Ok(Progress::Done);
            }
            match self.step(rest, visitor)? {
                Step::On => {}
                Step::Short if self.end - self.at == rest.len() as u64 => {
                    return Err(Malformed("a field goes beyond the frame"));
                }
                Step::Short => return Ok(Progress::More),
                Step::Stop => return Ok(Progress::Stopped),
            }
        }
    }

    fn step(&mut self, rest: &[u8], visitor: &mut dyn Visitor) -> Result<Step, Malformed> {
        let top = self.depth - 1;
        match self.levels[top] {
            Level::Struct {
                owner,
                fields,
                mut next,
            } => {
                let version = self.version;
                while next < fields.len()
                    && (fields[next].tag >= 0 || !fields[next].versions.has(version))
                {
                    next += 1;
                }
                if next < fields.len() {
                    let done = self.field(&fields[next], rest, visitor)?;
                    if !matches!(done, Step::Short) {
                        self.levels[top] = Level::Struct {
                            owner,
                            fields,
                            next: next + 1,
                        };
                    }
                    return Ok(done);
                }
                if !self.flexible {
                    self.depth -= 1;
                    self.left(owner, visitor);
                    return Ok(Step::On);
                }
                match uvarint(rest)? {
                    Read::Short => Ok(Step::Short),
                    Read::Got(left, size) => {
                        self.at += size as u64;
                        self.bounded(left as u64)?;
                        self.levels[top] = Level::Tags { owner, left };
                        Ok(Step::On)
                    }
                }
            }
            Level::Tags { owner, left: 0 } => {
                self.depth -= 1;
                self.left(owner, visitor);
                Ok(Step::On)
            }
            Level::Tags { owner, left } => {
                let (tag_size, size, size_size) = match uvarint(rest)? {
                    Read::Short => return Ok(Step::Short),
                    Read::Got(_, tag_size) => match uvarint(&rest[tag_size..])? {
                        Read::Short => return Ok(Step::Short),
                        Read::Got(size, size_size) => (tag_size, size, size_size),
                    },
                };
                self.at += (tag_size + size_size) as u64;
                self.bounded(size as u64)?;
                self.skip = size as u64;
                self.levels[top] = Level::Tags {
                    owner,
                    left: left - 1,
                };
                Ok(Step::On)
            }
            Level::Array { field, left: 0 } => {
                self.depth -= 1;
                visitor.array_end(field);
                Ok(Step::On)
            }
            Level::Array { field, left } => {
                let done = if field.kind == Kind::Struct {
                    self.enter(field, visitor)?
                } else {
                    self.primitive(field, false, rest, visitor)?
                };
                if !matches!(done, Step::Short) {
                    self.levels[top] = Level::Array {
                        field,
                        left: left - 1,
                    };
                }
                Ok(done)
            }
        }
    }

    fn left(&mut self, owner: Option<&'static Field>, visitor: &mut dyn Visitor) {
        if let Some(field) = owner {
            visitor.leave(field, self.at);
        }
    }

    fn field(
        &mut self,
        field: &'static Field,
        rest: &[u8],
        visitor: &mut dyn Visitor,
    ) -> Result<Step, Malformed> {
        let nullable = field.nullable.has(self.version);
        if field.array {
            let (count, size) = match length(rest, self.flexible, 4)? {
                Read::Short => return Ok(Step::Short),
                Read::Got(count, size) => (count, size),
            };
            if count.is_none() && !nullable {
                return Err(Malformed("an array is null that must not be"));
            }
            let start = self.at;
            self.at += size as u64;
            self.bounded(count.unwrap_or(0))?;
            let count = count.map(|count| count as u32);
            let at = Span {
                start,
                end: self.at,
            };
            let on = visitor.array(field, count, at);
            self.push(Level::Array {
                field,
                left: count.unwrap_or(0),
            })?;
            return Ok(if on { Step::On } else { Step::Stop });
        }
        if field.kind != Kind::Struct {
            return self.primitive(field, nullable, rest, visitor);
        }
        if nullable {
            let mark = match rest.first() {
                None => return Ok(Step::Short),
                Some(mark) => *mark as i8,
            };
            self.at += 1;
            if mark < 0 {
                let at = Span {
                    start: self.at - 1,
                    end: self.at,
                };
                return Ok(go_on(visitor.value(field, Value::Null, at)));
            }
        }
        self.enter(field, visitor)
    }

    fn enter(
        &mut self,
        field: &'static Field,
        visitor: &mut dyn Visitor,
    ) -> Result<Step, Malformed> {
        visitor.enter(field, self.at);
        self.push(Level::Struct {
            owner: Some(field),
            fields: field.fields,
            next: 0,
        })?;
        Ok(Step::On)
    }

    fn primitive(
        &mut self,
        field: &'static Field,
        nullable: bool,
        rest: &[u8],
        visitor: &mut dyn Visitor,
    ) -> Result<Step, Malformed> {
        let start = self.at;
        let fixed = match field.kind {
            Kind::Bool | Kind::Int8 => 1,
            Kind::Int16 | Kind::Uint16 => 2,
            Kind::Int32 => 4,
            Kind::Int64 | Kind::Float64 => 8,
            Kind::Uuid => 16,
            Kind::String | Kind::Bytes | Kind::Records | Kind::Struct => 0,
        };
        let (value, size) = if fixed > 0 {
            if rest.len() < fixed {
                return Ok(Step::Short);
            }
            let bytes = &rest[..fixed];
            let value = match field.kind {
                Kind::Uuid | Kind::Float64 => Value::Text(bytes),
                Kind::Uint16 => Value::Number(number(bytes) & 0xffff),
                _ => Value::Number(number(bytes)),
            };
            (value, fixed)
        } else {
            let prefix = if field.kind == Kind::String { 2 } else { 4 };
            let (count, size) = match length(rest, self.flexible, prefix)? {
                Read::Short => return Ok(Step::Short),
                Read::Got(count, size) => (count, size),
            };
            match count {
                None if !nullable && field.kind != Kind::Records => {
                    return Err(Malformed("a field is null that must not be"))
                }
                None => (Value::Null, size),
                Some(count) if field.kind == Kind::String => {
                    if count > STRING_BYTES_MAX {
                        return Err(Malformed("a string is too long"));
                    }
                    match rest.get(size..size + count as usize) {
                        None => return Ok(Step::Short),
                        Some(text) => (Value::Text(text), size + count as usize),
                    }
                }
                Some(count) => {
                    self.at += size as u64;
                    self.bounded(count)?;
                    self.skip = count;
                    let at = Span {
                        start,
                        end: self.at + count,
                    };
                    return Ok(go_on(visitor.value(field, Value::Long(count), at)));
                }
            }
        };
        self.at += size as u64;
        let at = Span {
            start,
            end: self.at,
        };
        Ok(go_on(visitor.value(field, value, at)))
    }

    fn push(&mut self, level: Level) -> Result<(), Malformed> {
        if self.depth == DEPTH_MAX {
            return Err(Malformed("too deep"));
        }
        self.levels[self.depth] = level;
        self.depth += 1;
        Ok(())
    }

    /// Refuse a length or count that the frame has no room for.
    fn bounded(&self, claimed: u64) -> Result<(), Malformed> {
        if claimed > self.end - self.at {
            return Err(Malformed("a length or count goes beyond the frame"));
        }
        Ok(())
    }
}

enum Step {
    On,
    Short,
    Stop,
}

fn go_on(on: bool) -> Step {
    if on {
        Step::On
    } else {
        Step::Stop
    }
}

/// Big-endian two's complement of up to eight bytes.
pub fn number(bytes: &[u8]) -> i64 {
    let negative = bytes.first().map_or(false, |first| *first >= 0x80);
    bytes
        .iter()
        .fold(if negative { -1 } else { 0 }, |sum, byte| {
            (sum << 8) | *byte as i64
        })
}

/// An unsigned varint of at most 32 bits.
fn uvarint(bytes: &[u8]) -> Result<Read<u32>, Malformed> {
    let mut value: u64 = 0;
    for (index, byte) in bytes.iter().enumerate().take(5) {
        value |= ((byte & 0x7f) as u64) << (7 * index);
        if byte & 0x80 == 0 {
            return match u32::try_from(value) {
                Ok(value) => Ok(Read::Got(value, index + 1)),
                Err(_) => Err(Malformed("a varint has more than 32 bits")),
            };
        }
    }
    if bytes.len() >= 5 {
        return Err(Malformed("a varint has more than five bytes"));
    }
    Ok(Read::Short)
}

/// A length or count: compact, or of `prefix` bytes. None: null.
fn length(bytes: &[u8], flexible: bool, prefix: usize) -> Result<Read<Option<u64>>, Malformed> {
    if flexible {
        return Ok(match uvarint(bytes)? {
            Read::Short => Read::Short,
            Read::Got(0, size) => Read::Got(None, size),
            Read::Got(count, size) => Read::Got(Some(count as u64 - 1), size),
        });
    }
    if bytes.len() < prefix {
        return Ok(Read::Short);
    }
    match number(&bytes[..prefix]) {
        -1 => Ok(Read::Got(None, prefix)),
        count if count < 0 => Err(Malformed("a length is negative")),
        count => Ok(Read::Got(Some(count as u64), prefix)),
    }
}

/// Pass over a tagged section at the start of `bytes`: its size, or None when it isn't whole yet.
pub fn tags_size(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let (count, mut at) = match uvarint(bytes)? {
        Read::Short => return Ok(None),
        Read::Got(count, size) => (count, size),
    };
    for _ in 0..count {
        for is_size in [false, true] {
            let rest = match bytes.get(at..) {
                None => return Ok(None),
                Some(rest) => rest,
            };
            match uvarint(rest)? {
                Read::Short => return Ok(None),
                Read::Got(value, size) => at += size + if is_size { value as usize } else { 0 },
            }
        }
    }
    Ok(if at <= bytes.len() { Some(at) } else { None })
}
