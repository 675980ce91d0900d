"""Pure: Config × Facts × Situation -> Desired."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from msgspec import Struct

from sidegate.gateway.box.facts import Facts
from sidegate.gateway.box.firewalls import ForeignDrop
from sidegate.gateway.config import Config
from sidegate.gateway.desired import Accept, Desired, Hook, PolicyRoute, Sysctl
from sidegate.gateway.dhcp.terms import advertiser, dhcp_server
from sidegate.gateway.ruleset.inbound import Forwarded
from sidegate.gateway.ruleset.nft import Shape, ruleset
from sidegate.gateway.ruleset.services import Services
from sidegate.gateway.ruleset.steer import Steering, is_splitting
from sidegate.gateway.split.policy import Policy, barred_macs
from sidegate.gateway.split.ports import MARK_MASK, RULE_PRIORITY, STEERED_MARK, TABLE, Ports

_RULESET_REASONS = {
    "auto": "masquerades clients until their direct return path is proved",
    "always": "masquerades every client",
    "never": "counts clients, masquerades none",
}


class Situation(Struct, frozen=True):
    """What the split is made of at the moment. By itself: no split, and no resolver of ours.

    policy: the rules that hold now. targets: for `proxy` and each upstream that a rule names, where the engine listens
    for it; None: it does not work now, and `proxy.on_failure` tells what becomes of its traffic. held: see
    `steer.Steering`. answers_names: whether our resolver serves. unsteered: addresses on the LAN whose own traffic is
    left alone, as of an upstream's server there; spares: whether there may be one. has_relief: whether the second
    resolver answers in place of the first. lan_port: where the engine takes what comes by `proxy.lan_port`; None: it
    does not.
    """

    policy: Policy | None = None
    targets: tuple[tuple[str, Ports | None], ...] = ()
    held: tuple[Ports, ...] = ()
    answers_names: bool = False
    unsteered: tuple[IPv4Address | IPv6Address, ...] = ()
    spares: bool = False
    has_relief: bool = False
    lan_port: int | None = None


NO_SPLIT = Situation()


def decide(config: Config, facts: Facts, situation: Situation = NO_SPLIT) -> Desired:
    """What the box should look like. The same before and after it was applied, so that applying it twice ends.

    Raises Problems for what the configuration asks and this LAN does not allow.
    """
    shape = _shape(config, facts, situation)
    return Desired(
        sysctls=(
            *_no_redirects(facts),
            *_loose_reverse_path(facts),
            *_plain_bridge(facts),
            *_found_here_alone(facts),
            *_forwarding6(config, facts),
            _forwarding(facts),
        ),
        accepts=_accepts(facts, shape),
        ruleset=ruleset(shape),
        ruleset_reason=_RULESET_REASONS[config.nat.masquerade],
        dhcp=dhcp_server(config, facts),
        advertiser=advertiser(config, facts),
        routes=_routes(shape),
    )


def _shape(config: Config, facts: Facts, situation: Situation) -> Shape:
    own = tuple((c.mac, c.masquerade) for c in config.client if c.masquerade is not None)
    return Shape(
        facts.interface.name,
        facts.interface.mac,
        facts.lan,
        config.nat.masquerade,
        own,
        facts.lan6 if config.ipv6.mode == "gateway" else (),
        _steering(config, facts, situation),
        _services(config, facts, situation),
        facts.router.mac or "",
        forwarded(config),
    )


def forwarded(config: Config) -> tuple[Forwarded, ...]:
    """The ports of devices whose answers go straight."""
    return tuple(Forwarded(c.mac, *it) for c in config.client for it in c.forwarded_ports)


def _takes_ipv6(config: Config, facts: Facts) -> bool:
    """Whether or not this box has an address now: what comes between its return and our next look is steered, too.

    Where IPv6 was switched off for all interfaces nothing can be steered, nor comes (`ip6_route_info_create` in
    net/ipv6/route.c takes no route by `lo` then).
    """
    is_off = facts.sysctls.get(_path("lo", "disable_ipv6", 6)) == "1" and not facts.lan6
    return config.ipv6.mode == "gateway" and not is_off


def _steering(config: Config, facts: Facts, situation: Situation) -> Steering | None:
    policy = situation.policy
    if policy is None or not is_splitting(policy):
        return None
    ipv6 = _takes_ipv6(config, facts)
    on_failure, unsteered = config.proxy.on_failure, situation.unsteered
    return Steering(policy, situation.targets, situation.held, on_failure, ipv6, unsteered, situation.spares)


def _services(config: Config, facts: Facts, situation: Situation) -> Services:
    """An engine of somebody else offers no port for the LAN's proxy, and its ports are its owner's to guard."""
    is_ours = config.proxy.engine == "xray"
    return Services(
        names=situation.answers_names,
        redirects=situation.answers_names and config.dns.redirect,
        lan_port=config.proxy.lan_port,
        socks_port=situation.lan_port if is_ours else None,
        lan_barred=barred_macs(situation.policy) if situation.policy else (),
        has_engine=is_ours and bool(situation.targets),
        ipv6=_takes_ipv6(config, facts),
        relief=situation.answers_names and situation.has_relief,
    )


def _routes(shape: Shape) -> tuple[PolicyRoute, ...]:
    """With services too: what they serve bears the same mark."""
    if shape.steering is None and not shape.services.guards:
        return ()
    families: tuple[Literal[4, 6], ...] = (4, 6) if shape.has_ipv6 else (4,)
    reason = "what is steered to the engine comes to this box, whatever its destination"
    return tuple(PolicyRoute(family, STEERED_MARK, MARK_MASK, TABLE, reason, RULE_PRIORITY) for family in families)


def _path(interface: str, name: str, version: Literal[4, 6] = 4) -> str:
    return f"net/ipv{version}/conf/{interface}/{name}"


def _no_redirects(facts: Facts) -> tuple[Sysctl, ...]:
    """On `all` and on the interface: the kernel sends redirects if either is set (IN_DEV_TX_REDIRECTS)."""
    reason = "an ICMP redirect would teach clients to go round this box"
    return tuple(Sysctl(_path(i, "send_redirects"), "0", reason) for i in ("all", facts.interface.name))


def _loose_reverse_path(facts: Facts) -> tuple[Sysctl, ...]:
    """Only where the strict check holds; the greater of `all` and the interface's counts (IN_DEV_RPFILTER).

    2 on the interface may be our own earlier writing and stays desired: it costs nothing where it was there before.
    """
    name = facts.interface.name
    everywhere, own = (int(facts.sysctls[_path(i, "rp_filter")]) for i in ("all", name))
    if max(everywhere, own) != 1 and own != 2:
        return ()
    reason = "strict reverse path filtering drops replies where another interface holds the better route"
    return (Sysctl(_path(name, "rp_filter"), "2", reason),)


def _plain_bridge(facts: Facts) -> tuple[Sysctl, ...]:
    """Where the interface is a bridge, and Docker or somebody else has its frames seen by netfilter.

    What TPROXY gave a frame is lost before it is a packet (`ip_input.c` ip_rcv_core, skb_orphan). An answer whose
    masquerade is taken back on the bridge goes to the client at once, by the port that it came in by, and a bridge
    does not send there (`br_netfilter_hooks.c` br_nf_pre_routing_finish, `br_forward.c` should_deliver).
    """
    reason = "frames that netfilter sees on a bridge reach neither the proxy nor a masqueraded client"
    return tuple(Sysctl(path, "0", reason) for path in facts.sysctls if path.startswith("net/bridge/"))


def _found_here_alone(facts: Facts) -> tuple[Sysctl, ...]:
    """Any interface answers ARP for any address of the box (`arp.c` arp_process, arp_ignore): where two of them are in
    the LAN, clients would send to the one that does not forward. 1 may be our own earlier writing and stays desired.
    """
    reason = "clients that ask for this box's address must not be led to another of its interfaces"
    found = {path: value for path, value in facts.sysctls.items() if path.endswith("/arp_ignore")}
    return tuple(Sysctl(path, "1", reason) for path, value in found.items() if value in ("0", "1"))


def _forwarding(facts: Facts) -> Sysctl:
    """Of the interface alone, the one that routing asks: that a packet came in by (`route.c` ip_route_input_slow).

    `ip_forward` would reset accept_redirects and the forwarding of every interface (`devinet.c` inet_forward_change).
    """
    return Sysctl(_path(facts.interface.name, "forwarding"), "1", "clients send their packets through this box")


def _forwarding6(config: Config, facts: Facts) -> tuple[Sysctl, ...]:
    """accept_ra comes first: 1 means only where nothing is forwarded, and the routes learned would go with forwarding
    (`route.c` rt6_purge_dflt_routers). Some kernels forward by the interface's own word (`ip6_output.c` ip6_forward,
    force_forwarding, Linux 6.17), older ones by that of `all`, whose writing sets every interface's (`addrconf.c`
    addrconf_forward_change); `forwarding` of the interface tells neighbours that a router is here (`ndisc.c`).
    """
    if config.ipv6.mode != "gateway":
        return ()
    name, reason = facts.interface.name, "clients send their IPv6 packets through this box"
    found = []
    if facts.sysctls.get(_path(name, "accept_ra", 6)) in ("1", "2"):
        why = "a box that forwards would forget the main router's advertisements"
        found.append(Sysctl(_path(name, "accept_ra", 6), "2", why))
    own, everywhere = (_path(name, "force_forwarding", 6), _path("all", "forwarding", 6))
    each = tuple(p for p in facts.sysctls if _is_forwarding6(p) and p != everywhere)
    found.append(Sysctl(own, "1", reason) if own in facts.sysctls else Sysctl(everywhere, "1", reason, each))
    return (*found, Sysctl(_path(name, "forwarding", 6), "1", "neighbours must see a router here"))


def _is_forwarding6(path: str) -> bool:
    return path.startswith("net/ipv6/conf/") and path.endswith("/forwarding")


def _accepts(facts: Facts, shape: Shape) -> tuple[Accept, ...]:
    name = facts.interface.name
    found: list[tuple[ForeignDrop, Hook, str]]
    found = [(d, "forward", "clients could not pass") for d in facts.forward_drops]
    if _routes(shape):
        found += [(d, "input", "what clients send to the proxy could not get in") for d in facts.input_drops]
    return tuple(
        Accept(d.backend, d.family, d.table, d.chain, name, f"{d.why}: {what}", hook)
        for d, hook, what in found
        if d.family != "ip6" or shape.has_ipv6
    )
