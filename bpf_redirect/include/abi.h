/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the BPF programs and user space agree on: every struct that lies in a map, every number
 * with a meaning on both sides, every limit. abi.py is its mirror; a test compares sizes, offsets
 * and numbers of the two. UAPI types only.
 *
 * Byte order: addresses and fields named *_be are as on the wire, everything else is the host's.
 * IPv4 addresses are v4-mapped (::ffff:a.b.c.d), so that there is one code path for both families.
 *
 * TG_ABI_VERSION grows whenever a struct changes size or meaning; pins of different versions
 * live beside each other, so an upgrade never reads a map in the wrong layout.
 */
#ifndef TG_ABI_H
#define TG_ABI_H

#include <linux/types.h>

#define TG_ABI_VERSION 2

/* ---- limits ------------------------------------------------------------------------------ */

#define TG_ENDPOINT_ADDRESSES_MAX 8    /* a pod has one or two; more means a misread file */
#define TG_SLOTS_MAX		  2048 /* ids 1..2047; one proxy port each */
#define TG_IPV6_EXTENSIONS_MAX	  6    /* real packets carry at most two or three */
#define TG_CGROUP_LEVELS_MAX	  8    /* how deep below the root a selected cgroup may be */
#define TG_REASONS_MAX		  96   /* length of the reason list, room to grow included */
#define TG_HOOKS_MAX		  8
/* Names that one pod may have one address by: CDNs put thousands there, a policy lists a few. */
#define TG_NAMES_PER_ADDRESS_MAX 16
#define TG_L7_RESERVED		 8  /* records of tg_l7_verdicts with a meaning of their own */
#define TG_L7_PROBES_MAX	 32 /* how far a record may lie from where its key hashes to */

#define TG_SECOND_NS		  1000000000ULL
#define TG_TIMEOUT_TCP_NS	  (21600ULL * 1000000000) /* established, idle: 6 h */
#define TG_TIMEOUT_TCP_SYN_NS	  (60ULL * 1000000000)
#define TG_TIMEOUT_TCP_CLOSING_NS (10ULL * 1000000000)
#define TG_TIMEOUT_UDP_NS	  (60ULL * 1000000000)
#define TG_TIMEOUT_OTHER_NS	  (60ULL * 1000000000) /* ICMP echo, SCTP, tunnels */
#define TG_TIMEOUT_FRAGMENT_NS	  (30ULL * 1000000000) /* as the kernel's own reassembly */

/* ---- packet marks (mask 0xf00; the rest of the mark belongs to others) -------------------- */

#define TG_MARK_MASK	   0x0f00
#define TG_MARK_TO_PROXY   0x0200 /* set by us: route to the local stack (ip rule, table 2004) */
#define TG_MARK_REPLY	   0x0400 /* set by us: a reset or ICMP error that we made */
#define TG_MARK_FROM_PROXY 0x0a00 /* set by the proxy's sockets */

/* ---- identities with a meaning in the kernel ----------------------------------------------- */

#define TG_IDENTITY_ANY	       0
#define TG_IDENTITY_HOST       1
#define TG_IDENTITY_WORLD      2
#define TG_IDENTITY_WORLD_IPV4 9
#define TG_IDENTITY_WORLD_IPV6 10

/* ---- enumerations --------------------------------------------------------------------------- */

enum tg_verdict {
	TG_DENY = 1,
	TG_ALLOW = 2,
	TG_REDIRECT = 3,
};

enum tg_direction {
	TG_INGRESS = 1,
	TG_EGRESS = 2,
};

/* What the proxy said of a request, or of a connection whose bytes it does not read. */
enum tg_l7_kind {
	TG_L7_ALLOWED = 1,
	TG_L7_DENIED = 2,
	TG_L7_AUDITED = 3, /* allowed; a policy in audit mode would have denied it */
	TG_L7_ERROR = 4,   /* not denied, and not answered by the server either */
};

/* Where a packet was seen. Counters are reason x hook. */
enum tg_hook {
	TG_HOOK_FROM_ENDPOINT = 0, /* tc ingress of a pod's host-side veth */
	TG_HOOK_TO_ENDPOINT = 1,   /* tc egress of it */
	TG_HOOK_FROM_NETDEV = 2,   /* tc ingress of an uplink */
	TG_HOOK_FROM_HAIRPIN = 3,  /* tc ingress of our own veth */
	TG_HOOK_CGROUP_CONNECT = 4,
	TG_HOOK_CGROUP_EGRESS = 5,
	TG_HOOK_CGROUP_INGRESS = 6,
};

