/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What happens to a pod's packet once it is parsed: find its flow, judge it if need be, act. The
 * same for every hook; hooks differ in whether a socket can be assigned there (`enum tg_hook`).
 *
 *  1. A known flow judged at this epoch costs one map access: forwarded, steered or dropped.
 *  2. A known flow of an older epoch is judged again, in its original direction.
 *  3. A SYN opens a new flow, judged in its own direction, whatever was known of its tuple.
 *  4. TCP that is not a SYN and not known: a reply to the proxy, if it has that socket; else
 *     adopted if both directions are allowed (attaching to a running system cuts nothing that
 *     no policy denies); else TG_CT_MISSING.
 */
#ifndef TG_POLICE_H
#define TG_POLICE_H

#include "conntrack.h"
#include "events.h"
#include "offload.h"
#include "parse.h"
#include "policy.h"
#include "redirect.h"
#include "reset.h"

/* Allow: programs of others on the same hook still run. */
#define TG_NEXT TC_ACT_UNSPEC

/* For packets that need neither an event nor an answer. */
static __always_inline int tg_finish(enum tg_reason reason, enum tg_hook hook, __u32 length_bytes)
{
	tg_count(reason, hook, length_bytes);
	if (reason >= TG_DROP_FIRST)
		return TC_ACT_SHOT;
	return reason == TG_REDIRECTED ? TC_ACT_OK : TG_NEXT;
}

static __always_inline bool tg_wants_answer(enum tg_reason reason, enum tg_hook hook,
					    const struct tg_config *config)
{
	if (reason == TG_FLOW_MOVED)
		return true;
	if (reason == TG_OFFLOADED)
		return false; /* an answer would have it come back at once */
	if (hook != TG_HOOK_FROM_ENDPOINT)
		return false;
	if (reason == TG_CT_MISSING)
		return config->flags & TG_CONFIG_CT_MISSING_RESET;
	return config->flags & TG_CONFIG_DENY_REPLY;
}

/* The one way out of a judged packet: count it, tell of it, let it go, send it on or refuse it. */
static __always_inline int tg_conclude(struct __sk_buff *skb, const struct tg_packet *packet,
				       const struct tg_config *config,
				       const struct tg_judgement *judgement, enum tg_reason reason,
				       enum tg_hook hook)
{
	int action;

	tg_count(reason, hook, packet->length_bytes);
	if (judgement->is_new && judgement->would_deny)
		tg_count(TG_WOULD_DENY, hook, packet->length_bytes);
	if (judgement->is_new || reason >= TG_DROP_FIRST)
		tg_tell(packet, config, judgement, reason, hook);
	if (reason == TG_HAIRPINNED)
		return bpf_redirect(config->hairpin_ifindex, BPF_F_INGRESS);
	if (reason < TG_DROP_FIRST)
		return reason == TG_REDIRECTED ? TC_ACT_OK : TG_NEXT;
	if (!tg_wants_answer(reason, hook, config))
		return TC_ACT_SHOT;
	action = tg_answer(skb, packet, config, hook);
	if (action != TC_ACT_SHOT)
		tg_count(TG_REPLY_SENT, hook, packet->length_bytes);
	return action;
}

/* The question about the packet as it is, or about the way back. */
static __always_inline struct tg_question tg_ask(const struct tg_packet *packet, bool backward,
						 __be16 port_be)
{
	struct tg_question question = {.protocol = packet->protocol, .port_be = port_be};

	question.source_address = backward ? &packet->destination : &packet->source;
	question.destination_address = backward ? &packet->source : &packet->destination;
	question.source = tg_whois(question.source_address);
	question.destination = tg_whois(question.destination_address);
	if (!backward && tg_is_to_many(&packet->destination)) {
		question.destination.identity = TG_IDENTITY_HOST;
		question.destination.flags = 0;
	}
	question.source_is_local = question.source.ifindex != 0;
	question.destination_is_local = question.destination.ifindex != 0;
	return question;
}

