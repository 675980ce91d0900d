"""What came of a conversation: one verdict with a stable code, a sentence, and the remedy where one is known."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from sidegate.lab.blueprint import INTERNET
from sidegate.walk.data import Code, Hop, Packet, ReturnPath, Step, Verdict
from sidegate.walk.network import Network

Drop = tuple[str, str, Packet]
"""(node, law, packet)"""


class Played(Struct, frozen=True):
    """What a conversation left behind. drops: of its last step. resets: who sent a RST, for which packet."""

    asker: str
    at: str
    steps: tuple[Step, ...]
    hops: list[Hop]
    drops: list[Drop]
    resets: list[tuple[str, Packet]]
    proxied: bool = False


_LAWS_TO_CODES: dict[str, Code] = {
    "nat-interface-changed": "dropped-nat-interface-changed",
    "drop-invalid": "dropped-invalid",
    "drop-wan": "dropped-by-firewall",
    "blocked": "blocked-by-isp",
    "no-route": "no-route",
    "not-forwarding": "not-forwarding",
    "martian": "martian-source",
    "rp-filter": "reverse-path-filtered",
    "ttl-exceeded": "ttl-exceeded",
    "loop": "loop",
    "no-neighbour": "no-neighbour",
    "same-port": "unknown",
}

SENTENCES: dict[Code, str] = {
    "delivered": "request and reply arrive",
    "reply-lost-private-source": "the packet left for the internet with a private source address, so the answer finds "
    "no way back",
    "dropped-nat-interface-changed": "the router's bridge carries a masqueraded connection out of the wrong interface; "
    "the kernel kills it",
    "reply-to-other-tuple": "the router's bridge rewrote the answer's source to the router's own public address on its "
    "way to the gateway; when it comes back, nobody knows it",
    "rst-by-client": "an answer reached a host that knows no such connection; it was reset",
    "connection-refused": "nothing listens there",
    "connection-reset": "the connection was reset in mid-stream",
    "masqueraded-mid-stream": "a box that had not seen the connection begin took a later segment for a new connection "
    "and masqueraded it; the other end knows no such connection and resets it",
    "dropped-invalid": "a firewall that drops INVALID packets saw only half of the connection",
    "dropped-by-firewall": "the router lets nothing new in from the internet",
    "blocked-by-isp": "the ISP drops packets to this destination",
    "ttl-exceeded": "the packet's TTL ended on the way",
    "loop": "the packet goes round in circles",
    "not-forwarding": "the packet came to a box that does not forward",
    "no-route": "there is no route to the destination",
    "no-neighbour": "nobody answers ARP for the next hop",
    "martian-source": "the packet came back to a box whose own address it bears as its source",
    "reverse-path-filtered": "a box expects this source behind another interface",
    "unknown": "what becomes of this packet is not known",
}

REMEDIES: dict[Code, str] = {
    "reply-lost-private-source": "masquerade this client on the gateway (`sidegate up` does it where a probe shows the "
    "need), or turn bridge-nf-call-iptables off on the router",
    "dropped-nat-interface-changed": "masquerade this client on the gateway, or turn bridge-nf-call-iptables off on "
    "the router",
    "reply-to-other-tuple": "give this client the router as its gateway",
    "masqueraded-mid-stream": "give this client the router as its gateway, or masquerade only connections whose SYN "
    "the gateway sees (`sidegate up` does)",
    "dropped-invalid": "do not drop INVALID packets where only half of a connection passes",
    "not-forwarding": "run `sidegate up` on the gateway, or give the client another gateway",
    "no-neighbour": "is the next hop switched on and plugged in? Give the client another gateway meanwhile",
    "dropped-by-firewall": "add a port forward on the router",
    "blocked-by-isp": "send this destination through a proxy",
}


def judged(network: Network, played: Played) -> Verdict:
    """The verdict on a conversation that the model played."""
    if all(step.arrived for step in played.steps):
        path = return_path(network, played)
        return Verdict("delivered", f"{SENTENCES['delivered']}{_PATHS[path]}", path)
    code, node = _cause(network, played)
    return Verdict(code, SENTENCES[code], "none", node, REMEDIES.get(code, ""))


def judged_by_sight(network: Network, played: Played) -> Verdict:
    """The verdict on a capture, from what was seen alone: the kernel does not tell its reasons.

    A code other than `delivered` and `unknown` is given only where the frames prove it.
    """
    if all(step.arrived for step in played.steps):
        path = return_path(network, played)
        return Verdict("delivered", f"{SENTENCES['delivered']}{_PATHS[path]}", path)
    hops = [hop for hop in played.hops if _is_meant(network, hop)]
    last = [hop for hop in hops if hop.step == len(played.steps) - 1] or hops
    code, node = (_seen_cause(network, last[-1], last), last[-1].node) if last else ("unknown", played.asker)
    return Verdict(code, SENTENCES[code], "none", node, REMEDIES.get(code, ""))


def _is_meant(network: Network, hop: Hop) -> bool:
    """Whether this hop is on the way of the conversation: no redirect, and no flooded copy at somebody else's port."""
    if hop.before is None or hop.enters is None:
        return True
    port = network.nodes[hop.node].ports[hop.enters]
    return hop.before.kind != "redirect" and (port.bridge is not None or hop.before.dst_mac == port.mac)


