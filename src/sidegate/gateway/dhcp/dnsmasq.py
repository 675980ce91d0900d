"""Pure: DhcpServer -> dnsmasq's configuration, and the script that keeps a copy of its leases."""

from __future__ import annotations

import shlex
from pathlib import Path

from sidegate.gateway.children import Child, ChildFile
from sidegate.gateway.desired import DhcpHost, DhcpServer

NAME = "dnsmasq"
WITHOUT = "nobody hands out addresses now: turn on the router's DHCP, or clients go offline as their leases end"
_KEEP_LEASES = """\
#!/bin/sh
# dnsmasq calls this after it wrote its lease file, which it does in place: a copy that is whole at any moment.
PATH=/usr/bin:/bin
live={live} copy={copy} trouble={trouble}
# One copy serves all whose leases are in the file by then; the sleep lets a crowd pass first, which may need the CPU.
# A lease that ended may stay in the copy: see leases.py.
[ "$1" = del ] && exit 0
grep -qsF "$DNSMASQ_LEASE_EXPIRES $2 $3 " "$copy" && exit 0
sleep 0.2
keep() {{
    exec 2>&1
    cp "$live" "$copy.new" || return
    if [ -s "$copy.new" ] && [ -z "$(tail -c 1 "$copy.new")" ]; then
        sync "$copy.new" && mv "$copy.new" "$copy"
    else
        # empty or cut off: it is being written at this moment, and this is called again, or there is no room for it
        cp "$0" "$copy.new" && sync "$copy.new"
    fi
}}
if said=$(keep); then rm -f "$trouble"; else echo "$said" >"$trouble"; fi
rm -f "$copy.new"
"""


class LeasePlaces:
    """Where dnsmasq's files are. Leases live on the disk; what says that they cannot be copied does not."""

    def __init__(self, state: Path, runtime: Path) -> None:
        self.directory = state / "dhcp"
        self.live, self.copy = self.directory / "leases", self.directory / "leases.copy"
        self.script = self.directory / "keep-leases"
        self.children = runtime / "children"
        self.conf, self.pid = self.children / "dnsmasq.conf", self.children / "dnsmasq.pid"
        self.trouble = self.children / "dnsmasq.trouble"


def dnsmasq_child(server: DhcpServer, at: LeasePlaces, user: str) -> Child:
    """The program as it is started. user: whom it becomes once it has its sockets; it keeps CAP_NET_ADMIN only.

    The script is not below /run: Debian mounts that without the right to execute. It runs as root (dnsmasq(8)).
    """
    files = (
        ChildFile(str(at.conf), dnsmasq_conf(server, at, user)),
        ChildFile(str(at.script), keep_leases(at), 0o700),
        ChildFile(str(at.trouble), ""),
    )
    command = ("dnsmasq", "--keep-in-foreground", f"--conf-file={at.conf}")
    return Child(NAME, command, str(at.pid), files, "" if server.coexists else WITHOUT)


def keep_leases(at: LeasePlaces) -> str:
    """A script for dnsmasq's `dhcp-script`: of its arguments it reads MAC and address, which dnsmasq made up itself."""
    quoted = {name: shlex.quote(str(getattr(at, name))) for name in ("live", "copy", "trouble")}
    return _KEEP_LEASES.format(**quoted)


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
        f"dhcp-script={at.script}",
        "script-on-renewal",
        f"dhcp-range={server.first},{server.last},{server.lan.netmask},{server.lan.broadcast_address},{server.lease_s}",
        f"dhcp-option=tag:!router,option:router,{server.gateway}",
        f"dhcp-option=tag:router,option:router,{server.router}",
        f"dhcp-option=option:dns-server,{','.join(map(str, server.dns))}",
        *([f"domain={server.domain}"] if server.domain else []),
        *_manner(server),
        *hosts,
    ]
    return "\n".join(lines) + "\n"


def _manner(server: DhcpServer) -> list[str]:
    """Alone we answer for the whole LAN; beside another we answer first and never deny what it gave.

    no-ping: while dnsmasq looks whether an address is free it answers nobody else for 3 s (src/dnsmasq.c,
    delay_dhcp). Clients look for themselves, with ARP, and decline (RFC 2131 section 4.4.1).
    """
    return ["no-ping", "dhcp-rapid-commit"] if server.coexists else ["no-ping", "dhcp-authoritative"]


def _host(host: DhcpHost) -> str:
    tag = ["set:router"] if host.keeps_router else []
    return "dhcp-host=" + ",".join(
        [host.mac, *tag, *([str(host.ip)] if host.ip else []), *([host.name] if host.name else [])]
    )
