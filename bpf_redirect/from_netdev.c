/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * tc ingress of an uplink: only what is for a local pod is our business. It is judged here rather
 * than at to_endpoint, because here a socket can be assigned; and replies to the proxy's upstream
 * connections must get their socket here, for TCP early demux would find that socket too, and the
 * kernel does not forward a packet that has one. Whatever can't be parsed is left to the stack, and
 * to to_endpoint should it get that far.
 */

static __always_inline int tg_at_from_netdev(struct __sk_buff *skb)
{
	const enum tg_hook hook = TG_HOOK_FROM_NETDEV;
	struct tg_config *config = tg_config();
	struct tg_judgement judgement = {.verdict = TG_DENY};
	struct tg_packet packet;
	enum tg_reason reason;

	if (tg_parse(skb, &packet, TG_ETH_BYTES) != TG_OK || !config)
		return tg_finish(TG_UNTOUCHED, hook, skb->len);
	if (!tg_whois(&packet.destination).ifindex)
		return tg_finish(TG_UNTOUCHED, hook, packet.length_bytes);
	if (tg_whois(&packet.source).ifindex)
		reason = TG_SPOOFED;
	else
		reason = tg_police(skb, &packet, config, &judgement, hook);
	return tg_conclude(skb, &packet, config, &judgement, reason, hook);
}
