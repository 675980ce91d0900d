"""The order in which clients are handed over and taken back, as one client's own wire shows it.

A client renews its lease all the while, a question every 30 ms, and everything at its port is noted in one order.
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address

import pytest
from msgspec import Struct

from bench.handover import NO_FORWARDING
from sidegate.lab.asking import http_get
from sidegate.lab.lab import Lab
from sidegate.packet import Arp, Ipv4, Udp, parse
from sidegate.probe.dhcp_message import (
    CLIENT_PORT,
    GATEWAY,
    KIND,
    SERVER_PORT,
    addresses,
    build_discover,
    parse_message,
)
from sidegate.probe.ra_message import advert_in
from tests.kernel.gateway_lab import PATIENCE_S, SERVER, wait_for
from tests.kernel.test_confirm import status
from tests.kernel.test_dhcp import as_a_dhcp_client, get_lease, home, mac, sidegate, up

pytestmark = pytest.mark.kernel

CLIENT, OURS, ROUTER = "computer", "192.168.1.2", "192.168.1.1"
CONFIG = '[dhcp]\nmode = "server"\nlease_s = 600\n[ipv6]\nmode = "gateway"\n'
_ALL = 0x0003
_ASK_S = 0.03
_REQUEST, _ACK = 3, 5
_XID = 0x51DE


class Sign(Struct, frozen=True):
    """What one frame told the client. kind: "dhcp", "ra" or "arp". says: the gateway that is named by it.

    For an advertisement "ours" or "withdrawn".
    """

    kind: str
    says: str


class Watch:
    """One client's port, and its lease renewed again and again, while it is open."""

    def __init__(self, lab: Lab, ip: str) -> None:
        self._lab, self._ip = lab, IPv4Address(ip)
        router = next(machine for machine in lab.plan.machines if machine.name == "router")
        self._macs = {mac(lab, "gateway"): OURS, router.bridges[0].mac: ROUTER}
        self._signs: list[Sign] = []
        self._is_over = threading.Event()
        self._wire = lab.socket(CLIENT, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
        self._asks = lab.socket(CLIENT, socket.AF_INET, socket.SOCK_DGRAM)
        self._asks.bind((ip, CLIENT_PORT))
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._wire.close()
        self._asks.close()

    @property
    def signs(self) -> list[Sign]:
        """Until now, in order, repetitions left out."""
        return [sign for sign, _ in itertools.groupby(self._signs)]

    def begins_with(self, *, kind: str, says: str, after: int = 0) -> int:
        """Waits for such a sign; its place."""
        sign = Sign(kind, says)
        wait_for(lambda: sign in self.signs[after:])
        return after + self.signs[after:].index(sign)

    def _run(self) -> None:
        ask_at_s = 0.0
        while not self._is_over.is_set():
            if time.monotonic() >= ask_at_s:
                ask_at_s = time.monotonic() + _ASK_S
                self._asks.sendto(renewal(mac(self._lab, CLIENT), self._ip), (OURS, SERVER_PORT))
            self._wire.settimeout(max(0.001, ask_at_s - time.monotonic()))
            try:
                data, (_, _, direction, *_) = self._wire.recvfrom(65536)
            except TimeoutError:
                continue
            if direction != socket.PACKET_OUTGOING and (sign := self._read(data)) is not None:
                self._signs.append(sign)

    def _read(self, data: bytes) -> Sign | None:
        frame = parse(data)
        body = frame.body
        if isinstance(body, Arp):
            is_ours = str(body.sender_ip) == OURS == str(body.target_ip)
            return Sign("arp", self._macs[body.sender_mac]) if is_ours else None
        advert = advert_in(frame)
        if advert is not None:
            return Sign("ra", "ours" if advert.lifetime_s else "withdrawn")
        if isinstance(body, Ipv4) and isinstance(body.body, Udp) and body.body.dport == CLIENT_PORT:
            answer = parse_message(body.body.payload)
            if answer is not None and answer.kind == _ACK:
                return Sign("dhcp", str(addresses(answer, GATEWAY)[0]))
        return None


def renewal(device: str, ip: IPv4Address) -> bytes:
    """A client in RENEWING asks its server (RFC 2131 table 4): its address in `ciaddr`, unicast, no server id."""
    asked = bytearray(build_discover(_XID, device))
    asked[10:12], asked[12:16] = bytes(2), ip.packed
    at = asked.index(bytes((KIND, 1)))
    asked[at + 2] = _REQUEST
    return bytes(asked)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab.up(home()) as lab:
        lab.run("gateway", "ip", "address", "replace", "2001:db8:1:1::2/64", "dev", "eth0", "nodad")
        as_a_dhcp_client(lab, CLIENT)
        code, said = up(lab, CONFIG)
        assert code == 0, said
        ip = get_lease(lab, CLIENT)[0]
        lab.run(CLIENT, "ip", "address", "replace", f"{ip}/24", "dev", "eth0")
        lab.run(CLIENT, "ip", "route", "replace", "default", "via", OURS)
        assert lab.call(CLIENT, http_get, SERVER, 80, "/", PATIENCE_S).ok
        yield lab


def by_a_person(lab: Lab) -> None:
    code, said = sidegate(lab, "down")
    assert (code, "Clients were handed to the router" in said) == (0, True), said


def by_itself(lab: Lab) -> None:
    """Something keeps forwarding off."""
    lab.run("gateway", "sh", "-ec", NO_FORWARDING)
    wait_for(lambda: sidegate(lab, "probe", "again")[0] == 0 and status(lab)["aside_why"] == "forwarding")


def back_by_a_person(lab: Lab) -> None:
    code, said = up(lab, CONFIG)
    assert code == 0, said


def back_by_itself(lab: Lab) -> None:
    """Once the check is up, though it was told so before."""
    back_by_a_person(lab)
    lab.run("gateway", "umount", "/proc/sys/net/ipv4/conf/eth0/forwarding")
    wait_for(lambda: sidegate(lab, "probe", "again")[0] == 0 and status(lab)["aside_why"] == "")


def test_dhcp_and_advertisements_come_before_arp_both_ways(lab: Lab) -> None:
    with Watch(lab, get_lease(lab, CLIENT)[0]) as watch:
        watch.begins_with(kind="dhcp", says=OURS)
        watch.begins_with(kind="ra", says="ours")
        there_and_back(watch, lambda: by_itself(lab), lambda: back_by_itself(lab))
        there_and_back(watch, lambda: by_a_person(lab), lambda: back_by_a_person(lab))


def there_and_back(watch: Watch, goes: Callable[[], None], comes: Callable[[], None]) -> None:
    begun = len(watch.signs)
    goes()
    moved = watch.begins_with(kind="arp", says=ROUTER, after=begun)
    watch.begins_with(kind="dhcp", says=ROUTER, after=moved)
    gone = watch.signs
    withdrawn = gone.index(Sign("ra", "withdrawn"), begun)
    assert withdrawn < moved
    assert Sign("ra", "ours") not in gone[withdrawn:]
    assert said_by_dhcp(gone[moved:]) == {ROUTER}, "whoever renews from then on is the router's"
    comes()
    back = watch.begins_with(kind="arp", says=OURS, after=moved)
    watch.begins_with(kind="dhcp", says=OURS, after=back)
    watch.begins_with(kind="ra", says="ours", after=moved)
    assert said_by_dhcp(watch.signs[back:]) == {OURS}, "whoever renews from then on is ours"


def said_by_dhcp(signs: Sequence[Sign]) -> set[str]:
    return {sign.says for sign in signs if sign.kind == "dhcp"}
