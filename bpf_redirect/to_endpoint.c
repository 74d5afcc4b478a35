/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * tc egress of a pod's host-side veth: everything on its way to the pod. What came from a local pod
 * was judged at from_endpoint and is known; what came from elsewhere is judged here, unless
 * from_netdev did. Sockets can't be assigned at egress, so a redirect goes round the hairpin.
 *
 * What this host itself sends always passes (probes must work), and so do the replies: such flows
 * are of kind TG_CT_HOST. skb->ingress_ifindex is 0 only for what was made here, so neither that
 * nor the proxy's mark can be forged from outside.
 */

static __always_inline enum tg_reason
tg_from_host(struct __sk_buff *skb, const struct tg_packet *packet, const struct tg_config *config)
{
	__u64 now_ns = tg_now_ns();
	struct tg_judgement judgement = {.verdict = TG_ALLOW};
	struct tg_ct_key key;
	bool source_is_high;
	struct tg_ct *ct;

	source_is_high = tg_ct_key_of(packet, &key);
	ct = tg_ct_find(&key, now_ns);
	/* A server on this host answers the proxy, which dialled it from the pod's address. */
	if ((!ct || ct->kind == TG_CT_REDIRECT || ct->kind == TG_CT_PROXY) &&
	    !tg_is_opening(packet) && tg_has_socket(skb, packet))
		return config->hairpin_ifindex ? TG_HAIRPINNED : TG_NO_HAIRPIN;
	/* In mid-connection the host only answers: it can't turn a pod's connection into its own. */
	if (!ct && packet->protocol == TG_PROTO_TCP && !tg_is_opening(packet))
		ct = bpf_map_lookup_elem(TG_MAP(tg_conntrack), &key);
	if (ct && !tg_is_opening(packet)) {
		tg_ct_touch(ct, packet, !!(ct->flags & TG_CT_FROM_HIGH) != source_is_high, now_ns);
		return TG_FROM_HOST;
	}
	if ((packet->protocol == TG_PROTO_TCP && (packet->tcp_flags & TG_TCP_RST)) ||
	    (tg_is_icmp(packet) && !tg_is_echo(packet)))
		return TG_FROM_HOST; /* nothing follows: nothing to remember */
	judgement.source_identity = TG_IDENTITY_HOST;
	judgement.destination_identity = tg_whois(&packet->destination).identity;
	if (!tg_ct_create(&key, source_is_high, packet, TG_CT_HOST, 0, &judgement, config->epoch,
			  now_ns))
		return TG_CT_FULL;
	return TG_FROM_HOST;
}

/*
 * Replies to the proxy find its socket by themselves, but for one case: for a host workload it
 * dials from this host's own address, and what goes there is delivered without our help. Such a
 * connection is this host's.
 */
static __always_inline enum tg_reason tg_from_proxy(const struct tg_packet *packet,
						    const struct tg_config *config)
{
	struct tg_judgement judgement = {.verdict = TG_ALLOW};
	struct tg_ct_key key;
	bool source_is_high;

	if (!tg_is_opening(packet))
		return TG_FROM_PROXY;
	judgement.source_identity = tg_whois(&packet->source).identity;
	if (judgement.source_identity != TG_IDENTITY_HOST)
		return TG_FROM_PROXY;
	judgement.destination_identity = tg_whois(&packet->destination).identity;
	source_is_high = tg_ct_key_of(packet, &key);
	if (!tg_ct_create(&key, source_is_high, packet, TG_CT_HOST, 0, &judgement, config->epoch,
			  tg_now_ns()))
		return TG_CT_FULL;
	return TG_FROM_PROXY;
}

static __always_inline int tg_at_to_endpoint(struct __sk_buff *skb)
{
	const enum tg_hook hook = TG_HOOK_TO_ENDPOINT;
	struct tg_config *config = tg_config();
	__u32 ifindex = skb->ifindex, mark = skb->mark & TG_MARK_MASK;
	struct tg_judgement judgement = {.verdict = TG_DENY};
	struct tg_packet packet;
	enum tg_reason reason;

	reason = tg_parse(skb, &packet, TG_ETH_BYTES);
	if (reason == TG_LINK)
		return tg_finish(reason, hook, packet.length_bytes);
	if (mark == TG_MARK_REPLY)
		return tg_finish(TG_OWN_REPLY, hook, packet.length_bytes);
	if (!config)
		return tg_finish(TG_NOT_CONFIGURED, hook, packet.length_bytes);
	if (!bpf_map_lookup_elem(TG_MAP(tg_endpoints), &ifindex))
		reason = TG_NOT_READY;
	if (reason == TG_OK && !skb->ingress_ifindex)
		reason = mark == TG_MARK_FROM_PROXY ? tg_from_proxy(&packet, config)
						    : tg_from_host(skb, &packet, config);
	else if (reason == TG_OK)
		reason = tg_police(skb, &packet, config, &judgement, hook);
	return tg_conclude(skb, &packet, config, &judgement, reason, hook);
}
