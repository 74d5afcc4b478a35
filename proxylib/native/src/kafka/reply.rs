//! Answers of our own, and edits of messages that pass.
//!
//! An answer is built from the same tables that messages are read by: every field holds what Kafka's own message would hold
//! by default, names come from the request's entries, error codes from the verdict. An edit cuts entries out and puts built
//! ones in; counts and the frame's length follow.

use super::description::{Api, Field, Kind, Role};
use super::request::{is_partition, named, Content, Entry, Named, NONE};
use super::walk::Span;

/// An answer of one request.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    pub api: &'static Api,
    pub version: i16,
    pub correlation: i32,
    /// The error at the top, where the response has one there.
    pub error: i16,
    pub content: &'a Content,
    /// By index in `content.entries`; entries with error 0 are left out.
    pub errors: &'a [i16],
}

impl<'a> Answer<'a> {
    /// An answer without errors, to be filled.
    pub fn of(
        api: &'static Api,
        version: i16,
        correlation: i32,
        content: &'a Content,
    ) -> Answer<'a> {
        Answer {
            api,
            version,
            correlation,
            error: 0,
            content,
            errors: &[],
        }
    }
}

/// Whether a response of this version tells an error at its top.
pub fn has_top_error(api: &Api, version: i16) -> bool {
    let mut fields = api.response.iter();
    fields.any(|field| field.role == Role::Error && field.tag < 0 && field.versions.has(version))
}

/// Append a whole frame.
pub fn answer(answer: Answer<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend([0; 4]);
    out.extend(answer.correlation.to_be_bytes());
    let flexible = answer.api.flexible.has(answer.version);
    // ApiVersions keeps the old header, so that clients of any age can read it (KIP-511).
    if flexible && answer.api.number != 18 {
        out.push(0);
    }
    let mut builder = Builder {
        api: answer.api.number,
        version: answer.version,
        flexible,
        alone: true,
        content: answer.content,
        errors: answer.errors,
        top: answer.error,
        out,
    };
    builder.fields(answer.api.response, NONE);
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Build the elements of the response's array `field` that answer entries of `content` with the parent `parent`.
pub fn elements(answer: Answer<'_>, field: &'static Field, parent: u32) -> (u32, Vec<u8>) {
    let mut out = Vec::new();
    let mut builder = Builder {
        api: answer.api.number,
        version: answer.version,
        flexible: answer.api.flexible.has(answer.version),
        alone: false,
        content: answer.content,
        errors: answer.errors,
        top: answer.error,
        out: &mut out,
    };
    let count = builder.elements(field, parent);
    (count, out)
}

struct Builder<'a> {
    api: i16,
    version: i16,
    flexible: bool,
    /// Nothing of the broker's is there to put entries into: those around denied ones are answered too.
    alone: bool,
    content: &'a Content,
    errors: &'a [i16],
    top: i16,
    out: &'a mut Vec<u8>,
}

