/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * sk_lookup: where the kernel looks for a listener. When the proxy closed first, its side of the
 * connection stays in TIME_WAIT for a minute, and a client that uses its port again meets that
 * socket. The kernel then looks for a listener under the packet's own addresses, where none is
 * bound; without this program the SYN would go unanswered until TIME_WAIT ends. The flow's entry,
 * written by the judge a moment before, says which slot.
 */

static __always_inline int tg_at_sk_lookup(struct bpf_sk_lookup *ctx)
{
	__u64 now_ns = tg_now_ns();
	struct tg_packet packet = {.protocol = TG_PROTO_TCP};
	struct tg_listener_key listener = {};
	struct bpf_sock *socket;
	struct tg_address remote6, local6;
	struct tg_slot *slot;
	struct tg_ct_key key;
	bool source_is_high;
	struct tg_ct *ct;
	__u32 slot_id;

	if (ctx->protocol != TG_PROTO_TCP)
		return SK_PASS;
	packet.is_ipv6 = ctx->family == TG_AF_INET6;
	/* Read before the branch: a pointer into the context may not depend on one. */
	remote6 = (struct tg_address){
		{ctx->remote_ip6[0], ctx->remote_ip6[1], ctx->remote_ip6[2], ctx->remote_ip6[3]}};
	local6 = (struct tg_address){
		{ctx->local_ip6[0], ctx->local_ip6[1], ctx->local_ip6[2], ctx->local_ip6[3]}};
	tg_map_ipv4(&packet.source, ctx->remote_ip4);
	tg_map_ipv4(&packet.destination, ctx->local_ip4);
	barrier();
	if (packet.is_ipv6) {
		packet.source = remote6;
		packet.destination = local6;
	}
	if (tg_is_loopback(&packet.destination))
		return SK_PASS;
	packet.source_port_be = (__be16)ctx->remote_port;
	packet.destination_port_be = bpf_htons(ctx->local_port);
	source_is_high = tg_ct_key_of(&packet, &key);
	ct = tg_ct_find(&key, now_ns);
	if (!ct || ct->kind != TG_CT_REDIRECT || (ct->flags & TG_CT_DENIED) ||
	    !!(ct->flags & TG_CT_FROM_HIGH) != source_is_high)
		return SK_PASS;
	slot_id = ct->slot;
	slot = bpf_map_lookup_elem(TG_MAP(tg_slots), &slot_id);
	if (!slot || !slot->ready)
		return SK_PASS;
	listener.port = bpf_ntohs(slot->port_be);
	listener.is_ipv6 = packet.is_ipv6;
	socket = bpf_map_lookup_elem(TG_MAP(tg_listeners), &listener);
	if (!socket)
		return SK_PASS;
	bpf_sk_assign(ctx, socket, 0);
	bpf_sk_release(socket);
	return SK_PASS;
}