/*
 * How a packet left us: one numbered list. Below 32 it went on, from 32 it was dropped. Numbers
 * are never reused: a retired one stays here as TG_REASON_RETIRED_<n>.
 */
enum tg_reason {
	TG_FORWARDED = 0,  /* allowed at L3/L4, or a reply of an allowed flow */
	TG_REDIRECTED = 1, /* given to a socket of the proxy */
	TG_FROM_PROXY = 2, /* sent by the proxy: judged already */
	TG_FROM_HOST = 3,  /* sent by this host, which may always reach its pods */
	TG_RELATED = 4,	   /* ICMP error about a tracked flow */
	TG_LINK = 5,	   /* ARP, neighbour discovery, MLD */
	TG_UNTOUCHED = 6,  /* an uplink's packet that is none of our business */
	TG_WOULD_DENY = 7, /* counted beside TG_FORWARDED/TG_REDIRECTED: audit mode */
	TG_HAIRPINNED = 8, /* sent round through the hairpin, where it gets its socket */
	TG_REPLY_SENT = 9, /* counted beside the drop: we answered with RST or ICMP */
	TG_OWN_REPLY = 10, /* that answer, on its way out */
	TG_DROP_FIRST = 32,
	TG_NOT_READY = 32,	   /* no realised policy for this endpoint (yet) */
	TG_SPOOFED = 33,	   /* source address is not the endpoint's */
	TG_POLICY_DENIED = 34,	   /* L3/L4 policy */
	TG_LOOPBACK = 35,	   /* loopback, unspecified or v4-mapped address on a wire */
	TG_PROXY_PORT = 36,	   /* a pod dialled a proxy port of this host */
	TG_VLAN_TAGGED = 37,	   /* pods have no business with VLANs */
	TG_UNKNOWN_ETHERTYPE = 38, /* neither IP nor ARP */
	TG_TRUNCATED = 39,	   /* ends within a header */
	TG_BAD_LENGTH = 40,	   /* length field contradicts the packet */
	TG_BAD_HEADER = 41,	   /* wrong version or header length */
	TG_BAD_TCP_FLAGS = 42,	   /* SYN with FIN or RST */
	TG_EXTENSION_LIMIT = 43,   /* more than TG_IPV6_EXTENSIONS_MAX */
	TG_SOURCE_ROUTED = 44,	   /* IPv6 routing header or IPv4 source route */
	TG_FRAGMENT_UNKNOWN = 45,  /* its first fragment was not seen */
	TG_FRAGMENT_BAD = 46,	   /* first without a whole L4 header, or overlapping it */
	TG_FRAGMENT_REDIRECT = 47, /* sockets take whole segments only */
	TG_REDIRECT_PROTOCOL = 48, /* redirect of something that is neither TCP nor UDP */
	TG_SLOT_NOT_READY = 49,	   /* the slot has no port, or its listener was not acknowledged */
	TG_NO_LISTENER = 50,	   /* nothing listens on the slot's port: is the proxy up? */
	TG_NO_PAIR = 51,	   /* both ends redirect, and no slot judges both */
	TG_ASSIGN_FAILED = 52,	   /* the kernel refused the socket */
	TG_CT_MISSING = 53,	   /* TCP, not a SYN, and no known connection */
	TG_CT_FULL = 54,	   /* the flow could not be recorded */
	TG_FLOW_MOVED = 55,	 /* was direct, must now go through the proxy: answered with RST */
	TG_NO_HAIRPIN = 56,	 /* redirect on the way to a pod without a hairpin device */
	TG_HAIRPIN_STRAY = 57,	 /* at the hairpin, but no socket is meant for it */
	TG_NOT_CONFIGURED = 58,	 /* tg_config was never written */
	TG_NO_HOST_ADDRESS = 59, /* a host workload's redirect needs this node's address */
	TG_ICMP_REDIRECT = 60,	 /* a pod redirects, or advertises itself as a router */
	TG_REDIRECT_WORKLOAD = 61, /* L7 rules can't be had for what a host workload receives */
	TG_OFFLOADED = 62, /* too many of this peer's requests were denied: see tg_offload */
};

/* tg_config.flags */
#define TG_CONFIG_DENY_REPLY	   (1 << 0) /* answer local senders instead of silence */
#define TG_CONFIG_CT_MISSING_RESET (1 << 1) /* answer TG_CT_MISSING with RST */
#define TG_CONFIG_TIME_WAIT_LOOKUP (1 << 2) /* the sk_lookup program is attached */

