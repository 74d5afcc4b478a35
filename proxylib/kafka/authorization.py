"""How each Kafka API is authorised: what a policy judges in it, and which error a denial gets.

Owns: the table that docs/kafka.md shows, the Rust filter enforces (``generate`` puts it beside the messages) and the policy
core compiles and evaluates by. Modelled on Apache Kafka 4's broker (``KafkaApis`` and its helpers), so that a client sees
what it would see from a broker with ACLs. Must not know bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag, IntEnum, auto

TOPICS_FILTERED = frozenset({3, 75})
"""APIs that list topics nobody named: Metadata, DescribeTopicPartitions."""
GROUPS_FILTERED = frozenset({16})
"""APIs that list groups nobody named: ListGroups."""
TRANSACTIONS = 126
"""Stands among API keys for the use of a transactional id: FindCoordinator of one, and which error a denial gets beside one."""
TRANSACTIONAL = frozenset({10, 22, 24, 25, 26, 28})
"""The API keys of which each grants that use by itself: FindCoordinator, InitProducerId and what a transaction consists of."""


class Scope(Flag):
    """What an API names that rules speak of. Nothing: the API is about the cluster, or the session."""

    NONE = 0
    TOPIC = auto()
    GROUP = auto()
    TRANSACTION = auto()
    """A transactional id; rules have no predicate for it, so the API alone decides."""
    RESOURCE = auto()
    """Typed resources of configuration: a topic, a group, else the cluster."""
    COORDINATOR = auto()
    """Typed keys of FindCoordinator: a group, a transactional id, a share partition."""


class Roles(Flag):
    """The roles of a rule that an API belongs to."""

    NONE = 0
    PRODUCE = auto()
    CONSUME = auto()
    BOTH = PRODUCE | CONSUME


class ErrorCode(IntEnum):
    """Kafka's numbers of the errors that a denial answers with."""

    NONE = 0
    """Of a list that is empty for who may see nothing."""
    UNKNOWN_TOPIC_OR_PARTITION = 3
    TOPIC_AUTHORIZATION_FAILED = 29
    GROUP_AUTHORIZATION_FAILED = 30
    CLUSTER_AUTHORIZATION_FAILED = 31
    UNSUPPORTED_VERSION = 35
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53
    UNKNOWN_TOPIC_ID = 100


@dataclass(frozen=True, slots=True)
class Authorization:
    """One row. ``error``: the answer when no rule covers the API at all; ``judged``: False for negotiation only."""

    scope: Scope
    roles: Roles
    error: ErrorCode
    judged: bool = True


_TOPIC = ErrorCode.TOPIC_AUTHORIZATION_FAILED
_GROUP = ErrorCode.GROUP_AUTHORIZATION_FAILED
_CLUSTER = ErrorCode.CLUSTER_AUTHORIZATION_FAILED
_TRANSACTION = ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
_NEGOTIATION = Authorization(Scope.NONE, Roles.BOTH, _CLUSTER, judged=False)
_SESSION = Authorization(Scope.NONE, Roles.BOTH, _CLUSTER)
_ADMIN = Authorization(Scope.NONE, Roles.NONE, _CLUSTER)
_TOPIC_ADMIN = Authorization(Scope.TOPIC, Roles.NONE, _TOPIC)
_GROUP_ADMIN = Authorization(Scope.GROUP, Roles.NONE, _GROUP)
_GROUP_TOPICS_ADMIN = Authorization(Scope.GROUP | Scope.TOPIC, Roles.NONE, _GROUP)
_RESOURCE_ADMIN = Authorization(Scope.RESOURCE, Roles.NONE, _CLUSTER)
_MEMBER = Authorization(Scope.GROUP, Roles.CONSUME, _GROUP)
_MEMBER_TOPICS = Authorization(Scope.GROUP | Scope.TOPIC, Roles.CONSUME, _GROUP)
_DESCRIBE = Authorization(Scope.TOPIC, Roles.BOTH, _TOPIC)
_READ = Authorization(Scope.TOPIC, Roles.CONSUME, _TOPIC)

