//! What the generated tables of `schema.rs` are made of: Kafka's messages as data.
//!
//! Field order is wire order, except that fields with a tag stand in the tagged section of their struct (flexible
//! versions only). A field is on the wire in `versions` alone; it may be null in `nullable`.

/// An inclusive range of versions; empty when the first is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions(pub i16, pub i16);

impl Versions {
    pub const NEVER: Versions = Versions(0, -1);

    #[inline]
    pub const fn has(self, version: i16) -> bool {
        self.0 <= version && version <= self.1
    }
}

/// The type of a field or of an array's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Int8,
    Int16,
    Uint16,
    Int32,
    Int64,
    Float64,
    Uuid,
    String,
    Bytes,
    /// Record batches: on the wire like `Bytes`.
    Records,
    Struct,
}

/// What a field means to an authorizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    None,
    Topic,
    TopicId,
    Group,
    TransactionalId,
    /// Of a configuration resource: 2 topic, 32 group, else the cluster's.
    ResourceType,
    ResourceName,
    /// Of FindCoordinator's keys: 0 group, 1 transactional id, 2 share partition.
    CoordinatorType,
    CoordinatorKey,
    Error,
    ErrorMessage,
    Throttle,
}

/// A set of rules' roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles(pub u8);

impl Roles {
    pub const NONE: Roles = Roles(0);
    pub const PRODUCE: Roles = Roles(1);
    pub const CONSUME: Roles = Roles(2);

    pub const fn and(self, other: Roles) -> Roles {
        Roles(self.0 | other.0)
    }

    pub const fn has(self, other: Roles) -> bool {
        self.0 & other.0 != 0
    }
}

/// What an API names that rules speak of; nothing: the cluster, or the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope(pub u8);

impl Scope {
    pub const NONE: Scope = Scope(0);
    pub const TOPIC: Scope = Scope(1);
    pub const GROUP: Scope = Scope(2);
    pub const TRANSACTION: Scope = Scope(4);
    pub const RESOURCE: Scope = Scope(8);
    pub const COORDINATOR: Scope = Scope(16);

    pub const fn and(self, other: Scope) -> Scope {
        Scope(self.0 | other.0)
    }

    pub const fn has(self, other: Scope) -> bool {
        self.0 & other.0 != 0
    }
}

/// One field. `default` is the number that a new message holds; `null_default`: it holds null.
#[derive(Debug)]
pub struct Field {
    pub name: &'static str,
    pub kind: Kind,
    pub array: bool,
    pub versions: Versions,
    pub nullable: Versions,
    /// -1 outside the tagged section.
    pub tag: i8,
    pub default: i64,
    pub null_default: bool,
    pub role: Role,
    /// Of a struct, or of each element of an array of structs.
    pub fields: &'static [Field],
}

/// One API key in all its versions. `flexible` versions have compact lengths and tagged fields (KIP-482).
#[derive(Debug)]
pub struct Api {
    pub number: i16,
    pub name: &'static str,
    pub versions: Versions,
    pub flexible: Versions,
    /// False for negotiation (ApiVersions, SASL), which always passes.
    pub judged: bool,
    pub roles: Roles,
    pub scope: Scope,
    /// Kafka's error when no rule covers the API at all.
    pub error: i16,
    pub request: &'static [Field],
    pub response: &'static [Field],
}

pub(super) const fn one(name: &'static str, kind: Kind, first: i16, last: i16) -> Field {
    Field {
        name,
        kind,
        array: false,
        versions: Versions(first, last),
        nullable: Versions::NEVER,
        tag: -1,
        default: 0,
        null_default: false,
        role: Role::None,
        fields: &[],
    }
}

pub(super) const fn array(name: &'static str, kind: Kind, first: i16, last: i16) -> Field {
    Field {
        array: true,
        ..one(name, kind, first, last)
    }
}

impl Field {
    pub(super) const fn nullable(self, first: i16, last: i16) -> Field {
        Field {
            nullable: Versions(first, last),
            ..self
        }
    }

    pub(super) const fn tag(self, tag: i8) -> Field {
        Field { tag, ..self }
    }

    pub(super) const fn default(self, default: i64) -> Field {
        Field { default, ..self }
    }

    pub(super) const fn null(self) -> Field {
        Field {
            null_default: true,
            ..self
        }
    }

    pub(super) const fn role(self, role: Role) -> Field {
        Field { role, ..self }
    }

    pub(super) const fn of(self, fields: &'static [Field]) -> Field {
        Field { fields, ..self }
    }
}
