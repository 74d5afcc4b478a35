/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The maps. User space makes them (maps.py: type, size, flags) and hands their descriptors to the
 * compiler as TG_MAP_FD_<name>, so pinned maps are simply used again. All are pinned and outlive
 * every process.
 *
 * name           key -> value                        writer        reader
 * tg_config      0 -> tg_config                      agent         every program
 * tg_ipcache     tg_ipcache_key -> tg_ipcache_value  agent         judge
 * tg_policy      tg_policy_key -> tg_policy_value    agent         judge
 * tg_slots       slot -> tg_slot                     agent         redirect
 * tg_pairs       tg_pair_key -> __u32 slot           agent         judge
 * tg_endpoints   ifindex -> tg_endpoint              agent         from_endpoint, to_endpoint
 * tg_cgroups     cgroup id -> __u32 identity         agent         cgroup programs
 * tg_conntrack   tg_ct_key -> tg_ct                  programs      programs, agent; LRU
 * tg_fragments   tg_fragment_key -> tg_fragment      parse         parse; LRU
 * tg_counters    reason * hooks + hook -> tg_counter programs      agent; per CPU
 * tg_budget      0 -> tg_event_budget                events        agent; per CPU
 * tg_events      ring of tg_event                    events        agent
 * tg_connects    socket cookie -> tg_connect         connect       sockops; LRU
 * tg_origins     tg_origin_key -> tg_connect         sockops       getsockopt, getpeername; LRU
 * tg_names       tg_names_key -> tg_names            DNS proxy     judge
 * tg_listeners   proxy port -> listening socket      sockops       time_wait (sk_lookup)
 * tg_offload     tg_offload_key -> tg_offload        the proxy     police, connect; LRU
 * tg_l7_verdicts a hash table in an array, see abi.h the proxy     agent
 */
#ifndef TG_MAPS_H
#define TG_MAPS_H

#define TG_MAP(name) ((void *)bpf_pseudo_fd(1, TG_MAP_FD_##name))

static __always_inline struct tg_config *tg_config(void)
{
	__u32 zero = 0;
	struct tg_config *config = bpf_map_lookup_elem(TG_MAP(tg_config), &zero);

	return config && config->epoch ? config : NULL;
}

#endif
