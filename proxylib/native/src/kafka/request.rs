//! What a message names: its header, and the entries that a policy judges one by one.
//!
//! An *entry* is an element of an array that names a topic, group or resource, or such a name itself where the array
//! holds plain names. It is kept as positions in the frame, so that it can be cut out or answered for.

use super::description::{Api, Field, Kind, Role};
use super::walk::{number, tags_size, Malformed, Progress, Span, Value, Visitor, Walk};

/// Key, version, correlation id.
pub const HEADER_FIXED_BYTES: usize = 8;
/// Client id (an int16 length) and the header's tagged fields, which nobody uses.
pub const HEADER_BYTES_MAX: usize = 40_000;
/// Entries of one message: more topics than a broker serves, and 6 MB of our memory.
pub const ENTRIES_MAX: usize = 65_536;
/// Partitions named in one message.
pub const PARTITIONS_MAX: usize = 524_288;

/// A request's header (v1, v2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    pub key: i16,
    pub version: i16,
    pub correlation: i32,
    pub client: &'a [u8],
    /// Bytes of the header; the body follows.
    pub size: usize,
}

/// Read key, version and correlation id; None when `bytes` is too short.
pub fn fixed_header(bytes: &[u8]) -> Option<(i16, i16, i32)> {
    let fixed = bytes.get(..HEADER_FIXED_BYTES)?;
    Some((
        number(&fixed[0..2]) as i16,
        number(&fixed[2..4]) as i16,
        number(&fixed[4..8]) as i32,
    ))
}

/// Read a whole header; None when `bytes` ends within it.
pub fn header(bytes: &[u8], flexible: bool) -> Result<Option<Header<'_>>, Malformed> {
    let (key, version, correlation) = match fixed_header(bytes) {
        None => return Ok(None),
        Some(fixed) => fixed,
    };
    let mut size = HEADER_FIXED_BYTES + 2;
    let client = match bytes.get(HEADER_FIXED_BYTES..size).map(number) {
        None => return Ok(None),
        Some(-1) => &[],
        Some(length) if length < 0 => return Err(Malformed("the client id has a negative length")),
        Some(length) => match bytes.get(size..size + length as usize) {
            None => return Ok(None),
            Some(client) => {
                size += length as usize;
                client
            }
        },
    };
    if flexible {
        match tags_size(&bytes[size..])? {
            None => return Ok(None),
            Some(tags) => size += tags,
        }
    }
    Ok(Some(Header {
        key,
        version,
        correlation,
        client,
        size,
    }))
}

/// What an entry names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    Topic,
    Group,
    Resource,
    Coordinator,
    Transaction,
}

/// No parent, or no array: the index that stands for none.
pub const NONE: u32 = u32::MAX;

/// One entry; see the module's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub named: Named,
    /// Index in `Named::arrays`.
    pub array: u32,
    /// Index of the entry around it, or NONE.
    pub parent: u32,
    pub span: Span,
    pub name: Option<Vec<u8>>,
    pub id: Option<[u8; 16]>,
    pub resource: i8,
    pub partitions: Vec<i32>,
}

/// An array of entries.
#[derive(Clone, Debug)]
pub struct ArrayAt {
    pub field: &'static Field,
    pub parent: u32,
    /// Of its count.
    pub at: Span,
    /// None: null.
    pub count: Option<u32>,
}

/// All that a message names.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pub entries: Vec<Entry>,
    pub arrays: Vec<ArrayAt>,
    pub group: Option<Vec<u8>>,
    /// It names a transactional id, outside its entries.
    pub transactional: bool,
    pub coordinator: i8,
    /// FindCoordinator's key before v4.
    pub key: Option<Vec<u8>>,
    pub acks: Option<i16>,
    /// Where Produce's acks stand.
    pub acks_at: u64,
    pub session: i32,
    pub epoch: Option<i32>,
    /// The error at the top of a response.
    pub error: i16,
    /// Elements of the first array.
    pub first_count: Option<u32>,
    /// The body ends here.
    pub end: u64,
}

impl Content {
    /// Walk a whole body.
    pub fn of(
        fields: &'static [Field],
        api: &Api,
        version: i16,
        body: &[u8],
    ) -> Result<Content, Malformed> {
        let mut collector = Collector::default();
        let flexible = api.flexible.has(version);
        let mut walk = Walk::new(fields, version, flexible, body.len() as u64);
        match walk.feed(body, &mut collector)? {
            Progress::Done => {}
            Progress::More => return Err(Malformed("the message ends within a field")),
            Progress::Stopped => return Err(Malformed("too many entries")),
        }
        // What stands behind the message is nobody's business: Kafka ignores it, and librdkafka sends some.
        collector.content.end = walk.at();
        Ok(collector.content)
    }
}

/// What the entries of an array name, if anything.
pub fn named(field: &Field) -> Option<Named> {
    if !field.array {
        return None;
    }
    if field.kind != Kind::Struct {
        return of_role(field.role);
    }
    field
        .fields
        .iter()
        .filter(|inner| !inner.array && inner.tag < 0)
        .find_map(|inner| of_role(inner.role))
}

