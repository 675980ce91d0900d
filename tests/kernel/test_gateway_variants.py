"""Routers and places of every kind: after `sidegate up` everybody is online, masqueraded only where it is needed.

What is expected follows from the blueprint's laws. A client needs masquerade exactly if the frames between it and the
gateway cross the *router's* kernel bridge and that bridge runs conntrack. Frames do not cross it between two ports of
one switch chip, between two stations of one radio, or within a mesh node; a node's own conntrack does no NAT and so
decides nothing.
"""

from __future__ import annotations

import pytest
from msgspec import structs

from sidegate.home import Client, Home
from sidegate.lab.resolving import resolve
from tests.kernel.gateway_lab import EVERYBODY, WIRED, all_of, gateway_in, mesh_home, reached

pytestmark = pytest.mark.kernel

TRACKS = "on"
AT_NODE = {"desk-computer", "phone"}


def _gateway_at(at: str, by: str) -> Home:
    home = mesh_home()
    assert home.gateway is not None
    return structs.replace(home, gateway=structs.replace(home.gateway, at=at, by=by))


def _with_second_phone() -> Home:
    home = mesh_home()
    phone = next(c for c in home.client if c.name == "phone")
    second: Client = structs.replace(phone, name="second-phone", v4=phone.v4 + 10, v6=None)
    return structs.replace(home, client=(*home.client, second))


def _node_tracks(router_tracks: str) -> Home:
    home = mesh_home(bridge_filter=router_tracks)
    return structs.replace(home, node=tuple(structs.replace(n, bridge_filter=True) for n in home.node))


def _without_chip() -> Home:
    home = mesh_home()
    return structs.replace(home, router=structs.replace(home.router, switch_chip=False))


VARIANTS = {
    **{
        f"{nat} by {firewall}": (mesh_home(nat=nat, firewall=firewall), WIRED)
        for nat in ("masquerade", "snat")
        for firewall in ("nft", "iptables-nft", "iptables-legacy")
    },
    "drops invalid, nft": (mesh_home(drop_invalid=True, firewall="nft"), WIRED),
    "drops invalid, iptables, snat": (mesh_home(drop_invalid=True, firewall="iptables-legacy", nat="snat"), WIRED),
    "bridge filter off": (mesh_home(bridge_filter="off"), EVERYBODY),
    "bridge filter off, node's on": (_node_tracks("off"), EVERYBODY),
    "both bridge filters on": (_node_tracks("on"), WIRED),
    "router without a switch chip": (_without_chip(), set()),
    "gateway on the router's radio": (_gateway_at("router", "wifi"), {"tablet"}),
    "gateway wired to the mesh node": (_gateway_at("study", "wire"), AT_NODE),
    "gateway on the mesh node's radio": (_gateway_at("study", "wifi"), AT_NODE),
    "two phones behind one mesh node": (_with_second_phone(), WIRED),
    "DNS hijack": (mesh_home(dns_hijack=True), WIRED),
    "DNS hijack by iptables": (mesh_home(dns_hijack=True, firewall="iptables-nft"), WIRED),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_everybody_is_online_masqueraded_only_where_needed(name: str) -> None:
    home, direct = VARIANTS[name]
    with gateway_in(home) as box:
        before = box.state()
        box.up().settled()
        found = reached(box.lab)
        assert found == all_of(direct, {c.name for c in home.client})
        assert box.paths() == {who: r.path for who, r in found.items()}
        names = [box.lab.begin(c.name, resolve, "server.example", "1.1.1.1", "A", "udp", 15.0) for c in home.client]
        assert [n.result().detail for n in names] == ["1.2.3.4"] * len(names)
        box.sidegate("down", "--now")
        assert box.state() == before
