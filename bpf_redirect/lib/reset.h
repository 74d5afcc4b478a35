/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Answers that we make ourselves, out of the packet that asked for them: a TCP RST, or ICMP
 * "administratively prohibited" for UDP. The answer carries TG_MARK_REPLY, by which our own hooks
 * know it. Only plain packets are answered: no IPv4 options, extension headers or fragments.
 */
#ifndef TG_RESET_H
#define TG_RESET_H

#include "parse.h"
#include "redirect.h"

#define TG_QUOTE_BYTES 8 /* of the payload, in an ICMP error */

static __always_inline __u32 tg_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline __u64 tg_sum(void *from, __u32 size, __u64 seed)
{
	return bpf_csum_diff(NULL, 0, from, size, (__u32)seed);
}

/* Sum of the pseudo header of the answer. Addresses: order does not matter to a sum. */
static __always_inline __u32 tg_pseudo_sum(const struct tg_packet *packet, __u8 protocol,
					   __u32 l4_bytes)
{
	__u64 sum = bpf_htonl(l4_bytes);

	sum += bpf_htonl(protocol);
#pragma unroll
	for (int i = 0; i < 4; i++) {
		if (i < 3 && !packet->is_ipv6)
			continue;
		sum += packet->source.words[i];
		sum += packet->destination.words[i];
	}
	return tg_fold(sum);
}

static __always_inline bool tg_swap_link(struct __sk_buff *skb)
{
	__u8 macs[12], swapped[12];

	if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)))
		return false;
	__builtin_memcpy(swapped, macs + 6, 6);
	__builtin_memcpy(swapped + 6, macs, 6);
	return bpf_skb_store_bytes(skb, 0, swapped, sizeof(swapped), 0) == 0;
}

/* Write the answer's IP header: from the packet's destination to its source. */
static __always_inline bool tg_write_ip(struct __sk_buff *skb, const struct tg_packet *packet,
					__u8 protocol, __u32 l4_bytes)
{
	if (packet->is_ipv6) {
		struct tg_ipv6 ip = {
			.version_class_flow = bpf_htonl(0x60000000),
			.payload_bytes_be = bpf_htons(l4_bytes),
			.next_header = protocol,
			.hop_limit = 64,
			.source = packet->destination,
			.destination = packet->source,
		};

		return bpf_skb_store_bytes(skb, TG_ETH_BYTES, &ip, sizeof(ip), 0) == 0;
	} else {
		struct tg_ipv4 ip = {
			.version_words = 0x45,
			.total_bytes_be = bpf_htons(sizeof(ip) + l4_bytes),
			.fragment_be = bpf_htons(0x4000), /* don't fragment */
			.ttl = 64,
			.protocol = protocol,
			.source = packet->destination.words[3],
			.destination = packet->source.words[3],
		};

		ip.checksum = ~tg_fold(tg_sum(&ip, sizeof(ip), 0));
		return bpf_skb_store_bytes(skb, TG_ETH_BYTES, &ip, sizeof(ip), 0) == 0;
	}
}

/*
 * Turn the packet into the RST that answers it (RFC 9293, 3.10.7.1).
 *
 * The packet may have had its checksum left to the device (CHECKSUM_PARTIAL: field holds the
 * pseudo header's sum) or not (field holds the whole checksum), and a program can't tell which.
 * The window of a RST means nothing, so it is chosen such that both are the same number.
 */
static __always_inline bool tg_make_reset(struct __sk_buff *skb, const struct tg_packet *packet)
{
	struct tg_tcp in, out = {};
	__u32 pseudo, ip_bytes = packet->l4_offset - TG_ETH_BYTES;

	if (bpf_skb_load_bytes(skb, packet->l4_offset, &in, sizeof(in)))
		return false;
	out.source_port_be = in.destination_port_be;
	out.destination_port_be = in.source_port_be;
	out.header_words = 5 << 4;
	out.flags = TG_TCP_RST;
	if (in.flags & TG_TCP_ACK) {
		out.sequence_be = in.acknowledged_be;
	} else {
		__u32 length = packet->l4_bytes - (in.header_words >> 4) * 4;

		length += !!(in.flags & TG_TCP_SYN) + !!(in.flags & TG_TCP_FIN);
		out.acknowledged_be = bpf_htonl(bpf_ntohl(in.sequence_be) + length);
		out.flags |= TG_TCP_ACK;
	}
	pseudo = tg_pseudo_sum(packet, TG_PROTO_TCP, sizeof(out));
	out.window_be = ~tg_fold(tg_sum(&out, sizeof(out), 2 * (__u64)pseudo));
	out.checksum = pseudo;
	if (bpf_skb_change_tail(skb, TG_ETH_BYTES + ip_bytes + sizeof(out), 0))
		return false;
	if (!tg_swap_link(skb) || !tg_write_ip(skb, packet, TG_PROTO_TCP, sizeof(out)))
		return false;
	return bpf_skb_store_bytes(skb, packet->l4_offset, &out, sizeof(out), 0) == 0;
}