/* tg_policy_value.flags */
#define TG_POLICY_WOULD_DENY	(1 << 0)
#define TG_POLICY_EXPLICIT_DENY (1 << 1) /* asked for: no name that DNS gave overrides it */

/* tg_ipcache_value.flags */
#define TG_IPCACHE_OUTSIDE                                                                         \
	(1 << 0) /* neither a pod's nor a node's: names that DNS gave count here */

/* tg_ct.kind */
enum tg_ct_kind {
	TG_CT_DIRECT = 1,   /* the stack routes it */
	TG_CT_REDIRECT = 2, /* its original direction goes to the proxy's slot */
	TG_CT_HOST = 3,	    /* begun by this host: never judged */
	TG_CT_RESET = 4,    /* moved to the proxy while alive: everything but a SYN gets RST */
	TG_CT_PROXY =
		5, /* the proxy's own, from its client's address: replies are for its socket */
};

/* tg_ct_key.realm: a connection of a host workload to a pod is seen, and judged, at both ends. */
enum tg_realm {
	TG_REALM_PODS = 0,
	TG_REALM_WORKLOADS = 1,
};

/* tg_ct.flags */
#define TG_CT_FROM_HIGH	 (1 << 0) /* originator is the key's high end */
#define TG_CT_ADOPTED	 (1 << 1) /* found in mid-connection: direction is a guess, judge both */
#define TG_CT_WOULD_DENY (1 << 2)
#define TG_CT_DENIED	 (1 << 3) /* judged again at `epoch`, and denied */
#define TG_CT_SETTLED	 (1 << 4) /* its socket at the proxy was seen to be established */

/* tg_ct.tcp_seen */
#define TG_SEEN_SYN	  (1 << 0)
#define TG_SEEN_SYN_ACK	  (1 << 1)
#define TG_SEEN_FIN	  (1 << 2) /* from the originator */
#define TG_SEEN_FIN_REPLY (1 << 3)
#define TG_SEEN_RST	  (1 << 4)

/* tg_event.flags */
#define TG_EVENT_WOULD_DENY (1 << 0)
#define TG_EVENT_REPLY	    (1 << 1) /* a packet of the reply direction */
#define TG_EVENT_REJUDGED   (1 << 2) /* an established flow after a policy change */

/* ---- structs ---------------------------------------------------------------------------------- */

struct tg_address {
	__be32 words[4];
};
_Static_assert(sizeof(struct tg_address) == 16, "tg_address");

/* tg_config, one entry. All zero: nothing is configured, everything is dropped. */
struct tg_config {
	__u32 epoch; /* grows with every change of policy; never 0 once written */
	__u32 flags;
	__u32 hairpin_ifindex;
	__u32 event_sample_every; /* of allowed new flows every n-th makes an event; 0: none */
	__u32 events_per_second;  /* per CPU */
	__u32 events_burst;	  /* per CPU */
	__u16 proxy_port_min;
	__u16 proxy_port_max;
	__u32 pad;
	__u64 netns_cookie; /* of this host: what other namespaces listen on is not the proxy's */
	struct tg_address host_ipv4; /* source of host workloads' redirected connections */
	struct tg_address host_ipv6;
};
_Static_assert(sizeof(struct tg_config) == 72, "tg_config");

#define TG_IPCACHE_PREFIX_MAX 128
struct tg_ipcache_key {
	__u32 prefix_bits;
	struct tg_address address;
};
_Static_assert(sizeof(struct tg_ipcache_key) == 20, "tg_ipcache_key");

struct tg_ipcache_value {
	__u32 identity;
	__u32 ifindex; /* of the local endpoint; 0: not local */
	__u32 flags;
};
_Static_assert(sizeof(struct tg_ipcache_value) == 12, "tg_ipcache_value");

/*
 * The field order is the meaning: a longest-prefix match over (subject, peer, direction) exactly,
 * then protocol all or nothing, then the leading bits of the port.
 *   72 bits: every protocol    80: one protocol, every port    80 + n: ports sharing n bits
 */
#define TG_POLICY_PREFIX_ANY	  72
#define TG_POLICY_PREFIX_PROTOCOL 80
#define TG_POLICY_PREFIX_MAX	  96
struct tg_policy_key {
	__u32 prefix_bits;
	__u32 subject;
	__u32 peer; /* TG_IDENTITY_ANY: peers without an entry of their own that covers the port */
	__u8 direction;
	__u8 protocol;
	__be16 port_be; /* ICMP: the message type */
};
_Static_assert(sizeof(struct tg_policy_key) == 16, "tg_policy_key");

