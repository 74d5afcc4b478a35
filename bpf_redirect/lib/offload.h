/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Peers that are dropped before they reach the proxy: more of their requests were denied in a slot
 * than its policy bears. The proxy's module says who and until when (tg_offload), at the denial
 * that was one too many; here it costs a lookup, and only what is about to be redirected to a slot
 * whose policy says `offload`.
 */
#ifndef TG_OFFLOAD_H
#define TG_OFFLOAD_H

#include "maps.h"
#include "packet.h"

static __always_inline bool tg_is_offloaded(const struct tg_address *source, __u32 slot_id)
{
	struct tg_slot *slot = bpf_map_lookup_elem(TG_MAP(tg_slots), &slot_id);
	struct tg_offload_key key = {.source = *source, .slot = slot_id};
	struct tg_offload *dropped;

	if (!slot || !slot->denies_per_second)
		return false;
	dropped = bpf_map_lookup_elem(TG_MAP(tg_offload), &key);
	if (!dropped || bpf_ktime_get_ns() >= dropped->until_ns)
		return false;
	__sync_fetch_and_add(&dropped->packets, 1);
	return true;
}

/* A host workload shares this host's address, so its identity stands for it. */
static __always_inline bool tg_is_workload_offloaded(__u32 identity, __u32 slot_id)
{
	struct tg_address source = {.words = {0, 0, 0, bpf_htonl(identity)}};

	return tg_is_offloaded(&source, slot_id);
}

#endif
