/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * tc ingress of a pod's host-side veth: everything that the pod sends. Its own egress policy and,
 * where the peer is local too, the peer's ingress policy are judged here in one pass.
 */

static __always_inline bool tg_is_own_address(const struct tg_endpoint *endpoint,
					      const struct tg_address *address)
{
	__u32 count = endpoint->address_count;

#pragma unroll
	for (int i = 0; i < TG_ENDPOINT_ADDRESSES_MAX; i++) {
		if (i < count && !tg_compare(&endpoint->addresses[i], address))
			return true;
	}
	return false;
}

static __always_inline bool tg_dials_proxy_port(const struct tg_packet *packet,
						const struct tg_config *config)
{
	__u16 port = bpf_ntohs(packet->destination_port_be);

	return packet->protocol == TG_PROTO_TCP && port >= config->proxy_port_min &&
	       port <= config->proxy_port_max &&
	       tg_whois(&packet->destination).identity == TG_IDENTITY_HOST;
}

static __always_inline int tg_at_from_endpoint(struct __sk_buff *skb)
{
	const enum tg_hook hook = TG_HOOK_FROM_ENDPOINT;
	struct tg_config *config = tg_config();
	__u32 ifindex = skb->ifindex;
	struct tg_judgement judgement = {.verdict = TG_DENY};
	struct tg_endpoint *endpoint;
	struct tg_packet packet;
	enum tg_reason reason;

	reason = tg_parse(skb, &packet, TG_ETH_BYTES);
	/* Router advertisement, redirect. */
	if (reason == TG_LINK && packet.is_ipv6 &&
	    (packet.icmp_type == 134 || packet.icmp_type == 137))
		return tg_finish(TG_ICMP_REDIRECT, hook, packet.length_bytes);
	if (reason == TG_LINK)
		return tg_finish(reason, hook, packet.length_bytes);
	if (!config)
		return tg_finish(TG_NOT_CONFIGURED, hook, packet.length_bytes);
	endpoint = bpf_map_lookup_elem(TG_MAP(tg_endpoints), &ifindex);
	if (!endpoint) {
		reason = TG_NOT_READY;
	} else {
		judgement.source_identity = endpoint->identity;
		if (reason == TG_OK) {
			if (!tg_is_own_address(endpoint, &packet.source))
				reason = TG_SPOOFED;
			else if (tg_is_loopback(&packet.destination))
				reason = TG_LOOPBACK;
			else if (tg_dials_proxy_port(&packet, config))
				reason = TG_PROXY_PORT;
			else if (!packet.is_ipv6 && tg_is_icmp(&packet) && packet.icmp_type == 5)
				reason = TG_ICMP_REDIRECT;
		}
	}
	if (reason == TG_OK)
		reason = tg_police(skb, &packet, config, &judgement, hook);
	return tg_conclude(skb, &packet, config, &judgement, reason, hook);
}
