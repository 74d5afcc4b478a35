/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The one translation unit: every program, sharing every map. bcc makes programs of the functions
 * in the main file only, so each hook's entry stands here and its body in the file of that name.
 */
#include "include/abi.h"

#include <linux/pkt_cls.h>

#include "lib/police.h"
#include "lib/workload.h"

#include "from_endpoint.c"
#include "to_endpoint.c"
#include "from_netdev.c"
#include "from_hairpin.c"
#include "time_wait.c"
#include "cgroup_connect.c"
#include "cgroup_skb.c"
#include "origin.c"

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

int tg_sk_lookup(struct bpf_sk_lookup *ctx)
{
	return tg_at_sk_lookup(ctx);
}

int tg_connect4(struct bpf_sock_addr *ctx)
{
	return tg_at_send(ctx, false, true);
}

int tg_connect6(struct bpf_sock_addr *ctx)
{
	return tg_at_send(ctx, true, true);
}

int tg_sendmsg4(struct bpf_sock_addr *ctx)
{
	return tg_at_send(ctx, false, false);
}

int tg_sendmsg6(struct bpf_sock_addr *ctx)
{
	return tg_at_send(ctx, true, false);
}

int tg_getpeer4(struct bpf_sock_addr *ctx)
{
	return tg_at_getpeername(ctx, false);
}

int tg_getpeer6(struct bpf_sock_addr *ctx)
{
	return tg_at_getpeername(ctx, true);
}

int tg_sock_ops(struct bpf_sock_ops *ctx)
{
	return tg_at_sock_ops(ctx);
}

int tg_getsockopt(struct bpf_sockopt *ctx)
{
	return tg_at_getsockopt(ctx);
}

int tg_cg_egress(struct __sk_buff *skb)
{
	return tg_at_cgroup_skb(skb, true);
}

int tg_cg_ingress(struct __sk_buff *skb)
{
	return tg_at_cgroup_skb(skb, false);
}