/* Turn the packet into the ICMP error that answers it: type 3 code 13, ICMPv6 type 1 code 1. */
static __always_inline bool tg_make_prohibited(struct __sk_buff *skb,
					       const struct tg_packet *packet)
{
	__u8 quote[sizeof(struct tg_ipv6) + TG_QUOTE_BYTES] = {};
	struct tg_icmp icmp = {};
	__u8 protocol = packet->is_ipv6 ? TG_PROTO_ICMPV6 : TG_PROTO_ICMP;
	__u64 sum = 0;

	if (packet->is_ipv6) {
		const __u32 quoted = sizeof(struct tg_ipv6) + TG_QUOTE_BYTES;
		const __u32 l4_bytes = sizeof(icmp) + quoted;

		icmp.type = 1;
		icmp.code = 1;
		if (bpf_skb_load_bytes(skb, TG_ETH_BYTES, quote, quoted))
			return false;
		sum = tg_sum(&icmp, sizeof(icmp), tg_pseudo_sum(packet, protocol, l4_bytes));
		icmp.checksum = ~tg_fold(tg_sum(quote, quoted, sum));
		if (bpf_skb_change_tail(skb, TG_ETH_BYTES + sizeof(struct tg_ipv6) + l4_bytes, 0))
			return false;
		if (!tg_swap_link(skb) || !tg_write_ip(skb, packet, protocol, l4_bytes))
			return false;
		if (bpf_skb_store_bytes(skb, packet->l4_offset, &icmp, sizeof(icmp), 0))
			return false;
		return bpf_skb_store_bytes(skb, packet->l4_offset + sizeof(icmp), quote, quoted,
					   0) == 0;
	} else {
		const __u32 quoted = sizeof(struct tg_ipv4) + TG_QUOTE_BYTES;
		const __u32 l4_bytes = sizeof(icmp) + quoted;

		icmp.type = 3;
		icmp.code = 13;
		if (bpf_skb_load_bytes(skb, TG_ETH_BYTES, quote, quoted))
			return false;
		sum = tg_sum(&icmp, sizeof(icmp), 0);
		icmp.checksum = ~tg_fold(tg_sum(quote, quoted, sum));
		if (bpf_skb_change_tail(skb, TG_ETH_BYTES + sizeof(struct tg_ipv4) + l4_bytes, 0))
			return false;
		if (!tg_swap_link(skb) || !tg_write_ip(skb, packet, protocol, l4_bytes))
			return false;
		if (bpf_skb_store_bytes(skb, packet->l4_offset, &icmp, sizeof(icmp), 0))
			return false;
		return bpf_skb_store_bytes(skb, packet->l4_offset + sizeof(icmp), quote, quoted,
					   0) == 0;
	}
}

static __always_inline bool tg_is_answerable(const struct tg_packet *packet)
{
	return packet->plain && packet->fragment == TG_WHOLE &&
	       ((packet->protocol == TG_PROTO_TCP && !(packet->tcp_flags & TG_TCP_RST)) ||
		packet->protocol == TG_PROTO_UDP);
}

/*
 * Answer the packet's sender. Returns the action that sends the answer, or TC_ACT_SHOT if it
 * can't be made. From a veth's egress it goes through the hairpin, which routes it.
 */
static __always_inline int tg_answer(struct __sk_buff *skb, const struct tg_packet *packet,
				     const struct tg_config *config, enum tg_hook hook)
{
	bool made;

	if (!tg_is_answerable(packet))
		return TC_ACT_SHOT;
	if (hook == TG_HOOK_TO_ENDPOINT && !config->hairpin_ifindex)
		return TC_ACT_SHOT;
	made = packet->protocol == TG_PROTO_TCP ? tg_make_reset(skb, packet)
						: tg_make_prohibited(skb, packet);
	if (!made)
		return TC_ACT_SHOT;
	tg_mark(skb, TG_MARK_REPLY);
	if (hook == TG_HOOK_TO_ENDPOINT)
		return bpf_redirect(config->hairpin_ifindex, BPF_F_INGRESS);
	return bpf_redirect(skb->ifindex, 0);
}

#endif