static __always_inline struct tg_judgement tg_recall(const struct tg_ct *ct)
{
	struct tg_judgement judgement = {
		.source_identity = ct->source_identity,
		.destination_identity = ct->destination_identity,
		.name_identity = ct->name_identity,
		.slot = ct->slot,
		.reason = TG_POLICY_DENIED,
		.verdict = ct->flags & TG_CT_DENIED	? TG_DENY
			   : ct->kind == TG_CT_REDIRECT ? TG_REDIRECT
							: TG_ALLOW,
		.would_deny = !!(ct->flags & TG_CT_WOULD_DENY),
	};

	return judgement;
}

/* Let a known flow feel the policy of today. Returns 0, or the reason to drop this packet. */
static __always_inline enum tg_reason tg_rejudge(struct tg_ct *ct, __u8 protocol,
						 const struct tg_judgement *judgement, __u32 epoch)
{
	enum tg_reason reason = TG_OK;
	__u8 flags = ct->flags & ~(TG_CT_DENIED | TG_CT_WOULD_DENY);

	if (judgement->would_deny)
		flags |= TG_CT_WOULD_DENY;
	if (judgement->verdict == TG_DENY) {
		flags |= TG_CT_DENIED;
		reason = judgement->reason;
	} else if (protocol == TG_PROTO_UDP) {
		/* Datagrams stand alone: the next one simply goes where it should. */
		ct->kind = judgement->verdict == TG_REDIRECT ? TG_CT_REDIRECT : TG_CT_DIRECT;
		ct->slot = judgement->slot;
	} else if (judgement->verdict == TG_REDIRECT && ct->kind == TG_CT_DIRECT) {
		if (protocol == TG_PROTO_TCP) {
			ct->kind = TG_CT_RESET;
			reason = TG_FLOW_MOVED;
		} else {
			flags |= TG_CT_DENIED;
			reason = TG_REDIRECT_PROTOCOL;
		}
	}
	/* Judged by its name it keeps it, though DNS may have taken it back meanwhile. */
	if (judgement->verdict != TG_DENY)
		ct->name_identity = judgement->name_identity;
	ct->source_identity = judgement->source_identity;
	ct->destination_identity = judgement->destination_identity;
	ct->flags = flags;
	ct->epoch = epoch; /* last: another CPU that sees it sees the rest */
	return reason;
}

/* Steer a packet of a redirected flow, here or by way of the hairpin. */
static __always_inline enum tg_reason tg_deliver(struct __sk_buff *skb,
						 const struct tg_packet *packet,
						 const struct tg_config *config, __u32 slot,
						 struct tg_ct *ct, enum tg_hook hook)
{
	if (packet->fragment != TG_WHOLE)
		return TG_FRAGMENT_REDIRECT;
	if (tg_is_offloaded(&packet->source, slot))
		return TG_OFFLOADED;
	if (hook == TG_HOOK_TO_ENDPOINT)
		return config->hairpin_ifindex ? TG_HAIRPINNED : TG_NO_HAIRPIN;
	if (ct && tg_ct_is_settled(ct, packet, config)) {
		tg_mark(skb, TG_MARK_TO_PROXY);
		return TG_REDIRECTED;
	}
	return tg_steer(skb, packet, config, slot, ct);
}

/* A packet for a connection of the proxy's own, which has a socket here; `ct`: its entry, if any. */
static __always_inline enum tg_reason tg_deliver_to_socket(struct __sk_buff *skb,
							   const struct tg_packet *packet,
							   const struct tg_config *config,
							   struct tg_ct *ct, enum tg_hook hook)
{
	if (packet->fragment != TG_WHOLE)
		return TG_FRAGMENT_REDIRECT;
	if (hook == TG_HOOK_TO_ENDPOINT)
		return config->hairpin_ifindex ? TG_HAIRPINNED : TG_NO_HAIRPIN;
	if (ct && tg_ct_is_settled(ct, packet, config)) {
		tg_mark(skb, TG_MARK_TO_PROXY);
		return TG_REDIRECTED;
	}
	return tg_steer_to_socket(skb, packet, true, ct);
}

