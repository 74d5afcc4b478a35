/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The judge: may source speak to destination on (protocol, port)? The answer does not depend on
 * where it is asked, so every hook gives the same one:
 *
 *  1. If the source is local: its egress policy. If the destination is local, or this host: its
 *     ingress policy. (What the host sends to its own pods is never judged, and what passes between
 *     the host and the outside meets no program.)
 *  2. An entry is looked for under (subject, peer), then under (subject, ANY); none: deny.
 *     Entries are fully resolved when they are compiled; there is no precedence to work out here.
 *  3. Where DNS gave a local pod the destination's address for names that its policy lists
 *     (tg_names), its egress policy is asked for each of them as well as for the address (names.h).
 *  4. Either says deny: deny. Either says redirect: redirect; both: to the pair's slot.
 */
#ifndef TG_POLICY_H
#define TG_POLICY_H

#include "ipcache.h"

/* One question: who asks for what. */
struct tg_question {
	struct tg_ipcache_value source;
	struct tg_ipcache_value destination;
	const struct tg_address *source_address; /* NULL: of a host workload, which has no names */
	const struct tg_address *destination_address;
	__u32 name_identity; /* of the name that opened the flow, if one did: it never expires */
	__be16 port_be;
	__u8 protocol;
	__u8 source_is_local; /* as a host workload is, without an interface of its own */
	__u8 destination_is_local;
};

static __always_inline struct tg_question tg_reverse(const struct tg_question *question)
{
	struct tg_question back = *question;

	back.source = question->destination;
	back.destination = question->source;
	back.source_address = question->destination_address;
	back.destination_address = question->source_address;
	back.name_identity = 0;
	back.source_is_local = question->destination_is_local;
	back.destination_is_local = question->source_is_local;
	return back;
}

static __always_inline struct tg_policy_key
tg_policy_key_of(__u32 subject, __u32 peer, __u8 direction, const struct tg_question *question)
{
	struct tg_policy_key key = {
		.prefix_bits = TG_POLICY_PREFIX_MAX,
		.subject = subject,
		.peer = peer,
		.direction = direction,
		.protocol = question->protocol,
		.port_be = question->port_be,
	};

	return key;
}

static __always_inline struct tg_policy_value
tg_policy_of(__u32 subject, __u32 peer, __u8 direction, const struct tg_question *question)
{
	struct tg_policy_value deny = {.verdict = TG_DENY};
	struct tg_policy_key key = tg_policy_key_of(subject, peer, direction, question);
	struct tg_policy_value *value = bpf_map_lookup_elem(TG_MAP(tg_policy), &key);

	if (!value) {
		key.peer = TG_IDENTITY_ANY;
		value = bpf_map_lookup_elem(TG_MAP(tg_policy), &key);
	}
	return value ? *value : deny;
}

/*
 * How much an answer counts among those about one end, whichever came first: an explicit deny (5),
 * an allow (4; 3 if audit would deny it), a redirect (2 by name, 1 by address), default deny (0).
 * Looked up, not branched on: sixteen rounds of branches are more than the verifier has patience for.
 */
#define TG_WEIGHT_SHIFT(verdict, flags)	     ((((verdict)&3) | ((flags)&3) << 2) * 4)
#define TG_WEIGHT_OF(verdict, flags, weight) ((weight##ULL) << TG_WEIGHT_SHIFT(verdict, flags))
#define TG_WEIGHTS                                                                                 \
	(TG_WEIGHT_OF(TG_DENY, TG_POLICY_EXPLICIT_DENY, 5) | TG_WEIGHT_OF(TG_ALLOW, 0, 4) |        \
	 TG_WEIGHT_OF(TG_ALLOW, TG_POLICY_WOULD_DENY, 3))
#define TG_WEIGHTS_BY_NAME                                                                         \
	(TG_WEIGHTS | TG_WEIGHT_OF(TG_REDIRECT, 0, 2) |                                            \
	 TG_WEIGHT_OF(TG_REDIRECT, TG_POLICY_WOULD_DENY, 2))
#define TG_WEIGHTS_BY_ADDRESS                                                                      \
	(TG_WEIGHTS | TG_WEIGHT_OF(TG_REDIRECT, 0, 1) |                                            \
	 TG_WEIGHT_OF(TG_REDIRECT, TG_POLICY_WOULD_DENY, 1))

static __always_inline __u32 tg_weight(struct tg_policy_value value, __u64 weights)
{
	return (weights >> TG_WEIGHT_SHIFT(value.verdict, value.flags)) & 0xf;
}

