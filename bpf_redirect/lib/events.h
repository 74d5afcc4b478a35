/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Counting and telling. Every packet that leaves a program is counted once by its reason; verdicts
 * of note also go to the ring buffer, as far as the CPU's token bucket allows. What is not told is
 * counted in tg_budget.lost; counters are always exact.
 */
#ifndef TG_EVENTS_H
#define TG_EVENTS_H

#include "maps.h"
#include "packet.h"

#define TG_NS_PER_MILLI_TOKEN_AT_1HZ 1000000ULL
/*
 * In thousandths of a token. Telling of what passed costs ten times what a denial does: reading an
 * event costs user space more than a new connection costs here, and a storm of allowed connections
 * must leave tokens for whatever is refused meanwhile.
 */
#define TG_DENIED_COST	1000
#define TG_ALLOWED_COST 10000

static __always_inline void tg_count(__u32 reason, __u32 hook, __u32 length_bytes)
{
	__u32 index = reason * TG_HOOKS_MAX + hook;
	struct tg_counter *counter = bpf_map_lookup_elem(TG_MAP(tg_counters), &index);

	if (counter) {
		counter->packets++;
		counter->bytes += length_bytes;
	}
}

/* Take tokens; interrupts between read and write may cost some, which only loses an event. */
static __always_inline bool tg_event_affordable(struct tg_event_budget *budget,
						const struct tg_config *config, __u64 now_ns,
						__u64 cost)
{
	__u64 elapsed_ns = now_ns - budget->refilled_ns;
	__u64 full = (__u64)config->events_burst * 1000;
	__u64 tokens = budget->milli_tokens;
	__u64 earned;

	if (elapsed_ns > 1000000000ULL)
		earned = (__u64)config->events_per_second * 1000;
	else
		earned = elapsed_ns * config->events_per_second / TG_NS_PER_MILLI_TOKEN_AT_1HZ;
	if (earned) {
		tokens += earned;
		budget->refilled_ns = now_ns;
	}
	if (tokens > full)
		tokens = full;
	if (tokens < cost) {
		budget->milli_tokens = tokens;
		return false;
	}
	budget->milli_tokens = tokens - cost;
	return true;
}

static __always_inline void tg_tell(const struct tg_packet *packet, const struct tg_config *config,
				    const struct tg_judgement *judgement, __u32 reason, __u32 hook)
{
	__u64 now_ns = bpf_ktime_get_ns();
	__u32 zero = 0;
	struct tg_event_budget *budget = bpf_map_lookup_elem(TG_MAP(tg_budget), &zero);
	struct tg_event *event;
	__u8 flags = judgement->event_flags;
	__u64 cost = TG_DENIED_COST;

	if (!budget)
		return;
	if (judgement->would_deny)
		flags |= TG_EVENT_WOULD_DENY;
	if (reason < TG_DROP_FIRST && !(flags & TG_EVENT_WOULD_DENY)) {
		if (!config->event_sample_every)
			return;
		if (++budget->sampling < config->event_sample_every)
			return;
		budget->sampling = 0;
		cost = TG_ALLOWED_COST;
	}
	if (!tg_event_affordable(budget, config, now_ns, cost)) {
		budget->lost++;
		return;
	}
	event = bpf_ringbuf_reserve(TG_MAP(tg_events), sizeof(*event), 0);
	if (!event) {
		budget->lost++;
		return;
	}
	budget->sent++;
	__builtin_memset(event, 0, sizeof(*event));
	event->time_ns = now_ns;
	event->source = packet->source;
	event->destination = packet->destination;
	event->source_identity = judgement->source_identity;
	event->destination_identity = judgement->destination_identity;
	event->ifindex = packet->ifindex;
	event->length_bytes = packet->length_bytes;
	event->epoch = config->epoch;
	event->source_port = bpf_ntohs(packet->source_port_be);
	event->destination_port = bpf_ntohs(tg_policy_port_be(packet));
	event->slot = judgement->slot;
	event->reason = reason;
	event->verdict = reason >= TG_DROP_FIRST ? TG_DENY : judgement->verdict;
	event->hook = hook;
	event->protocol = packet->protocol;
	event->tcp_flags = packet->tcp_flags;
	event->flags = flags;
	event->name_identity = judgement->name_identity;
	bpf_ringbuf_submit(event, 0);
}

#endif
