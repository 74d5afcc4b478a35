/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * tc ingress of our own veth, to which to_endpoint sends what needs a socket. It has judged the
 * packet a moment ago, so the entry says which slot; without an entry in the original direction
 * the packet is for a connection of the proxy's own. Answers that we made pass, to be routed.
 */

static __always_inline int tg_at_from_hairpin(struct __sk_buff *skb)
{
	const enum tg_hook hook = TG_HOOK_FROM_HAIRPIN;
	struct tg_config *config = tg_config();
	__u64 now_ns = tg_now_ns();
	struct tg_packet packet;
	enum tg_reason reason;
	struct tg_ct_key key;
	bool source_is_high;
	struct tg_ct *ct;

	bpf_skb_change_type(skb, 0); /* PACKET_HOST: the frame was addressed to the pod */
	reason = tg_parse(skb, &packet, TG_ETH_BYTES);
	if (reason != TG_OK || !config)
		return tg_finish(TG_HAIRPIN_STRAY, hook, packet.length_bytes);
	if ((skb->mark & TG_MARK_MASK) == TG_MARK_REPLY)
		return tg_finish(TG_OWN_REPLY, hook, packet.length_bytes);
	if (packet.icmp_error) {
		if (tg_relate(skb, &packet, config, hook, now_ns) != TG_REDIRECTED)
			return tg_finish(TG_HAIRPIN_STRAY, hook, packet.length_bytes);
		tg_mark(skb, TG_MARK_TO_PROXY);
		return tg_finish(TG_REDIRECTED, hook, packet.length_bytes);
	}
	source_is_high = tg_ct_key_of(&packet, &key);
	ct = tg_ct_find(&key, now_ns);
	if (ct && ct->kind == TG_CT_REDIRECT && !!(ct->flags & TG_CT_FROM_HIGH) == source_is_high)
		reason = tg_steer(skb, &packet, config, ct->slot, NULL);
	else
		reason = tg_steer_to_socket(skb, &packet, true, NULL);
	if (reason == TG_CT_MISSING)
		reason = TG_HAIRPIN_STRAY;
	return tg_finish(reason, hook, packet.length_bytes);
}
