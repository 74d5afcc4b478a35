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
 *  3. Either says deny: deny. Either says redirect: redirect; both: to the pair's slot.
 */
#ifndef TG_POLICY_H
#define TG_POLICY_H

#include "ipcache.h"

/* One question: who asks for what. */
struct tg_question {
	struct tg_ipcache_value source;
	struct tg_ipcache_value destination;
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
	back.source_is_local = question->destination_is_local;
	back.destination_is_local = question->source_is_local;
	return back;
}

static __always_inline struct tg_policy_value
tg_policy_of(__u32 subject, __u32 peer, __u8 direction, const struct tg_question *question)
{
	struct tg_policy_value deny = {.verdict = TG_DENY};
	struct tg_policy_key key = {
		.prefix_bits = TG_POLICY_PREFIX_MAX,
		.subject = subject,
		.peer = peer,
		.direction = direction,
		.protocol = question->protocol,
		.port_be = question->port_be,
	};
	struct tg_policy_value *value = bpf_map_lookup_elem(TG_MAP(tg_policy), &key);

	if (!value) {
		key.peer = TG_IDENTITY_ANY;
		value = bpf_map_lookup_elem(TG_MAP(tg_policy), &key);
	}
	return value ? *value : deny;
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
		egress = tg_policy_of(question->source.identity, question->destination.identity,
				      TG_EGRESS, question);
	if (question->destination_is_local || question->destination.identity == TG_IDENTITY_HOST)
		ingress = tg_policy_of(question->destination.identity, question->source.identity,
				       TG_INGRESS, question);
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
