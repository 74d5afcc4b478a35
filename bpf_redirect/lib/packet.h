/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A packet as the rest of the programs see it: what parse.h found out. */
#ifndef TG_PACKET_H
#define TG_PACKET_H

#define TG_ETH_BYTES 14

/* The compiler may not move memory accesses across. */
#define barrier() asm volatile("" ::: "memory")

/*
 * Making the verifier forget what it knows of a number, where that would have it try every case of
 * what follows again for every case of what came before. A number that was combined twice with one
 * that it does not know is the same number, and unknown to it.
 */
struct tg_unknown {
	__u32 once;
	__u32 twice;
};

static __always_inline struct tg_unknown tg_unknown_of(__u32 number)
{
	struct tg_unknown unknown = {.once = number, .twice = number};

	asm volatile("" : "+r"(unknown.once), "+r"(unknown.twice));
	return unknown;
}

static __always_inline __u32 tg_forget(__u32 number, struct tg_unknown unknown)
{
	number ^= unknown.once;
	asm volatile("" : "+r"(number));
	return number ^ unknown.twice;
}

#define TG_ETHERTYPE_IPV4 0x0800
#define TG_ETHERTYPE_ARP  0x0806
#define TG_ETHERTYPE_VLAN 0x8100
#define TG_ETHERTYPE_IPV6 0x86dd
#define TG_ETHERTYPE_QINQ 0x88a8

#define TG_AF_INET  2
#define TG_AF_INET6 10

#define TG_PROTO_HOP_BY_HOP 0
#define TG_PROTO_ICMP	    1
#define TG_PROTO_TCP	    6
#define TG_PROTO_UDP	    17
#define TG_PROTO_ROUTING    43
#define TG_PROTO_FRAGMENT   44
#define TG_PROTO_AH	    51
#define TG_PROTO_ICMPV6	    58
#define TG_PROTO_DEST_OPTS  60
#define TG_PROTO_SCTP	    132
#define TG_PROTO_MOBILITY   135

#define TG_TCP_FIN 0x01
#define TG_TCP_SYN 0x02
#define TG_TCP_RST 0x04
#define TG_TCP_ACK 0x10

enum tg_fragment_kind {
	TG_WHOLE = 0,
	TG_FRAGMENT_FIRST = 1,
	TG_FRAGMENT_LATER = 2,
};

struct tg_packet {
	struct tg_address source;
	struct tg_address destination;
	__u32 ifindex;
	__u32 length_bytes;
	__u32 l4_offset;
	__u32 l4_bytes; /* header and payload, by the IP header's word */
	__be16 source_port_be;
	__be16 destination_port_be;
	__u8 is_ipv6;
	__u8 protocol;
	__u8 tcp_flags; /* of a later fragment: ACK */
	__u8 icmp_type;
	__u8 hop_limit;
	__u8 fragment;	 /* enum tg_fragment_kind */
	__u8 plain;	 /* no IPv4 options, no extension header */
	__u8 icmp_error; /* carries the header of the packet it is about */
};

/* The answer to "may it?", and what is worth telling about it. */
struct tg_judgement {
	__u32 source_identity;
	__u32 destination_identity;
	__u32 name_identity; /* of the name that decided, where the address alone did not */
	__u16 slot;
	__u16 reason; /* of a deny */
	__u8 verdict; /* enum tg_verdict */
	__u8 would_deny;
	__u8 is_new; /* a flow begins with this packet */
	__u8 event_flags;
	__u8 is_explicit; /* of a deny: a rule asks for it */
};

static __always_inline bool tg_is_icmp(const struct tg_packet *packet)
{
	return packet->protocol == (packet->is_ipv6 ? TG_PROTO_ICMPV6 : TG_PROTO_ICMP);
}

static __always_inline bool tg_is_echo(const struct tg_packet *packet)
{
	return tg_is_icmp(packet) &&
	       (packet->is_ipv6 ? (packet->icmp_type & ~1) == 128 : (packet->icmp_type & ~8) == 0);
}

/* What the policy's port means: the destination port, or the ICMP message type. */
static __always_inline __be16 tg_policy_port_be(const struct tg_packet *packet)
{
	if (tg_is_icmp(packet))
		return bpf_htons(packet->icmp_type);
	return packet->destination_port_be;
}

/* A SYN that opens a connection. */
static __always_inline bool tg_is_opening(const struct tg_packet *packet)
{
	return packet->protocol == TG_PROTO_TCP &&
	       (packet->tcp_flags & (TG_TCP_SYN | TG_TCP_ACK)) == TG_TCP_SYN;
}

static __always_inline bool tg_is_ipv4_mapped(const struct tg_address *address)
{
	return !address->words[0] && !address->words[1] && address->words[2] == bpf_htonl(0xffff);
}

/* Multicast and broadcast: whoever else it reaches, it reaches this host. */
static __always_inline bool tg_is_to_many(const struct tg_address *address)
{
	if (tg_is_ipv4_mapped(address))
		return (bpf_ntohl(address->words[3]) >> 28) == 0xe ||
		       address->words[3] == 0xffffffff;
	return (bpf_ntohl(address->words[0]) >> 24) == 0xff;
}

/* 127.0.0.0/8, 0.0.0.0, ::1 and :: do not belong on a wire. */
static __always_inline bool tg_is_loopback(const struct tg_address *address)
{
	if (tg_is_ipv4_mapped(address))
		return (bpf_ntohl(address->words[3]) >> 24) == 127 || !address->words[3];
	return !address->words[0] && !address->words[1] && !address->words[2] &&
	       bpf_ntohl(address->words[3]) <= 1;
}

#endif