def _seen_cause(network: Network, final: Hop, hops: Sequence[Hop]) -> Code:
    if any(packet.kind == "time exceeded" for hop in hops for _, packet in hop.leaves):
        return "ttl-exceeded"
    if final.before is None or final.leaves:
        return "unknown"
    if final.node == INTERNET and final.before.dst in network.nodes[INTERNET].blocked:
        return "blocked-by-isp"
    if final.node == INTERNET and _is_private(network, final.before.src):
        return "reply-lost-private-source"
    if final.node == network.home.router.name and final.enters != "wan":
        public = final.before.src == str(network.home.router.wan.ip)
        return "reply-to-other-tuple" if public else "unknown"
    return _seen_reset(network, final, hops)


def _seen_reset(network: Network, final: Hop, hops: Sequence[Hop]) -> Code:
    """Where a RST came home: what had provoked it."""
    if final.before is None or "RST" not in final.before.kind or final.before.dst not in network.nodes[final.node].own:
        return "unknown"
    for hop in hops:
        if hop.before is not None and any("RST" in packet.kind for _, packet in hop.leaves) and _begins(hop):
            return _RESETS.get(hop.before.kind, "connection-reset")
    return "unknown"


def _begins(hop: Hop) -> bool:
    return hop.before is not None and "RST" not in hop.before.kind


_RESETS: dict[str, Code] = {"SYN": "connection-refused", "SYN ACK": "rst-by-client"}


_PATHS: dict[ReturnPath, str] = {
    "direct": "; the reply does not cross the gateway",
    "masqueraded": "; the reply crosses the gateway, which masquerades",
    "through-gateway": "; the reply crosses the gateway",
    "proxied": "; the gateway's proxy engine answers",
    "none": "",
}


def return_path(network: Network, played: Played) -> ReturnPath:
    """How the answers came back, by what passed the gateway."""
    gateway = network.home.gateway
    if played.proxied:
        return "proxied"
    if gateway is None or gateway.name in (played.asker,) or played.at == str(gateway.v4):
        return "direct"
    lan, from_lan = network.lan, played.asker in network.hosts
    crossed = [hop for hop in played.hops if hop.node == gateway.name and hop.enters is not None]
    if any(_hands_on_answer(hop, lan, from_lan) for hop in crossed):
        return "masqueraded" if from_lan else "through-gateway"
    return "direct"


def _hands_on_answer(hop: Hop, lan: frozenset[str], from_lan: bool) -> bool:
    """Whether an answer to a question (asked from the LAN, or from outside) came to this node and left it again."""
    if hop.before is None:
        return False
    if from_lan:
        return hop.before.src not in lan and any(packet.src == hop.before.src for _, packet in hop.leaves)
    return hop.before.dst not in lan and any(packet.dst == hop.before.dst for _, packet in hop.leaves)


def _cause(network: Network, played: Played) -> tuple[Code, str]:
    # What became of an error message about the packet matters less than what became of the packet.
    drops = played.drops[::-1]
    drops.sort(key=lambda drop: drop[2].inner is not None)
    for node, law, packet in drops:
        if (
            law == "no-route"
            and node == INTERNET
            and (_is_private(network, packet.dst) or _is_private(network, packet.src))
        ):
            return "reply-lost-private-source", node
        if law == "martian" and packet.src == str(network.home.router.wan.ip):
            return "reply-to-other-tuple", node
        if law in _LAWS_TO_CODES:
            return _LAWS_TO_CODES[law], node
    if played.resets:
        return _reset(played)
    return "connection-refused" if _was_unreachable(played) else "unknown", ""


def _reset(played: Played) -> tuple[Code, str]:
    node, packet = played.resets[-1]
    code = _RESETS.get(packet.kind, "connection-reset")
    if code == "connection-reset" and len(played.steps) > 1:
        guilty = next((hop.node for hop in played.hops if _took_for_new(hop)), "")
        return ("masqueraded-mid-stream", guilty) if guilty else (code, node)
    return code, node


def _took_for_new(hop: Hop) -> bool:
    laws = {decision.law for decision in hop.decisions}
    return laws.issuperset(("ct-picked-up", "nat-masquerade"))


def _was_unreachable(played: Played) -> bool:
    return any(hop.before is not None and hop.before.kind == "port unreachable" for hop in played.hops)


def _is_private(network: Network, address: str) -> bool:
    modem = network.home.modem
    return address in network.lan or (modem is not None and address == str(network.home.router.wan.ip))