struct tg_policy_value {
	__u8 verdict;
	__u8 flags;
	__u16 slot;
};
_Static_assert(sizeof(struct tg_policy_value) == 4, "tg_policy_value");

/*
 * tg_names: what DNS told a pod about an address: the identities of the names that its policy lists
 * and that have this address, until when. The pod is its interface, so an answer to one opens
 * nothing for another. The first entry with identity 0 ends the list.
 */
struct tg_names_key {
	__u32 ifindex;
	struct tg_address address;
};
_Static_assert(sizeof(struct tg_names_key) == 20, "tg_names_key");

struct tg_grant {
	__u32 identity;
	__u32 expires_s; /* of the clock of bpf_ktime_get_ns, CLOCK_MONOTONIC */
};
_Static_assert(sizeof(struct tg_grant) == 8, "tg_grant");

struct tg_names {
	struct tg_grant grants[TG_NAMES_PER_ADDRESS_MAX];
};
_Static_assert(sizeof(struct tg_names) == 128, "tg_names");

/* tg_slot.flags */
#define TG_SLOT_AUDITED (1 << 0) /* some policy in audit mode speaks here */

/* Also mapped into the proxy, which reads what it has to know of a slot besides the rules. */
struct tg_slot {
	__be16 port_be;
	__u8 ready;
	__u8 flags;
	__u32 denies_per_second; /* of one peer, beyond which it is dropped; 0: never */
	__u32 offload_seconds;	 /* for how long */
	__u32 pad;
};
_Static_assert(sizeof(struct tg_slot) == 16, "tg_slot");

struct tg_pair_key {
	__u16 egress;
	__u16 ingress;
};
_Static_assert(sizeof(struct tg_pair_key) == 4, "tg_pair_key");

struct tg_endpoint {
	__u32 identity;
	__u32 address_count;
	struct tg_address addresses[TG_ENDPOINT_ADDRESSES_MAX];
};
_Static_assert(sizeof(struct tg_endpoint) == 136, "tg_endpoint");

/* Both ends sorted, so that the two directions of a connection share one entry. */
struct tg_ct_key {
	struct tg_address low;
	struct tg_address high;
	__be16 low_port_be; /* ICMP echo: its identifier, in both */
	__be16 high_port_be;
	__u8 protocol;
	__u8 realm; /* enum tg_realm */
	__u8 pad[2];
};
_Static_assert(sizeof(struct tg_ct_key) == 40, "tg_ct_key");

struct tg_ct {
	__u64 created_ns;
	__u64 last_seen_ns;
	__u64 packets; /* both directions */
	__u64 bytes;
	__u32 epoch;	       /* at which it was judged */
	__u32 source_identity; /* of the originator */
	__u32 destination_identity;
	__u16 slot;	       /* TG_CT_REDIRECT: on whose listener it was opened */
	__be16 policy_port_be; /* what the policy was asked about */
	__u8 kind;
	__u8 flags;
	__u8 tcp_seen;
	__u8 pad;
	__u32 name_identity; /* of the name that opened it; 0: none was needed */
};
_Static_assert(sizeof(struct tg_ct) == 56, "tg_ct");

struct tg_fragment_key {
	struct tg_address source;
	struct tg_address destination;
	__u32 id;
	__u8 protocol;
	__u8 pad[3];
};
_Static_assert(sizeof(struct tg_fragment_key) == 40, "tg_fragment_key");

struct tg_fragment {
	__u64 seen_ns;
	__be16 source_port_be;
	__be16 destination_port_be;
	__u8 icmp_type;
	__u8 protocol;
	__u8 pad[2];
};
_Static_assert(sizeof(struct tg_fragment) == 16, "tg_fragment");

struct tg_counter {
	__u64 packets;
	__u64 bytes;
};
_Static_assert(sizeof(struct tg_counter) == 16, "tg_counter");

/* tg_event_budget, one entry per CPU: a token bucket, in milli-events. */
struct tg_event_budget {
	__u64 refilled_ns;
	__u64 milli_tokens;
	__u64 sent;
	__u64 lost;	/* no token, or the ring was full */
	__u64 sampling; /* counts allowed new flows */
};
_Static_assert(sizeof(struct tg_event_budget) == 40, "tg_event_budget");