static __always_inline enum tg_reason tg_police_known(const struct tg_ct *ct)
{
	if (ct->kind == TG_CT_RESET)
		return TG_FLOW_MOVED;
	if (ct->flags & TG_CT_DENIED)
		return TG_POLICY_DENIED;
	return ct->kind == TG_CT_REDIRECT ? TG_REDIRECTED : TG_FORWARDED;
}

/* Begin a flow, if it may be. */
static __always_inline enum tg_reason
tg_police_new(const struct tg_packet *packet, const struct tg_ct_key *key, bool source_is_high,
	      struct tg_judgement *judgement, bool adopt, __u32 epoch, __u64 now_ns)
{
	bool redirect = judgement->verdict == TG_REDIRECT;

	if (judgement->verdict == TG_DENY)
		return judgement->reason;
	if (redirect && adopt)
		return TG_CT_MISSING;
	if (redirect && packet->protocol != TG_PROTO_TCP && packet->protocol != TG_PROTO_UDP)
		return TG_REDIRECT_PROTOCOL;
	if (redirect && packet->fragment != TG_WHOLE)
		return TG_FRAGMENT_REDIRECT;
	judgement->is_new = 1;
	if (tg_is_icmp(packet) && !tg_is_echo(packet))
		return TG_FORWARDED; /* single messages: nothing to remember */
	if (!tg_ct_create(key, source_is_high, packet, redirect ? TG_CT_REDIRECT : TG_CT_DIRECT,
			  adopt ? TG_CT_ADOPTED : 0, judgement, epoch, now_ns))
		return TG_CT_FULL;
	return redirect ? TG_REDIRECTED : TG_FORWARDED;
}

/* Whether the packet that an ICMP error quotes belongs to a flow that may have such errors. */
static __always_inline enum tg_reason tg_relate(struct __sk_buff *skb,
						const struct tg_packet *packet,
						const struct tg_config *config, enum tg_hook hook,
						__u64 now_ns)
{
	struct tg_cursor cursor = {.skb = skb, .offset = packet->l4_offset + 8};
	struct tg_packet quoted = {};
	struct tg_ct_key key;
	struct tg_udp ports;
	struct tg_icmp icmp;
	struct tg_ct *ct;

	if (packet->is_ipv6) {
		struct tg_ipv6 ip;

		if (!tg_read(&cursor, &ip, sizeof(ip)))
			return TG_CT_MISSING;
		quoted.source = ip.source;
		quoted.destination = ip.destination;
		quoted.protocol = ip.next_header;
		quoted.is_ipv6 = 1;
		cursor.offset += sizeof(ip);
	} else {
		struct tg_ipv4 ip;

		if (!tg_read(&cursor, &ip, sizeof(ip)) || (ip.version_words & 0x0f) < 5)
			return TG_CT_MISSING;
		tg_map_ipv4(&quoted.source, ip.source);
		tg_map_ipv4(&quoted.destination, ip.destination);
		quoted.protocol = ip.protocol;
		cursor.offset += (ip.version_words & 0x0f) * 4;
	}
	/* The error must go to whoever sent what it quotes. */
	if (tg_compare(&quoted.source, &packet->destination))
		return TG_CT_MISSING;
	/* And a pod is no router: it may complain of what was sent to itself only. */
	if (hook == TG_HOOK_FROM_ENDPOINT && tg_compare(&quoted.destination, &packet->source))
		return TG_CT_MISSING;
	if (tg_is_icmp(&quoted)) {
		if (!tg_read(&cursor, &icmp, sizeof(icmp)))
			return TG_CT_MISSING;
		ports.source_port_be = icmp.id_be;
		ports.destination_port_be = icmp.id_be;
	} else if (!tg_read(&cursor, &ports, 4)) {
		return TG_CT_MISSING;
	}
	quoted.source_port_be = ports.source_port_be;
	quoted.destination_port_be = ports.destination_port_be;
	tg_ct_key_of(&quoted, &key);
	ct = tg_ct_find(&key, now_ns);
	if (ct && ct->kind != TG_CT_REDIRECT && ct->kind != TG_CT_PROXY)
		return ct->kind == TG_CT_HOST ||
				       (ct->epoch == config->epoch && !(ct->flags & TG_CT_DENIED))
			       ? TG_RELATED
			       : TG_CT_MISSING;
	if (quoted.protocol == TG_PROTO_TCP || quoted.protocol == TG_PROTO_UDP) {
		struct tg_packet reply = quoted;

		reply.source = quoted.destination;
		reply.destination = quoted.source;
		reply.source_port_be = quoted.destination_port_be;
		reply.destination_port_be = quoted.source_port_be;
		if (tg_has_socket(skb, &reply))
			return TG_REDIRECTED;
	}
	return TG_CT_MISSING;
}

