"""Which devices have too many connections through the proxy: the kernel cannot say, for it does not track them.

Counted are the engine's sockets, as `engine.lasting` counts them; asked for only while this box has so many at all.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from sidegate.gateway.box import programs
from sidegate.gateway.ruleset.restraint import CROWD, crowded
from sidegate.gateway.split.ports import ENGINE_MARK, MARK_MASK, UPSTREAM_BIT

Address = IPv4Address | IPv6Address
_ENGINES = f"fwmark = {ENGINE_MARK:#x}/{MARK_MASK | UPSTREAM_BIT:#x}"
"""Those that go to an upstream's server have another bit: it may be on the LAN as clients are."""
_IN_USE = re.compile(r"^TCP6?: inuse (\d+)", re.MULTILINE)


class Crowds:
    """tell: an event. named: a device, by its MAC address, as a person knows it."""

    def __init__(self, tell: Callable[[str], None], named: Callable[[str], str]) -> None:
        self._tell, self._named = tell, named
        self._crowds: dict[str, int] = {}

    def look(self, interface: str) -> None:
        """And has the kernel hold them back. Raises Problems."""
        before, self._crowds = self._crowds, _crowds(interface) if _sockets_in_use() >= CROWD else {}
        if self._crowds:
            programs.run("nft", "--file", "-", text=crowded(self._crowds))
        for mac in self._crowds.keys() - before.keys():
            self._tell(self._told(mac))

    def hints(self) -> tuple[str, ...]:
        return tuple(map(self._told, sorted(self._crowds)))

    def _told(self, mac: str) -> str:
        return (
            f"{self._named(mac)} has {self._crowds[mac]} connections through the proxy, and gets no more until it has"
            f" fewer than {CROWD}"
        )


def _sockets_in_use() -> int:
    """Of TCP, in this network (net/ipv4/proc.c sockstat_seq_show)."""
    files = [Path("/proc/self/net/sockstat"), Path("/proc/self/net/sockstat6")]
    return sum(int(count) for file in files if file.exists() for count in _IN_USE.findall(file.read_text("ascii")))


def _crowds(interface: str) -> dict[str, int]:
    """Raises Problems."""
    sockets = programs.run("ss", "-Htn", "state", "established", _ENGINES)
    neighbours = programs.run("ip", "-json", "neighbour", "show", "dev", interface)
    return crowds_of(sockets, {ip_address(it["dst"]): it["lladdr"] for it in json.loads(neighbours) if "lladdr" in it})


def crowds_of(sockets: str, macs: Mapping[Address, str]) -> dict[str, int]:
    """sockets: as `ss -Htn` lists them. macs: of the LAN's addresses. By MAC address, how many each has."""
    peers = (line.split()[-1].rpartition(":")[0].strip("[]") for line in sockets.splitlines() if line.strip())
    addresses = (ip_address(peer.partition("%")[0].removeprefix("::ffff:")) for peer in peers)
    count = Counter(macs[address] for address in addresses if address in macs)
    return {mac: number for mac, number in count.items() if number >= CROWD}