/*
 * The egress policy of a local source: by the destination's address, and by the names for which DNS
 * gave that address to this very pod. A name counts only outside the cluster, for whoever owns one
 * can point it at any address. `name` is set to the one that decided, if one did. The entries of a
 * name repeat what holds for any peer, so there is no second look under TG_IDENTITY_ANY.
 */
static __always_inline struct tg_policy_value tg_egress_of(const struct tg_question *question,
							   __u32 *name)
{
	__u32 subject = question->source.identity;
	struct tg_policy_value best =
		tg_policy_of(subject, question->destination.identity, TG_EGRESS, question);
	struct tg_policy_key asked = tg_policy_key_of(subject, 0, TG_EGRESS, question);
	struct tg_names_key key = {.ifindex = question->source.ifindex};
	__u32 now_s, weight, best_weight = tg_weight(best, TG_WEIGHTS_BY_ADDRESS);
	struct tg_policy_value *value;
	struct tg_unknown unknown;
	struct tg_names *names;

	if (!(question->destination.flags & TG_IPCACHE_OUTSIDE) || !question->source.ifindex ||
	    !question->destination_address)
		return best;
	key.address = *question->destination_address;
	names = bpf_map_lookup_elem(TG_MAP(tg_names), &key);
	now_s = bpf_ktime_get_ns() / TG_SECOND_NS;
	unknown = tg_unknown_of(now_s);
#pragma clang loop unroll(disable)
	for (int i = 0; i <= TG_NAMES_PER_ADDRESS_MAX; i++) {
		asked.peer = question->name_identity;
		if (i > 0) {
			if (!names || !names->grants[i - 1].identity)
				break;
			if (names->grants[i - 1].expires_s <= now_s)
				continue;
			asked.peer = names->grants[i - 1].identity;
		}
		if (!asked.peer)
			continue;
		value = bpf_map_lookup_elem(TG_MAP(tg_policy), &asked);
		if (!value)
			continue;
		weight = tg_weight(*value, TG_WEIGHTS_BY_NAME);
		if (weight > best_weight) {
			best = *value;
			best_weight = tg_forget(weight, unknown);
			*name = tg_forget(asked.peer, unknown);
		}
	}
	return best;
}

static __always_inline struct tg_judgement tg_judge(const struct tg_question *question)
{
	struct tg_policy_value allow = {.verdict = TG_ALLOW};
	struct tg_policy_value egress = allow, ingress = allow;
	struct tg_judgement judgement = {
		.source_identity = question->source.identity,
		.destination_identity = question->destination.identity,
		.verdict = TG_DENY,
		.reason = TG_POLICY_DENIED,
	};

	if (question->source_is_local)
		egress = tg_egress_of(question, &judgement.name_identity);
	if (question->destination_is_local || question->destination.identity == TG_IDENTITY_HOST)
		ingress = tg_policy_of(question->destination.identity, question->source.identity,
				       TG_INGRESS, question);
	judgement.is_explicit = !!((egress.flags | ingress.flags) & TG_POLICY_EXPLICIT_DENY);
	judgement.would_deny = (egress.flags | ingress.flags) & TG_POLICY_WOULD_DENY;
	if ((egress.verdict != TG_ALLOW && egress.verdict != TG_REDIRECT) ||
	    (ingress.verdict != TG_ALLOW && ingress.verdict != TG_REDIRECT))
		return judgement;
	if (egress.verdict == TG_ALLOW && ingress.verdict == TG_ALLOW) {
		judgement.verdict = TG_ALLOW;
		return judgement;
	}
	if (egress.verdict == TG_REDIRECT && ingress.verdict == TG_REDIRECT) {
		struct tg_pair_key pair = {.egress = egress.slot, .ingress = ingress.slot};
		__u32 *slot = bpf_map_lookup_elem(TG_MAP(tg_pairs), &pair);

		if (!slot) {
			judgement.reason = TG_NO_PAIR;
			return judgement;
		}
		judgement.slot = *slot;
	} else {
		judgement.slot = egress.verdict == TG_REDIRECT ? egress.slot : ingress.slot;
	}
	judgement.verdict = TG_REDIRECT;
	return judgement;
}

/* The stricter of two answers; of two redirects the first. */
static __always_inline struct tg_judgement tg_stricter(struct tg_judgement one,
						       struct tg_judgement other)
{
	if (one.verdict == TG_DENY || other.verdict == TG_ALLOW)
		return one;
	if (other.verdict == TG_DENY || one.verdict == TG_ALLOW) {
		one.verdict = other.verdict;
		one.reason = other.reason;
		one.slot = other.slot;
	}
	return one;
}

#endif
