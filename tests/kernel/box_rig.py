"""`apply` and `undo` on a box with all kinds of firewalls, and whether it is as it was."""

from __future__ import annotations

import os
from pathlib import Path

from sidegate.gateway.box.apply import Changes, Report, apply, undo
from sidegate.gateway.box.facts import observe
from sidegate.gateway.box.livebox import LiveBox
from sidegate.gateway.config import Config
from sidegate.gateway.decide import decide
from tests.kernel.gateway_rig import shell

STATE_DIR = Path("/run/state")
EMPTY = Config()

IPTABLES_NFT = "iptables-nft -P FORWARD DROP; iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DOCKER-USER"
IPTABLES_LEGACY = IPTABLES_NFT.replace("-nft", "-legacy")
NFT = "nft 'add table inet fw; add chain inet fw f { type filter hook forward priority 0; policy drop; }'"
NFT_IP = "nft 'add table ip fw; add chain ip fw f { type filter hook forward priority 5; policy drop; }'"
FIREWALLD = (
    "nft 'add table inet firewalld; add chain inet firewalld forwarding { type filter hook forward priority 10; };"
    " add rule inet firewalld forwarding ct state established,related accept;"
    " add rule inet firewalld forwarding ct state invalid drop;"
    " add rule inet firewalld forwarding reject with icmpx type admin-prohibited'"
)
DROP_INVALID = (
    "nft 'add table inet strict; add chain inet strict f { type filter hook forward priority 20; };"
    " add rule inet strict f ct state vmap { established : accept, invalid : drop }'"
)
STRICT = "for i in all eth0; do echo 1 >/proc/sys/net/ipv4/conf/$i/rp_filter; done"
SURROUNDINGS = {
    "nothing": "true",
    "iptables-nft": IPTABLES_NFT,
    "iptables-legacy": IPTABLES_LEGACY,
    "nft inet": NFT,
    "nft ip": NFT_IP,
    "firewalld": FIREWALLD,
    "drop invalid": DROP_INVALID,
    "all together": "; ".join((IPTABLES_NFT, IPTABLES_LEGACY, NFT, NFT_IP, FIREWALLD, DROP_INVALID, STRICT)),
}


def up(config: Config = EMPTY, box: LiveBox | None = None) -> Changes:
    facts = observe(config, STATE_DIR)
    return apply(decide(config, facts), facts, box or LiveBox(), STATE_DIR)


def down(box: LiveBox | None = None) -> Report:
    return undo(box or LiveBox(), STATE_DIR)


def state() -> dict[str, str]:
    """Everything that `down` must restore: settings, routes, rules, rulesets of every kind.

    `linkdown` goes by itself when the kernel has noticed the new cable.
    """
    settings = {str(p): p.read_text() for p in Path("/proc/sys/net/ipv4/conf").glob("*/*") if os.access(p, os.R_OK)}
    legacy = "iptables-legacy -S" if Path("/proc/net/ip_tables_names").read_text() else "true"
    programs = ("ip -4 route show table all", "ip rule", "nft list ruleset", legacy)
    return settings | {p: shell(p).replace(" linkdown", "") for p in programs}


def changed(before: dict[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """What is not as it was: where -> (before, now)."""
    now = state()
    return {k: (before.get(k), now.get(k)) for k in before | now if before.get(k) != now.get(k)}


def files() -> list[str]:
    return sorted(p.name for p in STATE_DIR.iterdir()) if STATE_DIR.exists() else []
