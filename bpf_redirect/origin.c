/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a redirected host workload dialled, told to those who ask: SO_ORIGINAL_DST to the proxy,
 * getpeername to the application. Between the two connect's note, kept by the socket, becomes one
 * kept by (client address, port): sockops runs when the SYN leaves, before the proxy can accept.
 *
 * sockops also keeps tg_listeners: sockets that begin to listen on a proxy port of loopback.
 */

#define TG_SOL_IP	   0
#define TG_SOL_IPV6	   41
#define TG_SO_ORIGINAL_DST 80

static __always_inline void tg_note_origin(struct bpf_sock_ops *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct tg_connect *dialled = bpf_map_lookup_elem(TG_MAP(tg_connects), &cookie);
	struct tg_origin_key key = {};
	struct tg_address local6;

	if (!dialled)
		return;
	local6 = (struct tg_address){
		{ctx->local_ip6[0], ctx->local_ip6[1], ctx->local_ip6[2], ctx->local_ip6[3]}};
	tg_map_ipv4(&key.client, ctx->local_ip4);
	barrier();
	if (ctx->family == TG_AF_INET6)
		key.client = local6;
	key.client_port_be = bpf_htons(ctx->local_port);
	key.proxy_port_be = dialled->proxy_port_be;
	bpf_map_update_elem(TG_MAP(tg_origins), &key, dialled, BPF_ANY);
}

/* Only this host's own sockets on loopback: a pod may listen where it likes, on its own. */
static __always_inline void tg_note_listener(struct bpf_sock_ops *ctx)
{
	struct tg_config *config = tg_config();
	struct tg_listener_key key = {.port = ctx->local_port};
	struct tg_address local6;
	__u32 local4 = ctx->local_ip4;

	local6 = (struct tg_address){
		{ctx->local_ip6[0], ctx->local_ip6[1], ctx->local_ip6[2], ctx->local_ip6[3]}};
	barrier();
	if (!config || ctx->local_port < config->proxy_port_min ||
	    ctx->local_port > config->proxy_port_max ||
	    bpf_get_netns_cookie(ctx) != config->netns_cookie)
		return;
	key.is_ipv6 = ctx->family == TG_AF_INET6;
	if (!key.is_ipv6 && local4 != bpf_htonl(0x7f000001))
		return;
	if (key.is_ipv6 && (!tg_is_loopback(&local6) || tg_is_any(&local6)))
		return;
	bpf_sock_hash_update(ctx, TG_MAP(tg_listeners), &key, BPF_ANY);
}

static __always_inline int tg_at_sock_ops(struct bpf_sock_ops *ctx)
{
	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		tg_note_origin(ctx);
	else if (ctx->op == BPF_SOCK_OPS_TCP_LISTEN_CB)
		tg_note_listener(ctx);
	return 1;
}

/* Answer SO_ORIGINAL_DST; for sockets that we know nothing of, what the kernel said stands. */
static __always_inline int tg_at_getsockopt(struct bpf_sockopt *ctx)
{
	struct tg_origin_key key = {};
	struct bpf_sock *socket = ctx->sk;
	struct tg_address remote6;
	struct tg_connect *dialled;

	if (ctx->optname != TG_SO_ORIGINAL_DST || !socket)
		return 1;
	remote6 = (struct tg_address){
		{socket->dst_ip6[0], socket->dst_ip6[1], socket->dst_ip6[2], socket->dst_ip6[3]}};
	tg_map_ipv4(&key.client, socket->dst_ip4);
	barrier();
	if (ctx->level == TG_SOL_IPV6 && socket->family == TG_AF_INET6)
		key.client = remote6;
	else if (ctx->level != TG_SOL_IP || socket->family != TG_AF_INET)
		return 1;
	key.client_port_be = (__be16)socket->dst_port;
	key.proxy_port_be = bpf_htons(socket->src_port);
	dialled = bpf_map_lookup_elem(TG_MAP(tg_origins), &key);
	if (!dialled)
		return 1;
	if (ctx->level == TG_SOL_IP) {
		struct tg_sockaddr_in *answer = ctx->optval;

		if ((void *)(answer + 1) > ctx->optval_end)
			return 1;
		__builtin_memset(answer, 0, sizeof(*answer));
		answer->family = TG_AF_INET;
		answer->port_be = dialled->destination_port_be;
		answer->address = dialled->destination.words[3];
		ctx->optlen = sizeof(*answer);
	} else {
		struct tg_sockaddr_in6 *answer = ctx->optval;

		if ((void *)(answer + 1) > ctx->optval_end)
			return 1;
		__builtin_memset(answer, 0, sizeof(*answer));
		answer->family = TG_AF_INET6;
		answer->port_be = dialled->destination_port_be;
		answer->address = dialled->destination;
		ctx->optlen = sizeof(*answer);
	}
	ctx->retval = 0;
	return 1;
}

static __always_inline int tg_at_getpeername(struct bpf_sock_addr *ctx, bool is_ipv6)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct tg_connect *dialled = bpf_map_lookup_elem(TG_MAP(tg_connects), &cookie);

	if (!dialled)
		return 1;
	ctx->user_port = dialled->destination_port_be;
	if (is_ipv6) {
		ctx->user_ip6[0] = dialled->destination.words[0];
		ctx->user_ip6[1] = dialled->destination.words[1];
		ctx->user_ip6[2] = dialled->destination.words[2];
		ctx->user_ip6[3] = dialled->destination.words[3];
	} else {
		ctx->user_ip4 = dialled->destination.words[3];
	}
	return 1;
}
