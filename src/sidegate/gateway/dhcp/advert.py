"""This box as the LAN's IPv6 gateway: dnsmasq advertises it beside the main router, and who ends it takes it back.

Advertised with high preference (RFC 4191 section 2.1), so that hosts that follow it send by us and keep the router for
the time when we are gone; the others choose as they like. No prefix of our own: dnsmasq advertises those that our
interface has addresses of, and is silent while there are none (send_ra_alias in its src/radv.c). Lifetimes are short,
for a box that dies without a word; but no address is shortened below two hours (RFC 4862 section 5.5.3), and the
router's own advertisements lengthen it again.

dnsmasq says nothing when it is ended (async_event, EVENT_TERM, in its src/dnsmasq.c): the last word is ours.
"""

from __future__ import annotations

import socket
import time
from ipaddress import IPv6Address
from pathlib import Path

from sidegate.gateway.box import journal as journals
from sidegate.gateway.box.children import Child, ChildFile, end_child
from sidegate.gateway.desired import Advertiser
from sidegate.packet import build
from sidegate.probe.ra import link_local
from sidegate.probe.ra_message import withdrawal
from sidegate.probe.wire import mac_of

NAME = "advertiser"
EVERY_S, ROUTER_S, PREFIX_S = 60, 180, 600
"""From one advertisement to the next; how long one makes us a router; how long it makes us a DNS server."""
_COPIES, _GAP_S = 3, 0.03
"""MAX_FINAL_RTR_ADVERTISEMENTS of RFC 4861 section 10."""
_INTERFACE = "interface="


def advertiser_child(advertiser: Advertiser, directory: Path, user: str) -> Child:
    """directory: where its files are. user: whom it becomes; it keeps CAP_NET_RAW and CAP_NET_ADMIN only."""
    conf, pid = directory / f"{NAME}.conf", directory / f"{NAME}.pid"
    files = (ChildFile(str(conf), advertiser_conf(advertiser, pid, user)),)
    return Child(NAME, ("dnsmasq", "--keep-in-foreground", f"--conf-file={conf}"), str(pid), files)


def advertiser_conf(advertiser: Advertiser, pid: Path, user: str) -> str:
    """The configuration file. It serves neither DNS nor DHCP, and keeps no lease file."""
    name = advertiser.interface
    lines = [
        "# Written by Sidegate whenever it starts this program; see [ipv6] in its configuration.",
        "port=0",
        f"{_INTERFACE}{name}",
        "except-interface=lo",
        "bind-dynamic",
        f"user={user}",
        *(["group="] if user == "root" else []),
        "log-facility=-",
        "quiet-ra",
        f"pid-file={pid}",
        "leasefile-ro",
        "enable-ra",
        f"dhcp-range=::,constructor:{name},ra-only,64,{PREFIX_S}",
        f"ra-param={name},mtu:off,high,{EVERY_S},{ROUTER_S}",
        # the address of all zeros of this scope stands for our own
        *(["dhcp-option=option6:dns-server,[fe80::]"] if advertiser.tells_dns else []),
    ]
    return "\n".join(lines) + "\n"


def withdraw(interface: str) -> bool:
    """Tells every host that we are no router and no DNS server any more; whether we could. Takes 0.1 s."""
    ours = link_local(interface)
    if ours is None:
        return False
    frame = _withdrawal(interface, ours)
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
            wire.bind((interface, 0))
            for _ in range(_COPIES):
                wire.send(frame)
                time.sleep(_GAP_S)
    except OSError:
        # The interface is down or gone: nobody can be told, and nobody reaches us by it.
        return False
    return True


def _withdrawal(interface: str, ours: IPv6Address) -> bytes:
    return build(withdrawal(mac_of(interface), ours))


def end_advertiser(state_dir: Path) -> bool:
    """Ends it, where the journal names it, and takes back what it said; whether it ran. Raises Problems.

    For who stops the gateway without a daemon. A second call does nothing.
    """
    journal = journals.load(state_dir)
    step = next((c for c in journal.children if c.name == NAME), None) if journal else None
    if step is None:
        return False
    interface = _interface_of(Path(step.files[0]))
    was_running = end_child(step)
    if interface:
        withdraw(interface)
    return was_running


def _interface_of(conf: Path) -> str:
    """By which interface it advertises; empty where it was ended already."""
    try:
        lines = conf.read_text("utf-8").splitlines()
    except OSError:
        return ""
    return next((line.removeprefix(_INTERFACE) for line in lines if line.startswith(_INTERFACE)), "")