/* Judge a flow that is new, or known from an older epoch. `ct` is NULL for a new one. */
static __always_inline enum tg_reason tg_police_judge(const struct tg_packet *packet,
						      struct tg_ct *ct, const struct tg_ct_key *key,
						      bool source_is_high, bool is_reply,
						      struct tg_judgement *judgement, __u32 epoch,
						      __u64 now_ns)
{
	bool adopt = ct ? !!(ct->flags & TG_CT_ADOPTED)
			: packet->protocol == TG_PROTO_TCP && !tg_is_opening(packet);
	struct tg_question question =
		tg_ask(packet, is_reply, ct ? ct->policy_port_be : tg_policy_port_be(packet));
	enum tg_reason reason;

	question.name_identity = ct ? ct->name_identity : 0;
	*judgement = tg_judge(&question);
	if (adopt) {
		struct tg_question back = tg_reverse(&question);

		back.port_be = is_reply ? packet->destination_port_be : packet->source_port_be;
		*judgement = tg_stricter(*judgement, tg_judge(&back));
	}
	if (!ct) {
		if (adopt && judgement->verdict == TG_DENY)
			judgement->reason = TG_CT_MISSING;
		return tg_police_new(packet, key, source_is_high, judgement, adopt, epoch, now_ns);
	}
	judgement->event_flags |= TG_EVENT_REJUDGED;
	reason = tg_rejudge(ct, packet->protocol, judgement, epoch);
	return reason == TG_OK ? tg_police_known(ct) : reason;
}

/*
 * A packet for a socket of the proxy, without an entry of this epoch. Most are a server's replies to
 * the proxy: then its client may speak to that server through the proxy, which is noted. Else it is
 * a client's, whose entry was evicted: judged again, or a policy that changed meanwhile would never
 * reach it.
 */
static __always_inline enum tg_reason
tg_police_socket(struct __sk_buff *skb, const struct tg_packet *packet,
		 const struct tg_config *config, const struct tg_ct_key *key, bool source_is_high,
		 struct tg_judgement *judgement, enum tg_hook hook, __u32 epoch, __u64 now_ns)
{
	struct tg_question question = tg_ask(packet, true, packet->source_port_be);
	bool by_client;

	*judgement = tg_judge(&question);
	/*
	 * A client that reached the server by a name keeps its connection when DNS takes the name
	 * back, so the proxy keeps its own, and may make another for that client. Whether the client
	 * still may is judged on its own side, by the name that it came by; the proxy closes this
	 * side when that one goes.
	 */
	by_client = packet->protocol == TG_PROTO_TCP && judgement->verdict == TG_DENY &&
		    !judgement->is_explicit && question.source.ifindex &&
		    (question.destination.flags & TG_IPCACHE_OUTSIDE);
	if (judgement->verdict == TG_REDIRECT || by_client) {
		if (packet->protocol == TG_PROTO_TCP &&
		    !tg_ct_create(key, !source_is_high, packet, TG_CT_PROXY, 0, judgement, epoch,
				  now_ns))
			return TG_CT_FULL;
		return tg_deliver_to_socket(skb, packet, config, NULL, hook);
	}
	if (packet->protocol == TG_PROTO_UDP)
		return TG_CT_MISSING; /* the client has no socket: it may not ask that server (any more) */
	question = tg_ask(packet, false, packet->destination_port_be);
	*judgement = tg_judge(&question);
	if (judgement->verdict == TG_DENY)
		return judgement->reason;
	if (judgement->verdict == TG_REDIRECT && tg_is_offloaded(&packet->source, judgement->slot))
		return TG_OFFLOADED;
	if (judgement->verdict == TG_REDIRECT &&
	    !tg_ct_create(key, source_is_high, packet, TG_CT_REDIRECT, 0, judgement, epoch, now_ns))
		return TG_CT_FULL;
	return tg_deliver_to_socket(skb, packet, config, NULL, hook);
}

