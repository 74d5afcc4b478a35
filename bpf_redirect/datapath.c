/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The one translation unit: every program, sharing every map. bcc makes programs of the functions
 * in the main file only, so each hook's entry stands here and its body in the file of that name.
 */
#include "include/abi.h"

#include <linux/pkt_cls.h>

#include "lib/police.h"

#include "from_endpoint.c"
#include "to_endpoint.c"
#include "from_netdev.c"
#include "from_hairpin.c"

int tg_from_endp(struct __sk_buff *skb)
{
	return tg_at_from_endpoint(skb);
}

int tg_to_endp(struct __sk_buff *skb)
{
	return tg_at_to_endpoint(skb);
}

int tg_from_net(struct __sk_buff *skb)
{
	return tg_at_from_netdev(skb);
}

int tg_from_hair(struct __sk_buff *skb)
{
	return tg_at_from_hairpin(skb);
}
