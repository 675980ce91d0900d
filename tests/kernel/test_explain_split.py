"""What `sidegate explain` says of a split home, held against whom the servers see."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sidegate.gateway.dns.learned import kept_set, names_set
from sidegate.gateway.split.policy import Destination
from sidegate.home import load_home
from sidegate.lab.asking import http_get, ping
from sidegate.lab.resolving import resolve
from sidegate.lab.visiting import visit
from tests.kernel.gateway_lab import PATIENCE_S, Box, gateway_in, wait_for
from tests.kernel.split_home import insisting

pytestmark = pytest.mark.kernel

HOME = load_home("split")
SERVERS = {server.name: str(server.v4) for server in HOME.internet.server}
GATEWAY = HOME.gateway
assert GATEWAY is not None
WIRED6 = str(HOME.client_named("my-computer").v6)
IPV6_OFF = "ipv6: this box tells no name's IPv6 address, and does not split IPv6 (ipv6.mode is off)"
OURS, WIRED = str(GATEWAY.v4), "192.168.1.123"
FOREIGN, BLOCKED, DOMESTIC = "www.foreign.example", "blocked.example", "www.domestic.example"
CONF = "/run/explain.toml"
RULES = """
[proxy]
upstream = "{link}#lab"
check = "http://{foreign}/who"
[[rule]]
domain = ["full:www.domestic.example"]
client = ["192.168.1.127"]
send = "block"
[[rule]]
cidr = ["{server}/32"]
port = [80]
send = "block"
[[rule]]
domain = ["foreign.example"]
cidr = ["{blocked}/32"]
send = "lab"
"""


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with gateway_in(HOME) as box:
        link = box.lab.links()["proxy-socks"].partition("#")[0]
        blocked, server = SERVERS["blocked-site"], SERVERS["server"]
        box.write(CONF, RULES.format(link=link, foreign=FOREIGN, blocked=blocked, server=server))
        box.up("--config", CONF)
        wait_for(lambda: box.status()["split"]["proxy"]["chosen"] == "lab")
        box.settled()
        yield box
        box.sidegate("down", "--now")


def explained(box: Box, *words: str, client: str = WIRED) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(box.sidegate("explain", client, *words, "--json", check=False).stdout)
    return found


def seen_as(box: Box, name: str, who: str = "my-computer") -> str:
    """The address from which the server sees the client."""
    return box.lab.call(who, visit, "http", name, OURS, "/who", box.lab.ca, "A", PATIENCE_S).detail.split()[0]


def is_reached(box: Box, address: str, who: str = "my-computer") -> bool:
    return box.lab.call(who, http_get, address, 80, "/", PATIENCE_S).ok


def test_a_proxied_name(box: Box) -> None:
    said = explained(box, FOREIGN, "--port", "80")
    assert seen_as(box, FOREIGN) == SERVERS["proxy"]
    split = said["split"]
    assert (split["goes"], split["upstream"], split["rule"]) == ("proxied", "lab", 'rule[2]: "lab"')
    assert (split["decides"], split["dns"]) == ("engine", "proxied")
    assert said["walk"] is None
    assert f"destination: {SERVERS['foreign']}, as this box answers clients for {FOREIGN}" in said["told"]


def test_a_proxied_address(box: Box) -> None:
    said = explained(box, SERVERS["blocked-site"], "--port", "80")
    assert (said["split"]["goes"], said["split"]["decides"]) == ("proxied", "kernel")
    assert is_reached(box, SERVERS["blocked-site"])


def test_what_goes_straight_is_walked(box: Box) -> None:
    said = explained(box, DOMESTIC, "--port", "80")
    assert (said["split"]["goes"], said["split"]["rule"]) == ("straight", "the mode: direct")
    assert said["walk"]["verdict"]["code"] == "delivered"
    assert seen_as(box, DOMESTIC) not in (SERVERS["proxy"], "")


def test_ipv6_goes_round_this_box_where_that_does_not_split_it(box: Box) -> None:
    """To what is proxied by IPv4 too; only the name has no such address here."""
    domestic6 = {server.name: str(server.v6) for server in HOME.internet.server}["domestic"]
    done = box.sidegate("explain", WIRED, domestic6)
    assert done.stdout.splitlines()[3].startswith("goes: round this box, to the main router")
    assert box.lab.call("my-computer", http_get, domestic6, 80, "/who", PATIENCE_S).detail.split()[0] == WIRED6
    assert not box.lab.call("my-computer", resolve, DOMESTIC, OURS, "AAAA").ok
    assert IPV6_OFF in explained(box, DOMESTIC, "--port", "80")["told"]


@pytest.mark.usefixtures("by_our_ipv6")
def test_ipv6_is_split_where_this_box_is_its_gateway(box: Box) -> None:
    foreign6 = {server.name: str(server.v6) for server in HOME.internet.server}["foreign"]
    text = box.lab.run("gateway", "cat", CONF).stdout
    box.up("--config", box.write("/run/six.toml", text + '[ipv6]\nmode = "gateway"\n'))
    wait_for(lambda: box.status()["split"]["proxy"]["chosen"] == "lab")
    wait_for(lambda: box.lab.call("my-computer", resolve, FOREIGN, OURS, "AAAA").detail == foreign6)
    said = explained(box, foreign6, "--port", "80")["split"]
    assert (said["goes"], said["upstream"], said["rule"]) == ("proxied", "lab", 'rule[2]: "lab"')
    proxy = next(server for server in HOME.internet.server if server.name == "proxy")
    seen = box.lab.call("my-computer", http_get, foreign6, 80, "/who", PATIENCE_S, "", FOREIGN).detail.split()[0]
    assert seen in (str(proxy.v4), str(proxy.v6))


@pytest.fixture
def by_our_ipv6(box: Box) -> Iterator[None]:
    """This box is the IPv6 gateway of `my-computer`, as long as the test lasts."""
    way = box.shell("ip -6 route show default", "my-computer").splitlines()[0].partition(" metric")[0]
    box.shell(f"ip -6 route replace default via {HOME.gateway.v6}", "my-computer")  # type: ignore[union-attr]
    yield
    box.shell(f"ip -6 route replace {way}", "my-computer")
    box.up("--config", CONF)


def forget(box: Box, it: Destination) -> None:
    """What was learned for a rule with these names, as if nobody had asked."""
    for name_of in (names_set, kept_set):
        box.lab.run("gateway", "nft", "flush", "set", "inet", "sidegate", name_of(it.names_key, 4))


def test_a_rule_for_one_client(box: Box) -> None:
    forget(box, Destination(names=(DOMESTIC,)))
    assert is_reached(box, SERVERS["domestic"], "nas")
    before = explained(box, SERVERS["domestic"], "--port", "80", client="192.168.1.127")
    assert before["split"]["goes"] == "straight"
    said = explained(box, DOMESTIC, "--port", "80", client="192.168.1.127")
    assert (said["split"]["goes"], said["split"]["rule"]) == ("refused", "rule[0]: block")
    assert not box.lab.call("nas", http_get, SERVERS["domestic"]).ok
    assert explained(box, DOMESTIC, "--port", "80")["split"]["goes"] == "straight"


def test_a_rule_for_one_port(box: Box) -> None:
    done = box.sidegate("explain", WIRED, SERVERS["server"], "--port", "80", check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "the walk: none; this box answers with a reset, or with ICMP"
    assert not box.lab.call("my-computer", http_get, SERVERS["server"]).ok
    assert explained(box, SERVERS["server"], "--port", "8080")["split"]["goes"] == "straight"


def test_a_ping_goes_straight_to_what_is_proxied(box: Box) -> None:
    assert seen_as(box, FOREIGN) == SERVERS["proxy"]
    said = explained(box, SERVERS["foreign"], "--proto", "icmp")
    assert (said["split"]["goes"], said["split"]["rule"]) == ("straight", 'rule[2]: "lab"')
    assert said["walk"]["verdict"]["code"] == "delivered"
    assert insisting(box, "my-computer", ping, SERVERS["foreign"]).ok


def test_what_another_rule_would_change_is_that_rule_alone(box: Box) -> None:
    same = "settings: as in force\nthis box: nothing to change\n"
    assert box.sidegate("config", "diff", CONF).stdout == same
    text = box.lab.run("gateway", "cat", CONF).stdout
    box.write("/run/other.toml", text.replace("port = [80]", "port = [81]"))
    assert box.sidegate("config", "diff", "/run/other.toml").stdout.splitlines()[-2:-1] == [
        "    nft table inet sidegate: chain rules4"
    ]
    assert box.sidegate("config", "diff", CONF).stdout == same


def test_a_name_that_no_client_asked_for_is_not_known(box: Box) -> None:
    """As of a client that asked by HTTPS: the name is known to `explain` alone."""
    forget(box, Destination(suffixes=("foreign.example",)))
    question = f"client={WIRED}&mac=02:00:00:00:00:01&destination={SERVERS['foreign']}&name={FOREIGN}&port=80"
    told = json.loads(box.lab.run("gateway", "python3", "-c", _ASK, f"/v1/explain?{question}").stdout)
    assert (told["goes"], told["decides"]) == ("straight", "kernel")
    assert "the client has to ask this box for it" in told["notes"][-1]


_ASK = """
import http.client, socket, sys
connection = http.client.HTTPConnection("sidegate")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect("/run/sidegate/control.sock")
connection.request("GET", sys.argv[1])
print(connection.getresponse().read().decode())
"""
