"""The port for devices that prefer a proxy: the rules hold there too, and it leads nowhere that the LAN may not go."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest

from sidegate.home import load_home
from sidegate.lab.asking import Answer, http_get
from sidegate.lab.visiting import proxy_get, socks_get
from sidegate.lab.wiretap import Wiretap
from sidegate.problems import Exit
from tests.kernel.gateway_lab import PATIENCE_S, Box, gateway_in, wait_for
from tests.kernel.split_home import proxy_state

pytestmark = pytest.mark.kernel

HOME = load_home("split")
SERVERS = {server.name: str(server.v4) for server in HOME.internet.server}
WAN, PROXY, OURS, PORT = "123.100.101.102", SERVERS["proxy"], "192.168.1.2", 1080
FOREIGN, BLOCKED, DOMESTIC, REFUSED = "www.foreign.example", "blocked.example", "www.domestic.example", "server.example"
WIRED, WIFI, NAMED = "nas", "phone", "tablet"
CONF = "/run/port.toml"
TEXT = """
[proxy]
upstream = "{link}"
check = "http://{foreign}/"
lan_port = 1080
on_failure = "{on_failure}"

[[rule]]
cidr = ["{domestic}/32"]
client = ["192.168.1.126"]
send = "block"

[[rule]]
domain = ["full:server.example"]
send = "block"

[[rule]]
domain = ["foreign.example", "domestic.example"]
port = [443]
send = "block"

[[rule]]
domain = ["foreign.example"]
cidr = ["{blocked}/32", "{foreign}/32"]
send = "proxy"

[[rule]]
client = ["tablet"]
send = "direct"