AUTHORIZATIONS: dict[int, Authorization] = {
    0: Authorization(Scope.TRANSACTION | Scope.TOPIC, Roles.PRODUCE, _TOPIC),  # Produce
    1: _READ,  # Fetch
    2: _DESCRIBE,  # ListOffsets
    3: _DESCRIBE,  # Metadata
    8: _MEMBER_TOPICS,  # OffsetCommit
    9: _MEMBER_TOPICS,  # OffsetFetch
    10: Authorization(Scope.COORDINATOR, Roles.CONSUME, _GROUP),  # FindCoordinator
    11: _MEMBER,  # JoinGroup
    12: _MEMBER,  # Heartbeat
    13: _MEMBER,  # LeaveGroup
    14: _MEMBER,  # SyncGroup
    15: _MEMBER,  # DescribeGroups
    16: _MEMBER,  # ListGroups
    17: _NEGOTIATION,  # SaslHandshake
    18: _NEGOTIATION,  # ApiVersions
    19: _TOPIC_ADMIN,  # CreateTopics
    20: _TOPIC_ADMIN,  # DeleteTopics
    21: _TOPIC_ADMIN,  # DeleteRecords
    22: Authorization(Scope.TRANSACTION, Roles.PRODUCE, _CLUSTER),  # InitProducerId
    23: _DESCRIBE,  # OffsetForLeaderEpoch
    24: Authorization(Scope.TRANSACTION | Scope.TOPIC, Roles.PRODUCE, _TOPIC),  # AddPartitionsToTxn
    25: Authorization(Scope.TRANSACTION | Scope.GROUP, Roles.CONSUME, _GROUP),  # AddOffsetsToTxn
    26: Authorization(Scope.TRANSACTION, Roles.PRODUCE, _TRANSACTION),  # EndTxn
    27: _ADMIN,  # WriteTxnMarkers
    28: Authorization(Scope.TRANSACTION | Scope.GROUP | Scope.TOPIC, Roles.CONSUME, _GROUP),  # TxnOffsetCommit
    29: _ADMIN,  # DescribeAcls
    30: _ADMIN,  # CreateAcls
    31: _ADMIN,  # DeleteAcls
    32: _RESOURCE_ADMIN,  # DescribeConfigs
    33: _RESOURCE_ADMIN,  # AlterConfigs
    34: _ADMIN,  # AlterReplicaLogDirs
    35: _ADMIN,  # DescribeLogDirs
    36: _NEGOTIATION,  # SaslAuthenticate
    37: _TOPIC_ADMIN,  # CreatePartitions
    38: _ADMIN,  # CreateDelegationToken
    39: _ADMIN,  # RenewDelegationToken
    40: _ADMIN,  # ExpireDelegationToken
    41: _ADMIN,  # DescribeDelegationToken
    42: _GROUP_ADMIN,  # DeleteGroups
    43: _ADMIN,  # ElectLeaders
    44: _RESOURCE_ADMIN,  # IncrementalAlterConfigs
    45: _ADMIN,  # AlterPartitionReassignments
    46: _ADMIN,  # ListPartitionReassignments
    47: _GROUP_TOPICS_ADMIN,  # OffsetDelete
    48: _ADMIN,  # DescribeClientQuotas
    49: _ADMIN,  # AlterClientQuotas
    50: _ADMIN,  # DescribeUserScramCredentials
    51: _ADMIN,  # AlterUserScramCredentials
    52: _ADMIN,  # Vote
    53: _ADMIN,  # BeginQuorumEpoch
    54: _ADMIN,  # EndQuorumEpoch
    55: _ADMIN,  # DescribeQuorum
    56: _ADMIN,  # AlterPartition
    57: _ADMIN,  # UpdateFeatures
    58: _ADMIN,  # Envelope
    59: _ADMIN,  # FetchSnapshot
    60: _SESSION,  # DescribeCluster
    61: _READ,  # DescribeProducers
    62: _ADMIN,  # BrokerRegistration
    63: _ADMIN,  # BrokerHeartbeat
    64: _ADMIN,  # UnregisterBroker
    65: Authorization(Scope.TRANSACTION, Roles.PRODUCE, _TRANSACTION),  # DescribeTransactions
    66: Authorization(Scope.TRANSACTION, Roles.PRODUCE, ErrorCode.NONE),  # ListTransactions
    67: _ADMIN,  # AllocateProducerIds
    68: _MEMBER_TOPICS,  # ConsumerGroupHeartbeat
    69: _MEMBER,  # ConsumerGroupDescribe
    70: _ADMIN,  # ControllerRegistration
    71: _SESSION,  # GetTelemetrySubscriptions
    72: _SESSION,  # PushTelemetry
    73: _ADMIN,  # AssignReplicasToDirs
    74: _ADMIN,  # ListConfigResources
    75: _DESCRIBE,  # DescribeTopicPartitions
    76: _MEMBER_TOPICS,  # ShareGroupHeartbeat
    77: _MEMBER,  # ShareGroupDescribe
    78: _MEMBER_TOPICS,  # ShareFetch
    79: _MEMBER_TOPICS,  # ShareAcknowledge
    80: _ADMIN,  # AddRaftVoter
    81: _ADMIN,  # RemoveRaftVoter
    82: _ADMIN,  # UpdateRaftVoter
    83: _ADMIN,  # InitializeShareGroupState
    84: _ADMIN,  # ReadShareGroupState
    85: _ADMIN,  # WriteShareGroupState
    86: _ADMIN,  # DeleteShareGroupState
    87: _ADMIN,  # ReadShareGroupStateSummary
    88: _MEMBER_TOPICS,  # StreamsGroupHeartbeat
    89: _MEMBER,  # StreamsGroupDescribe
    90: _MEMBER_TOPICS,  # DescribeShareGroupOffsets
    91: _GROUP_TOPICS_ADMIN,  # AlterShareGroupOffsets
    92: _GROUP_TOPICS_ADMIN,  # DeleteShareGroupOffsets
    93: _MEMBER,  # StreamsGroupTopologyDescriptionUpdate
    94: _ADMIN,  # UnregisterController
}
"""API key -> how it is authorised. A key that is missing here is unknown, and refused."""
