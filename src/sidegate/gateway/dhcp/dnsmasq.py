"""Pure: DhcpServer -> dnsmasq's configuration."""

from __future__ import annotations

from pathlib import Path

from sidegate.gateway.box.children import Child, ChildFile
from sidegate.gateway.desired import DhcpHost, DhcpServer

NAME = "dnsmasq"
WITHOUT = "nobody hands out addresses now: turn on the router's DHCP, or clients go offline as their leases end"


class LeasePlaces:
    """Where dnsmasq's files are. Leases live on the disk."""

    def __init__(self, state: Path, runtime: Path) -> None:
        self.directory = state / "dhcp"
        self.live, self.copy = self.directory / "leases", self.directory / "leases.copy"
        self.children = runtime / "children"
        self.conf, self.pid = self.children / "dnsmasq.conf", self.children / "dnsmasq.pid"


def dnsmasq_child(server: DhcpServer, at: LeasePlaces, user: str, clock_set: int = 0) -> Child:
    """The program as it is started. user: whom it becomes once it has its sockets; it keeps CAP_NET_ADMIN only.

    clock_set: how often the wall clock was set since the daemon began: each time it is started anew (`leases.py`).
    """
    clock = f"# The clock was set {clock_set} times.\n" if clock_set else ""
    files = (ChildFile(str(at.conf), dnsmasq_conf(server, at, user) + clock),)
    command = ("dnsmasq", "--keep-in-foreground", f"--conf-file={at.conf}")
    return Child(NAME, command, str(at.pid), files, "" if server.coexists else WITHOUT)


def dnsmasq_conf(server: DhcpServer, at: LeasePlaces, user: str) -> str:
    """The configuration file. Nothing else is read, and there is no DNS (`port=0`).

    As root it changes no group either: a user namespace without root's help allows no setgroups(2).
    """
    hosts = [_host(h) for h in server.hosts]
    room = int(server.last) - int(server.first) + 1 + len(hosts)
    lines = [
        "# Written by Sidegate whenever it starts this program; see [dhcp] in its configuration.",
        "port=0",
        f"interface={server.interface}",
        "except-interface=lo",
        "bind-dynamic",
        f"user={user}",
        *(["group="] if user == "root" else []),
        "log-facility=-",
        "quiet-dhcp",
        f"pid-file={at.pid}",
        f"dhcp-leasefile={at.live}",
        f"dhcp-lease-max={room}",
        f"dhcp-range={server.first},{server.last},{server.lan.netmask},{server.lan.broadcast_address},{server.lease_s}",
        f"dhcp-option=tag:!router,option:router,{server.gateway}",
        f"dhcp-option=tag:router,option:router,{server.router}",
        *_dns(server),
        *([f"domain={server.domain}"] if server.domain else []),
        *_manner(server),
        *hosts,
    ]
    return "\n".join(lines) + "\n"


def _dns(server: DhcpServer) -> list[str]:
    """Who keeps the router asks it for names too: what this box answers is made for its own way to the internet."""
    if server.dns != (server.gateway,):
        return [f"dhcp-option=option:dns-server,{','.join(map(str, server.dns))}"]
    return [
        f"dhcp-option=tag:!router,option:dns-server,{server.gateway}",
        f"dhcp-option=tag:router,option:dns-server,{server.router}",
    ]


def _manner(server: DhcpServer) -> list[str]:
    """Alone we answer for the whole LAN; beside another we answer first and never deny what it gave.

    no-ping: while dnsmasq looks whether an address is free it answers nobody else for 3 s (src/dnsmasq.c,
    delay_dhcp). Clients look for themselves, with ARP, and decline (RFC 2131 section 4.4.1).
    T1, T2: when this box is gone, a client asks every server after T2 (section 4.4.5): after half a lease and not after
    seven eighths of it.
    """
    if not server.coexists:
        return ["no-ping", "dhcp-authoritative"]
    times = [f"dhcp-option=option:{name},{server.lease_s // part}" for name, part in (("T1", 4), ("T2", 2))]
    return ["no-ping", "dhcp-rapid-commit", *times]


def _host(host: DhcpHost) -> str:
    tag = ["set:router"] if host.keeps_router else []
    return "dhcp-host=" + ",".join(
        [host.mac, *tag, *([str(host.ip)] if host.ip else []), *([host.name] if host.name else [])]
    )
