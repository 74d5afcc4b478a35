/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Giving packets to the proxy's sockets. An established socket (or a pending request, or one in
 * TIME_WAIT) is looked for first, under the packet's own addresses: the proxy's sockets are
 * transparent. Else the listener of the slot, on loopback. The mark makes the stack deliver the
 * packet locally whatever its destination (ip rule: table 2004). Works at an ingress hook only.
 */
#ifndef TG_REDIRECT_H
#define TG_REDIRECT_H

#include "maps.h"
#include "packet.h"

#define TG_TCP_LISTEN	   10 /* enum in net/tcp_states.h, exposed as BPF_TCP_LISTEN */
#define TG_TCP_TIME_WAIT   6
#define TG_TCP_ESTABLISHED 1

static __always_inline __u32 tg_tuple_of(const struct tg_packet *packet,
					 struct bpf_sock_tuple *tuple)
{
	__builtin_memset(tuple, 0, sizeof(*tuple));
	if (packet->is_ipv6) {
#pragma unroll
		for (int i = 0; i < 4; i++) {
			tuple->ipv6.saddr[i] = packet->source.words[i];
			tuple->ipv6.daddr[i] = packet->destination.words[i];
		}
		tuple->ipv6.sport = packet->source_port_be;
		tuple->ipv6.dport = packet->destination_port_be;
		return sizeof(tuple->ipv6);
	}
	tuple->ipv4.saddr = packet->source.words[3];
	tuple->ipv4.daddr = packet->destination.words[3];
	tuple->ipv4.sport = packet->source_port_be;
	tuple->ipv4.dport = packet->destination_port_be;
	return sizeof(tuple->ipv4);
}

static __always_inline void tg_tuple_to_listener(bool is_ipv6, __be16 port_be,
						 struct bpf_sock_tuple *tuple)
{
	if (is_ipv6) {
		tuple->ipv6.daddr[0] = 0;
		tuple->ipv6.daddr[1] = 0;
		tuple->ipv6.daddr[2] = 0;
		tuple->ipv6.daddr[3] = bpf_htonl(1);
		tuple->ipv6.dport = port_be;
	} else {
		tuple->ipv4.daddr = bpf_htonl(0x7f000001);
		tuple->ipv4.dport = port_be;
	}
}

static __always_inline void tg_mark(struct __sk_buff *skb, __u32 mark)
{
	skb->mark = (skb->mark & ~TG_MARK_MASK) | mark;
}

/* Assign a referenced socket; takes the reference. */
static __always_inline enum tg_reason tg_assign(struct __sk_buff *skb, struct bpf_sock *socket)
{
	long error = bpf_sk_assign(skb, socket, 0);

	bpf_sk_release(socket);
	if (error)
		return TG_ASSIGN_FAILED;
	tg_mark(skb, TG_MARK_TO_PROXY);
	return TG_REDIRECTED;
}

static __always_inline bool tg_differ(const struct tg_address *a, const struct tg_address *b)
{
	return a->words[0] != b->words[0] || a->words[1] != b->words[1] ||
	       a->words[2] != b->words[2] || a->words[3] != b->words[3];
}

/*
 * Whether a UDP socket is connected to the packet's source and bound to its destination, address and
 * port: one that takes anything, as this host's services have, would take what is a pod's.
 */
static __always_inline bool tg_is_exact(const struct bpf_sock *socket,
					const struct tg_packet *packet)
{
	/* Read before any branch, or the compiler computes with a pointer that must stay as it is. */
	struct tg_address bound = {
		{socket->src_ip6[0], socket->src_ip6[1], socket->src_ip6[2], socket->src_ip6[3]}};
	struct tg_address connected = {
		{socket->dst_ip6[0], socket->dst_ip6[1], socket->dst_ip6[2], socket->dst_ip6[3]}};
	__u32 family = socket->family, bound4 = socket->src_ip4, connected4 = socket->dst_ip4;
	__u32 bound_port = socket->src_port;
	__be16 connected_port_be = socket->dst_port;

	barrier();
	if (bound_port != bpf_ntohs(packet->destination_port_be) ||
	    connected_port_be != packet->source_port_be)
		return false;
	if (!packet->is_ipv6)
		return family == TG_AF_INET && bound4 == packet->destination.words[3] &&
		       connected4 == packet->source.words[3];
	return !tg_differ(&bound, &packet->destination) && !tg_differ(&connected, &packet->source);
}

