/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Host workloads, packet by packet: what connect and sendmsg can't see. Connections opened before a
 * policy changed, raw sockets, and everything that comes in. The same rules as for pods (police.h),
 * but nothing is steered from here: what must go through the proxy has been sent there by connect,
 * and L7 rules on what a workload receives are not to be had (TG_REDIRECT_WORKLOAD).
 *
 * This host's own packets always come in, as they do to pods; loopback is not judged at all.
 */

static __always_inline __u32 tg_workload_of(struct __sk_buff *skb)
{
	__u32 identity = 0, *known;
	__u64 cgroup;

	for (int level = 1; level <= TG_CGROUP_LEVELS_MAX; level++) {
		cgroup = bpf_skb_ancestor_cgroup_id(skb, level);
		if (!cgroup)
			break;
		known = bpf_map_lookup_elem(TG_MAP(tg_cgroups), &cgroup);
		if (known)
			identity = *known;
	}
	return identity;
}

/* The question about the flow in its original direction; `outward`: begun by the workload. */
static __always_inline struct tg_question tg_ask_workload(const struct tg_packet *packet,
							  __u32 identity, bool outward,
							  bool backward, __be16 port_be)
{
	struct tg_question question = tg_ask(packet, backward, port_be);

	if (outward) {
		question.source.identity = identity;
		question.source_is_local = 1;
	} else {
		question.destination.identity = identity;
		question.destination_is_local = 1;
	}
	return question;
}

/* Whether this is a packet to the proxy, on the connection that connect has sent there. */
static __always_inline bool tg_dials_slot(const struct tg_packet *packet,
					  const struct tg_config *config)
{
	__u16 port = bpf_ntohs(packet->destination_port_be);

	return packet->protocol == TG_PROTO_TCP && tg_is_loopback(&packet->destination) &&
	       port >= config->proxy_port_min && port <= config->proxy_port_max;
}

static __always_inline __u32 tg_slot_dialled(const struct tg_packet *packet,
					     const struct tg_config *config)
{
	return bpf_ntohs(packet->destination_port_be) - config->proxy_port_min;
}

static __always_inline enum tg_reason tg_police_workload(const struct tg_packet *packet,
							 const struct tg_config *config,
							 __u32 identity, bool egress,
							 struct tg_judgement *judgement)
{
	__u64 now_ns = tg_now_ns();
	bool opening = tg_is_opening(packet), is_reply = false, outward;
	struct tg_question question;
	enum tg_reason reason;
	struct tg_ct_key key;
	bool source_is_high;
	struct tg_ct *ct;

	source_is_high = tg_ct_key_of(packet, &key);
	key.realm = TG_REALM_WORKLOADS;
	ct = tg_ct_find(&key, now_ns);
	if (ct)
		is_reply = !!(ct->flags & TG_CT_FROM_HIGH) != source_is_high;
	if (ct && opening && (is_reply || ct->epoch != config->epoch)) {
		ct = NULL;
		is_reply = false;
	}
	if (ct)
		tg_ct_touch(ct, packet, is_reply, now_ns);
	if (ct && ct->epoch == config->epoch) {
		*judgement = tg_recall(ct);
		return tg_police_known(ct);
	}
	outward = egress != is_reply;
	question = tg_ask_workload(packet, identity, outward, is_reply,
				   ct ? ct->policy_port_be : tg_policy_port_be(packet));
	*judgement = tg_judge(&question);
	if (!outward && question.source.identity == TG_IDENTITY_HOST)
		judgement->verdict = TG_ALLOW;
	if (judgement->verdict == TG_REDIRECT) {
		judgement->verdict = TG_DENY;
		judgement->reason = outward ? TG_FLOW_MOVED : TG_REDIRECT_WORKLOAD;
	}
	if (ct) {
		judgement->event_flags |= TG_EVENT_REJUDGED;
		reason = tg_rejudge(ct, packet->protocol, judgement, config->epoch);
		return reason == TG_OK ? tg_police_known(ct) : reason;
	}
	if (judgement->verdict == TG_DENY)
		return judgement->reason;
	if (tg_is_icmp(packet) && !tg_is_echo(packet))
		return TG_FORWARDED;
	judgement->is_new = !outward; /* connect has told of the others */
	if (!tg_ct_create(&key, source_is_high, packet, TG_CT_DIRECT, 0, judgement, config->epoch,
			  now_ns))
		return TG_CT_FULL;
	return TG_FORWARDED;
}

static __always_inline int tg_at_cgroup_skb(struct __sk_buff *skb, bool egress)
{
	const enum tg_hook hook = egress ? TG_HOOK_CGROUP_EGRESS : TG_HOOK_CGROUP_INGRESS;
	struct tg_config *config = tg_config();
	__u32 identity = tg_workload_of(skb);
	struct tg_judgement judgement = {.verdict = TG_DENY};
	struct tg_packet packet;
	enum tg_reason reason;

	if (!identity)
		return TG_PASS;
	reason = tg_parse(skb, &packet, 0);
	if (reason == TG_OK && egress && config && tg_dials_slot(&packet, config) &&
	    tg_is_workload_offloaded(identity, tg_slot_dialled(&packet, config)))
		reason = TG_OFFLOADED;
	if (reason == TG_OK &&
	    (tg_is_loopback(&packet.source) || tg_is_loopback(&packet.destination)))
		return TG_PASS;
	if (!config)
		reason = TG_NOT_CONFIGURED;
	else if (reason == TG_OK && packet.icmp_error)
		reason = TG_RELATED; /* the kernel gives a socket only errors about its own */
	else if (reason == TG_OK)
		reason = tg_police_workload(&packet, config, identity, egress, &judgement);
	tg_count(reason, hook, packet.length_bytes);
	if (config && (judgement.is_new || reason >= TG_DROP_FIRST))
		tg_tell(&packet, config, &judgement, reason, hook);
	return reason < TG_DROP_FIRST ? TG_PASS : TG_EPERM;
}