fn of_role(role: Role) -> Option<Named> {
    match role {
        Role::Topic | Role::TopicId => Some(Named::Topic),
        Role::Group => Some(Named::Group),
        Role::ResourceName => Some(Named::Resource),
        Role::CoordinatorKey => Some(Named::Coordinator),
        Role::TransactionalId => Some(Named::Transaction),
        _ => None,
    }
}

/// Whether a field within a topic's entry is a partition's number, or an array of them.
pub fn is_partition(field: &Field) -> bool {
    field.kind == Kind::Int32
        && match field.name {
            "partition_indexes" | "partitions" => field.array,
            "index" | "partition" | "partition_index" => !field.array,
            _ => false,
        }
}

/// Gathers a `Content` while a walk goes on; may be looked at between feeds.
#[derive(Default)]
pub struct Collector {
    pub content: Content,
    /// Entries that are open; NONE for structs that are no entries.
    open: Vec<u32>,
    /// Indices in `arrays` of the arrays that are open; NONE for arrays of no entries.
    open_arrays: Vec<u32>,
    partitions: usize,
}

impl Collector {
    fn entry(&self) -> u32 {
        let mut open = self.open.iter().rev();
        *open.find(|entry| **entry != NONE).unwrap_or(&NONE)
    }

    fn add(&mut self, named: Named, span: Span) -> u32 {
        let parent = self.entry();
        let index = self.content.entries.len() as u32;
        self.content.entries.push(Entry {
            named,
            array: self.open_arrays.last().copied().unwrap_or(NONE),
            parent,
            span,
            name: None,
            id: None,
            resource: 0,
            partitions: Vec::new(),
        });
        index
    }

    fn full(&self) -> bool {
        self.content.entries.len() >= ENTRIES_MAX || self.partitions >= PARTITIONS_MAX
    }

    fn scalar(&mut self, field: &Field, value: Value<'_>, at: Span) {
        match (field.role, value) {
            (Role::Group, Value::Text(text)) => self.content.group = Some(text.to_vec()),
            (Role::TransactionalId, Value::Text(_)) => self.content.transactional = true,
            (Role::CoordinatorKey, Value::Text(text)) => self.content.key = Some(text.to_vec()),
            (Role::CoordinatorType, Value::Number(number)) => {
                self.content.coordinator = number as i8
            }
            (Role::Error, Value::Number(number)) => self.content.error = number as i16,
            (Role::None, Value::Number(number)) => match field.name {
                "acks" => {
                    self.content.acks = Some(number as i16);
                    self.content.acks_at = at.start;
                }
                "session_id" => self.content.session = number as i32,
                "session_epoch" | "share_session_epoch" => self.content.epoch = Some(number as i32),
                _ => {}
            },
            _ => {}
        }
    }
}

impl Visitor for Collector {
    fn array(&mut self, field: &'static Field, count: Option<u32>, at: Span) -> bool {
        if self.open_arrays.is_empty() && self.content.first_count.is_none() {
            self.content.first_count = count;
        }
        let index = if named(field).is_some() {
            self.content.arrays.push(ArrayAt {
                field,
                parent: self.entry(),
                at,
                count,
            });
            self.content.arrays.len() as u32 - 1
        } else {
            NONE
        };
        self.open_arrays.push(index);
        self.content.arrays.len() < ENTRIES_MAX
    }

    fn array_end(&mut self, _field: &'static Field) {
        self.open_arrays.pop();
    }

    fn enter(&mut self, field: &'static Field, at: u64) {
        let entry = match named(field) {
            Some(named) => self.add(named, Span { start: at, end: at }),
            None => NONE,
        };
        self.open.push(entry);
    }

    fn leave(&mut self, _field: &'static Field, at: u64) {
        if let Some(index) = self.open.pop() {
            if let Some(entry) = self.content.entries.get_mut(index as usize) {
                entry.span.end = at;
            }
        }
    }

    fn value(&mut self, field: &'static Field, value: Value<'_>, at: Span) -> bool {
        if field.array {
            if let Some(named) = of_role(field.role) {
                let index = self.add(named, at) as usize;
                let entry = &mut self.content.entries[index];
                match (field.kind, value) {
                    (Kind::Uuid, Value::Text(id)) => entry.id = uuid(id),
                    (_, Value::Text(name)) => entry.name = Some(name.to_vec()),
                    _ => {}
                }
                return !self.full();
            }
        }
        let index = self.entry();
        let entry = match self.content.entries.get_mut(index as usize) {
            None => {
                if self.open.is_empty() {
                    self.scalar(field, value, at);
                }
                return true;
            }
            Some(entry) => entry,
        };
        match (field.role, value) {
            (Role::TopicId, Value::Text(id)) => entry.id = uuid(id),
            (Role::ResourceType, Value::Number(number)) => entry.resource = number as i8,
            (role, Value::Text(name)) if of_role(role) == Some(entry.named) => {
                entry.name = Some(name.to_vec())
            }
            (Role::None, Value::Number(number))
                if entry.named == Named::Topic && is_partition(field) =>
            {
                entry.partitions.push(number as i32);
                self.partitions += 1;
            }
            _ => {}
        }
        !self.full()
    }
}

/// An id as sixteen bytes; all zero means none.
fn uuid(bytes: &[u8]) -> Option<[u8; 16]> {
    let mut id = [0; 16];
    id.copy_from_slice(bytes.get(..16)?);
    if id == [0; 16] {
        None
    } else {
        Some(id)
    }
}
