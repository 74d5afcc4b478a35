/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Host workloads at connect and sendmsg: allow, deny (EPERM), or redirect by dialling the slot's
 * loopback port instead. The proxy sees a plain connection on loopback; it learns what was dialled
 * by SO_ORIGINAL_DST (origin.c), and the application by getpeername that nothing has changed. The
 * client is bound to this node's address, for the proxy dials the server from the client's own.
 *
 * Loopback destinations are not judged: what a host says to itself is its own business.
 */

#define TG_PASS	 1
#define TG_EPERM 0

static __always_inline bool tg_is_any(const struct tg_address *address)
{
	return !address->words[0] && !address->words[1] && !address->words[2] && !address->words[3];
}

static __always_inline void tg_read_destination(struct bpf_sock_addr *ctx, bool is_ipv6,
						struct tg_address *address)
{
	if (is_ipv6) {
		address->words[0] = ctx->user_ip6[0];
		address->words[1] = ctx->user_ip6[1];
		address->words[2] = ctx->user_ip6[2];
		address->words[3] = ctx->user_ip6[3];
	} else {
		tg_map_ipv4(address, ctx->user_ip4);
	}
}

/* Dial 127.0.0.1 or ::1 (a v4-mapped destination stays v4-mapped) at the slot's port. */
static __always_inline void tg_write_destination(struct bpf_sock_addr *ctx, bool is_ipv6,
						 bool is_mapped, __be16 port_be)
{
	ctx->user_port = port_be;
	if (!is_ipv6) {
		ctx->user_ip4 = bpf_htonl(0x7f000001);
		return;
	}
	ctx->user_ip6[0] = 0;
	ctx->user_ip6[1] = 0;
	ctx->user_ip6[2] = is_mapped ? bpf_htonl(0xffff) : 0;
	ctx->user_ip6[3] = is_mapped ? bpf_htonl(0x7f000001) : bpf_htonl(1);
}

/* A socket that the application has bound keeps its address. */
static __always_inline void tg_bind_source(struct bpf_sock_addr *ctx, bool is_ipv6,
					   const struct tg_address *address)
{
	if (is_ipv6) {
		struct {
			__u16 family;
			__be16 port;
			__u32 flow;
			struct tg_address address;
			__u32 scope;
		} source = {.family = TG_AF_INET6, .address = *address};

		bpf_bind(ctx, (struct sockaddr *)&source, sizeof(source));
	} else {
		struct {
			__u16 family;
			__be16 port;
			__be32 address;
			__u64 pad;
		} source = {.family = TG_AF_INET, .address = address->words[3]};

		bpf_bind(ctx, (struct sockaddr *)&source, sizeof(source));
	}
}

static __always_inline enum tg_reason
tg_redirect_workload(struct bpf_sock_addr *ctx, const struct tg_packet *packet,
		     const struct tg_config *config, bool is_ipv6, __u32 identity, __u32 slot_id)
{
	bool is_mapped = tg_is_ipv4_mapped(&packet->destination);
	const struct tg_address *source = is_mapped ? &config->host_ipv4 : &config->host_ipv6;
	struct tg_slot *slot = bpf_map_lookup_elem(TG_MAP(tg_slots), &slot_id);
	struct tg_connect value = {
		.destination = packet->destination,
		.destination_port_be = packet->destination_port_be,
		.identity = identity,
	};
	__u64 cookie = bpf_get_socket_cookie(ctx);

	if (!slot || !slot->ready)
		return TG_SLOT_NOT_READY;
	if (tg_is_workload_offloaded(identity, slot_id))
		return TG_OFFLOADED;
	if (tg_is_any(source))
		return TG_NO_HOST_ADDRESS;
	if (bpf_get_netns_cookie(ctx) != config->netns_cookie)
		return TG_NO_LISTENER; /* in a namespace of its own, loopback is another */
	value.proxy_port_be = slot->port_be;
	if (bpf_map_update_elem(TG_MAP(tg_connects), &cookie, &value, BPF_ANY))
		return TG_CT_FULL;
	tg_bind_source(ctx, is_ipv6, source);
	tg_write_destination(ctx, is_ipv6, is_mapped, slot->port_be);
	return TG_REDIRECTED;
}

static __always_inline int tg_at_send(struct bpf_sock_addr *ctx, bool is_ipv6, bool is_connect)
{
	const enum tg_hook hook = TG_HOOK_CGROUP_CONNECT;
	struct tg_config *config = tg_config();
	__u32 identity = tg_current_workload();
	struct tg_judgement judgement = {};
	struct tg_packet packet = {};
	enum tg_reason reason;
	__u64 cookie;

	if (!identity)
		return TG_PASS;
	tg_read_destination(ctx, is_ipv6, &packet.destination);
	if (tg_is_loopback(&packet.destination))
		return TG_PASS;
	if (!config) {
		tg_count(TG_NOT_CONFIGURED, hook, 0);
		return TG_EPERM;
	}
	packet.is_ipv6 = !tg_is_ipv4_mapped(&packet.destination);
	packet.source = packet.is_ipv6 ? config->host_ipv6 : config->host_ipv4;
	packet.destination_port_be = ctx->user_port;
	packet.protocol = is_connect ? ctx->protocol : TG_PROTO_UDP;
	if (tg_is_icmp(&packet))
		packet.icmp_type = packet.is_ipv6 ? 128 : 8; /* a ping socket */
	if (is_connect) {
		cookie = bpf_get_socket_cookie(ctx);
		bpf_map_delete_elem(TG_MAP(tg_connects), &cookie);
	}
	reason = tg_judge_workload(&packet, config, identity, &judgement);
	if (reason == TG_REDIRECTED)
		reason = tg_redirect_workload(ctx, &packet, config, is_ipv6, identity,
					      judgement.slot);
	tg_count(reason, hook, 0);
	if (judgement.would_deny)
		tg_count(TG_WOULD_DENY, hook, 0);
	tg_tell(&packet, config, &judgement, reason, hook);
	return reason < TG_DROP_FIRST ? TG_PASS : TG_EPERM;
}
