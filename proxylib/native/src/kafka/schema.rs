//! The messages of Apache Kafka 4 and how each is authorised. Written by proxylib/kafka/generate.py; do not edit.

use super::description::{array, one, Api, Kind::*, Role, Roles, Scope, Versions};

#[rustfmt::skip]
static API_0: Api = Api {
    number: 0, name: "Produce",
    versions: Versions(3, 13), flexible: Versions(9, 32767), judged: true,
    roles: Roles::PRODUCE, scope: Scope::TOPIC.and(Scope::TRANSACTION), error: 29,
    request: &[
        one("transactional_id", String, 3, 13).nullable(3, 13).null().role(Role::TransactionalId),
        one("acks", Int16, 3, 13),
        one("timeout_ms", Int32, 3, 13),
        array("topic_data", Struct, 3, 13).of(&[
            one("name", String, 3, 12).role(Role::Topic),
            one("topic_id", Uuid, 13, 13).role(Role::TopicId),
            array("partition_data", Struct, 3, 13).of(&[
                one("index", Int32, 3, 13),
                one("records", Records, 3, 13).nullable(3, 13),
            ]),
        ]),
    ],
    response: &[
        array("responses", Struct, 3, 13).of(&[
            one("name", String, 3, 12).role(Role::Topic),
            one("topic_id", Uuid, 13, 13).role(Role::TopicId),
            array("partition_responses", Struct, 3, 13).of(&[
                one("index", Int32, 3, 13),
                one("error_code", Int16, 3, 13).role(Role::Error),
                one("base_offset", Int64, 3, 13),
                one("log_append_time_ms", Int64, 3, 13).default(-1),
                one("log_start_offset", Int64, 5, 13).default(-1),
                array("record_errors", Struct, 8, 13).of(&[
                    one("batch_index", Int32, 8, 13),
                    one("batch_index_error_message", String, 8, 13).nullable(8, 13).null(),
                ]),
                one("error_message", String, 8, 13).nullable(8, 13).null().role(Role::ErrorMessage),
                one("current_leader", Struct, 10, 13).tag(0).of(&[
                    one("leader_id", Int32, 10, 13).default(-1),
                    one("leader_epoch", Int32, 10, 13).default(-1),
                ]),
            ]),
        ]),
        one("throttle_time_ms", Int32, 3, 13).role(Role::Throttle),
        array("node_endpoints", Struct, 10, 13).tag(0).of(&[
            one("node_id", Int32, 10, 13),
            one("host", String, 10, 13),
            one("port", Int32, 10, 13),
            one("rack", String, 10, 13).nullable(10, 13).null(),
        ]),
    ],
};

#[rustfmt::skip]
static API_1: Api = Api {
    number: 1, name: "Fetch",
    versions: Versions(4, 18), flexible: Versions(12, 32767), judged: true,
    roles: Roles::CONSUME, scope: Scope::TOPIC, error: 29,
    request: &[
        one("cluster_id", String, 12, 18).nullable(12, 18).tag(0).null(),
        one("replica_id", Int32, 4, 14).default(-1),
        one("replica_state", Struct, 15, 18).tag(1).of(&[
            one("replica_id", Int32, 15, 18).default(-1),
            one("replica_epoch", Int64, 15, 18).default(-1),
        ]),
        one("max_wait_ms", Int32, 4, 18),
        one("min_bytes", Int32, 4, 18),
        one("max_bytes", Int32, 4, 18).default(2147483647),
        one("isolation_level", Int8, 4, 18),
        one("session_id", Int32, 7, 18),
        one("session_epoch", Int32, 7, 18).default(-1),
        array("topics", Struct, 4, 18).of(&[
            one("topic", String, 4, 12).role(Role::Topic),
            one("topic_id", Uuid, 13, 18).role(Role::TopicId),
            array("partitions", Struct, 4, 18).of(&[
                one("partition", Int32, 4, 18),
                one("current_leader_epoch", Int32, 9, 18).default(-1),
                one("fetch_offset", Int64, 4, 18),
                one("last_fetched_epoch", Int32, 12, 18).default(-1),
                one("log_start_offset", Int64, 5, 18).default(-1),
                one("partition_max_bytes", Int32, 4, 18),
                one("replica_directory_id", Uuid, 17, 18).tag(0),
                one("high_watermark", Int64, 18, 18).tag(1).default(9223372036854775807),
            ]),
        ]),
        array("forgotten_topics_data", Struct, 7, 18).of(&[
            one("topic", String, 7, 12).role(Role::Topic),
            one("topic_id", Uuid, 13, 18).role(Role::TopicId),
            array("partitions", Int32, 7, 18),
        ]),
        one("rack_id", String, 11, 18),
    ],
    response: &[
        one("throttle_time_ms", Int32, 4, 18).role(Role::Throttle),
        one("error_code", Int16, 7, 18).role(Role::Error),
        one("session_id", Int32, 7, 18),
        array("responses", Struct, 4, 18).of(&[
            one("topic", String, 4, 12).role(Role::Topic),
            one("topic_id", Uuid, 13, 18).role(Role::TopicId),
            array("partitions", Struct, 4, 18).of(&[
                one("partition_index", Int32, 4, 18),
                one("error_code", Int16, 4, 18).role(Role::Error),
                one("high_watermark", Int64, 4, 18),
                one("last_stable_offset", Int64, 4, 18).default(-1),
                one("log_start_offset", Int64, 5, 18).default(-1),
                one("diverging_epoch", Struct, 12, 18).tag(0).of(&[
                    one("epoch", Int32, 12, 18).default(-1),
                    one("end_offset", Int64, 12, 18).default(-1),
                ]),
                one("current_leader", Struct, 12, 18).tag(1).of(&[
                    one("leader_id", Int32, 12, 18).default(-1),
                    one("leader_epoch", Int32, 12, 18).default(-1),
                ]),
                one("snapshot_id", Struct, 12, 18).tag(2).of(&[
                    one("end_offset", Int64, 12, 18).default(-1),
                    one("epoch", Int32, 12, 18).default(-1),
                ]),
                array("aborted_transactions", Struct, 4, 18).nullable(4, 18).of(&[
                    one("producer_id", Int64, 4, 18),
                    one("first_offset", Int64, 4, 18),
                ]),
                one("preferred_read_replica", Int32, 11, 18).default(-1),
                one("records", Records, 4, 18).nullable(4, 18),
            ]),
        ]),
        array("node_endpoints", Struct, 16, 18).tag(0).of(&[
            one("node_id", Int32, 16, 18),
            one("host", String, 16, 18),
            one("port", Int32, 16, 18),
            one("rack", String, 16, 18).nullable(16, 18).null(),
        ]),
    ],
};

