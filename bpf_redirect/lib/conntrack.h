/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Connections. One entry per connection, keyed by the sorted pair of its ends, so that either
 * direction finds it with one lookup. An entry remembers the verdict and the epoch at which it was
 * given; when the epoch has moved, the flow is judged again in its original direction, so a policy
 * change reaches established flows with their next packet.
 *
 * The proxy's upstream connections have their socket for their state (redirect.h). What replies to
 * one may is remembered as TG_CT_PROXY, which says nothing about packets in its own direction: these
 * come from the proxy, or are a client's that happens to use the same ends and ports (original_src
 * keeps the address, the port is drawn anew). Such a client's flow takes the entry's place; replies
 * to the proxy then find TG_CT_REDIRECT in the reply direction, in which the client's own flow never
 * has packets from outside.
 */
#ifndef TG_CONNTRACK_H
#define TG_CONNTRACK_H

#include "maps.h"
#include "packet.h"

static __always_inline int tg_compare(const struct tg_address *a, const struct tg_address *b)
{
#pragma unroll
	for (int i = 0; i < 4; i++) {
		if (a->words[i] != b->words[i])
			return a->words[i] < b->words[i] ? -1 : 1;
	}
	return 0;
}

/* Fill the key; returns whether the packet's source is its high end. */
static __always_inline bool tg_ct_key_of(const struct tg_packet *packet, struct tg_ct_key *key)
{
	int order = tg_compare(&packet->source, &packet->destination);
	bool source_is_high =
		order > 0 || (order == 0 && packet->source_port_be > packet->destination_port_be);

	__builtin_memset(key, 0, sizeof(*key));
	key->protocol = packet->protocol;
	if (source_is_high) {
		key->low = packet->destination;
		key->high = packet->source;
		key->low_port_be = packet->destination_port_be;
		key->high_port_be = packet->source_port_be;
	} else {
		key->low = packet->source;
		key->high = packet->destination;
		key->low_port_be = packet->source_port_be;
		key->high_port_be = packet->destination_port_be;
	}
	return source_is_high;
}

/*
 * CLOCK_MONOTONIC as of the last timer tick: ages are in seconds, and a tenth of a packet's time
 * here went into reading the clock exactly.
 */
static __always_inline __u64 tg_now_ns(void)
{
	return bpf_ktime_get_coarse_ns();
}

static __always_inline __u64 tg_ct_timeout_ns(const struct tg_ct *ct, __u8 protocol)
{
	if (protocol == TG_PROTO_UDP)
		return TG_TIMEOUT_UDP_NS;
	if (protocol != TG_PROTO_TCP)
		return TG_TIMEOUT_OTHER_NS;
	/*
	 * Of a redirected flow we never see the reply: the proxy's socket is the judge of its age. A
	 * RST that the socket does not believe must not make us forget the flow, or it would go on
	 * unjudged.
	 */
	if (ct->kind == TG_CT_REDIRECT || ct->kind == TG_CT_PROXY)
		return TG_TIMEOUT_TCP_NS;
	if ((ct->tcp_seen & TG_SEEN_RST) ||
	    (ct->tcp_seen & (TG_SEEN_FIN | TG_SEEN_FIN_REPLY)) == (TG_SEEN_FIN | TG_SEEN_FIN_REPLY))
		return TG_TIMEOUT_TCP_CLOSING_NS;
	if ((ct->tcp_seen & TG_SEEN_SYN_ACK) || (ct->flags & TG_CT_ADOPTED))
		return TG_TIMEOUT_TCP_NS;
	return TG_TIMEOUT_TCP_SYN_NS;
}

static __always_inline struct tg_ct *tg_ct_find(const struct tg_ct_key *key, __u64 now_ns)
{
	struct tg_ct *ct = bpf_map_lookup_elem(TG_MAP(tg_conntrack), (void *)key);

	/* Signed: another CPU may have seen the flow since our clock was read. */
	if (ct && (__s64)(now_ns - ct->last_seen_ns) > (__s64)tg_ct_timeout_ns(ct, key->protocol))
		return NULL;
	return ct;
}

/* Note one packet of a known flow. */
static __always_inline void tg_ct_touch(struct tg_ct *ct, const struct tg_packet *packet,
					bool is_reply, __u64 now_ns)
{
	__u8 seen = 0;

	ct->last_seen_ns = now_ns;
	__sync_fetch_and_add(&ct->packets, 1);
	__sync_fetch_and_add(&ct->bytes, packet->length_bytes);
	if (packet->protocol != TG_PROTO_TCP)
		return;
	if (packet->tcp_flags & TG_TCP_RST)
		seen |= TG_SEEN_RST;
	if (packet->tcp_flags & TG_TCP_FIN)
		seen |= is_reply ? TG_SEEN_FIN_REPLY : TG_SEEN_FIN;
	if (is_reply && (packet->tcp_flags & TG_TCP_ACK))
		seen |= TG_SEEN_SYN_ACK;
	if ((ct->tcp_seen | seen) != ct->tcp_seen)
		ct->tcp_seen |= seen;
}

/*
 * Whether the stack will find the proxy's socket by itself, and with it (TCP early demux) the route
 * that its last packet took: the socket was there, and neither end has begun to close. Should it be
 * gone all the same, the sk_lookup program finds the slot's listener, which resets.
 */
static __always_inline bool tg_ct_is_settled(const struct tg_ct *ct, const struct tg_packet *packet,
					     const struct tg_config *config)
{
	return (ct->flags & TG_CT_SETTLED) && packet->fragment == TG_WHOLE &&
	       !tg_is_opening(packet) && (config->flags & TG_CONFIG_TIME_WAIT_LOOKUP) &&
	       !(ct->tcp_seen & (TG_SEEN_FIN | TG_SEEN_FIN_REPLY | TG_SEEN_RST));
}

/* Begin (or begin again) a flow whose originator is the source if `source_is_high` says so. */
static __always_inline bool tg_ct_create(const struct tg_ct_key *key, bool source_is_high,
					 const struct tg_packet *packet, __u8 kind, __u8 flags,
					 const struct tg_judgement *judgement, __u32 epoch,
					 __u64 now_ns)
{
	struct tg_ct ct = {
		.created_ns = now_ns,
		.last_seen_ns = now_ns,
		.packets = 1,
		.bytes = packet->length_bytes,
		.epoch = epoch,
		.source_identity = judgement->source_identity,
		.destination_identity = judgement->destination_identity,
		.slot = judgement->slot,
		.policy_port_be = tg_policy_port_be(packet),
		.kind = kind,
		.flags = flags | (source_is_high ? TG_CT_FROM_HIGH : 0) |
			 (judgement->would_deny ? TG_CT_WOULD_DENY : 0),
		.tcp_seen = tg_is_opening(packet) ? TG_SEEN_SYN : 0,
		.name_identity = judgement->name_identity,
	};

	return bpf_map_update_elem(TG_MAP(tg_conntrack), (void *)key, &ct, BPF_ANY) == 0;
}

#endif