[[client]]
name = "tablet"
mac = "{mac}"
"""


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with running() as box:
        yield box


@pytest.fixture
def disturbed() -> Iterator[Box]:
    """For one test alone: when its upstream is back, resolvers go on to change for some seconds."""
    with running() as box:
        yield box


@contextlib.contextmanager
def running() -> Iterator[Box]:
    with gateway_in(HOME) as box:
        up(box, "direct")
        yield box
        box.sidegate("down", "--now")


def up(box: Box, on_failure: str) -> None:
    link = box.lab.links()["proxy-shadowsocks"]
    mac = box.shell("ip -o link show eth0", NAMED).split("link/ether ")[1].split()[0]
    addresses = {"domestic": SERVERS["domestic"], "foreign": SERVERS["foreign"], "blocked": SERVERS["blocked-site"]}
    box.up("--config", box.write(CONF, TEXT.format(link=link, on_failure=on_failure, mac=mac, **addresses)))
    wait_for(lambda: proxy_state(box)["chosen"] == "proxy-shadowsocks")


def got(box: Box, who: str, host: str, get: Callable[..., Answer] = socks_get) -> str:
    """The address that the server saw; empty: there is no answer."""
    login = ("", "") if get is socks_get else ()
    answer: Answer = box.lab.call(who, get, OURS, PORT, host, "/who", *login, PATIENCE_S)
    return answer.detail.split()[0] if answer.ok else ""


@pytest.mark.parametrize("get", [socks_get, proxy_get])
def test_rules_hold_for_names_that_it_is_asked_for(box: Box, get: Callable[..., Answer]) -> None:
    with Wiretap(box.lab) as tap:
        assert got(box, WIRED, FOREIGN, get) == PROXY
        assert got(box, WIRED, DOMESTIC, get) == WAN
        assert got(box, WIRED, REFUSED, get) == ""
        assert not tap.leaks("foreign.example")
        assert SERVERS["server"] not in {it.dst for it in tap.seen}
    assert got(box, WIRED, BLOCKED, get) == PROXY, "a network decides on the address that the name has"
    assert got(box, WIFI, DOMESTIC, get) == "", "for this device alone, by the address that the name has"


def test_rules_hold_for_addresses(box: Box) -> None:
    hosts = [SERVERS[name] for name in ("domestic", "foreign", "blocked-site")]
    assert [got(box, WIRED, host) for host in hosts] == [WAN, PROXY, PROXY]
    assert [got(box, WIFI, host) for host in hosts] == ["", PROXY, PROXY]


def test_a_device_that_a_rule_knows_by_its_mac_address_is_kept_out(box: Box) -> None:
    assert box.lab.call(NAMED, socks_get, OURS, PORT, SERVERS["domestic"]).detail == "Connection refused"


def test_a_port_where_somebody_listens_is_refused_and_all_stays_as_it_was(box: Box) -> None:
    """As a web page for settings at 8080."""
    before = box.shell("nft list ruleset | grep -c redirect; cat /run/state/journal.json")
    text = box.shell(f"sed s/1080/8080/ {CONF}")
    with box.lab.socket("gateway", socket.AF_INET, socket.SOCK_STREAM) as page:
        page.bind(("0.0.0.0", 8080))
        page.listen()
        done = box.sidegate("up", "--config", box.write("/run/taken.toml", text), check=False)
    assert done.returncode == Exit.FAULT
    assert "proxy.lan_port: 8080: " in done.stdout + done.stderr
    assert "listens there already" in done.stdout + done.stderr
    assert box.shell("nft list ruleset | grep -c redirect; cat /run/state/journal.json") == before


def test_a_rule_that_somebody_deletes_is_put_back_at_once_and_one_before_it_is_told(box: Box) -> None:
    rule = "from 192.168.1.0/24 lookup 100"
    box.shell(f"ip route add default via 192.168.1.1 table 100; ip rule add {rule}")
    assert got(box, WIRED, SERVERS["foreign"]) == PROXY, "it comes after ours"
    box.shell("ip rule delete lookup 5093")
    wait_for(lambda: "lookup 5093" in box.shell("ip rule"))
    fault = f"somebody else's IPv4 rule at priority 0 comes before ours: {rule}"
    wait_for(lambda: _asked(box) and any(fault in it for it in box.status()["faults"]))
    box.shell(f"ip rule delete {rule}")
    wait_for(lambda: _asked(box) and not any(fault in it for it in box.status()["faults"]))


def _asked(box: Box) -> bool:
    """All that is checked, once more."""
    box.probe_again()
    return True


def test_it_leads_to_the_lan_and_not_into_this_box(box: Box) -> None:
    assert got(box, WIFI, "192.168.1.127") == OURS, "a device of the LAN, as it could be asked without us"
    assert box.lab.call("gateway", http_get, OURS).ok, "there is something to be reached"
    for host in ("127.0.0.1", "localhost", OURS, "0.0.0.0", "::1", "::ffff:127.0.0.1"):
        assert got(box, WIRED, host) == ""


@pytest.mark.parametrize(("on_failure", "seen"), [("direct", WAN), ("block", "")])
def test_while_no_upstream_works_proxied_traffic_fares_as_everywhere(
    disturbed: Box, on_failure: str, seen: str
) -> None:
    box = disturbed
    before = proxy_state(box)
    up(box, on_failure)
    # The engine that does otherwise is not the one that runs: until it serves, all is as it was.
    wait_for(lambda: on_failure == before["on_failure"] or proxy_state(box)["pid"] != before["pid"])
    chain = "type filter hook input priority 0\ntcp dport 8388 reject with tcp reset\n"
    box.lab.run("internet", "nft", "-f", "-", text=f"table inet cut {{\nchain input {{\n{chain}}}\n}}\n")
    wait_for(lambda: _tried(box) == "")
    # What an engine before sent straight, as it should, ends with it.
    wait_for(lambda: proxy_state(box)["ending"] == 0, within_s=60)
    with Wiretap(box.lab) as tap:
        wait_for(lambda: got(box, WIRED, SERVERS["foreign"]) == seen)
        assert got(box, WIRED, DOMESTIC) == WAN
        assert got(box, WIFI, SERVERS["domestic"]) == ""
        assert (SERVERS["foreign"] in {it.dst for it in tap.seen}) == (on_failure == "direct")
    if on_failure == "block":
        assert got(box, WIRED, FOREIGN) == "", "its name is refused, and that holds no longer than the reason for it"
    box.lab.run("internet", "nft", "delete", "table", "inet", "cut")
    wait_for(lambda: _tried(box) != "")
    wait_for(lambda: got(box, WIRED, FOREIGN) == PROXY)


def _tried(box: Box) -> str:
    """Which upstream is used now that all are asked anew; empty: none works."""
    box.probe_again()
    return str(proxy_state(box)["chosen"])
