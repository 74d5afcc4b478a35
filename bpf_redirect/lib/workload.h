/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Host workloads: processes of this host's own network that a policy selects by their cgroup. A
 * cgroup below a selected one counts as it; the deepest selected one wins.
 */
#ifndef TG_WORKLOAD_H
#define TG_WORKLOAD_H

#include "events.h"
#include "policy.h"

/* The identity of the calling process, 0 if no policy knows its cgroup. */
static __always_inline __u32 tg_current_workload(void)
{
	__u32 identity = 0, *known;
	__u64 cgroup;

	for (int level = 1; level <= TG_CGROUP_LEVELS_MAX; level++) {
		cgroup = bpf_get_current_ancestor_cgroup_id(level);
		if (!cgroup)
			break;
		known = bpf_map_lookup_elem(TG_MAP(tg_cgroups), &cgroup);
		if (known)
			identity = *known;
	}
	return identity;
}

/* Judge what a host workload sends to (address, port) in `packet`. */
static __always_inline enum tg_reason tg_judge_workload(const struct tg_packet *packet,
							const struct tg_config *config,
							__u32 identity,
							struct tg_judgement *judgement)
{
	struct tg_question question = {
		.source = {.identity = identity},
		.destination = tg_whois(&packet->destination),
		.port_be = tg_policy_port_be(packet),
		.protocol = packet->protocol,
		.source_is_local = 1,
	};

	question.destination_is_local = question.destination.ifindex != 0;
	*judgement = tg_judge(&question);
	judgement->is_new = 1;
	if (judgement->verdict == TG_DENY)
		return judgement->reason;
	if (judgement->verdict == TG_REDIRECT && packet->protocol != TG_PROTO_TCP)
		return TG_REDIRECT_PROTOCOL;
	return judgement->verdict == TG_REDIRECT ? TG_REDIRECTED : TG_FORWARDED;
}

#endif