impl Builder<'_> {
    fn fields(&mut self, fields: &'static [Field], entry: u32) {
        for field in fields {
            if field.tag < 0 && field.versions.has(self.version) {
                self.field(field, entry, None);
            }
        }
        if self.flexible {
            self.out.push(0);
        }
    }

    /// Fields of what stands for one partition of `entry`.
    fn partition(&mut self, fields: &'static [Field], entry: u32, partition: i32) {
        let mut numbers = fields
            .iter()
            .filter(|field| field.kind == Kind::Int32 && !field.array);
        let number = numbers.next().map(|field| field.name);
        for field in fields {
            if field.tag < 0 && field.versions.has(self.version) {
                let given = Some(partition).filter(|_| Some(field.name) == number);
                self.field(field, entry, given);
            }
        }
        if self.flexible {
            self.out.push(0);
        }
    }

    fn field(&mut self, field: &'static Field, entry: u32, given: Option<i32>) {
        if field.array {
            self.array(field, entry);
            return;
        }
        if let Some(number) = given {
            self.out.extend(number.to_be_bytes());
            return;
        }
        let about = self.content.entries.get(entry as usize);
        let name = about.and_then(|entry| entry.name.as_deref());
        match field.role {
            Role::Error => {
                let error = self.errors.get(entry as usize).copied();
                self.out.extend(error.unwrap_or(self.top).to_be_bytes());
            }
            Role::TopicId => {
                let id = about.and_then(|entry| entry.id);
                self.out.extend(id.unwrap_or([0; 16]));
            }
            Role::ResourceType => self.out.push(about.map_or(0, |entry| entry.resource) as u8),
            Role::Group if about.map_or(true, |entry| entry.named != Named::Group) => {
                let group = self.content.group.as_deref().unwrap_or(b"");
                text(Some(group), self.flexible, self.out);
            }
            Role::Topic
            | Role::Group
            | Role::ResourceName
            | Role::CoordinatorKey
            | Role::TransactionalId => {
                let nullable = field.nullable.has(self.version);
                let empty = if nullable { None } else { Some(&b""[..]) };
                text(name.or(empty), self.flexible, self.out);
            }
            _ => self.fill(field),
        }
    }

    fn array(&mut self, field: &'static Field, entry: u32) {
        let count_at = self.out.len();
        let count = if named(field).is_some() && field.kind == Kind::Struct {
            self.elements(field, entry)
        } else if self.is_of_partitions(field, entry) {
            let partitions = &self.content.entries[entry as usize].partitions;
            for partition in partitions {
                self.partition(field.fields, entry, *partition);
            }
            partitions.len() as u32
        } else if entry == NONE && self.is_parallel(field) {
            let count = self.content.first_count.unwrap_or(0);
            for _ in 0..count {
                self.fields(field.fields, NONE);
            }
            count
        } else if field.null_default && field.nullable.has(self.version) {
            count(None, self.flexible, self.out);
            return;
        } else {
            0
        };
        let mut encoded = Vec::new();
        self::count(Some(count), self.flexible, &mut encoded);
        self.out.splice(count_at..count_at, encoded);
    }

    fn elements(&mut self, field: &'static Field, parent: u32) -> u32 {
        let wanted = named(field);
        let content = self.content;
        let mut count = 0;
        for (index, entry) in content.entries.iter().enumerate() {
            let error = self.errors.get(index).copied().unwrap_or(0);
            let fits = Some(entry.named) == wanted
                && entry.parent == parent
                && !is_forgotten(content, entry);
            if fits && (error != 0 || self.alone && self.has_denied_child(index as u32)) {
                self.fields(field.fields, index as u32);
                count += 1;
            }
        }
        count
    }

    fn has_denied_child(&self, parent: u32) -> bool {
        let entries = self.content.entries.iter().zip(self.errors);
        entries
            .into_iter()
            .any(|(entry, error)| entry.parent == parent && *error != 0)
    }

    /// An array within a topic's entry that tells of each partition.
    fn is_of_partitions(&self, field: &Field, entry: u32) -> bool {
        let about = self.content.entries.get(entry as usize);
        about.map_or(false, |entry| entry.named == Named::Topic)
            && field.kind == Kind::Struct
            && field.fields.iter().any(|inner| inner.role == Role::Error)
            && field.fields.iter().any(|inner| {
                is_partition(inner)
                    || inner.name == "partition_id"
                    || inner.name == "partition_index"
            })
    }

    /// An array that answers element by element what has no name: of ACLs.
    fn is_parallel(&self, field: &Field) -> bool {
        field.kind == Kind::Struct && field.fields.iter().any(|inner| inner.role == Role::Error)
    }

    /// What Kafka puts where nothing is known.
    fn fill(&mut self, field: &Field) {
        if field.null_default && field.nullable.has(self.version) {
            match field.kind {
                Kind::Struct => self.out.push(0xff),
                Kind::String => text(None, self.flexible, self.out),
                _ => long(None, self.flexible, self.out),
            }
            return;
        }
        // The generated tables have Kafka's defaults; these are what its error responses say beyond them.
        let number = match (self.api, field.name) {
            (0, "base_offset")
            | (1, "high_watermark")
            | (9 | 90, "committed_offset" | "start_offset")
            | (21, "low_watermark")
            | (10, "node_id" | "port")
            | (22, "producer_epoch") => -1,
            _ => field.default,
        };
        match field.kind {
            Kind::Bool | Kind::Int8 => self.out.push(number as u8),
            Kind::Int16 | Kind::Uint16 => self.out.extend((number as u16).to_be_bytes()),
            Kind::Int32 => self.out.extend((number as u32).to_be_bytes()),
            Kind::Int64 => self.out.extend((number as u64).to_be_bytes()),
            Kind::Float64 => self.out.extend((number as f64).to_be_bytes()),
            Kind::Uuid => self.out.extend([0; 16]),
            Kind::String => text(Some(b""), self.flexible, self.out),
            Kind::Bytes | Kind::Records => long(Some(0), self.flexible, self.out),
            Kind::Struct => {
                if field.nullable.has(self.version) {
                    self.out.push(1);
                }
                self.fields(field.fields, NONE);
            }
        }
    }
}