struct tg_event {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	struct tg_address source;
	struct tg_address destination;
	__u32 source_identity;
	__u32 destination_identity;
	__u32 ifindex;
	__u32 length_bytes;
	__u32 epoch;
	__u16 source_port;
	__u16 destination_port; /* ICMP: the message type */
	__u16 slot;
	__u16 reason;
	__u8 verdict;
	__u8 hook;
	__u8 protocol;
	__u8 tcp_flags;
	__u8 flags;
	__u8 pad[3];
	__u32 name_identity; /* of the name that allowed it; 0: none */
};
_Static_assert(sizeof(struct tg_event) == 80, "tg_event");

/* tg_connects: socket cookie of a host workload's client -> what it dialled. */
struct tg_connect {
	struct tg_address destination;
	__be16 destination_port_be;
	__be16 proxy_port_be;
	__u32 identity;
};
_Static_assert(sizeof(struct tg_connect) == 24, "tg_connect");

/* tg_origins: a connection to a proxy port as the proxy sees it -> what the client dialled. */
struct tg_origin_key {
	struct tg_address client;
	__be16 client_port_be;
	__be16 proxy_port_be;
};
_Static_assert(sizeof(struct tg_origin_key) == 20, "tg_origin_key");

/* tg_listeners: which proxy port -> the socket that listens there on loopback. */
struct tg_listener_key {
	__u16 port;
	__u8 is_ipv6;
	__u8 pad;
};
_Static_assert(sizeof(struct tg_listener_key) == 4, "tg_listener_key");

/*
 * tg_offload: a peer that is dropped before it reaches a slot. `source` is its address; of a host
 * workload, which shares this host's, it is ::N with N its identity: never an address on a wire.
 */
struct tg_offload_key {
	struct tg_address source;
	__u32 slot;
};
_Static_assert(sizeof(struct tg_offload_key) == 20, "tg_offload_key");

struct tg_offload {
	__u64 until_ns; /* CLOCK_MONOTONIC */
	__u64 packets;	/* dropped */
};
_Static_assert(sizeof(struct tg_offload) == 16, "tg_offload");

/* tg_l7_verdict.state */
enum tg_l7_state {
	TG_L7_FREE = 0,
	TG_L7_LIVE = 1,
	TG_L7_RETIRING = 2, /* old: nobody begins to add to it, and its counts are still read */
	TG_L7_OVERFLOW = 3, /* a reserved record: what found no record of its own, by its kind */
	TG_L7_WRITER = 4,   /* a reserved record: that somebody writes, and when it began */
};

/*
 * tg_l7_verdicts: how many requests each pair of identities made, by slot and verdict. An array
 * that is mapped into the proxy (and the agent) and used as a hash table with open addressing, so
 * that counting a request is two atomic additions and no system call, and outlives both.
 *
 * The key is two words, (subject, peer) and the eight bytes after them. A writer takes a record by
 * a compare-and-swap of the first from 0, then of the second from 0; one that finds the first equal
 * to its own and the second 0 may take it too. Two records may have one key: readers add them up.
 * Only the agent frees: LIVE -> RETIRING, and after a grace time for writers on their way all 0.
 *
 * Record TG_L7_ALLOWED.. of the first TG_L7_RESERVED is the overflow of that kind, record 0 the
 * writer's sign of life; they have no subject.
 */
struct tg_l7_verdict {
	__u32 subject; /* whose policy it was: the client's identity (egress), the server's (ingress) */
	__u32 peer;
	__u16 slot;
	__u8 kind;	/* enum tg_l7_kind */
	__u8 direction; /* enum tg_direction; 0: both were judged, and the subject is the client */
	__u8 state;	/* enum tg_l7_state */
	__u8 pad[3];
	__u64 requests;
	__u64 bytes;	    /* of bodies, both ways */
	__u64 last_seen_ns; /* CLOCK_MONOTONIC */
	__u64 spare[3];
};
_Static_assert(sizeof(struct tg_l7_verdict) == 64, "tg_l7_verdict");

/* What SO_ORIGINAL_DST answers: struct sockaddr_in and sockaddr_in6, without their headers. */
struct tg_sockaddr_in {
	__u16 family;
	__be16 port_be;
	__be32 address;
	__u8 zero[8];
};
_Static_assert(sizeof(struct tg_sockaddr_in) == 16, "tg_sockaddr_in");

struct tg_sockaddr_in6 {
	__u16 family;
	__be16 port_be;
	__u32 flow;
	struct tg_address address;
	__u32 scope;
};
_Static_assert(sizeof(struct tg_sockaddr_in6) == 28, "tg_sockaddr_in6");

#endif