/* Whether a connection's socket is on this host. Costs a socket lookup. */
static __always_inline bool tg_has_socket(struct __sk_buff *skb, const struct tg_packet *packet)
{
	struct bpf_sock_tuple tuple;
	__u32 size = tg_tuple_of(packet, &tuple);
	struct bpf_sock *socket;
	bool found;

	if (packet->protocol == TG_PROTO_UDP) {
		socket = bpf_sk_lookup_udp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
		if (!socket)
			return false;
		found = tg_is_exact(socket, packet);
		bpf_sk_release(socket);
		return found;
	}
	if (packet->protocol != TG_PROTO_TCP)
		return false;
	socket = bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!socket)
		return false;
	found = socket->state != TG_TCP_LISTEN;
	bpf_sk_release(socket);
	return found;
}

/* To the connection's own socket, which is noted in `ct`, if any; TG_CT_MISSING if there is none. */
static __always_inline enum tg_reason tg_steer_to_socket(struct __sk_buff *skb,
							 const struct tg_packet *packet,
							 bool time_wait_too, struct tg_ct *ct)
{
	struct bpf_sock_tuple tuple;
	__u32 size = tg_tuple_of(packet, &tuple);
	struct bpf_sock *socket;

	if (packet->protocol == TG_PROTO_UDP) {
		socket = bpf_sk_lookup_udp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
		if (!socket)
			return TG_CT_MISSING;
		if (!tg_is_exact(socket, packet)) {
			bpf_sk_release(socket);
			return TG_CT_MISSING;
		}
		return tg_assign(skb, socket);
	}
	socket = bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!socket)
		return TG_CT_MISSING;
	if (socket->state == TG_TCP_LISTEN ||
	    (socket->state == TG_TCP_TIME_WAIT && !time_wait_too)) {
		bpf_sk_release(socket);
		return TG_CT_MISSING;
	}
	if (ct && socket->state == TG_TCP_ESTABLISHED && !(ct->flags & TG_CT_SETTLED))
		ct->flags |= TG_CT_SETTLED;
	return tg_assign(skb, socket);
}

/* Whether a UDP socket is bound to the proxy's loopback address, not to any. */
static __always_inline bool tg_is_on_loopback(const struct bpf_sock *socket, bool is_ipv6)
{
	struct tg_address bound = {
		{socket->src_ip6[0], socket->src_ip6[1], socket->src_ip6[2], socket->src_ip6[3]}};
	__u32 family = socket->family, bound4 = socket->src_ip4;

	barrier();
	if (!is_ipv6)
		return family == TG_AF_INET && bound4 == bpf_htonl(0x7f000001);
	return !bound.words[0] && !bound.words[1] && !bound.words[2] &&
	       bound.words[3] == bpf_htonl(1);
}

/* To the slot's listener. A packet without a connection gets its RST from there. */
static __always_inline enum tg_reason
tg_steer_to_listener(struct __sk_buff *skb, const struct tg_packet *packet, __u32 slot_id)
{
	struct tg_slot *slot = bpf_map_lookup_elem(TG_MAP(tg_slots), &slot_id);
	struct bpf_sock_tuple tuple;
	struct bpf_sock *socket;
	__u32 size;

	if (!slot || !slot->ready)
		return TG_SLOT_NOT_READY;
	size = tg_tuple_of(packet, &tuple);
	tg_tuple_to_listener(packet->is_ipv6, slot->port_be, &tuple);
	if (packet->protocol == TG_PROTO_UDP) {
		socket = bpf_sk_lookup_udp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
		if (!socket)
			return TG_NO_LISTENER;
		if (!tg_is_on_loopback(socket, packet->is_ipv6)) {
			bpf_sk_release(socket);
			return TG_NO_LISTENER;
		}
		return tg_assign(skb, socket);
	}
	socket = bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!socket)
		return TG_NO_LISTENER;
	if (socket->state != TG_TCP_LISTEN) {
		bpf_sk_release(socket);
		return TG_NO_LISTENER;
	}
	return tg_assign(skb, socket);
}

/*
 * Steer a packet of a redirected flow's original direction. A SYN that meets the TIME_WAIT socket
 * of the connection before it goes to that socket only if the sk_lookup program (time_wait.c) is
 * there to find the listener when the kernel asks; otherwise straight to the listener.
 */
static __always_inline enum tg_reason tg_steer(struct __sk_buff *skb,
					       const struct tg_packet *packet,
					       const struct tg_config *config, __u32 slot_id,
					       struct tg_ct *ct)
{
	bool time_wait_too = !tg_is_opening(packet) || (config->flags & TG_CONFIG_TIME_WAIT_LOOKUP);
	enum tg_reason reason;

	if (packet->protocol == TG_PROTO_UDP)
		return tg_steer_to_listener(skb, packet, slot_id);
	reason = tg_steer_to_socket(skb, packet, time_wait_too, ct);
	if (reason != TG_CT_MISSING)
		return reason;
	return tg_steer_to_listener(skb, packet, slot_id);
}

#endif
