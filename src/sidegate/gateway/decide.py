"""Pure: Config × Facts -> Desired."""

from __future__ import annotations

from sidegate.gateway.config import Config
from sidegate.gateway.desired import Accept, Desired, Sysctl
from sidegate.gateway.dhcp.terms import dhcp_server
from sidegate.gateway.facts import Facts
from sidegate.gateway.nft import Shape, ruleset

_RULESET_REASONS = {
    "auto": "masquerades clients until their direct return path is proved",
    "always": "masquerades every client",
    "never": "counts clients, masquerades none",
}


def decide(config: Config, facts: Facts) -> Desired:
    """What the box should look like. The same before and after it was applied, so that applying it twice ends.

    Raises Problems for what the configuration asks and this LAN does not allow.
    """
    return Desired(
        sysctls=(*_no_redirects(facts), *_loose_reverse_path(facts), _forwarding(facts)),
        accepts=_accepts(facts),
        ruleset=ruleset(_shape(config, facts)),
        ruleset_reason=_RULESET_REASONS[config.nat.masquerade],
        dhcp=dhcp_server(config, facts),
    )


def _shape(config: Config, facts: Facts) -> Shape:
    own = tuple((c.mac, c.masquerade) for c in config.client if c.masquerade is not None)
    return Shape(facts.interface.name, facts.interface.mac, facts.lan, config.nat.masquerade, own)


def _path(interface: str, name: str) -> str:
    return f"net/ipv4/conf/{interface}/{name}"


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


def _forwarding(facts: Facts) -> Sysctl:
    """Of the interface alone, the one that routing asks: that a packet came in by (`route.c` ip_route_input_slow).

    `ip_forward` would reset accept_redirects and the forwarding of every interface (`devinet.c` inet_forward_change).
    """
    return Sysctl(_path(facts.interface.name, "forwarding"), "1", "clients send their packets through this box")


def _accepts(facts: Facts) -> tuple[Accept, ...]:
    name = facts.interface.name
    return tuple(
        Accept(d.backend, d.family, d.table, d.chain, name, f"{d.why}: clients could not pass")
        for d in facts.forward_drops
    )