/* Judge and steer; `judgement` is filled in for the event. */
static __always_inline enum tg_reason tg_police(struct __sk_buff *skb,
						const struct tg_packet *packet,
						const struct tg_config *config,
						struct tg_judgement *judgement, enum tg_hook hook)
{
	/*
	 * Read before any policy is: a verdict by maps that are being changed is then one of an
	 * older epoch, and given again with the next packet.
	 */
	__u32 epoch = *(const volatile __u32 *)&config->epoch;
	__u64 now_ns = tg_now_ns();
	bool opening = tg_is_opening(packet), is_reply = false, stale = false;
	bool source_is_high;
	enum tg_reason reason;
	struct tg_ct_key key;
	struct tg_ct *ct;
	__u32 slot;

	if (packet->icmp_error) {
		reason = tg_relate(skb, packet, config, hook, now_ns);
		if (reason == TG_REDIRECTED && hook == TG_HOOK_TO_ENDPOINT)
			return config->hairpin_ifindex ? TG_HAIRPINNED : TG_NO_HAIRPIN;
		if (reason == TG_REDIRECTED)
			tg_mark(skb, TG_MARK_TO_PROXY); /* the stack finds the socket by itself */
		if (reason < TG_DROP_FIRST)
			return reason;
	}
	source_is_high = tg_ct_key_of(packet, &key);
	ct = tg_ct_find(&key, now_ns);
	if (ct) {
		is_reply = !!(ct->flags & TG_CT_FROM_HIGH) != source_is_high;
		stale = ct->kind != TG_CT_HOST && ct->epoch != epoch;
	}
	if (ct && ct->kind == TG_CT_PROXY &&
	    (!is_reply || opening || stale || hook == TG_HOOK_TO_ENDPOINT)) {
		ct = NULL;
		is_reply = false;
	}
	/* What a local pod sends has its entry from its own interface, or did not come from there. */
	if (hook == TG_HOOK_TO_ENDPOINT && (!ct || (opening && is_reply)) &&
	    (!tg_is_icmp(packet) || tg_is_echo(packet)) && tg_whois(&packet->source).ifindex)
		return TG_SPOOFED;
	if (ct && opening && (is_reply || stale || ct->kind == TG_CT_RESET)) {
		ct = NULL;
		is_reply = false;
	}
	if (ct && ct->kind == TG_CT_REDIRECT && is_reply)
		return tg_deliver_to_socket(skb, packet, config, NULL, hook);
	if (ct && ct->kind == TG_CT_PROXY) {
		tg_ct_touch(ct, packet, true, now_ns);
		return tg_deliver_to_socket(skb, packet, config, ct, hook);
	}
	if (!ct && !opening && tg_has_socket(skb, packet) &&
	    tg_whois(&packet->destination).identity != TG_IDENTITY_HOST)
		return tg_police_socket(skb, packet, config, &key, source_is_high, judgement, hook,
					epoch, now_ns);

	if (ct && opening) {
		ct->tcp_seen = TG_SEEN_SYN;
		ct->flags &= ~TG_CT_SETTLED;
	}
	if (ct)
		tg_ct_touch(ct, packet, is_reply, now_ns);
	if (ct && !stale) {
		*judgement = tg_recall(ct);
		reason = tg_police_known(ct);
		slot = ct->slot;
	} else {
		reason = tg_police_judge(packet, ct, &key, source_is_high, is_reply, judgement,
					 epoch, now_ns);
		slot = ct ? ct->slot : judgement->slot;
	}
	if (is_reply)
		judgement->event_flags |= TG_EVENT_REPLY;
	if (reason == TG_REDIRECTED)
		return tg_deliver(skb, packet, config, slot, stale ? NULL : ct, hook);
	return reason;
}

#endif
