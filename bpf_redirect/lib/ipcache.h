/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Who is behind an address: the longest prefix of tg_ipcache. */
#ifndef TG_IPCACHE_H
#define TG_IPCACHE_H

#include "maps.h"
#include "packet.h"

/* Never fails: what no entry covers (the agent always writes both /0) is the world. */
static __always_inline struct tg_ipcache_value tg_whois(const struct tg_address *address)
{
	struct tg_ipcache_key key = {
		.prefix_bits = TG_IPCACHE_PREFIX_MAX,
		.address = *address,
	};
	struct tg_ipcache_value world = {.identity = TG_IDENTITY_WORLD};
	struct tg_ipcache_value *known = bpf_map_lookup_elem(TG_MAP(tg_ipcache), &key);

	return known ? *known : world;
}

#endif
