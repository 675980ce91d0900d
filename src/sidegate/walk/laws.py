"""The laws of the walk: every rule that decides about a packet, and where the Linux kernel says so.

How to read them. A packet meets, at every node, in this order: the bridge (if the port is a bridge's), netfilter's
PRE_ROUTING hook, the routing decision, FORWARD or LOCAL_IN, POST_ROUTING, the neighbour table. Each law below is one
decision that may be taken on the way. A walk quotes laws by their key; the sentence is filled with what it was about.

The few that everything else hangs on:

1. Netfilter sees a bridged frame only where `bridge-nf-call-iptables` is on *and* something registered a hook in that
   network namespace. A mesh node with the sysctl on but without a ruleset does nothing to a frame.
2. Within a hook: raw (-300), conntrack (-200), mangle (-150), destination NAT (-100), filter (0), source NAT (100),
   confirm (last). An entry that is not confirmed (its packet was dropped) never existed.
3. NAT is decided once per connection and kind (source, destination), when its first packet passes. No matching rule is
   a decision too: the null binding. This is the whole of the article's fault.
4. A packet that conntrack calls INVALID, and one that is not tracked, has no entry and is never translated.
5. MASQUERADE binds a connection to the interface it left by. A packet of the original direction that leaves by another
   one kills the connection, and is dropped. SNAT does not bind.
6. A port that the kernel picks at random on a collision is unknown (-1). Unknown is never guessed.

7. TCP segments that were made up carry their numbers and are held to conntrack's window (`windows`); a socket's own
   are in it. Late ones and those a little too far are ignored by conntrack, not INVALID (tcp_in_window).

What is not here: fragments, VLAN tags, multicast, TCP options (window scale, SACK), timers (an entry never expires
within a conversation; the step `forget` stands for expiry and reboot alike), path MTU, flow offload; and the split and
the resolver of the gateway, of whose table `table` has the rest. Neighbours are known from the start: everybody has
asked before. The forwarding databases are too, but for hosts that the setting calls `unheard`: frames to those are
flooded until an answer has taught the bridges.

What the kernel taught, where the model was first wrong:

- A TCP socket that is in the middle of a system call misses an ICMP redirect (tcp_ipv4.c, tcp_v4_err). On wires that
  take no time, as in a lab, the redirect about a SYN always comes then: `Setting.instant`.
- A host gets a second redirect only 40 ms after the first (route.c, ip_rt_send_redirect): one in each conversation.
- TPROXY takes a lone segment as well, while its engine listens: the answer is the engine's RST (nft_tproxy.c).
- A port unreachable needs a way back as everything else: to a private source the internet sends none.
- Masquerade for all breaks the port forwards of wired clients too: their SYN ACK is INVALID at the gateway and passes,
  their first ACK is picked up as new and masqueraded.
- Data after an own FIN is out of a window that the other side has not opened yet: conntrack lets it pass and learns its
  end, but the state stays (nf_conntrack_proto_tcp.c, tcp_in_window, "bytes more than expected").
- A RST is judged by the highest ACK of the other side only where the connection is assured; in FIN_WAIT and later it is
  not held to any number (tcp_can_early_drop).
- One tuple for both directions (a LAND packet) is found as the reply direction (nf_conntrack_core.c, hash insertion).
- A proof counts for a MAC and an address together, and not for DNS (gateway/ruleset/nft.py, law 8).
- A service of a proved client: its SYN ACK is INVALID at the gateway, what follows is picked up and bound to its own
  address. Not tracked is only what the client itself began, and what the gateway was told of (`Setting.forwarded`).
- A frame for a filtering bridge itself stays on it, with its sender's MAC and its TTL, where conntrack translates its
  destination to somebody there: an ICMP error on its way back (br_netfilter_hooks.c, br_nf_pre_routing_finish).
- The capture is stamped when a frame is queued, not when it is handled: only frames of one interface and direction have
  an order in it (net/core/dev.c, netdev_tstamp_prequeue).

Checked against: Linux 6.18, at three levels: two hosts on a filtered bridge, one box with random frames into any port
(tests/kernel/test_walk_box.py), whole homes (test_walk_differential.py). `bench/walk.py` plays the whole matrix.
"""

