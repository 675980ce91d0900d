"""DNS on this box as it is now: whom it asks itself, and who else holds port 53. Looks, changes nothing."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from pathlib import Path

from msgspec import Struct

from sidegate.problems import Exit, Problem

RESOLV_CONF = Path("/etc/resolv.conf")
RESOLVED_CONF = Path("/run/systemd/resolve/resolv.conf")
"""Whom systemd-resolved asks (systemd-resolved.service(8)): its stub would only add a second cache."""
_RESOLVED_STUBS = frozenset(map(IPv4Address, ("127.0.0.53", "127.0.0.54")))
_DNS_PORT = 53
_LISTENS, _UNCONNECTED = "0A", "07"
"""TCP_LISTEN and TCP_CLOSE, the state of a UDP socket that is not connected (include/net/tcp_states.h)."""
_LOOP = re.compile(r"NOT using nameserver ([0-9.]+)#[0-9]+ - query loop detected")
_SOCKET = re.compile(r"^socket:\[(\d+)\]$")


class Holder(Struct, frozen=True):
    """A socket that waits at a port. program: None where it could not be found out."""

    protocol: str
    address: IPv4Address | IPv6Address
    inode: int
    pid: int | None = None
    program: str | None = None

    @property
    def who(self) -> str:
        return f"{self.program} (process {self.pid})" if self.program else "another program"


def own_servers(
    conf: Path = RESOLV_CONF, resolved: Path = RESOLVED_CONF, proc: Path = Path("/proc")
) -> tuple[IPv4Address, ...]:
    """The servers that this box asks, by IPv4, without the `deserted`; of systemd-resolved's stub, those behind it.

    Empty if it says none.
    """
    servers = nameservers(_text(conf))
    behind = nameservers(_text(resolved)) if set(servers) & _RESOLVED_STUBS else ()
    none = {*_RESOLVED_STUBS, *deserted(conf, proc)}
    return tuple(dict.fromkeys((*behind, *(server for server in servers if server not in none))))


def deserted(conf: Path = RESOLV_CONF, proc: Path = Path("/proc")) -> tuple[IPv4Address, ...]:
    """Servers on this box itself that it is to ask, and where nobody listens: as when its AdGuard Home was stopped."""
    local = [it for it in nameservers(_text(conf)) if it.is_loopback and it not in _RESOLVED_STUBS]
    there = [_text(proc / "net" / table) for table in ("udp", "udp6")] if local else []
    held = {_as_v4(holder.address) for text in there for holder in parse_sockets(text, "udp")}
    return tuple(it for it in local if not held & {it, IPv4Address(0)})


def _as_v4(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    """Of a socket at all addresses, 0.0.0.0: one of IPv6 takes IPv4 too, unless it was told not to (ipv6(7))."""
    if isinstance(address, IPv4Address):
        return address
    return IPv4Address(0) if address.is_unspecified else address.ipv4_mapped


def nameservers(text: str) -> tuple[IPv4Address, ...]:
    """Those of a resolv.conf(5), by IPv4."""
    words = (line.split() for line in text.splitlines())
    found = (_ipv4(it[1]) for it in words if len(it) > 1 and it[0] == "nameserver")
    return tuple(dict.fromkeys(address for address in found if address is not None))


def port_problem(address: IPv4Address, ours: Collection[int] = (), proc: Path = Path("/proc")) -> Problem | None:
    """Who keeps our resolver from port 53 of this address; None if nobody does. ours: process ids of our own."""
    return refusal(address, [h for h in holders(proc) if h.pid not in ours])


def refusal(address: IPv4Address, found: Iterable[Holder]) -> Problem | None:
    """Only a socket at this address or at all of them is in the way; a stub at 127.0.0.53 is not."""
    in_the_way = next((h for h in found if h.address == address or h.address.is_unspecified), None)
    if in_the_way is None:
        return None
    where = "every" if in_the_way.address.is_unspecified else "this"
    what = f"{in_the_way.who} answers DNS at port 53 of {where} address already"
    remedy = f'stop it, let it listen on 127.0.0.1 only, or set dns.mode = "off"; {_remedy(in_the_way)}'
    return Problem("dns", what, remedy.removesuffix("; "), Exit.FAULT)


def _remedy(holder: Holder) -> str:
    if holder.program and holder.program.startswith("systemd-resolve"):
        return "DNSStubListenerExtra in /etc/systemd/resolved.conf is what makes it do so"
    return ""


def holders(proc: Path = Path("/proc"), port: int = _DNS_PORT) -> tuple[Holder, ...]:
    """Every socket of this network namespace that waits at that port; whose it is, only as root."""
    found = [
        holder
        for protocol in ("udp", "tcp", "udp6", "tcp6")
        for holder in parse_sockets(_text(proc / "net" / protocol), protocol, port)
    ]
    owners = _owners(proc, {h.inode for h in found}) if found else {}
    return tuple(Holder(h.protocol, h.address, h.inode, *owners.get(h.inode, (None, None))) for h in found)


def parse_sockets(text: str, protocol: str, wanted: int = _DNS_PORT) -> Iterator[Holder]:
    """From a table such as /proc/net/udp (proc_pid_net(5))."""
    waiting = _UNCONNECTED if protocol.startswith("udp") else _LISTENS
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) < 10 or words[3] != waiting:
            continue
        address, _, port = words[1].partition(":")
        if int(port, 16) == wanted:
            yield Holder(protocol.removesuffix("6"), _address(address), int(words[9]))


def _address(text: str) -> IPv4Address | IPv6Address:
    """Words of four bytes, each in this machine's order (tcp4_seq_show in net/ipv4/tcp_ipv4.c)."""
    raw = b"".join(int(text[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(text), 8))
    return IPv4Address(raw) if len(raw) == 4 else IPv6Address(raw)


def _owners(proc: Path, inodes: Collection[int]) -> dict[int, tuple[int, str]]:
    owners = {}
    for process in proc.glob("[0-9]*"):
        for inode in _sockets_of(process) & set(inodes):
            owners[inode] = (int(process.name), _text(process / "comm").strip())
    return owners


def _sockets_of(process: Path) -> set[int]:
    """Of what another user's process has open nothing is told."""
    try:
        opened = [_target(it) for it in (process / "fd").iterdir()]
    except OSError:
        return set()
    return {int(match[1]) for target in opened if (match := _SOCKET.match(target))}


def _target(link: Path) -> str:
    """Empty where it was closed meanwhile."""
    try:
        return os.readlink(link)
    except OSError:
        return ""


def loops(log: str) -> tuple[Problem, ...]:
    """What dnsmasq said, since it started, of servers that ask it in turn (check_servers in src/network.c)."""
    latest = log.rpartition(": started, version ")[2]
    servers = dict.fromkeys(_LOOP.findall(latest))
    remedy = "name servers in dns.servers that do not ask this box"
    return tuple(
        Problem("dns", f"{server} is asked for names and asks this box in turn; it is left out", remedy, Exit.FAULT)
        for server in servers
    )


def _ipv4(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except AddressValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