/// Partitions that a fetch session forgets are not answered.
pub fn is_forgotten(content: &Content, entry: &Entry) -> bool {
    let array = content.arrays.get(entry.array as usize);
    array.map_or(false, |array| array.field.name == "forgotten_topics_data")
}

/// Append an unsigned varint.
pub fn uvarint(mut value: u32, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Append an array's count; None: null.
pub fn count(count: Option<u32>, flexible: bool, out: &mut Vec<u8>) {
    if flexible {
        uvarint(count.map_or(0, |count| count + 1), out);
    } else {
        out.extend(count.map_or(-1, |count| count as i32).to_be_bytes());
    }
}

fn long(length: Option<u32>, flexible: bool, out: &mut Vec<u8>) {
    count(length, flexible, out);
}

fn text(text: Option<&[u8]>, flexible: bool, out: &mut Vec<u8>) {
    match text {
        _ if flexible => count(text.map(|text| text.len() as u32), true, out),
        Some(text) => out.extend((text.len() as i16).to_be_bytes()),
        None => out.extend((-1i16).to_be_bytes()),
    }
    out.extend(text.unwrap_or(&[]));
}

/// A piece of a body that is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splice {
    pub span: Span,
    pub with: Vec<u8>,
}

/// The splices that take out the entries for which `out` holds, and put `added` (array's index, count, elements) in.
pub fn splices(
    content: &Content,
    flexible: bool,
    out: &dyn Fn(usize) -> bool,
    added: Vec<(usize, u32, Vec<u8>)>,
) -> Vec<Splice> {
    let mut removed = vec![0u32; content.arrays.len()];
    let mut found = Vec::new();
    for (index, entry) in content.entries.iter().enumerate() {
        let inside = entry.parent != NONE && out(entry.parent as usize);
        if inside || !out(index) {
            continue;
        }
        if let Some(removed) = removed.get_mut(entry.array as usize) {
            *removed += 1;
        }
        found.push(Splice {
            span: entry.span,
            with: Vec::new(),
        });
    }
    let mut changes: Vec<(u32, Vec<u8>)> = removed.iter().map(|_| (0, Vec::new())).collect();
    for (array, count, elements) in added {
        if let Some(change) = changes.get_mut(array) {
            *change = (count, elements);
        }
    }
    for ((array, removed), (added, elements)) in content.arrays.iter().zip(removed).zip(changes) {
        if removed > 0 || added > 0 {
            let mut with = Vec::new();
            let kept = array.count.unwrap_or(0) - removed;
            count(Some(kept + added), flexible, &mut with);
            with.extend(elements);
            let span = array.at;
            found.push(Splice { span, with });
        }
    }
    found.sort_by_key(|splice| splice.span.start);
    found
}

/// Append `body` with its splices, which are in order and apart.
pub fn spliced(body: &[u8], splices: &[Splice], out: &mut Vec<u8>) {
    let mut at = 0;
    for splice in splices {
        let (start, end) = (splice.span.start as usize, splice.span.end as usize);
        if start < at {
            continue; // within what was taken out already
        }
        out.extend(&body[at..start]);
        out.extend(&splice.with);
        at = end;
    }
    out.extend(&body[at..]);
}