from __future__ import annotations

from msgspec import Struct


class Law(Struct, frozen=True):
    """says: a sentence with {0}, {1} … for what it is about. source: kernel file and function, or RFC section."""

    says: str
    source: str


LAWS: dict[str, Law] = {
    # Bridges
    "fdb": Law("the bridge {0} knows this address behind {1}", "net/bridge/br_input.c br_handle_frame_finish"),
    "flood": Law("the bridge {0} does not know this address and floods it", "net/bridge/br_forward.c br_flood"),
    "same-port": Law(
        "the bridge {0} knows this address behind the port it came from", "net/bridge/br_forward.c should_deliver"
    ),
    "up": Law("the frame is for {0} itself and goes up to the kernel", "net/bridge/br_input.c br_pass_frame_up"),
    "hardware": Law(
        "the {0} forwards to {1}; the kernel does not see it", "lab.blueprint; net/mac80211/rx.c ieee80211_deliver_skb"
    ),
    "filtered": Law(
        "bridge-nf-call-iptables is on: the frame runs through netfilter",
        "net/bridge/br_netfilter_hooks.c br_nf_pre_routing",
    ),
    "bridged-dnat": Law(
        "its destination was changed on the bridge: bridged on to the new neighbour {0}",
        "net/bridge/br_netfilter_hooks.c br_nf_pre_routing_finish",
    ),
    "captured-dnat": Law(
        "its destination was changed on the bridge to {0}: taken out of the bridge and routed",
        "net/bridge/br_netfilter_hooks.c br_nf_pre_routing_finish",
    ),
    "not-ours": Law("the frame is for another device's address", "net/ipv4/ip_input.c ip_rcv_core, PACKET_OTHERHOST"),
    # Connection tracking
    "ct-new": Law("conntrack: a new connection", "net/netfilter/nf_conntrack_core.c init_conntrack"),
    "ct-unreplied": Law("conntrack: known, no reply seen yet", "net/netfilter/nf_conntrack_core.c resolve_normal_ct"),
    "ct-established": Law("conntrack: known, established", "net/netfilter/nf_conntrack_core.c resolve_normal_ct"),
    "ct-reply": Law(
        "conntrack: the reply direction of a known connection", "net/netfilter/nf_conntrack_core.c resolve_normal_ct"
    ),
    "ct-picked-up": Law(
        "conntrack: a segment without an entry is picked up as established",
        "net/netfilter/nf_conntrack_proto_tcp.c tcp_new, tcp_loose",
    ),
    "ct-related": Law(
        "conntrack: an ICMP error about a known connection",
        "net/netfilter/nf_conntrack_proto_icmp.c nf_conntrack_inet_error",
    ),
    "ct-invalid": Law(
        "conntrack: INVALID, it belongs to no connection ({0})", "net/netfilter/nf_conntrack_proto_tcp.c tcp_conntracks"
    ),
    "ct-untracked": Law("not tracked: {0}", "net/netfilter/nft_ct.c nft_notrack_eval"),
    "ct-killed": Law(
        "the only answer is a RST: the entry is deleted",
        "net/netfilter/nf_conntrack_proto_tcp.c nf_conntrack_tcp_packet",
    ),
    # NAT
    "nat-null": Law(
        "no NAT rule matches: the connection is bound to its own {0} address, for good",
        "net/netfilter/nf_nat_core.c nf_nat_alloc_null_binding",
    ),
    "nat-decided": Law(
        "NAT was decided with the first packet: the rules are not asked again",
        "net/netfilter/nf_nat_core.c nf_nat_inet_fn",
    ),
    "nat-masquerade": Law(
        "masquerade: from {0} to {1}, bound to {2}", "net/netfilter/nf_nat_masquerade.c nf_nat_masquerade_ipv4"
    ),
    "nat-snat": Law("SNAT: from {0} to {1}", "net/netfilter/nf_nat_core.c nf_nat_setup_info"),
    "nat-keep": Law(
        "the gateway binds a connection begun elsewhere to its own address {0}", "gateway/ruleset/nft.py, law 4"
    ),
    "nat-dnat": Law("port forward: to {0}", "net/netfilter/nf_nat_core.c nf_nat_setup_info"),
    "nat-redirect": Law("redirected to the router's own {0}", "net/netfilter/nf_nat_redirect.c nf_nat_redirect_ipv4"),
    "nat-port-taken": Law(
        "the port {0} is taken there: the kernel picks another at random",
        "net/netfilter/nf_nat_core.c get_unique_tuple",
    ),
    "nat-source": Law("its source is translated: {0} becomes {1}", "net/netfilter/nf_nat_core.c nf_nat_packet"),
    "nat-destination": Law(
        "its destination is translated: {0} becomes {1}", "net/netfilter/nf_nat_core.c nf_nat_packet"
    ),
    "nat-none": Law("without an entry there is no NAT", "net/netfilter/nf_nat_core.c nf_nat_inet_fn"),
    "nat-interface-changed": Law(
        "masqueraded for {0} but leaving by {1}: the connection is killed, the packet dropped",
        "net/netfilter/nf_nat_core.c nf_nat_oif_changed",
    ),
    "nat-error": Law(
        "the quoted packet is translated back", "net/netfilter/nf_nat_proto.c nf_nat_icmp_reply_translation"
    ),
    "nat-redirect-dropped": Law(
        "a redirect about a translated connection is dropped",
        "net/netfilter/nf_nat_proto.c nf_nat_icmp_reply_translation",
    ),
    # Filter
    "drop-invalid": Law("the firewall drops INVALID packets", "lab.blueprint, ct state invalid drop"),
    "drop-wan": Law("the firewall lets nothing new in from the WAN", "lab.blueprint, chain forward"),
    "blocked": Law("the ISP drops packets to {0}", "home file, internet.blocked"),
    # Routing
    "local": Law("{0} is one of its own addresses", "net/ipv4/route.c ip_route_input_slow"),
    "route": Law("routed to {0} by {1}", "net/ipv4/fib_trie.c fib_table_lookup"),
    "redirected": Law("an accepted ICMP redirect sends it to {0}", "net/ipv4/route.c __ip_do_redirect"),
    "no-route": Law("no route to {0}", "net/ipv4/fib_trie.c fib_table_lookup"),
    "not-forwarding": Law("this box does not forward", "net/ipv4/route.c ip_route_input_slow"),
    "martian": Law(
        "its source {0} is this box's own address: dropped as martian", "net/ipv4/fib_frontend.c fib_validate_source"
    ),
    "rp-filter": Law(
        "the way back to {0} is not by {1}: dropped by rp_filter", "net/ipv4/fib_frontend.c __fib_validate_source"
    ),
    "ttl": Law("forwarded, TTL {0} becomes {1}", "net/ipv4/ip_forward.c ip_forward"),
    "ttl-exceeded": Law("its TTL ends here: time exceeded", "net/ipv4/ip_forward.c ip_forward"),
    "send-redirect": Law("in and out by one interface: tells {0} to use {1}", "net/ipv4/route.c ip_rt_send_redirect"),
    "accept-redirect": Law("accepts the redirect: {0} by way of {1}", "net/ipv4/route.c __ip_do_redirect"),
    "ignore-redirect": Law("ignores the redirect: {0}", "net/ipv4/route.c __ip_do_redirect; tcp_ipv4.c tcp_v4_err"),
    "neighbour": Law("{0} is at {1}", "net/ipv4/arp.c arp_process"),
    "no-neighbour": Law("nobody answers for {0}", "net/core/neighbour.c neigh_timer_handler"),
    # Sockets
    "tproxy": Law("TPROXY hands it to the proxy engine", "net/netfilter/nft_tproxy.c nft_tproxy_eval_v4"),
    "socket": Law("a program on this machine has it", "net/ipv4/tcp_ipv4.c tcp_v4_rcv"),
    "no-socket": Law("no socket for it: {0}", "net/ipv4/tcp_ipv4.c tcp_v4_send_reset; net/ipv4/udp.c __udp4_lib_rcv"),
    "reset": Law("the connection is reset", "net/ipv4/tcp_input.c tcp_reset"),
    "ping": Law("the kernel answers the echo request", "net/ipv4/icmp.c icmp_echo"),
}