#[rustfmt::skip]
static API_2: Api = Api {
    number: 2, name: "ListOffsets",
    versions: Versions(1, 11), flexible: Versions(6, 32767), judged: true,
    roles: Roles::PRODUCE.and(Roles::CONSUME), scope: Scope::TOPIC, error: 29,
    request: &[
        one("replica_id", Int32, 1, 11),
        one("isolation_level", Int8, 2, 11),
        array("topics", Struct, 1, 11).of(&[
            one("name", String, 1, 11).role(Role::Topic),
            array("partitions", Struct, 1, 11).of(&[
                one("partition_index", Int32, 1, 11),
                one("current_leader_epoch", Int32, 4, 11).default(-1),
                one("timestamp", Int64, 1, 11),
            ]),
        ]),
        one("timeout_ms", Int32, 10, 11),
    ],
    response: &[
        one("throttle_time_ms", Int32, 2, 11).role(Role::Throttle),
        array("topics", Struct, 1, 11).of(&[
            one("name", String, 1, 11).role(Role::Topic),
            array("partitions", Struct, 1, 11).of(&[
                one("partition_index", Int32, 1, 11),
                one("error_code", Int16, 1, 11).role(Role::Error),
                one("timestamp", Int64, 1, 11).default(-1),
                one("offset", Int64, 1, 11).default(-1),
                one("leader_epoch", Int32, 4, 11).default(-1),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_3: Api = Api {
    number: 3, name: "Metadata",
    versions: Versions(0, 13), flexible: Versions(9, 32767), judged: true,
    roles: Roles::PRODUCE.and(Roles::CONSUME), scope: Scope::TOPIC, error: 29,
    request: &[
        array("topics", Struct, 0, 13).nullable(1, 13).of(&[
            one("topic_id", Uuid, 10, 13).role(Role::TopicId),
            one("name", String, 0, 13).nullable(10, 13).role(Role::Topic),
        ]),
        one("allow_auto_topic_creation", Bool, 4, 13).default(1),
        one("include_cluster_authorized_operations", Bool, 8, 10),
        one("include_topic_authorized_operations", Bool, 8, 13),
    ],
    response: &[
        one("throttle_time_ms", Int32, 3, 13).role(Role::Throttle),
        array("brokers", Struct, 0, 13).of(&[
            one("node_id", Int32, 0, 13),
            one("host", String, 0, 13),
            one("port", Int32, 0, 13),
            one("rack", String, 1, 13).nullable(1, 13).null(),
        ]),
        one("cluster_id", String, 2, 13).nullable(2, 13).null(),
        one("controller_id", Int32, 1, 13).default(-1),
        array("topics", Struct, 0, 13).of(&[
            one("error_code", Int16, 0, 13).role(Role::Error),
            one("name", String, 0, 13).nullable(12, 13).role(Role::Topic),
            one("topic_id", Uuid, 10, 13).role(Role::TopicId),
            one("is_internal", Bool, 1, 13),
            array("partitions", Struct, 0, 13).of(&[
                one("error_code", Int16, 0, 13).role(Role::Error),
                one("partition_index", Int32, 0, 13),
                one("leader_id", Int32, 0, 13),
                one("leader_epoch", Int32, 7, 13).default(-1),
                array("replica_nodes", Int32, 0, 13),
                array("isr_nodes", Int32, 0, 13),
                array("offline_replicas", Int32, 5, 13),
            ]),
            one("topic_authorized_operations", Int32, 8, 13).default(-2147483648),
        ]),
        one("cluster_authorized_operations", Int32, 8, 10).default(-2147483648),
        one("error_code", Int16, 13, 13).role(Role::Error),
    ],
};

#[rustfmt::skip]
static API_8: Api = Api {
    number: 8, name: "OffsetCommit",
    versions: Versions(2, 10), flexible: Versions(8, 32767), judged: true,
    roles: Roles::CONSUME, scope: Scope::TOPIC.and(Scope::GROUP), error: 30,
    request: &[
        one("group_id", String, 2, 10).role(Role::Group),
        one("generation_id_or_member_epoch", Int32, 2, 10).default(-1),
        one("member_id", String, 2, 10),
        one("group_instance_id", String, 7, 10).nullable(7, 10).null(),
        one("retention_time_ms", Int64, 2, 4).default(-1),
        array("topics", Struct, 2, 10).of(&[
            one("name", String, 2, 9).role(Role::Topic),
            one("topic_id", Uuid, 10, 10).role(Role::TopicId),
            array("partitions", Struct, 2, 10).of(&[
                one("partition_index", Int32, 2, 10),
                one("committed_offset", Int64, 2, 10),
                one("committed_leader_epoch", Int32, 6, 10).default(-1),
                one("committed_metadata", String, 2, 10).nullable(2, 10),
            ]),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 3, 10).role(Role::Throttle),
        array("topics", Struct, 2, 10).of(&[
            one("name", String, 2, 9).role(Role::Topic),
            one("topic_id", Uuid, 10, 10).role(Role::TopicId),
            array("partitions", Struct, 2, 10).of(&[
                one("partition_index", Int32, 2, 10),
                one("error_code", Int16, 2, 10).role(Role::Error),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_9: Api = Api {
    number: 9, name: "OffsetFetch",
    versions: Versions(1, 10), flexible: Versions(6, 32767), judged: true,
    roles: Roles::CONSUME, scope: Scope::TOPIC.and(Scope::GROUP), error: 30,
    request: &[
        one("group_id", String, 1, 7).role(Role::Group),
        array("topics", Struct, 1, 7).nullable(2, 7).of(&[
            one("name", String, 1, 7).role(Role::Topic),
            array("partition_indexes", Int32, 1, 7),
        ]),
        array("groups", Struct, 8, 10).of(&[
            one("group_id", String, 8, 10).role(Role::Group),
            one("member_id", String, 9, 10).nullable(9, 10).null(),
            one("member_epoch", Int32, 9, 10).default(-1),
            array("topics", Struct, 8, 10).nullable(8, 10).of(&[
                one("name", String, 8, 9).role(Role::Topic),
                one("topic_id", Uuid, 10, 10).role(Role::TopicId),
                array("partition_indexes", Int32, 8, 10),
            ]),
        ]),
        one("require_stable", Bool, 7, 10),
    ],
    response: &[
        one("throttle_time_ms", Int32, 3, 10).role(Role::Throttle),
        array("topics", Struct, 1, 7).of(&[
            one("name", String, 1, 7).role(Role::Topic),
            array("partitions", Struct, 1, 7).of(&[
                one("partition_index", Int32, 1, 7),
                one("committed_offset", Int64, 1, 7),
                one("committed_leader_epoch", Int32, 5, 7).default(-1),
                one("metadata", String, 1, 7).nullable(1, 7),
                one("error_code", Int16, 1, 7).role(Role::Error),
            ]),
        ]),
        one("error_code", Int16, 2, 7).role(Role::Error),
        array("groups", Struct, 8, 10).of(&[
            one("group_id", String, 8, 10).role(Role::Group),
            array("topics", Struct, 8, 10).of(&[
                one("name", String, 8, 9).role(Role::Topic),
                one("topic_id", Uuid, 10, 10).role(Role::TopicId),
                array("partitions", Struct, 8, 10).of(&[
                    one("partition_index", Int32, 8, 10),
                    one("committed_offset", Int64, 8, 10),
                    one("committed_leader_epoch", Int32, 8, 10).default(-1),
                    one("metadata", String, 8, 10).nullable(8, 10),
                    one("error_code", Int16, 8, 10).role(Role::Error),
                ]),
            ]),
            one("error_code", Int16, 8, 10).role(Role::Error),
        ]),
    ],
};

#[rustfmt::skip]
static API_10: Api = Api {
    number: 10, name: "FindCoordinator",
    versions: Versions(0, 6), flexible: Versions(3, 32767), judged: true,
    roles: Roles::CONSUME, scope: Scope::COORDINATOR, error: 30,
    request: &[
        one("key", String, 0, 3).role(Role::CoordinatorKey),
        one("key_type", Int8, 1, 6).role(Role::CoordinatorType),
        array("coordinator_keys", String, 4, 6).role(Role::CoordinatorKey),
    ],
    response: &[
        one("throttle_time_ms", Int32, 1, 6).role(Role::Throttle),
        one("error_code", Int16, 0, 3).role(Role::Error),
        one("error_message", String, 1, 3).nullable(1, 3).role(Role::ErrorMessage),
        one("node_id", Int32, 0, 3),
        one("host", String, 0, 3),
        one("port", Int32, 0, 3),
        array("coordinators", Struct, 4, 6).of(&[
            one("key", String, 4, 6).role(Role::CoordinatorKey),
            one("node_id", Int32, 4, 6),
            one("host", String, 4, 6),
            one("port", Int32, 4, 6),
            one("error_code", Int16, 4, 6).role(Role::Error),
            one("error_message", String, 4, 6).nullable(4, 6).role(Role::ErrorMessage),
        ]),
    ],
};

#[rustfmt::skip]
static API_11: Api = Api {
    number: 11, name: "JoinGroup",
    versions: Versions(0, 9), flexible: Versions(6, 32767), judged: true,
    roles: Roles::CONSUME, scope: Scope::GROUP, error: 30,
    request: &[
        one("group_id", String, 0, 9).role(Role::Group),
        one("session_timeout_ms", Int32, 0, 9),
        one("rebalance_timeout_ms", Int32, 1, 9).default(-1),
        one("member_id", String, 0, 9),
        one("group_instance_id", String, 5, 9).nullable(5, 9).null(),
        one("protocol_type", String, 0, 9),
        array("protocols", Struct, 0, 9).of(&[
            one("name", String, 0, 9),
            one("metadata", Bytes, 0, 9),
        ]),
        one("reason", String, 8, 9).nullable(8, 9).null(),
    ],
    response: &[
        one("throttle_time_ms", Int32, 2, 9).role(Role::Throttle),
        one("error_code", Int16, 0, 9).role(Role::Error),
        one("generation_id", Int32, 0, 9).default(-1),
        one("protocol_type", String, 7, 9).nullable(7, 9).null(),
        one("protocol_name", String, 0, 9).nullable(7, 9),
        one("leader", String, 0, 9),
        one("skip_assignment", Bool, 9, 9),
        one("member_id", String, 0, 9),
        array("members", Struct, 0, 9).of(&[
            one("member_id", String, 0, 9),
            one("group_instance_id", String, 5, 9).nullable(5, 9).null(),
            one("metadata", Bytes, 0, 9),
        ]),
    ],
};

#[rustfmt::skip]
static API_12: Api = Api {
    number: 12, name: "Heartbeat",
    versions: Versions(0, 4), flexible: Versions(4, 32767), judged: true,
    roles: Roles::CONSUME, scope: Scope::GROUP, error: 30,
    request: &[
        one("group_id", String, 0, 4).role(Role::Group),
        one("generation_id", Int32, 0, 4),
        one("member_id", String, 0, 4),
        one("group_instance_id", String, 3, 4).nullable(3, 4).null(),
    ],
    response: &[
        one("throttle_time_ms", Int32, 1, 4).role(Role::Throttle),
        one("error_code", Int16, 0, 4).role(Role::Error),
    ],
};

#[rustfmt::skip]
static API_13: Api = Api {
    number: 13, name: "LeaveGroup",
    versions: Versions(0, 5), flexible: Versions(4, 32767), judged: true,
    roles: Roles::CONSUME, scope: Scope::GROUP, error: 30,
    request: &[
        one("group_id", String, 0, 5).role(Role::Group),
        one("member_id", String, 0, 2),
        array("members", Struct, 3, 5).of(&[
            one("member_id", String, 3, 5),
            one("group_instance_id", String, 3, 5).nullable(3, 5).null(),
            one("reason", String, 5, 5).nullable(5, 5).null(),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 1, 5).role(Role::Throttle),
        one("error_code", Int16, 0, 5).role(Role::Error),
        array("members", Struct, 3, 5).of(&[
            one("member_id", String, 3, 5),
            one("group_instance_id", String, 3, 5).nullable(3, 5),
            one("error_code", Int16, 3, 5).role(Role::Error),
        ]),
    ],
};

#[rustfmt::skip]
static API_14: Api = Api {
    number: 14, name: "SyncGroup",
    versions: Versions(0, 5), flexible: Versions(4, 32767), judged: true,
    roles: Roles::CONSUME, scope: Scope::GROUP, error: 30,
    request: &[
        one("group_id", String, 0, 5).role(Role::Group),
        one("generation_id", Int32, 0, 5),
        one("member_id", String, 0, 5),
        one("group_instance_id", String, 3, 5).nullable(3, 5).null(),
        one("protocol_type", String, 5, 5).nullable(5, 5).null(),
        one("protocol_name", String, 5, 5).nullable(5, 5).null(),
        array("assignments", Struct, 0, 5).of(&[
            one("member_id", String, 0, 5),
            one("assignment", Bytes, 0, 5),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 1, 5).role(Role::Throttle),
        one("error_code", Int16, 0, 5).role(Role::Error),
        one("protocol_type", String, 5, 5).nullable(5, 5).null(),
        one("protocol_name", String, 5, 5).nullable(5, 5).null(),
        one("assignment", Bytes, 0, 5),
    ],
};

#[rustfmt::skip]
static API_15: Api = Api {
    number: 15, name: "DescribeGroups",
    versions: Versions(0, 6), flexible: Versions(5, 32767), judged: true,
    roles: Roles::CONSUME, scope: Scope::GROUP, error: 30,
    request: &[
        array("groups", String, 0, 6).role(Role::Group),
        one("include_authorized_operations", Bool, 3, 6),
    ],
    response: &[
        one("throttle_time_ms", Int32, 1, 6).role(Role::Throttle),
        array("groups", Struct, 0, 6).of(&[
            one("error_code", Int16, 0, 6).role(Role::Error),
            one("error_message", String, 6, 6).nullable(6, 6).null().role(Role::ErrorMessage),
            one("group_id", String, 0, 6).role(Role::Group),
            one("group_state", String, 0, 6),
            one("protocol_type", String, 0, 6),
            one("protocol_data", String, 0, 6),
            array("members", Struct, 0, 6).of(&[
                one("member_id", String, 0, 6),
                one("group_instance_id", String, 4, 6).nullable(4, 6).null(),
                one("client_id", String, 0, 6),
                one("client_host", String, 0, 6),
                one("member_metadata", Bytes, 0, 6),
                one("member_assignment", Bytes, 0, 6),
            ]),
            one("authorized_operations", Int32, 3, 6).default(-2147483648),
        ]),
    ],
};

#[rustfmt::skip]
static API_16: Api = Api {
    number: 16, name: "ListGroups",
    versions: Versions(0, 5), flexible: Versions(3, 32767), judged: true,
    roles: Roles::CONSUME, scope: Scope::GROUP, error: 30,
    request: &[
        array("states_filter", String, 4, 5),
        array("types_filter", String, 5, 5),
    ],
    response: &[
        one("throttle_time_ms", Int32, 1, 5).role(Role::Throttle),
        one("error_code", Int16, 0, 5).role(Role::Error),
        array("groups", Struct, 0, 5).of(&[
            one("group_id", String, 0, 5).role(Role::Group),
            one("protocol_type", String, 0, 5),
            one("group_state", String, 4, 5),
            one("group_type", String, 5, 5),
        ]),
    ],
};

#[rustfmt::skip]
static API_17: Api = Api {
    number: 17, name: "SaslHandshake",
    versions: Versions(0, 1), flexible: Versions(0, -1), judged: false,
    roles: Roles::PRODUCE.and(Roles::CONSUME), scope: Scope::NONE, error: 31,
    request: &[
        one("mechanism", String, 0, 1),
    ],
    response: &[
        one("error_code", Int16, 0, 1).role(Role::Error),
        array("mechanisms", String, 0, 1),
    ],
};

#[rustfmt::skip]
static API_18: Api = Api {
    number: 18, name: "ApiVersions",
    versions: Versions(0, 5), flexible: Versions(3, 32767), judged: false,
    roles: Roles::PRODUCE.and(Roles::CONSUME), scope: Scope::NONE, error: 31,
    request: &[
        one("client_software_name", String, 3, 5),
        one("client_software_version", String, 3, 5),
        one("cluster_id", String, 5, 5).nullable(5, 5).null(),
        one("node_id", Int32, 5, 5).default(-1),
    ],
    response: &[
        one("error_code", Int16, 0, 5).role(Role::Error),
        array("api_keys", Struct, 0, 5).of(&[
            one("api_key", Int16, 0, 5),
            one("min_version", Int16, 0, 5),
            one("max_version", Int16, 0, 5),
        ]),
        one("throttle_time_ms", Int32, 1, 5).role(Role::Throttle),
        array("supported_features", Struct, 3, 5).tag(0).of(&[
            one("name", String, 3, 5),
            one("min_version", Int16, 3, 5),
            one("max_version", Int16, 3, 5),
        ]),
        one("finalized_features_epoch", Int64, 3, 5).tag(1).default(-1),
        array("finalized_features", Struct, 3, 5).tag(2).of(&[
            one("name", String, 3, 5),
            one("max_version_level", Int16, 3, 5),
            one("min_version_level", Int16, 3, 5),
        ]),
        one("zk_migration_ready", Bool, 3, 5).tag(3),
    ],
};

#[rustfmt::skip]
static API_19: Api = Api {
    number: 19, name: "CreateTopics",
    versions: Versions(2, 7), flexible: Versions(5, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::TOPIC, error: 29,
    request: &[
        array("topics", Struct, 2, 7).of(&[
            one("name", String, 2, 7).role(Role::Topic),
            one("num_partitions", Int32, 2, 7),
            one("replication_factor", Int16, 2, 7),
            array("assignments", Struct, 2, 7).of(&[
                one("partition_index", Int32, 2, 7),
                array("broker_ids", Int32, 2, 7),
            ]),
            array("configs", Struct, 2, 7).of(&[
                one("name", String, 2, 7),
                one("value", String, 2, 7).nullable(2, 7),
            ]),
        ]),
        one("timeout_ms", Int32, 2, 7).default(60000),
        one("validate_only", Bool, 2, 7),
    ],
    response: &[
        one("throttle_time_ms", Int32, 2, 7).role(Role::Throttle),
        array("topics", Struct, 2, 7).of(&[
            one("name", String, 2, 7).role(Role::Topic),
            one("topic_id", Uuid, 7, 7).role(Role::TopicId),
            one("error_code", Int16, 2, 7).role(Role::Error),
            one("error_message", String, 2, 7).nullable(2, 7).role(Role::ErrorMessage),
            one("topic_config_error_code", Int16, 5, 7).tag(0),
            one("num_partitions", Int32, 5, 7).default(-1),
            one("replication_factor", Int16, 5, 7).default(-1),
            array("configs", Struct, 5, 7).nullable(5, 7).of(&[
                one("name", String, 5, 7),
                one("value", String, 5, 7).nullable(5, 7),
                one("read_only", Bool, 5, 7),
                one("config_source", Int8, 5, 7).default(-1),
                one("is_sensitive", Bool, 5, 7),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_20: Api = Api {
    number: 20, name: "DeleteTopics",
    versions: Versions(1, 6), flexible: Versions(4, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::TOPIC, error: 29,
    request: &[
        array("topics", Struct, 6, 6).of(&[
            one("name", String, 6, 6).nullable(6, 6).null().role(Role::Topic),
            one("topic_id", Uuid, 6, 6).role(Role::TopicId),
        ]),
        array("topic_names", String, 1, 5).role(Role::Topic),
        one("timeout_ms", Int32, 1, 6),
    ],
    response: &[
        one("throttle_time_ms", Int32, 1, 6).role(Role::Throttle),
        array("responses", Struct, 1, 6).of(&[
            one("name", String, 1, 6).nullable(6, 6).role(Role::Topic),
            one("topic_id", Uuid, 6, 6).role(Role::TopicId),
            one("error_code", Int16, 1, 6).role(Role::Error),
            one("error_message", String, 5, 6).nullable(5, 6).null().role(Role::ErrorMessage),
        ]),
    ],
};

#[rustfmt::skip]
static API_21: Api = Api {
    number: 21, name: "DeleteRecords",
    versions: Versions(0, 2), flexible: Versions(2, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::TOPIC, error: 29,
    request: &[
        array("topics", Struct, 0, 2).of(&[
            one("name", String, 0, 2).role(Role::Topic),
            array("partitions", Struct, 0, 2).of(&[
                one("partition_index", Int32, 0, 2),
                one("offset", Int64, 0, 2),
            ]),
        ]),
        one("timeout_ms", Int32, 0, 2),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 2).role(Role::Throttle),
        array("topics", Struct, 0, 2).of(&[
            one("name", String, 0, 2).role(Role::Topic),
            array("partitions", Struct, 0, 2).of(&[
                one("partition_index", Int32, 0, 2),
                one("low_watermark", Int64, 0, 2),
                one("error_code", Int16, 0, 2).role(Role::Error),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_22: Api = Api {
    number: 22, name: "InitProducerId",
    versions: Versions(0, 6), flexible: Versions(2, 32767), judged: true,
    roles: Roles::PRODUCE, scope: Scope::TRANSACTION, error: 31,
    request: &[
        one("transactional_id", String, 0, 6).nullable(0, 6).role(Role::TransactionalId),
        one("transaction_timeout_ms", Int32, 0, 6),
        one("producer_id", Int64, 3, 6).default(-1),
        one("producer_epoch", Int16, 3, 6).default(-1),
        one("enable2_pc", Bool, 6, 6),
        one("keep_prepared_txn", Bool, 6, 6),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 6).role(Role::Throttle),
        one("error_code", Int16, 0, 6).role(Role::Error),
        one("producer_id", Int64, 0, 6).default(-1),
        one("producer_epoch", Int16, 0, 6),
        one("ongoing_txn_producer_id", Int64, 6, 6).default(-1),
        one("ongoing_txn_producer_epoch", Int16, 6, 6).default(-1),
    ],
};

#[rustfmt::skip]
static API_23: Api = Api {
    number: 23, name: "OffsetForLeaderEpoch",
    versions: Versions(2, 4), flexible: Versions(4, 32767), judged: true,
    roles: Roles::PRODUCE.and(Roles::CONSUME), scope: Scope::TOPIC, error: 29,
    request: &[
        one("replica_id", Int32, 3, 4).default(-2),
        array("topics", Struct, 2, 4).of(&[
            one("topic", String, 2, 4).role(Role::Topic),
            array("partitions", Struct, 2, 4).of(&[
                one("partition", Int32, 2, 4),
                one("current_leader_epoch", Int32, 2, 4).default(-1),
                one("leader_epoch", Int32, 2, 4),
            ]),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 2, 4).role(Role::Throttle),
        array("topics", Struct, 2, 4).of(&[
            one("topic", String, 2, 4).role(Role::Topic),
            array("partitions", Struct, 2, 4).of(&[
                one("error_code", Int16, 2, 4).role(Role::Error),
                one("partition", Int32, 2, 4),
                one("leader_epoch", Int32, 2, 4).default(-1),
                one("end_offset", Int64, 2, 4).default(-1),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_24: Api = Api {
    number: 24, name: "AddPartitionsToTxn",
    versions: Versions(0, 5), flexible: Versions(3, 32767), judged: true,
    roles: Roles::PRODUCE, scope: Scope::TOPIC.and(Scope::TRANSACTION), error: 29,
    request: &[
        array("transactions", Struct, 4, 5).of(&[
            one("transactional_id", String, 4, 5).role(Role::TransactionalId),
            one("producer_id", Int64, 4, 5),
            one("producer_epoch", Int16, 4, 5),
            one("verify_only", Bool, 4, 5),
            array("topics", Struct, 4, 5).of(&[
                one("name", String, 4, 5).role(Role::Topic),
                array("partitions", Int32, 4, 5),
            ]),
        ]),
        one("v3_and_below_transactional_id", String, 0, 3).role(Role::TransactionalId),
        one("v3_and_below_producer_id", Int64, 0, 3),
        one("v3_and_below_producer_epoch", Int16, 0, 3),
        array("v3_and_below_topics", Struct, 0, 3).of(&[
            one("name", String, 0, 3).role(Role::Topic),
            array("partitions", Int32, 0, 3),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 5).role(Role::Throttle),
        one("error_code", Int16, 4, 5).role(Role::Error),
        array("results_by_transaction", Struct, 4, 5).of(&[
            one("transactional_id", String, 4, 5).role(Role::TransactionalId),
            array("topic_results", Struct, 4, 5).of(&[
                one("name", String, 4, 5).role(Role::Topic),
                array("results_by_partition", Struct, 4, 5).of(&[
                    one("partition_index", Int32, 4, 5),
                    one("partition_error_code", Int16, 4, 5).role(Role::Error),
                ]),
            ]),
        ]),
        array("results_by_topic_v3_and_below", Struct, 0, 3).of(&[
            one("name", String, 0, 3).role(Role::Topic),
            array("results_by_partition", Struct, 0, 3).of(&[
                one("partition_index", Int32, 0, 3),
                one("partition_error_code", Int16, 0, 3).role(Role::Error),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_25: Api = Api {
    number: 25, name: "AddOffsetsToTxn",
    versions: Versions(0, 4), flexible: Versions(3, 32767), judged: true,
    roles: Roles::CONSUME, scope: Scope::GROUP.and(Scope::TRANSACTION), error: 30,
    request: &[
        one("transactional_id", String, 0, 4).role(Role::TransactionalId),
        one("producer_id", Int64, 0, 4),
        one("producer_epoch", Int16, 0, 4),
        one("group_id", String, 0, 4).role(Role::Group),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 4).role(Role::Throttle),
        one("error_code", Int16, 0, 4).role(Role::Error),
    ],
};

#[rustfmt::skip]
static API_26: Api = Api {
    number: 26, name: "EndTxn",
    versions: Versions(0, 5), flexible: Versions(3, 32767), judged: true,
    roles: Roles::PRODUCE, scope: Scope::TRANSACTION, error: 53,
    request: &[
        one("transactional_id", String, 0, 5).role(Role::TransactionalId),
        one("producer_id", Int64, 0, 5),
        one("producer_epoch", Int16, 0, 5),
        one("committed", Bool, 0, 5),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 5).role(Role::Throttle),
        one("error_code", Int16, 0, 5).role(Role::Error),
        one("producer_id", Int64, 5, 5).default(-1),
        one("producer_epoch", Int16, 5, 5).default(-1),
    ],
};

#[rustfmt::skip]
static API_27: Api = Api {
    number: 27, name: "WriteTxnMarkers",
    versions: Versions(1, 2), flexible: Versions(1, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        array("markers", Struct, 1, 2).of(&[
            one("producer_id", Int64, 1, 2),
            one("producer_epoch", Int16, 1, 2),
            one("transaction_result", Bool, 1, 2),
            array("topics", Struct, 1, 2).of(&[
                one("name", String, 1, 2).role(Role::Topic),
                array("partition_indexes", Int32, 1, 2),
            ]),
            one("coordinator_epoch", Int32, 1, 2),
            one("transaction_version", Int8, 2, 2),
        ]),
    ],
    response: &[
        array("markers", Struct, 1, 2).of(&[
            one("producer_id", Int64, 1, 2),
            array("topics", Struct, 1, 2).of(&[
                one("name", String, 1, 2).role(Role::Topic),
                array("partitions", Struct, 1, 2).of(&[
                    one("partition_index", Int32, 1, 2),
                    one("error_code", Int16, 1, 2).role(Role::Error),
                ]),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_28: Api = Api {
    number: 28, name: "TxnOffsetCommit",
    versions: Versions(0, 6), flexible: Versions(3, 32767), judged: true,
    roles: Roles::CONSUME, scope: Scope::TOPIC.and(Scope::GROUP).and(Scope::TRANSACTION), error: 30,
    request: &[
        one("transactional_id", String, 0, 6).role(Role::TransactionalId),
        one("group_id", String, 0, 6).role(Role::Group),
        one("producer_id", Int64, 0, 6),
        one("producer_epoch", Int16, 0, 6),
        one("generation_id_or_member_epoch", Int32, 3, 6).default(-1),
        one("member_id", String, 3, 6),
        one("group_instance_id", String, 3, 6).nullable(3, 6).null(),
        array("topics", Struct, 0, 6).of(&[
            one("name", String, 0, 5).role(Role::Topic),
            one("topic_id", Uuid, 6, 6).role(Role::TopicId),
            array("partitions", Struct, 0, 6).of(&[
                one("partition_index", Int32, 0, 6),
                one("committed_offset", Int64, 0, 6),
                one("committed_leader_epoch", Int32, 2, 6).default(-1),
                one("committed_metadata", String, 0, 6).nullable(0, 6),
            ]),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 6).role(Role::Throttle),
        array("topics", Struct, 0, 6).of(&[
            one("name", String, 0, 5).role(Role::Topic),
            one("topic_id", Uuid, 6, 6).role(Role::TopicId),
            array("partitions", Struct, 0, 6).of(&[
                one("partition_index", Int32, 0, 6),
                one("error_code", Int16, 0, 6).role(Role::Error),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_29: Api = Api {
    number: 29, name: "DescribeAcls",
    versions: Versions(1, 3), flexible: Versions(2, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("resource_type_filter", Int8, 1, 3).role(Role::ResourceType),
        one("resource_name_filter", String, 1, 3).nullable(1, 3).role(Role::ResourceName),
        one("pattern_type_filter", Int8, 1, 3).default(3),
        one("principal_filter", String, 1, 3).nullable(1, 3),
        one("host_filter", String, 1, 3).nullable(1, 3),
        one("operation", Int8, 1, 3),
        one("permission_type", Int8, 1, 3),
    ],
    response: &[
        one("throttle_time_ms", Int32, 1, 3).role(Role::Throttle),
        one("error_code", Int16, 1, 3).role(Role::Error),
        one("error_message", String, 1, 3).nullable(1, 3).role(Role::ErrorMessage),
        array("resources", Struct, 1, 3).of(&[
            one("resource_type", Int8, 1, 3).role(Role::ResourceType),
            one("resource_name", String, 1, 3).role(Role::ResourceName),
            one("pattern_type", Int8, 1, 3).default(3),
            array("acls", Struct, 1, 3).of(&[
                one("principal", String, 1, 3),
                one("host", String, 1, 3),
                one("operation", Int8, 1, 3),
                one("permission_type", Int8, 1, 3),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_30: Api = Api {
    number: 30, name: "CreateAcls",
    versions: Versions(1, 3), flexible: Versions(2, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        array("creations", Struct, 1, 3).of(&[
            one("resource_type", Int8, 1, 3).role(Role::ResourceType),
            one("resource_name", String, 1, 3).role(Role::ResourceName),
            one("resource_pattern_type", Int8, 1, 3).default(3),
            one("principal", String, 1, 3),
            one("host", String, 1, 3),
            one("operation", Int8, 1, 3),
            one("permission_type", Int8, 1, 3),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 1, 3).role(Role::Throttle),
        array("results", Struct, 1, 3).of(&[
            one("error_code", Int16, 1, 3).role(Role::Error),
            one("error_message", String, 1, 3).nullable(1, 3).role(Role::ErrorMessage),
        ]),
    ],
};

#[rustfmt::skip]
static API_31: Api = Api {
    number: 31, name: "DeleteAcls",
    versions: Versions(1, 3), flexible: Versions(2, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        array("filters", Struct, 1, 3).of(&[
            one("resource_type_filter", Int8, 1, 3).role(Role::ResourceType),
            one("resource_name_filter", String, 1, 3).nullable(1, 3).role(Role::ResourceName),
            one("pattern_type_filter", Int8, 1, 3).default(3),
            one("principal_filter", String, 1, 3).nullable(1, 3),
            one("host_filter", String, 1, 3).nullable(1, 3),
            one("operation", Int8, 1, 3),
            one("permission_type", Int8, 1, 3),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 1, 3).role(Role::Throttle),
        array("filter_results", Struct, 1, 3).of(&[
            one("error_code", Int16, 1, 3).role(Role::Error),
            one("error_message", String, 1, 3).nullable(1, 3).role(Role::ErrorMessage),
            array("matching_acls", Struct, 1, 3).of(&[
                one("error_code", Int16, 1, 3).role(Role::Error),
                one("error_message", String, 1, 3).nullable(1, 3).role(Role::ErrorMessage),
                one("resource_type", Int8, 1, 3).role(Role::ResourceType),
                one("resource_name", String, 1, 3).role(Role::ResourceName),
                one("pattern_type", Int8, 1, 3).default(3),
                one("principal", String, 1, 3),
                one("host", String, 1, 3),
                one("operation", Int8, 1, 3),
                one("permission_type", Int8, 1, 3),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_32: Api = Api {
    number: 32, name: "DescribeConfigs",
    versions: Versions(1, 4), flexible: Versions(4, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::RESOURCE, error: 31,
    request: &[
        array("resources", Struct, 1, 4).of(&[
            one("resource_type", Int8, 1, 4).role(Role::ResourceType),
            one("resource_name", String, 1, 4).role(Role::ResourceName),
            array("configuration_keys", String, 1, 4).nullable(1, 4),
        ]),
        one("include_synonyms", Bool, 1, 4),
        one("include_documentation", Bool, 3, 4),
    ],
    response: &[
        one("throttle_time_ms", Int32, 1, 4).role(Role::Throttle),
        array("results", Struct, 1, 4).of(&[
            one("error_code", Int16, 1, 4).role(Role::Error),
            one("error_message", String, 1, 4).nullable(1, 4).role(Role::ErrorMessage),
            one("resource_type", Int8, 1, 4).role(Role::ResourceType),
            one("resource_name", String, 1, 4).role(Role::ResourceName),
            array("configs", Struct, 1, 4).of(&[
                one("name", String, 1, 4),
                one("value", String, 1, 4).nullable(1, 4),
                one("read_only", Bool, 1, 4),
                one("config_source", Int8, 1, 4).default(-1),
                one("is_sensitive", Bool, 1, 4),
                array("synonyms", Struct, 1, 4).of(&[
                    one("name", String, 1, 4),
                    one("value", String, 1, 4).nullable(1, 4),
                    one("source", Int8, 1, 4),
                ]),
                one("config_type", Int8, 3, 4),
                one("documentation", String, 3, 4).nullable(3, 4),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_33: Api = Api {
    number: 33, name: "AlterConfigs",
    versions: Versions(0, 2), flexible: Versions(2, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::RESOURCE, error: 31,
    request: &[
        array("resources", Struct, 0, 2).of(&[
            one("resource_type", Int8, 0, 2).role(Role::ResourceType),
            one("resource_name", String, 0, 2).role(Role::ResourceName),
            array("configs", Struct, 0, 2).of(&[
                one("name", String, 0, 2),
                one("value", String, 0, 2).nullable(0, 2),
            ]),
        ]),
        one("validate_only", Bool, 0, 2),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 2).role(Role::Throttle),
        array("responses", Struct, 0, 2).of(&[
            one("error_code", Int16, 0, 2).role(Role::Error),
            one("error_message", String, 0, 2).nullable(0, 2).role(Role::ErrorMessage),
            one("resource_type", Int8, 0, 2).role(Role::ResourceType),
            one("resource_name", String, 0, 2).role(Role::ResourceName),
        ]),
    ],
};

#[rustfmt::skip]
static API_34: Api = Api {
    number: 34, name: "AlterReplicaLogDirs",
    versions: Versions(1, 2), flexible: Versions(2, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        array("dirs", Struct, 1, 2).of(&[
            one("path", String, 1, 2),
            array("topics", Struct, 1, 2).of(&[
                one("name", String, 1, 2).role(Role::Topic),
                array("partitions", Int32, 1, 2),
            ]),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 1, 2).role(Role::Throttle),
        array("results", Struct, 1, 2).of(&[
            one("topic_name", String, 1, 2).role(Role::Topic),
            array("partitions", Struct, 1, 2).of(&[
                one("partition_index", Int32, 1, 2),
                one("error_code", Int16, 1, 2).role(Role::Error),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_35: Api = Api {
    number: 35, name: "DescribeLogDirs",
    versions: Versions(1, 5), flexible: Versions(2, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        array("topics", Struct, 1, 5).nullable(1, 5).of(&[
            one("topic", String, 1, 5).role(Role::Topic),
            array("partitions", Int32, 1, 5),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 1, 5).role(Role::Throttle),
        one("error_code", Int16, 3, 5).role(Role::Error),
        array("results", Struct, 1, 5).of(&[
            one("error_code", Int16, 1, 5).role(Role::Error),
            one("log_dir", String, 1, 5),
            array("topics", Struct, 1, 5).of(&[
                one("name", String, 1, 5).role(Role::Topic),
                array("partitions", Struct, 1, 5).of(&[
                    one("partition_index", Int32, 1, 5),
                    one("partition_size", Int64, 1, 5),
                    one("offset_lag", Int64, 1, 5),
                    one("is_future_key", Bool, 1, 5),
                ]),
            ]),
            one("total_bytes", Int64, 4, 5).default(-1),
            one("usable_bytes", Int64, 4, 5).default(-1),
            one("is_cordoned", Bool, 5, 5),
        ]),
    ],
};

#[rustfmt::skip]
static API_36: Api = Api {
    number: 36, name: "SaslAuthenticate",
    versions: Versions(0, 2), flexible: Versions(2, 32767), judged: false,
    roles: Roles::PRODUCE.and(Roles::CONSUME), scope: Scope::NONE, error: 31,
    request: &[
        one("auth_bytes", Bytes, 0, 2),
    ],
    response: &[
        one("error_code", Int16, 0, 2).role(Role::Error),
        one("error_message", String, 0, 2).nullable(0, 2).role(Role::ErrorMessage),
        one("auth_bytes", Bytes, 0, 2),
        one("session_lifetime_ms", Int64, 1, 2),
    ],
};

#[rustfmt::skip]
static API_37: Api = Api {
    number: 37, name: "CreatePartitions",
    versions: Versions(0, 3), flexible: Versions(2, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::TOPIC, error: 29,
    request: &[
        array("topics", Struct, 0, 3).of(&[
            one("name", String, 0, 3).role(Role::Topic),
            one("count", Int32, 0, 3),
            array("assignments", Struct, 0, 3).nullable(0, 3).of(&[
                array("broker_ids", Int32, 0, 3),
            ]),
        ]),
        one("timeout_ms", Int32, 0, 3),
        one("validate_only", Bool, 0, 3),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 3).role(Role::Throttle),
        array("results", Struct, 0, 3).of(&[
            one("name", String, 0, 3).role(Role::Topic),
            one("error_code", Int16, 0, 3).role(Role::Error),
            one("error_message", String, 0, 3).nullable(0, 3).null().role(Role::ErrorMessage),
        ]),
    ],
};

#[rustfmt::skip]
static API_38: Api = Api {
    number: 38, name: "CreateDelegationToken",
    versions: Versions(1, 3), flexible: Versions(2, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("owner_principal_type", String, 3, 3).nullable(3, 3),
        one("owner_principal_name", String, 3, 3).nullable(3, 3),
        array("renewers", Struct, 1, 3).of(&[
            one("principal_type", String, 1, 3),
            one("principal_name", String, 1, 3),
        ]),
        one("max_lifetime_ms", Int64, 1, 3),
    ],
    response: &[
        one("error_code", Int16, 1, 3).role(Role::Error),
        one("principal_type", String, 1, 3),
        one("principal_name", String, 1, 3),
        one("token_requester_principal_type", String, 3, 3),
        one("token_requester_principal_name", String, 3, 3),
        one("issue_timestamp_ms", Int64, 1, 3),
        one("expiry_timestamp_ms", Int64, 1, 3),
        one("max_timestamp_ms", Int64, 1, 3),
        one("token_id", String, 1, 3),
        one("hmac", Bytes, 1, 3),
        one("throttle_time_ms", Int32, 1, 3).role(Role::Throttle),
    ],
};

#[rustfmt::skip]
static API_39: Api = Api {
    number: 39, name: "RenewDelegationToken",
    versions: Versions(1, 2), flexible: Versions(2, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("hmac", Bytes, 1, 2),
        one("renew_period_ms", Int64, 1, 2),
    ],
    response: &[
        one("error_code", Int16, 1, 2).role(Role::Error),
        one("expiry_timestamp_ms", Int64, 1, 2),
        one("throttle_time_ms", Int32, 1, 2).role(Role::Throttle),
    ],
};

#[rustfmt::skip]
static API_40: Api = Api {
    number: 40, name: "ExpireDelegationToken",
    versions: Versions(1, 2), flexible: Versions(2, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("hmac", Bytes, 1, 2),
        one("expiry_time_period_ms", Int64, 1, 2),
    ],
    response: &[
        one("error_code", Int16, 1, 2).role(Role::Error),
        one("expiry_timestamp_ms", Int64, 1, 2),
        one("throttle_time_ms", Int32, 1, 2).role(Role::Throttle),
    ],
};

#[rustfmt::skip]
static API_41: Api = Api {
    number: 41, name: "DescribeDelegationToken",
    versions: Versions(1, 3), flexible: Versions(2, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        array("owners", Struct, 1, 3).nullable(1, 3).of(&[
            one("principal_type", String, 1, 3),
            one("principal_name", String, 1, 3),
        ]),
    ],
    response: &[
        one("error_code", Int16, 1, 3).role(Role::Error),
        array("tokens", Struct, 1, 3).of(&[
            one("principal_type", String, 1, 3),
            one("principal_name", String, 1, 3),
            one("token_requester_principal_type", String, 3, 3),
            one("token_requester_principal_name", String, 3, 3),
            one("issue_timestamp", Int64, 1, 3),
            one("expiry_timestamp", Int64, 1, 3),
            one("max_timestamp", Int64, 1, 3),
            one("token_id", String, 1, 3),
            one("hmac", Bytes, 1, 3),
            array("renewers", Struct, 1, 3).of(&[
                one("principal_type", String, 1, 3),
                one("principal_name", String, 1, 3),
            ]),
        ]),
        one("throttle_time_ms", Int32, 1, 3).role(Role::Throttle),
    ],
};

#[rustfmt::skip]
static API_42: Api = Api {
    number: 42, name: "DeleteGroups",
    versions: Versions(0, 3), flexible: Versions(2, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::GROUP, error: 30,
    request: &[
        array("groups_names", String, 0, 3).role(Role::Group),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 3).role(Role::Throttle),
        array("results", Struct, 0, 3).of(&[
            one("group_id", String, 0, 3).role(Role::Group),
            one("error_code", Int16, 0, 3).role(Role::Error),
            one("error_message", String, 3, 3).nullable(3, 3).null().role(Role::ErrorMessage),
        ]),
    ],
};

#[rustfmt::skip]
static API_43: Api = Api {
    number: 43, name: "ElectLeaders",
    versions: Versions(0, 2), flexible: Versions(2, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("election_type", Int8, 1, 2),
        array("topic_partitions", Struct, 0, 2).nullable(0, 2).of(&[
            one("topic", String, 0, 2).role(Role::Topic),
            array("partitions", Int32, 0, 2),
        ]),
        one("timeout_ms", Int32, 0, 2).default(60000),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 2).role(Role::Throttle),
        one("error_code", Int16, 1, 2).role(Role::Error),
        array("replica_election_results", Struct, 0, 2).of(&[
            one("topic", String, 0, 2).role(Role::Topic),
            array("partition_result", Struct, 0, 2).of(&[
                one("partition_id", Int32, 0, 2),
                one("error_code", Int16, 0, 2).role(Role::Error),
                one("error_message", String, 0, 2).nullable(0, 2).role(Role::ErrorMessage),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_44: Api = Api {
    number: 44, name: "IncrementalAlterConfigs",
    versions: Versions(0, 1), flexible: Versions(1, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::RESOURCE, error: 31,
    request: &[
        array("resources", Struct, 0, 1).of(&[
            one("resource_type", Int8, 0, 1).role(Role::ResourceType),
            one("resource_name", String, 0, 1).role(Role::ResourceName),
            array("configs", Struct, 0, 1).of(&[
                one("name", String, 0, 1),
                one("config_operation", Int8, 0, 1),
                one("value", String, 0, 1).nullable(0, 1),
            ]),
        ]),
        one("validate_only", Bool, 0, 1),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 1).role(Role::Throttle),
        array("responses", Struct, 0, 1).of(&[
            one("error_code", Int16, 0, 1).role(Role::Error),
            one("error_message", String, 0, 1).nullable(0, 1).role(Role::ErrorMessage),
            one("resource_type", Int8, 0, 1).role(Role::ResourceType),
            one("resource_name", String, 0, 1).role(Role::ResourceName),
        ]),
    ],
};

#[rustfmt::skip]
static API_45: Api = Api {
    number: 45, name: "AlterPartitionReassignments",
    versions: Versions(0, 1), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("timeout_ms", Int32, 0, 1).default(60000),
        one("allow_replication_factor_change", Bool, 1, 1).default(1),
        array("topics", Struct, 0, 1).of(&[
            one("name", String, 0, 1).role(Role::Topic),
            array("partitions", Struct, 0, 1).of(&[
                one("partition_index", Int32, 0, 1),
                array("replicas", Int32, 0, 1).nullable(0, 1).null(),
            ]),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 1).role(Role::Throttle),
        one("allow_replication_factor_change", Bool, 1, 1).default(1),
        one("error_code", Int16, 0, 1).role(Role::Error),
        one("error_message", String, 0, 1).nullable(0, 1).role(Role::ErrorMessage),
        array("responses", Struct, 0, 1).of(&[
            one("name", String, 0, 1).role(Role::Topic),
            array("partitions", Struct, 0, 1).of(&[
                one("partition_index", Int32, 0, 1),
                one("error_code", Int16, 0, 1).role(Role::Error),
                one("error_message", String, 0, 1).nullable(0, 1).role(Role::ErrorMessage),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_46: Api = Api {
    number: 46, name: "ListPartitionReassignments",
    versions: Versions(0, 0), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("timeout_ms", Int32, 0, 0).default(60000),
        array("topics", Struct, 0, 0).nullable(0, 0).null().of(&[
            one("name", String, 0, 0).role(Role::Topic),
            array("partition_indexes", Int32, 0, 0),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 0).role(Role::Throttle),
        one("error_code", Int16, 0, 0).role(Role::Error),
        one("error_message", String, 0, 0).nullable(0, 0).role(Role::ErrorMessage),
        array("topics", Struct, 0, 0).of(&[
            one("name", String, 0, 0).role(Role::Topic),
            array("partitions", Struct, 0, 0).of(&[
                one("partition_index", Int32, 0, 0),
                array("replicas", Int32, 0, 0),
                array("adding_replicas", Int32, 0, 0),
                array("removing_replicas", Int32, 0, 0),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_47: Api = Api {
    number: 47, name: "OffsetDelete",
    versions: Versions(0, 0), flexible: Versions(0, -1), judged: true,
    roles: Roles::NONE, scope: Scope::TOPIC.and(Scope::GROUP), error: 30,
    request: &[
        one("group_id", String, 0, 0).role(Role::Group),
        array("topics", Struct, 0, 0).of(&[
            one("name", String, 0, 0).role(Role::Topic),
            array("partitions", Struct, 0, 0).of(&[
                one("partition_index", Int32, 0, 0),
            ]),
        ]),
    ],
    response: &[
        one("error_code", Int16, 0, 0).role(Role::Error),
        one("throttle_time_ms", Int32, 0, 0).role(Role::Throttle),
        array("topics", Struct, 0, 0).of(&[
            one("name", String, 0, 0).role(Role::Topic),
            array("partitions", Struct, 0, 0).of(&[
                one("partition_index", Int32, 0, 0),
                one("error_code", Int16, 0, 0).role(Role::Error),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_48: Api = Api {
    number: 48, name: "DescribeClientQuotas",
    versions: Versions(0, 1), flexible: Versions(1, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        array("components", Struct, 0, 1).of(&[
            one("entity_type", String, 0, 1),
            one("match_type", Int8, 0, 1),
            one("match", String, 0, 1).nullable(0, 1),
        ]),
        one("strict", Bool, 0, 1),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 1).role(Role::Throttle),
        one("error_code", Int16, 0, 1).role(Role::Error),
        one("error_message", String, 0, 1).nullable(0, 1).role(Role::ErrorMessage),
        array("entries", Struct, 0, 1).nullable(0, 1).of(&[
            array("entity", Struct, 0, 1).of(&[
                one("entity_type", String, 0, 1),
                one("entity_name", String, 0, 1).nullable(0, 1),
            ]),
            array("values", Struct, 0, 1).of(&[
                one("key", String, 0, 1),
                one("value", Float64, 0, 1),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_49: Api = Api {
    number: 49, name: "AlterClientQuotas",
    versions: Versions(0, 1), flexible: Versions(1, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        array("entries", Struct, 0, 1).of(&[
            array("entity", Struct, 0, 1).of(&[
                one("entity_type", String, 0, 1),
                one("entity_name", String, 0, 1).nullable(0, 1),
            ]),
            array("ops", Struct, 0, 1).of(&[
                one("key", String, 0, 1),
                one("value", Float64, 0, 1),
                one("remove", Bool, 0, 1),
            ]),
        ]),
        one("validate_only", Bool, 0, 1),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 1).role(Role::Throttle),
        array("entries", Struct, 0, 1).of(&[
            one("error_code", Int16, 0, 1).role(Role::Error),
            one("error_message", String, 0, 1).nullable(0, 1).role(Role::ErrorMessage),
            array("entity", Struct, 0, 1).of(&[
                one("entity_type", String, 0, 1),
                one("entity_name", String, 0, 1).nullable(0, 1),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_50: Api = Api {
    number: 50, name: "DescribeUserScramCredentials",
    versions: Versions(0, 0), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        array("users", Struct, 0, 0).nullable(0, 0).of(&[
            one("name", String, 0, 0),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 0).role(Role::Throttle),
        one("error_code", Int16, 0, 0).role(Role::Error),
        one("error_message", String, 0, 0).nullable(0, 0).role(Role::ErrorMessage),
        array("results", Struct, 0, 0).of(&[
            one("user", String, 0, 0),
            one("error_code", Int16, 0, 0).role(Role::Error),
            one("error_message", String, 0, 0).nullable(0, 0).role(Role::ErrorMessage),
            array("credential_infos", Struct, 0, 0).of(&[
                one("mechanism", Int8, 0, 0),
                one("iterations", Int32, 0, 0),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_51: Api = Api {
    number: 51, name: "AlterUserScramCredentials",
    versions: Versions(0, 0), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        array("deletions", Struct, 0, 0).of(&[
            one("name", String, 0, 0),
            one("mechanism", Int8, 0, 0),
        ]),
        array("upsertions", Struct, 0, 0).of(&[
            one("name", String, 0, 0),
            one("mechanism", Int8, 0, 0),
            one("iterations", Int32, 0, 0),
            one("salt", Bytes, 0, 0),
            one("salted_password", Bytes, 0, 0),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 0).role(Role::Throttle),
        array("results", Struct, 0, 0).of(&[
            one("user", String, 0, 0),
            one("error_code", Int16, 0, 0).role(Role::Error),
            one("error_message", String, 0, 0).nullable(0, 0).role(Role::ErrorMessage),
        ]),
    ],
};

#[rustfmt::skip]
static API_52: Api = Api {
    number: 52, name: "Vote",
    versions: Versions(0, 2), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("cluster_id", String, 0, 2).nullable(0, 2).null(),
        one("voter_id", Int32, 1, 2).default(-1),
        array("topics", Struct, 0, 2).of(&[
            one("topic_name", String, 0, 2).role(Role::Topic),
            array("partitions", Struct, 0, 2).of(&[
                one("partition_index", Int32, 0, 2),
                one("replica_epoch", Int32, 0, 2),
                one("replica_id", Int32, 0, 2),
                one("replica_directory_id", Uuid, 1, 2),
                one("voter_directory_id", Uuid, 1, 2),
                one("last_offset_epoch", Int32, 0, 2),
                one("last_offset", Int64, 0, 2),
                one("pre_vote", Bool, 2, 2),
            ]),
        ]),
    ],
    response: &[
        one("error_code", Int16, 0, 2).role(Role::Error),
        array("topics", Struct, 0, 2).of(&[
            one("topic_name", String, 0, 2).role(Role::Topic),
            array("partitions", Struct, 0, 2).of(&[
                one("partition_index", Int32, 0, 2),
                one("error_code", Int16, 0, 2).role(Role::Error),
                one("leader_id", Int32, 0, 2),
                one("leader_epoch", Int32, 0, 2),
                one("vote_granted", Bool, 0, 2),
            ]),
        ]),
        array("node_endpoints", Struct, 1, 2).tag(0).of(&[
            one("node_id", Int32, 1, 2),
            one("host", String, 1, 2),
            one("port", Uint16, 1, 2),
        ]),
    ],
};

#[rustfmt::skip]
static API_53: Api = Api {
    number: 53, name: "BeginQuorumEpoch",
    versions: Versions(0, 1), flexible: Versions(1, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("cluster_id", String, 0, 1).nullable(0, 1).null(),
        one("voter_id", Int32, 1, 1).default(-1),
        array("topics", Struct, 0, 1).of(&[
            one("topic_name", String, 0, 1).role(Role::Topic),
            array("partitions", Struct, 0, 1).of(&[
                one("partition_index", Int32, 0, 1),
                one("voter_directory_id", Uuid, 1, 1),
                one("leader_id", Int32, 0, 1),
                one("leader_epoch", Int32, 0, 1),
            ]),
        ]),
        array("leader_endpoints", Struct, 1, 1).of(&[
            one("name", String, 1, 1),
            one("host", String, 1, 1),
            one("port", Uint16, 1, 1),
        ]),
    ],
    response: &[
        one("error_code", Int16, 0, 1).role(Role::Error),
        array("topics", Struct, 0, 1).of(&[
            one("topic_name", String, 0, 1).role(Role::Topic),
            array("partitions", Struct, 0, 1).of(&[
                one("partition_index", Int32, 0, 1),
                one("error_code", Int16, 0, 1).role(Role::Error),
                one("leader_id", Int32, 0, 1),
                one("leader_epoch", Int32, 0, 1),
            ]),
        ]),
        array("node_endpoints", Struct, 1, 1).tag(0).of(&[
            one("node_id", Int32, 1, 1),
            one("host", String, 1, 1),
            one("port", Uint16, 1, 1),
        ]),
    ],
};

#[rustfmt::skip]
static API_54: Api = Api {
    number: 54, name: "EndQuorumEpoch",
    versions: Versions(0, 1), flexible: Versions(1, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("cluster_id", String, 0, 1).nullable(0, 1).null(),
        array("topics", Struct, 0, 1).of(&[
            one("topic_name", String, 0, 1).role(Role::Topic),
            array("partitions", Struct, 0, 1).of(&[
                one("partition_index", Int32, 0, 1),
                one("leader_id", Int32, 0, 1),
                one("leader_epoch", Int32, 0, 1),
                array("preferred_successors", Int32, 0, 0),
                array("preferred_candidates", Struct, 1, 1).of(&[
                    one("candidate_id", Int32, 1, 1),
                    one("candidate_directory_id", Uuid, 1, 1),
                ]),
            ]),
        ]),
        array("leader_endpoints", Struct, 1, 1).of(&[
            one("name", String, 1, 1),
            one("host", String, 1, 1),
            one("port", Uint16, 1, 1),
        ]),
    ],
    response: &[
        one("error_code", Int16, 0, 1).role(Role::Error),
        array("topics", Struct, 0, 1).of(&[
            one("topic_name", String, 0, 1).role(Role::Topic),
            array("partitions", Struct, 0, 1).of(&[
                one("partition_index", Int32, 0, 1),
                one("error_code", Int16, 0, 1).role(Role::Error),
                one("leader_id", Int32, 0, 1),
                one("leader_epoch", Int32, 0, 1),
            ]),
        ]),
        array("node_endpoints", Struct, 1, 1).tag(0).of(&[
            one("node_id", Int32, 1, 1),
            one("host", String, 1, 1),
            one("port", Uint16, 1, 1),
        ]),
    ],
};

#[rustfmt::skip]
static API_55: Api = Api {
    number: 55, name: "DescribeQuorum",
    versions: Versions(0, 2), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        array("topics", Struct, 0, 2).of(&[
            one("topic_name", String, 0, 2).role(Role::Topic),
            array("partitions", Struct, 0, 2).of(&[
                one("partition_index", Int32, 0, 2),
            ]),
        ]),
    ],
    response: &[
        one("error_code", Int16, 0, 2).role(Role::Error),
        one("error_message", String, 2, 2).nullable(2, 2).role(Role::ErrorMessage),
        array("topics", Struct, 0, 2).of(&[
            one("topic_name", String, 0, 2).role(Role::Topic),
            array("partitions", Struct, 0, 2).of(&[
                one("partition_index", Int32, 0, 2),
                one("error_code", Int16, 0, 2).role(Role::Error),
                one("error_message", String, 2, 2).nullable(2, 2).role(Role::ErrorMessage),
                one("leader_id", Int32, 0, 2),
                one("leader_epoch", Int32, 0, 2),
                one("high_watermark", Int64, 0, 2),
                array("current_voters", Struct, 0, 2).of(&[
                    one("replica_id", Int32, 0, 2),
                    one("replica_directory_id", Uuid, 2, 2),
                    one("log_end_offset", Int64, 0, 2),
                    one("last_fetch_timestamp", Int64, 1, 2).default(-1),
                    one("last_caught_up_timestamp", Int64, 1, 2).default(-1),
                ]),
                array("observers", Struct, 0, 2).of(&[
                    one("replica_id", Int32, 0, 2),
                    one("replica_directory_id", Uuid, 2, 2),
                    one("log_end_offset", Int64, 0, 2),
                    one("last_fetch_timestamp", Int64, 1, 2).default(-1),
                    one("last_caught_up_timestamp", Int64, 1, 2).default(-1),
                ]),
            ]),
        ]),
        array("nodes", Struct, 2, 2).of(&[
            one("node_id", Int32, 2, 2),
            array("listeners", Struct, 2, 2).of(&[
                one("name", String, 2, 2),
                one("host", String, 2, 2),
                one("port", Uint16, 2, 2),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_56: Api = Api {
    number: 56, name: "AlterPartition",
    versions: Versions(2, 3), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("broker_id", Int32, 2, 3),
        one("broker_epoch", Int64, 2, 3).default(-1),
        array("topics", Struct, 2, 3).of(&[
            one("topic_id", Uuid, 2, 3).role(Role::TopicId),
            array("partitions", Struct, 2, 3).of(&[
                one("partition_index", Int32, 2, 3),
                one("leader_epoch", Int32, 2, 3),
                array("new_isr", Int32, 2, 2),
                array("new_isr_with_epochs", Struct, 3, 3).of(&[
                    one("broker_id", Int32, 3, 3),
                    one("broker_epoch", Int64, 3, 3).default(-1),
                ]),
                one("leader_recovery_state", Int8, 2, 3),
                one("partition_epoch", Int32, 2, 3),
            ]),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 2, 3).role(Role::Throttle),
        one("error_code", Int16, 2, 3).role(Role::Error),
        array("topics", Struct, 2, 3).of(&[
            one("topic_id", Uuid, 2, 3).role(Role::TopicId),
            array("partitions", Struct, 2, 3).of(&[
                one("partition_index", Int32, 2, 3),
                one("error_code", Int16, 2, 3).role(Role::Error),
                one("leader_id", Int32, 2, 3),
                one("leader_epoch", Int32, 2, 3),
                array("isr", Int32, 2, 3),
                one("leader_recovery_state", Int8, 2, 3),
                one("partition_epoch", Int32, 2, 3),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_57: Api = Api {
    number: 57, name: "UpdateFeatures",
    versions: Versions(0, 2), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("timeout_ms", Int32, 0, 2).default(60000),
        array("feature_updates", Struct, 0, 2).of(&[
            one("feature", String, 0, 2),
            one("max_version_level", Int16, 0, 2),
            one("allow_downgrade", Bool, 0, 0),
            one("upgrade_type", Int8, 1, 2).default(1),
        ]),
        one("validate_only", Bool, 1, 2),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 2).role(Role::Throttle),
        one("error_code", Int16, 0, 2).role(Role::Error),
        one("error_message", String, 0, 2).nullable(0, 2).role(Role::ErrorMessage),
        array("results", Struct, 0, 1).of(&[
            one("feature", String, 0, 1),
            one("error_code", Int16, 0, 1).role(Role::Error),
            one("error_message", String, 0, 1).nullable(0, 1).role(Role::ErrorMessage),
        ]),
    ],
};

#[rustfmt::skip]
static API_58: Api = Api {
    number: 58, name: "Envelope",
    versions: Versions(0, 0), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("request_data", Bytes, 0, 0),
        one("request_principal", Bytes, 0, 0).nullable(0, 0),
        one("client_host_address", Bytes, 0, 0),
    ],
    response: &[
        one("response_data", Bytes, 0, 0).nullable(0, 0).null(),
        one("error_code", Int16, 0, 0).role(Role::Error),
    ],
};

#[rustfmt::skip]
static API_59: Api = Api {
    number: 59, name: "FetchSnapshot",
    versions: Versions(0, 1), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("cluster_id", String, 0, 1).nullable(0, 1).tag(0).null(),
        one("replica_id", Int32, 0, 1).default(-1),
        one("max_bytes", Int32, 0, 1).default(2147483647),
        array("topics", Struct, 0, 1).of(&[
            one("name", String, 0, 1).role(Role::Topic),
            array("partitions", Struct, 0, 1).of(&[
                one("partition", Int32, 0, 1),
                one("current_leader_epoch", Int32, 0, 1),
                one("snapshot_id", Struct, 0, 1).of(&[
                    one("end_offset", Int64, 0, 1),
                    one("epoch", Int32, 0, 1),
                ]),
                one("position", Int64, 0, 1),
                one("replica_directory_id", Uuid, 1, 1).tag(0),
            ]),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 1).role(Role::Throttle),
        one("error_code", Int16, 0, 1).role(Role::Error),
        array("topics", Struct, 0, 1).of(&[
            one("name", String, 0, 1).role(Role::Topic),
            array("partitions", Struct, 0, 1).of(&[
                one("index", Int32, 0, 1),
                one("error_code", Int16, 0, 1).role(Role::Error),
                one("snapshot_id", Struct, 0, 1).of(&[
                    one("end_offset", Int64, 0, 1),
                    one("epoch", Int32, 0, 1),
                ]),
                one("current_leader", Struct, 0, 1).tag(0).of(&[
                    one("leader_id", Int32, 0, 1),
                    one("leader_epoch", Int32, 0, 1),
                ]),
                one("size", Int64, 0, 1),
                one("position", Int64, 0, 1),
                one("unaligned_records", Records, 0, 1),
            ]),
        ]),
        array("node_endpoints", Struct, 1, 1).tag(0).of(&[
            one("node_id", Int32, 1, 1),
            one("host", String, 1, 1),
            one("port", Uint16, 1, 1),
        ]),
    ],
};

#[rustfmt::skip]
static API_60: Api = Api {
    number: 60, name: "DescribeCluster",
    versions: Versions(0, 2), flexible: Versions(0, 32767), judged: true,
    roles: Roles::PRODUCE.and(Roles::CONSUME), scope: Scope::NONE, error: 31,
    request: &[
        one("include_cluster_authorized_operations", Bool, 0, 2),
        one("endpoint_type", Int8, 1, 2).default(1),
        one("include_fenced_brokers", Bool, 2, 2),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 2).role(Role::Throttle),
        one("error_code", Int16, 0, 2).role(Role::Error),
        one("error_message", String, 0, 2).nullable(0, 2).null().role(Role::ErrorMessage),
        one("endpoint_type", Int8, 1, 2).default(1),
        one("cluster_id", String, 0, 2),
        one("controller_id", Int32, 0, 2).default(-1),
        array("brokers", Struct, 0, 2).of(&[
            one("broker_id", Int32, 0, 2),
            one("host", String, 0, 2),
            one("port", Int32, 0, 2),
            one("rack", String, 0, 2).nullable(0, 2).null(),
            one("is_fenced", Bool, 2, 2),
        ]),
        one("cluster_authorized_operations", Int32, 0, 2).default(-2147483648),
    ],
};

#[rustfmt::skip]
static API_61: Api = Api {
    number: 61, name: "DescribeProducers",
    versions: Versions(0, 0), flexible: Versions(0, 32767), judged: true,
    roles: Roles::CONSUME, scope: Scope::TOPIC, error: 29,
    request: &[
        array("topics", Struct, 0, 0).of(&[
            one("name", String, 0, 0).role(Role::Topic),
            array("partition_indexes", Int32, 0, 0),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 0).role(Role::Throttle),
        array("topics", Struct, 0, 0).of(&[
            one("name", String, 0, 0).role(Role::Topic),
            array("partitions", Struct, 0, 0).of(&[
                one("partition_index", Int32, 0, 0),
                one("error_code", Int16, 0, 0).role(Role::Error),
                one("error_message", String, 0, 0).nullable(0, 0).null().role(Role::ErrorMessage),
                array("active_producers", Struct, 0, 0).of(&[
                    one("producer_id", Int64, 0, 0),
                    one("producer_epoch", Int32, 0, 0),
                    one("last_sequence", Int32, 0, 0).default(-1),
                    one("last_timestamp", Int64, 0, 0).default(-1),
                    one("coordinator_epoch", Int32, 0, 0),
                    one("current_txn_start_offset", Int64, 0, 0).default(-1),
                ]),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_62: Api = Api {
    number: 62, name: "BrokerRegistration",
    versions: Versions(0, 4), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("broker_id", Int32, 0, 4),
        one("cluster_id", String, 0, 4),
        one("incarnation_id", Uuid, 0, 4),
        array("listeners", Struct, 0, 4).of(&[
            one("name", String, 0, 4),
            one("host", String, 0, 4),
            one("port", Uint16, 0, 4),
            one("security_protocol", Int16, 0, 4),
        ]),
        array("features", Struct, 0, 4).of(&[
            one("name", String, 0, 4),
            one("min_supported_version", Int16, 0, 4),
            one("max_supported_version", Int16, 0, 4),
        ]),
        one("rack", String, 0, 4).nullable(0, 4),
        one("is_migrating_zk_broker", Bool, 1, 4),
        array("log_dirs", Uuid, 2, 4),
        one("previous_broker_epoch", Int64, 3, 4).default(-1),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 4).role(Role::Throttle),
        one("error_code", Int16, 0, 4).role(Role::Error),
        one("broker_epoch", Int64, 0, 4).default(-1),
    ],
};

#[rustfmt::skip]
static API_63: Api = Api {
    number: 63, name: "BrokerHeartbeat",
    versions: Versions(0, 2), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("broker_id", Int32, 0, 2),
        one("broker_epoch", Int64, 0, 2).default(-1),
        one("current_metadata_offset", Int64, 0, 2),
        one("want_fence", Bool, 0, 2),
        one("want_shut_down", Bool, 0, 2),
        array("offline_log_dirs", Uuid, 1, 2).tag(0),
        array("cordoned_log_dirs", Uuid, 2, 2).nullable(2, 2).tag(1).null(),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 2).role(Role::Throttle),
        one("error_code", Int16, 0, 2).role(Role::Error),
        one("is_caught_up", Bool, 0, 2),
        one("is_fenced", Bool, 0, 2).default(1),
        one("should_shut_down", Bool, 0, 2),
    ],
};

#[rustfmt::skip]
static API_64: Api = Api {
    number: 64, name: "UnregisterBroker",
    versions: Versions(0, 0), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("broker_id", Int32, 0, 0),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 0).role(Role::Throttle),
        one("error_code", Int16, 0, 0).role(Role::Error),
        one("error_message", String, 0, 0).nullable(0, 0).role(Role::ErrorMessage),
    ],
};

#[rustfmt::skip]
static API_65: Api = Api {
    number: 65, name: "DescribeTransactions",
    versions: Versions(0, 0), flexible: Versions(0, 32767), judged: true,
    roles: Roles::PRODUCE, scope: Scope::TRANSACTION, error: 53,
    request: &[
        array("transactional_ids", String, 0, 0).role(Role::TransactionalId),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 0).role(Role::Throttle),
        array("transaction_states", Struct, 0, 0).of(&[
            one("error_code", Int16, 0, 0).role(Role::Error),
            one("transactional_id", String, 0, 0).role(Role::TransactionalId),
            one("transaction_state", String, 0, 0),
            one("transaction_timeout_ms", Int32, 0, 0),
            one("transaction_start_time_ms", Int64, 0, 0),
            one("producer_id", Int64, 0, 0),
            one("producer_epoch", Int16, 0, 0),
            array("topics", Struct, 0, 0).of(&[
                one("topic", String, 0, 0).role(Role::Topic),
                array("partitions", Int32, 0, 0),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_66: Api = Api {
    number: 66, name: "ListTransactions",
    versions: Versions(0, 2), flexible: Versions(0, 32767), judged: true,
    roles: Roles::PRODUCE, scope: Scope::TRANSACTION, error: 0,
    request: &[
        array("state_filters", String, 0, 2),
        array("producer_id_filters", Int64, 0, 2),
        one("duration_filter", Int64, 1, 2).default(-1),
        one("transactional_id_pattern", String, 2, 2).nullable(2, 2).null(),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 2).role(Role::Throttle),
        one("error_code", Int16, 0, 2).role(Role::Error),
        array("unknown_state_filters", String, 0, 2),
        array("transaction_states", Struct, 0, 2).of(&[
            one("transactional_id", String, 0, 2).role(Role::TransactionalId),
            one("producer_id", Int64, 0, 2),
            one("transaction_state", String, 0, 2),
        ]),
    ],
};

#[rustfmt::skip]
static API_67: Api = Api {
    number: 67, name: "AllocateProducerIds",
    versions: Versions(0, 0), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("broker_id", Int32, 0, 0),
        one("broker_epoch", Int64, 0, 0).default(-1),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 0).role(Role::Throttle),
        one("error_code", Int16, 0, 0).role(Role::Error),
        one("producer_id_start", Int64, 0, 0),
        one("producer_id_len", Int32, 0, 0),
    ],
};

#[rustfmt::skip]
static API_68: Api = Api {
    number: 68, name: "ConsumerGroupHeartbeat",
    versions: Versions(0, 1), flexible: Versions(0, 32767), judged: true,
    roles: Roles::CONSUME, scope: Scope::TOPIC.and(Scope::GROUP), error: 30,
    request: &[
        one("group_id", String, 0, 1).role(Role::Group),
        one("member_id", String, 0, 1),
        one("member_epoch", Int32, 0, 1),
        one("instance_id", String, 0, 1).nullable(0, 1).null(),
        one("rack_id", String, 0, 1).nullable(0, 1).null(),
        one("rebalance_timeout_ms", Int32, 0, 1).default(-1),
        array("subscribed_topic_names", String, 0, 1).nullable(0, 1).null().role(Role::Topic),
        one("subscribed_topic_regex", String, 1, 1).nullable(1, 1).null(),
        one("server_assignor", String, 0, 1).nullable(0, 1).null(),
        array("topic_partitions", Struct, 0, 1).nullable(0, 1).null().of(&[
            one("topic_id", Uuid, 0, 1).role(Role::TopicId),
            array("partitions", Int32, 0, 1),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 1).role(Role::Throttle),
        one("error_code", Int16, 0, 1).role(Role::Error),
        one("error_message", String, 0, 1).nullable(0, 1).null().role(Role::ErrorMessage),
        one("member_id", String, 0, 1).nullable(0, 1).null(),
        one("member_epoch", Int32, 0, 1),
        one("heartbeat_interval_ms", Int32, 0, 1),
        one("assignment", Struct, 0, 1).nullable(0, 1).null().of(&[
            array("topic_partitions", Struct, 0, 1).of(&[
                one("topic_id", Uuid, 0, 1).role(Role::TopicId),
                array("partitions", Int32, 0, 1),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_69: Api = Api {
    number: 69, name: "ConsumerGroupDescribe",
    versions: Versions(0, 1), flexible: Versions(0, 32767), judged: true,
    roles: Roles::CONSUME, scope: Scope::GROUP, error: 30,
    request: &[
        array("group_ids", String, 0, 1).role(Role::Group),
        one("include_authorized_operations", Bool, 0, 1),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 1).role(Role::Throttle),
        array("groups", Struct, 0, 1).of(&[
            one("error_code", Int16, 0, 1).role(Role::Error),
            one("error_message", String, 0, 1).nullable(0, 1).null().role(Role::ErrorMessage),
            one("group_id", String, 0, 1).role(Role::Group),
            one("group_state", String, 0, 1),
            one("group_epoch", Int32, 0, 1),
            one("assignment_epoch", Int32, 0, 1),
            one("assignor_name", String, 0, 1),
            array("members", Struct, 0, 1).of(&[
                one("member_id", String, 0, 1),
                one("instance_id", String, 0, 1).nullable(0, 1).null(),
                one("rack_id", String, 0, 1).nullable(0, 1).null(),
                one("member_epoch", Int32, 0, 1),
                one("client_id", String, 0, 1),
                one("client_host", String, 0, 1),
                array("subscribed_topic_names", String, 0, 1).role(Role::Topic),
                one("subscribed_topic_regex", String, 0, 1).nullable(0, 1).null(),
                one("assignment", Struct, 0, 1).of(&[
                    array("topic_partitions", Struct, 0, 1).of(&[
                        one("topic_id", Uuid, 0, 1).role(Role::TopicId),
                        one("topic_name", String, 0, 1).role(Role::Topic),
                        array("partitions", Int32, 0, 1),
                    ]),
                ]),
                one("target_assignment", Struct, 0, 1).of(&[
                    array("topic_partitions", Struct, 0, 1).of(&[
                        one("topic_id", Uuid, 0, 1).role(Role::TopicId),
                        one("topic_name", String, 0, 1).role(Role::Topic),
                        array("partitions", Int32, 0, 1),
                    ]),
                ]),
                one("member_type", Int8, 1, 1).default(-1),
            ]),
            one("authorized_operations", Int32, 0, 1).default(-2147483648),
        ]),
    ],
};

#[rustfmt::skip]
static API_70: Api = Api {
    number: 70, name: "ControllerRegistration",
    versions: Versions(0, 0), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("controller_id", Int32, 0, 0),
        one("incarnation_id", Uuid, 0, 0),
        one("zk_migration_ready", Bool, 0, 0),
        array("listeners", Struct, 0, 0).of(&[
            one("name", String, 0, 0),
            one("host", String, 0, 0),
            one("port", Uint16, 0, 0),
            one("security_protocol", Int16, 0, 0),
        ]),
        array("features", Struct, 0, 0).of(&[
            one("name", String, 0, 0),
            one("min_supported_version", Int16, 0, 0),
            one("max_supported_version", Int16, 0, 0),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 0).role(Role::Throttle),
        one("error_code", Int16, 0, 0).role(Role::Error),
        one("error_message", String, 0, 0).nullable(0, 0).role(Role::ErrorMessage),
    ],
};

#[rustfmt::skip]
static API_71: Api = Api {
    number: 71, name: "GetTelemetrySubscriptions",
    versions: Versions(0, 0), flexible: Versions(0, 32767), judged: true,
    roles: Roles::PRODUCE.and(Roles::CONSUME), scope: Scope::NONE, error: 31,
    request: &[
        one("client_instance_id", Uuid, 0, 0),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 0).role(Role::Throttle),
        one("error_code", Int16, 0, 0).role(Role::Error),
        one("client_instance_id", Uuid, 0, 0),
        one("subscription_id", Int32, 0, 0),
        array("accepted_compression_types", Int8, 0, 0),
        one("push_interval_ms", Int32, 0, 0),
        one("telemetry_max_bytes", Int32, 0, 0),
        one("delta_temporality", Bool, 0, 0),
        array("requested_metrics", String, 0, 0),
    ],
};

#[rustfmt::skip]
static API_72: Api = Api {
    number: 72, name: "PushTelemetry",
    versions: Versions(0, 0), flexible: Versions(0, 32767), judged: true,
    roles: Roles::PRODUCE.and(Roles::CONSUME), scope: Scope::NONE, error: 31,
    request: &[
        one("client_instance_id", Uuid, 0, 0),
        one("subscription_id", Int32, 0, 0),
        one("terminating", Bool, 0, 0),
        one("compression_type", Int8, 0, 0),
        one("metrics", Bytes, 0, 0),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 0).role(Role::Throttle),
        one("error_code", Int16, 0, 0).role(Role::Error),
    ],
};

#[rustfmt::skip]
static API_73: Api = Api {
    number: 73, name: "AssignReplicasToDirs",
    versions: Versions(0, 0), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("broker_id", Int32, 0, 0),
        one("broker_epoch", Int64, 0, 0).default(-1),
        array("directories", Struct, 0, 0).of(&[
            one("id", Uuid, 0, 0),
            array("topics", Struct, 0, 0).of(&[
                one("topic_id", Uuid, 0, 0).role(Role::TopicId),
                array("partitions", Struct, 0, 0).of(&[
                    one("partition_index", Int32, 0, 0),
                ]),
            ]),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 0).role(Role::Throttle),
        one("error_code", Int16, 0, 0).role(Role::Error),
        array("directories", Struct, 0, 0).of(&[
            one("id", Uuid, 0, 0),
            array("topics", Struct, 0, 0).of(&[
                one("topic_id", Uuid, 0, 0).role(Role::TopicId),
                array("partitions", Struct, 0, 0).of(&[
                    one("partition_index", Int32, 0, 0),
                    one("error_code", Int16, 0, 0).role(Role::Error),
                ]),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_74: Api = Api {
    number: 74, name: "ListConfigResources",
    versions: Versions(0, 1), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        array("resource_types", Int8, 1, 1),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 1).role(Role::Throttle),
        one("error_code", Int16, 0, 1).role(Role::Error),
        array("config_resources", Struct, 0, 1).of(&[
            one("resource_name", String, 0, 1).role(Role::ResourceName),
            one("resource_type", Int8, 1, 1).default(16).role(Role::ResourceType),
        ]),
    ],
};

#[rustfmt::skip]
static API_75: Api = Api {
    number: 75, name: "DescribeTopicPartitions",
    versions: Versions(0, 0), flexible: Versions(0, 32767), judged: true,
    roles: Roles::PRODUCE.and(Roles::CONSUME), scope: Scope::TOPIC, error: 29,
    request: &[
        array("topics", Struct, 0, 0).of(&[
            one("name", String, 0, 0).role(Role::Topic),
        ]),
        one("response_partition_limit", Int32, 0, 0).default(2000),
        one("cursor", Struct, 0, 0).nullable(0, 0).null().of(&[
            one("topic_name", String, 0, 0).role(Role::Topic),
            one("partition_index", Int32, 0, 0),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 0).role(Role::Throttle),
        array("topics", Struct, 0, 0).of(&[
            one("error_code", Int16, 0, 0).role(Role::Error),
            one("name", String, 0, 0).nullable(0, 0).role(Role::Topic),
            one("topic_id", Uuid, 0, 0).role(Role::TopicId),
            one("is_internal", Bool, 0, 0),
            array("partitions", Struct, 0, 0).of(&[
                one("error_code", Int16, 0, 0).role(Role::Error),
                one("partition_index", Int32, 0, 0),
                one("leader_id", Int32, 0, 0),
                one("leader_epoch", Int32, 0, 0).default(-1),
                array("replica_nodes", Int32, 0, 0),
                array("isr_nodes", Int32, 0, 0),
                array("eligible_leader_replicas", Int32, 0, 0).nullable(0, 0).null(),
                array("last_known_elr", Int32, 0, 0).nullable(0, 0).null(),
                array("offline_replicas", Int32, 0, 0),
            ]),
            one("topic_authorized_operations", Int32, 0, 0).default(-2147483648),
        ]),
        one("next_cursor", Struct, 0, 0).nullable(0, 0).null().of(&[
            one("topic_name", String, 0, 0).role(Role::Topic),
            one("partition_index", Int32, 0, 0),
        ]),
    ],
};

#[rustfmt::skip]
static API_76: Api = Api {
    number: 76, name: "ShareGroupHeartbeat",
    versions: Versions(1, 1), flexible: Versions(0, 32767), judged: true,
    roles: Roles::CONSUME, scope: Scope::TOPIC.and(Scope::GROUP), error: 30,
    request: &[
        one("group_id", String, 1, 1).role(Role::Group),
        one("member_id", String, 1, 1),
        one("member_epoch", Int32, 1, 1),
        one("rack_id", String, 1, 1).nullable(1, 1).null(),
        array("subscribed_topic_names", String, 1, 1).nullable(1, 1).null().role(Role::Topic),
    ],
    response: &[
        one("throttle_time_ms", Int32, 1, 1).role(Role::Throttle),
        one("error_code", Int16, 1, 1).role(Role::Error),
        one("error_message", String, 1, 1).nullable(1, 1).null().role(Role::ErrorMessage),
        one("member_id", String, 1, 1).nullable(1, 1).null(),
        one("member_epoch", Int32, 1, 1),
        one("heartbeat_interval_ms", Int32, 1, 1),
        one("assignment", Struct, 1, 1).nullable(1, 1).null().of(&[
            array("topic_partitions", Struct, 1, 1).of(&[
                one("topic_id", Uuid, 1, 1).role(Role::TopicId),
                array("partitions", Int32, 1, 1),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_77: Api = Api {
    number: 77, name: "ShareGroupDescribe",
    versions: Versions(1, 1), flexible: Versions(0, 32767), judged: true,
    roles: Roles::CONSUME, scope: Scope::GROUP, error: 30,
    request: &[
        array("group_ids", String, 1, 1).role(Role::Group),
        one("include_authorized_operations", Bool, 1, 1),
    ],
    response: &[
        one("throttle_time_ms", Int32, 1, 1).role(Role::Throttle),
        array("groups", Struct, 1, 1).of(&[
            one("error_code", Int16, 1, 1).role(Role::Error),
            one("error_message", String, 1, 1).nullable(1, 1).null().role(Role::ErrorMessage),
            one("group_id", String, 1, 1).role(Role::Group),
            one("group_state", String, 1, 1),
            one("group_epoch", Int32, 1, 1),
            one("assignment_epoch", Int32, 1, 1),
            one("assignor_name", String, 1, 1),
            array("members", Struct, 1, 1).of(&[
                one("member_id", String, 1, 1),
                one("rack_id", String, 1, 1).nullable(1, 1).null(),
                one("member_epoch", Int32, 1, 1),
                one("client_id", String, 1, 1),
                one("client_host", String, 1, 1),
                array("subscribed_topic_names", String, 1, 1).role(Role::Topic),
                one("assignment", Struct, 1, 1).of(&[
                    array("topic_partitions", Struct, 1, 1).of(&[
                        one("topic_id", Uuid, 1, 1).role(Role::TopicId),
                        one("topic_name", String, 1, 1).role(Role::Topic),
                        array("partitions", Int32, 1, 1),
                    ]),
                ]),
            ]),
            one("authorized_operations", Int32, 1, 1).default(-2147483648),
        ]),
    ],
};

#[rustfmt::skip]
static API_78: Api = Api {
    number: 78, name: "ShareFetch",
    versions: Versions(1, 2), flexible: Versions(0, 32767), judged: true,
    roles: Roles::CONSUME, scope: Scope::TOPIC.and(Scope::GROUP), error: 30,
    request: &[
        one("group_id", String, 1, 2).nullable(1, 2).null().role(Role::Group),
        one("member_id", String, 1, 2).nullable(1, 2),
        one("share_session_epoch", Int32, 1, 2),
        one("max_wait_ms", Int32, 1, 2),
        one("min_bytes", Int32, 1, 2),
        one("max_bytes", Int32, 1, 2).default(2147483647),
        one("max_records", Int32, 1, 2),
        one("batch_size", Int32, 1, 2),
        one("share_acquire_mode", Int8, 2, 2),
        one("is_renew_ack", Bool, 2, 2),
        array("topics", Struct, 1, 2).of(&[
            one("topic_id", Uuid, 1, 2).role(Role::TopicId),
            array("partitions", Struct, 1, 2).of(&[
                one("partition_index", Int32, 1, 2),
                array("acknowledgement_batches", Struct, 1, 2).of(&[
                    one("first_offset", Int64, 1, 2),
                    one("last_offset", Int64, 1, 2),
                    array("acknowledge_types", Int8, 1, 2),
                ]),
            ]),
        ]),
        array("forgotten_topics_data", Struct, 1, 2).of(&[
            one("topic_id", Uuid, 1, 2).role(Role::TopicId),
            array("partitions", Int32, 1, 2),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 1, 2).role(Role::Throttle),
        one("error_code", Int16, 1, 2).role(Role::Error),
        one("error_message", String, 1, 2).nullable(1, 2).null().role(Role::ErrorMessage),
        one("acquisition_lock_timeout_ms", Int32, 1, 2),
        array("responses", Struct, 1, 2).of(&[
            one("topic_id", Uuid, 1, 2).role(Role::TopicId),
            array("partitions", Struct, 1, 2).of(&[
                one("partition_index", Int32, 1, 2),
                one("error_code", Int16, 1, 2).role(Role::Error),
                one("error_message", String, 1, 2).nullable(1, 2).null().role(Role::ErrorMessage),
                one("acknowledge_error_code", Int16, 1, 2),
                one("acknowledge_error_message", String, 1, 2).nullable(1, 2).null(),
                one("current_leader", Struct, 1, 2).of(&[
                    one("leader_id", Int32, 1, 2),
                    one("leader_epoch", Int32, 1, 2),
                ]),
                one("records", Records, 1, 2),
                array("acquired_records", Struct, 1, 2).of(&[
                    one("first_offset", Int64, 1, 2),
                    one("last_offset", Int64, 1, 2),
                    one("delivery_count", Int16, 1, 2),
                ]),
            ]),
        ]),
        array("node_endpoints", Struct, 1, 2).of(&[
            one("node_id", Int32, 1, 2),
            one("host", String, 1, 2),
            one("port", Int32, 1, 2),
            one("rack", String, 1, 2).nullable(1, 2).null(),
        ]),
    ],
};

#[rustfmt::skip]
static API_79: Api = Api {
    number: 79, name: "ShareAcknowledge",
    versions: Versions(1, 2), flexible: Versions(0, 32767), judged: true,
    roles: Roles::CONSUME, scope: Scope::TOPIC.and(Scope::GROUP), error: 30,
    request: &[
        one("group_id", String, 1, 2).nullable(1, 2).null().role(Role::Group),
        one("member_id", String, 1, 2).nullable(1, 2),
        one("share_session_epoch", Int32, 1, 2),
        one("is_renew_ack", Bool, 2, 2),
        array("topics", Struct, 1, 2).of(&[
            one("topic_id", Uuid, 1, 2).role(Role::TopicId),
            array("partitions", Struct, 1, 2).of(&[
                one("partition_index", Int32, 1, 2),
                array("acknowledgement_batches", Struct, 1, 2).of(&[
                    one("first_offset", Int64, 1, 2),
                    one("last_offset", Int64, 1, 2),
                    array("acknowledge_types", Int8, 1, 2),
                ]),
            ]),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 1, 2).role(Role::Throttle),
        one("error_code", Int16, 1, 2).role(Role::Error),
        one("error_message", String, 1, 2).nullable(1, 2).null().role(Role::ErrorMessage),
        one("acquisition_lock_timeout_ms", Int32, 2, 2),
        array("responses", Struct, 1, 2).of(&[
            one("topic_id", Uuid, 1, 2).role(Role::TopicId),
            array("partitions", Struct, 1, 2).of(&[
                one("partition_index", Int32, 1, 2),
                one("error_code", Int16, 1, 2).role(Role::Error),
                one("error_message", String, 1, 2).nullable(1, 2).null().role(Role::ErrorMessage),
                one("current_leader", Struct, 1, 2).of(&[
                    one("leader_id", Int32, 1, 2),
                    one("leader_epoch", Int32, 1, 2),
                ]),
            ]),
        ]),
        array("node_endpoints", Struct, 1, 2).of(&[
            one("node_id", Int32, 1, 2),
            one("host", String, 1, 2),
            one("port", Int32, 1, 2),
            one("rack", String, 1, 2).nullable(1, 2).null(),
        ]),
    ],
};

#[rustfmt::skip]
static API_80: Api = Api {
    number: 80, name: "AddRaftVoter",
    versions: Versions(0, 1), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("cluster_id", String, 0, 1).nullable(0, 1),
        one("timeout_ms", Int32, 0, 1),
        one("voter_id", Int32, 0, 1),
        one("voter_directory_id", Uuid, 0, 1),
        array("listeners", Struct, 0, 1).of(&[
            one("name", String, 0, 1),
            one("host", String, 0, 1),
            one("port", Uint16, 0, 1),
        ]),
        one("ack_when_committed", Bool, 1, 1).default(1),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 1).role(Role::Throttle),
        one("error_code", Int16, 0, 1).role(Role::Error),
        one("error_message", String, 0, 1).nullable(0, 1).role(Role::ErrorMessage),
    ],
};

#[rustfmt::skip]
static API_81: Api = Api {
    number: 81, name: "RemoveRaftVoter",
    versions: Versions(0, 0), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("cluster_id", String, 0, 0).nullable(0, 0),
        one("voter_id", Int32, 0, 0),
        one("voter_directory_id", Uuid, 0, 0),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 0).role(Role::Throttle),
        one("error_code", Int16, 0, 0).role(Role::Error),
        one("error_message", String, 0, 0).nullable(0, 0).role(Role::ErrorMessage),
    ],
};

#[rustfmt::skip]
static API_82: Api = Api {
    number: 82, name: "UpdateRaftVoter",
    versions: Versions(0, 0), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("cluster_id", String, 0, 0).nullable(0, 0),
        one("current_leader_epoch", Int32, 0, 0),
        one("voter_id", Int32, 0, 0),
        one("voter_directory_id", Uuid, 0, 0),
        array("listeners", Struct, 0, 0).of(&[
            one("name", String, 0, 0),
            one("host", String, 0, 0),
            one("port", Uint16, 0, 0),
        ]),
        one("k_raft_version_feature", Struct, 0, 0).of(&[
            one("min_supported_version", Int16, 0, 0),
            one("max_supported_version", Int16, 0, 0),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 0).role(Role::Throttle),
        one("error_code", Int16, 0, 0).role(Role::Error),
        one("current_leader", Struct, 0, 0).tag(0).of(&[
            one("leader_id", Int32, 0, 0).default(-1),
            one("leader_epoch", Int32, 0, 0).default(-1),
            one("host", String, 0, 0),
            one("port", Int32, 0, 0),
        ]),
    ],
};

#[rustfmt::skip]
static API_83: Api = Api {
    number: 83, name: "InitializeShareGroupState",
    versions: Versions(0, 0), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("group_id", String, 0, 0).role(Role::Group),
        array("topics", Struct, 0, 0).of(&[
            one("topic_id", Uuid, 0, 0).role(Role::TopicId),
            array("partitions", Struct, 0, 0).of(&[
                one("partition", Int32, 0, 0),
                one("state_epoch", Int32, 0, 0),
                one("start_offset", Int64, 0, 0),
            ]),
        ]),
    ],
    response: &[
        array("results", Struct, 0, 0).of(&[
            one("topic_id", Uuid, 0, 0).role(Role::TopicId),
            array("partitions", Struct, 0, 0).of(&[
                one("partition", Int32, 0, 0),
                one("error_code", Int16, 0, 0).role(Role::Error),
                one("error_message", String, 0, 0).nullable(0, 0).null().role(Role::ErrorMessage),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_84: Api = Api {
    number: 84, name: "ReadShareGroupState",
    versions: Versions(0, 0), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("group_id", String, 0, 0).role(Role::Group),
        array("topics", Struct, 0, 0).of(&[
            one("topic_id", Uuid, 0, 0).role(Role::TopicId),
            array("partitions", Struct, 0, 0).of(&[
                one("partition", Int32, 0, 0),
                one("leader_epoch", Int32, 0, 0),
            ]),
        ]),
    ],
    response: &[
        array("results", Struct, 0, 0).of(&[
            one("topic_id", Uuid, 0, 0).role(Role::TopicId),
            array("partitions", Struct, 0, 0).of(&[
                one("partition", Int32, 0, 0),
                one("error_code", Int16, 0, 0).role(Role::Error),
                one("error_message", String, 0, 0).nullable(0, 0).null().role(Role::ErrorMessage),
                one("state_epoch", Int32, 0, 0),
                one("start_offset", Int64, 0, 0),
                array("state_batches", Struct, 0, 0).of(&[
                    one("first_offset", Int64, 0, 0),
                    one("last_offset", Int64, 0, 0),
                    one("delivery_state", Int8, 0, 0),
                    one("delivery_count", Int16, 0, 0),
                ]),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_85: Api = Api {
    number: 85, name: "WriteShareGroupState",
    versions: Versions(0, 1), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("group_id", String, 0, 1).role(Role::Group),
        array("topics", Struct, 0, 1).of(&[
            one("topic_id", Uuid, 0, 1).role(Role::TopicId),
            array("partitions", Struct, 0, 1).of(&[
                one("partition", Int32, 0, 1),
                one("state_epoch", Int32, 0, 1),
                one("leader_epoch", Int32, 0, 1),
                one("start_offset", Int64, 0, 1),
                one("delivery_complete_count", Int32, 1, 1).default(-1),
                array("state_batches", Struct, 0, 1).of(&[
                    one("first_offset", Int64, 0, 1),
                    one("last_offset", Int64, 0, 1),
                    one("delivery_state", Int8, 0, 1),
                    one("delivery_count", Int16, 0, 1),
                ]),
            ]),
        ]),
    ],
    response: &[
        array("results", Struct, 0, 1).of(&[
            one("topic_id", Uuid, 0, 1).role(Role::TopicId),
            array("partitions", Struct, 0, 1).of(&[
                one("partition", Int32, 0, 1),
                one("error_code", Int16, 0, 1).role(Role::Error),
                one("error_message", String, 0, 1).nullable(0, 1).null().role(Role::ErrorMessage),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_86: Api = Api {
    number: 86, name: "DeleteShareGroupState",
    versions: Versions(0, 0), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("group_id", String, 0, 0).role(Role::Group),
        array("topics", Struct, 0, 0).of(&[
            one("topic_id", Uuid, 0, 0).role(Role::TopicId),
            array("partitions", Struct, 0, 0).of(&[
                one("partition", Int32, 0, 0),
            ]),
        ]),
    ],
    response: &[
        array("results", Struct, 0, 0).of(&[
            one("topic_id", Uuid, 0, 0).role(Role::TopicId),
            array("partitions", Struct, 0, 0).of(&[
                one("partition", Int32, 0, 0),
                one("error_code", Int16, 0, 0).role(Role::Error),
                one("error_message", String, 0, 0).nullable(0, 0).null().role(Role::ErrorMessage),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_87: Api = Api {
    number: 87, name: "ReadShareGroupStateSummary",
    versions: Versions(0, 1), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("group_id", String, 0, 1).role(Role::Group),
        array("topics", Struct, 0, 1).of(&[
            one("topic_id", Uuid, 0, 1).role(Role::TopicId),
            array("partitions", Struct, 0, 1).of(&[
                one("partition", Int32, 0, 1),
                one("leader_epoch", Int32, 0, 1),
            ]),
        ]),
    ],
    response: &[
        array("results", Struct, 0, 1).of(&[
            one("topic_id", Uuid, 0, 1).role(Role::TopicId),
            array("partitions", Struct, 0, 1).of(&[
                one("partition", Int32, 0, 1),
                one("error_code", Int16, 0, 1).role(Role::Error),
                one("error_message", String, 0, 1).nullable(0, 1).null().role(Role::ErrorMessage),
                one("state_epoch", Int32, 0, 1),
                one("leader_epoch", Int32, 0, 1),
                one("start_offset", Int64, 0, 1),
                one("delivery_complete_count", Int32, 1, 1).default(-1),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_88: Api = Api {
    number: 88, name: "StreamsGroupHeartbeat",
    versions: Versions(0, 1), flexible: Versions(0, 32767), judged: true,
    roles: Roles::CONSUME, scope: Scope::TOPIC.and(Scope::GROUP), error: 30,
    request: &[
        one("group_id", String, 0, 1).role(Role::Group),
        one("member_id", String, 0, 1),
        one("member_epoch", Int32, 0, 1),
        one("endpoint_information_epoch", Int32, 0, 1),
        one("instance_id", String, 0, 1).nullable(0, 1).null(),
        one("rack_id", String, 0, 1).nullable(0, 1).null(),
        one("rebalance_timeout_ms", Int32, 0, 1).default(-1),
        one("topology", Struct, 0, 1).nullable(0, 1).null().of(&[
            one("epoch", Int32, 0, 1),
            array("subtopologies", Struct, 0, 1).of(&[
                one("subtopology_id", String, 0, 1),
                array("source_topics", String, 0, 1).role(Role::Topic),
                array("source_topic_regex", String, 0, 1),
                array("state_changelog_topics", Struct, 0, 1).of(&[
                    one("name", String, 0, 1).role(Role::Topic),
                    one("partitions", Int32, 0, 1),
                    one("replication_factor", Int16, 0, 1),
                    array("topic_configs", Struct, 0, 1).of(&[
                        one("key", String, 0, 1),
                        one("value", String, 0, 1),
                    ]),
                ]),
                array("repartition_sink_topics", String, 0, 1).role(Role::Topic),
                array("repartition_source_topics", Struct, 0, 1).of(&[
                    one("name", String, 0, 1).role(Role::Topic),
                    one("partitions", Int32, 0, 1),
                    one("replication_factor", Int16, 0, 1),
                    array("topic_configs", Struct, 0, 1).of(&[
                        one("key", String, 0, 1),
                        one("value", String, 0, 1),
                    ]),
                ]),
                array("copartition_groups", Struct, 0, 1).of(&[
                    array("source_topics", Int16, 0, 1),
                    array("source_topic_regex", Int16, 0, 1),
                    array("repartition_source_topics", Int16, 0, 1),
                ]),
            ]),
        ]),
        array("active_tasks", Struct, 0, 1).nullable(0, 1).null().of(&[
            one("subtopology_id", String, 0, 1),
            array("partitions", Int32, 0, 1),
        ]),
        array("standby_tasks", Struct, 0, 1).nullable(0, 1).null().of(&[
            one("subtopology_id", String, 0, 1),
            array("partitions", Int32, 0, 1),
        ]),
        array("warmup_tasks", Struct, 0, 1).nullable(0, 1).null().of(&[
            one("subtopology_id", String, 0, 1),
            array("partitions", Int32, 0, 1),
        ]),
        one("process_id", String, 0, 1).nullable(0, 1).null(),
        one("user_endpoint", Struct, 0, 1).nullable(0, 1).null().of(&[
            one("host", String, 0, 1),
            one("port", Uint16, 0, 1),
        ]),
        array("client_tags", Struct, 0, 1).nullable(0, 1).null().of(&[
            one("key", String, 0, 1),
            one("value", String, 0, 1),
        ]),
        array("task_offsets", Struct, 0, 1).nullable(0, 1).null().of(&[
            one("subtopology_id", String, 0, 1),
            one("partition", Int32, 0, 1),
            one("offset", Int64, 0, 1),
        ]),
        array("task_end_offsets", Struct, 0, 1).nullable(0, 1).null().of(&[
            one("subtopology_id", String, 0, 1),
            one("partition", Int32, 0, 1),
            one("offset", Int64, 0, 1),
        ]),
        one("shutdown_application", Bool, 0, 1),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 1).role(Role::Throttle),
        one("error_code", Int16, 0, 1).role(Role::Error),
        one("error_message", String, 0, 1).nullable(0, 1).null().role(Role::ErrorMessage),
        one("member_id", String, 0, 1),
        one("member_epoch", Int32, 0, 1),
        one("heartbeat_interval_ms", Int32, 0, 1),
        one("acceptable_recovery_lag_legacy", Int32, 0, 0),
        one("task_offset_interval_ms", Int32, 0, 1),
        one("acceptable_recovery_lag", Int64, 1, 1).default(-1),
        array("status", Struct, 0, 1).nullable(0, 1).of(&[
            one("status_code", Int8, 0, 1),
            one("status_detail", String, 0, 1),
        ]),
        array("active_tasks", Struct, 0, 1).nullable(0, 1).null().of(&[
            one("subtopology_id", String, 0, 1),
            array("partitions", Int32, 0, 1),
        ]),
        array("standby_tasks", Struct, 0, 1).nullable(0, 1).null().of(&[
            one("subtopology_id", String, 0, 1),
            array("partitions", Int32, 0, 1),
        ]),
        array("warmup_tasks", Struct, 0, 1).nullable(0, 1).null().of(&[
            one("subtopology_id", String, 0, 1),
            array("partitions", Int32, 0, 1),
        ]),
        one("topology_description_required", Bool, 1, 1),
        one("endpoint_information_epoch", Int32, 0, 1),
        array("partitions_by_user_endpoint", Struct, 0, 1).nullable(0, 1).null().of(&[
            one("user_endpoint", Struct, 0, 1).of(&[
                one("host", String, 0, 1),
                one("port", Uint16, 0, 1),
            ]),
            array("active_partitions", Struct, 0, 1).of(&[
                one("topic", String, 0, 1).role(Role::Topic),
                array("partitions", Int32, 0, 1),
            ]),
            array("standby_partitions", Struct, 0, 1).of(&[
                one("topic", String, 0, 1).role(Role::Topic),
                array("partitions", Int32, 0, 1),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_89: Api = Api {
    number: 89, name: "StreamsGroupDescribe",
    versions: Versions(0, 1), flexible: Versions(0, 32767), judged: true,
    roles: Roles::CONSUME, scope: Scope::GROUP, error: 30,
    request: &[
        array("group_ids", String, 0, 1).role(Role::Group),
        one("include_authorized_operations", Bool, 0, 1),
        one("include_topology_description", Bool, 1, 1),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 1).role(Role::Throttle),
        array("groups", Struct, 0, 1).of(&[
            one("error_code", Int16, 0, 1).role(Role::Error),
            one("error_message", String, 0, 1).nullable(0, 1).null().role(Role::ErrorMessage),
            one("group_id", String, 0, 1).role(Role::Group),
            one("group_state", String, 0, 1),
            one("group_epoch", Int32, 0, 1),
            one("assignment_epoch", Int32, 0, 1),
            one("topology", Struct, 0, 1).nullable(0, 1).null().of(&[
                one("epoch", Int32, 0, 1),
                array("subtopologies", Struct, 0, 1).nullable(0, 1).null().of(&[
                    one("subtopology_id", String, 0, 1),
                    array("source_topics", String, 0, 1).role(Role::Topic),
                    array("repartition_sink_topics", String, 0, 1).role(Role::Topic),
                    array("state_changelog_topics", Struct, 0, 1).of(&[
                        one("name", String, 0, 1).role(Role::Topic),
                        one("partitions", Int32, 0, 1),
                        one("replication_factor", Int16, 0, 1),
                        array("topic_configs", Struct, 0, 1).of(&[
                            one("key", String, 0, 1),
                            one("value", String, 0, 1),
                        ]),
                    ]),
                    array("repartition_source_topics", Struct, 0, 1).of(&[
                        one("name", String, 0, 1).role(Role::Topic),
                        one("partitions", Int32, 0, 1),
                        one("replication_factor", Int16, 0, 1),
                        array("topic_configs", Struct, 0, 1).of(&[
                            one("key", String, 0, 1),
                            one("value", String, 0, 1),
                        ]),
                    ]),
                ]),
            ]),
            array("members", Struct, 0, 1).of(&[
                one("member_id", String, 0, 1),
                one("member_epoch", Int32, 0, 1),
                one("instance_id", String, 0, 1).nullable(0, 1).null(),
                one("rack_id", String, 0, 1).nullable(0, 1).null(),
                one("client_id", String, 0, 1),
                one("client_host", String, 0, 1),
                one("topology_epoch", Int32, 0, 1),
                one("process_id", String, 0, 1),
                one("user_endpoint", Struct, 0, 1).nullable(0, 1).null().of(&[
                    one("host", String, 0, 1),
                    one("port", Uint16, 0, 1),
                ]),
                array("client_tags", Struct, 0, 1).of(&[
                    one("key", String, 0, 1),
                    one("value", String, 0, 1),
                ]),
                array("task_offsets", Struct, 0, 1).of(&[
                    one("subtopology_id", String, 0, 1),
                    one("partition", Int32, 0, 1),
                    one("offset", Int64, 0, 1),
                ]),
                array("task_end_offsets", Struct, 0, 1).of(&[
                    one("subtopology_id", String, 0, 1),
                    one("partition", Int32, 0, 1),
                    one("offset", Int64, 0, 1),
                ]),
                one("assignment", Struct, 0, 1).of(&[
                    array("active_tasks", Struct, 0, 1).of(&[
                        one("subtopology_id", String, 0, 1),
                        array("partitions", Int32, 0, 1),
                    ]),
                    array("standby_tasks", Struct, 0, 1).of(&[
                        one("subtopology_id", String, 0, 1),
                        array("partitions", Int32, 0, 1),
                    ]),
                    array("warmup_tasks", Struct, 0, 1).of(&[
                        one("subtopology_id", String, 0, 1),
                        array("partitions", Int32, 0, 1),
                    ]),
                ]),
                one("target_assignment", Struct, 0, 1).of(&[
                    array("active_tasks", Struct, 0, 1).of(&[
                        one("subtopology_id", String, 0, 1),
                        array("partitions", Int32, 0, 1),
                    ]),
                    array("standby_tasks", Struct, 0, 1).of(&[
                        one("subtopology_id", String, 0, 1),
                        array("partitions", Int32, 0, 1),
                    ]),
                    array("warmup_tasks", Struct, 0, 1).of(&[
                        one("subtopology_id", String, 0, 1),
                        array("partitions", Int32, 0, 1),
                    ]),
                ]),
                one("is_classic", Bool, 0, 1),
            ]),
            one("authorized_operations", Int32, 0, 1).default(-2147483648),
            one("topology_description", Struct, 1, 1).nullable(1, 1).null().of(&[
                array("subtopologies", Struct, 1, 1).of(&[
                    one("subtopology_id", String, 1, 1),
                    array("nodes", Struct, 1, 1).of(&[
                        one("name", String, 1, 1),
                        one("node_type", Int8, 1, 1),
                        array("source_topics", String, 1, 1).role(Role::Topic),
                        one("sink_topic", String, 1, 1).nullable(1, 1).null().role(Role::Topic),
                        array("stores", String, 1, 1),
                        array("successors", String, 1, 1),
                    ]),
                ]),
                array("global_stores", Struct, 1, 1).of(&[
                    one("source", Struct, 1, 1).of(&[
                        one("name", String, 1, 1),
                        one("node_type", Int8, 1, 1),
                        array("source_topics", String, 1, 1).role(Role::Topic),
                        one("sink_topic", String, 1, 1).nullable(1, 1).null().role(Role::Topic),
                        array("stores", String, 1, 1),
                        array("successors", String, 1, 1),
                    ]),
                    one("processor", Struct, 1, 1).of(&[
                        one("name", String, 1, 1),
                        one("node_type", Int8, 1, 1),
                        array("source_topics", String, 1, 1).role(Role::Topic),
                        one("sink_topic", String, 1, 1).nullable(1, 1).null().role(Role::Topic),
                        array("stores", String, 1, 1),
                        array("successors", String, 1, 1),
                    ]),
                ]),
            ]),
            one("topology_description_status", Int8, 1, 1),
            one("assignor_name", String, 1, 1).nullable(1, 1).null(),
        ]),
    ],
};

#[rustfmt::skip]
static API_90: Api = Api {
    number: 90, name: "DescribeShareGroupOffsets",
    versions: Versions(0, 1), flexible: Versions(0, 32767), judged: true,
    roles: Roles::CONSUME, scope: Scope::TOPIC.and(Scope::GROUP), error: 30,
    request: &[
        array("groups", Struct, 0, 1).of(&[
            one("group_id", String, 0, 1).role(Role::Group),
            array("topics", Struct, 0, 1).nullable(0, 1).of(&[
                one("topic_name", String, 0, 1).role(Role::Topic),
                array("partitions", Int32, 0, 1),
            ]),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 1).role(Role::Throttle),
        array("groups", Struct, 0, 1).of(&[
            one("group_id", String, 0, 1).role(Role::Group),
            array("topics", Struct, 0, 1).of(&[
                one("topic_name", String, 0, 1).role(Role::Topic),
                one("topic_id", Uuid, 0, 1).role(Role::TopicId),
                array("partitions", Struct, 0, 1).of(&[
                    one("partition_index", Int32, 0, 1),
                    one("start_offset", Int64, 0, 1),
                    one("leader_epoch", Int32, 0, 1),
                    one("lag", Int64, 1, 1).default(-1),
                    one("error_code", Int16, 0, 1).role(Role::Error),
                    one("error_message", String, 0, 1).nullable(0, 1).null().role(Role::ErrorMessage),
                ]),
            ]),
            one("error_code", Int16, 0, 1).role(Role::Error),
            one("error_message", String, 0, 1).nullable(0, 1).null().role(Role::ErrorMessage),
        ]),
    ],
};

#[rustfmt::skip]
static API_91: Api = Api {
    number: 91, name: "AlterShareGroupOffsets",
    versions: Versions(0, 0), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::TOPIC.and(Scope::GROUP), error: 30,
    request: &[
        one("group_id", String, 0, 0).role(Role::Group),
        array("topics", Struct, 0, 0).of(&[
            one("topic_name", String, 0, 0).role(Role::Topic),
            array("partitions", Struct, 0, 0).of(&[
                one("partition_index", Int32, 0, 0),
                one("start_offset", Int64, 0, 0),
            ]),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 0).role(Role::Throttle),
        one("error_code", Int16, 0, 0).role(Role::Error),
        one("error_message", String, 0, 0).nullable(0, 0).null().role(Role::ErrorMessage),
        array("responses", Struct, 0, 0).of(&[
            one("topic_name", String, 0, 0).role(Role::Topic),
            one("topic_id", Uuid, 0, 0).role(Role::TopicId),
            array("partitions", Struct, 0, 0).of(&[
                one("partition_index", Int32, 0, 0),
                one("error_code", Int16, 0, 0).role(Role::Error),
                one("error_message", String, 0, 0).nullable(0, 0).null().role(Role::ErrorMessage),
            ]),
        ]),
    ],
};

#[rustfmt::skip]
static API_92: Api = Api {
    number: 92, name: "DeleteShareGroupOffsets",
    versions: Versions(0, 0), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::TOPIC.and(Scope::GROUP), error: 30,
    request: &[
        one("group_id", String, 0, 0).role(Role::Group),
        array("topics", Struct, 0, 0).of(&[
            one("topic_name", String, 0, 0).role(Role::Topic),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 0).role(Role::Throttle),
        one("error_code", Int16, 0, 0).role(Role::Error),
        one("error_message", String, 0, 0).nullable(0, 0).null().role(Role::ErrorMessage),
        array("responses", Struct, 0, 0).of(&[
            one("topic_name", String, 0, 0).role(Role::Topic),
            one("topic_id", Uuid, 0, 0).role(Role::TopicId),
            one("error_code", Int16, 0, 0).role(Role::Error),
            one("error_message", String, 0, 0).nullable(0, 0).null().role(Role::ErrorMessage),
        ]),
    ],
};

#[rustfmt::skip]
static API_93: Api = Api {
    number: 93, name: "StreamsGroupTopologyDescriptionUpdate",
    versions: Versions(0, 0), flexible: Versions(0, 32767), judged: true,
    roles: Roles::CONSUME, scope: Scope::GROUP, error: 30,
    request: &[
        one("group_id", String, 0, 0).role(Role::Group),
        one("member_id", String, 0, 0),
        one("topology_epoch", Int32, 0, 0),
        one("topology_description", Struct, 0, 0).of(&[
            array("subtopologies", Struct, 0, 0).of(&[
                one("subtopology_id", String, 0, 0),
                array("nodes", Struct, 0, 0).of(&[
                    one("name", String, 0, 0),
                    one("node_type", Int8, 0, 0),
                    array("source_topics", String, 0, 0).role(Role::Topic),
                    one("sink_topic", String, 0, 0).nullable(0, 0).null().role(Role::Topic),
                    array("stores", String, 0, 0),
                    array("successors", String, 0, 0),
                ]),
            ]),
            array("global_stores", Struct, 0, 0).of(&[
                one("source", Struct, 0, 0).of(&[
                    one("name", String, 0, 0),
                    one("node_type", Int8, 0, 0),
                    array("source_topics", String, 0, 0).role(Role::Topic),
                    one("sink_topic", String, 0, 0).nullable(0, 0).null().role(Role::Topic),
                    array("stores", String, 0, 0),
                    array("successors", String, 0, 0),
                ]),
                one("processor", Struct, 0, 0).of(&[
                    one("name", String, 0, 0),
                    one("node_type", Int8, 0, 0),
                    array("source_topics", String, 0, 0).role(Role::Topic),
                    one("sink_topic", String, 0, 0).nullable(0, 0).null().role(Role::Topic),
                    array("stores", String, 0, 0),
                    array("successors", String, 0, 0),
                ]),
            ]),
        ]),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 0).role(Role::Throttle),
        one("error_code", Int16, 0, 0).role(Role::Error),
        one("error_message", String, 0, 0).nullable(0, 0).null().role(Role::ErrorMessage),
    ],
};

#[rustfmt::skip]
static API_94: Api = Api {
    number: 94, name: "UnregisterController",
    versions: Versions(0, 0), flexible: Versions(0, 32767), judged: true,
    roles: Roles::NONE, scope: Scope::NONE, error: 31,
    request: &[
        one("controller_id", Int32, 0, 0),
    ],
    response: &[
        one("throttle_time_ms", Int32, 0, 0).role(Role::Throttle),
        one("error_code", Int16, 0, 0).role(Role::Error),
        one("error_message", String, 0, 0).nullable(0, 0).role(Role::ErrorMessage),
    ],
};

/// By API key; keys that Kafka 4 does not have are `None`.
#[rustfmt::skip]
pub static APIS: [Option<&Api>; 95] = [
    Some(&API_0),
    Some(&API_1),
    Some(&API_2),
    Some(&API_3),
    None,
    None,
    None,
    None,
    Some(&API_8),
    Some(&API_9),
    Some(&API_10),
    Some(&API_11),
    Some(&API_12),
    Some(&API_13),
    Some(&API_14),
    Some(&API_15),
    Some(&API_16),
    Some(&API_17),
    Some(&API_18),
    Some(&API_19),
    Some(&API_20),
    Some(&API_21),
    Some(&API_22),
    Some(&API_23),
    Some(&API_24),
    Some(&API_25),
    Some(&API_26),
    Some(&API_27),
    Some(&API_28),
    Some(&API_29),
    Some(&API_30),
    Some(&API_31),
    Some(&API_32),
    Some(&API_33),
    Some(&API_34),
    Some(&API_35),
    Some(&API_36),
    Some(&API_37),
    Some(&API_38),
    Some(&API_39),
    Some(&API_40),
    Some(&API_41),
    Some(&API_42),
    Some(&API_43),
    Some(&API_44),
    Some(&API_45),
    Some(&API_46),
    Some(&API_47),
    Some(&API_48),
    Some(&API_49),
    Some(&API_50),
    Some(&API_51),
    Some(&API_52),
    Some(&API_53),
    Some(&API_54),
    Some(&API_55),
    Some(&API_56),
    Some(&API_57),
    Some(&API_58),
    Some(&API_59),
    Some(&API_60),
    Some(&API_61),
    Some(&API_62),
    Some(&API_63),
    Some(&API_64),
    Some(&API_65),
    Some(&API_66),
    Some(&API_67),
    Some(&API_68),
    Some(&API_69),
    Some(&API_70),
    Some(&API_71),
    Some(&API_72),
    Some(&API_73),
    Some(&API_74),
    Some(&API_75),
    Some(&API_76),
    Some(&API_77),
    Some(&API_78),
    Some(&API_79),
    Some(&API_80),
    Some(&API_81),
    Some(&API_82),
    Some(&API_83),
    Some(&API_84),
    Some(&API_85),
    Some(&API_86),
    Some(&API_87),
    Some(&API_88),
    Some(&API_89),
    Some(&API_90),
    Some(&API_91),
    Some(&API_92),
    Some(&API_93),
    Some(&API_94),
];
