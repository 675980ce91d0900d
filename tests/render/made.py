"""Hand-made material for the tests of this room: homes and one result of the demo."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv6Address

from msgspec.structs import replace

from sidegate.demo.result import (
    Bar,
    ClientReach,
    Durations,
    EvidenceLine,
    ProbeFinding,
    Reach,
    Result,
    Split,
    SplitScene,
    Stage,
    Versions,
    Visit,
)
from sidegate.home import (
    Assumed,
    Client,
    Dhcp,
    Gateway,
    Home,
    Internet,
    Modem,
    Node,
    Router,
    Server,
)
from sidegate.render.picture import Mark

HOSTILE = '<script>alert("1")</script>&]]>\x00\x1b[31m\u202e`end"\n‮﷽ 网关 🏠'


def article_home() -> Home:
    """As the shipped `velop-mesh`, but the tests' own: it does not change when that file does."""
    return Home(
        title="The article's home",
        name="velop-mesh",
        internet=Internet(
            (
                Server("server", IPv4Address("1.2.3.4"), IPv6Address("2001:db8:cafe::4"), "server.example"),
                Server("resolver", IPv4Address("1.1.1.1"), domain="resolver.example"),
            ),
            blocked=(IPv4Address("203.0.113.66"),),
        ),
        router=Router(
            IPv4Interface("123.100.101.102/24"),
            IPv4Interface("192.168.1.1/24"),
            profile="linksys-velop-mx4200",
            assume=Assumed(bridge_filter="on"),
            dhcp=Dhcp(off=True),
        ),
        node=(Node("study", "wifi"),),
        gateway=Gateway(IPv4Address("192.168.1.2"), rate_mbit=100),
        client=(
            Client("my-computer", IPv4Address("192.168.1.123"), rate_mbit=1000),
            Client("desk-computer", IPv4Address("192.168.1.124"), at="study"),
            Client("tablet", IPv4Address("192.168.1.125"), by="wifi"),
            Client("phone", IPv4Address("192.168.1.126"), at="study", by="wifi"),
        ),
    )


def odd_home() -> Home:
    """A modem with NAT, no switch chip, a gateway pulled out of a wired access point, two radios, hostile names."""
    base = article_home()
    return replace(
        base,
        title=HOSTILE * 3,
        internet=Internet((Server("s" + HOSTILE, IPv4Address("1.2.3.4")),), blocked=(IPv4Address("1.2.3.4"),)),
        modem=Modem(IPv4Interface("198.51.100.7/24"), IPv4Interface("192.168.0.1/24")),
        router=replace(base.router, switch_chip=False, radios=("radio0", "radio1"), wan_rate_mbit=2500, name="end"),
        node=(Node("attic", "wire", at="end", rate_mbit=1000), Node("shed", "wifi", at="attic", radios=())),
        gateway=Gateway(IPv4Address("192.168.1.2"), at="attic", plugged=False),
        client=(
            Client(
                HOSTILE, IPv4Address("192.168.1.50"), IPv6Address("2001:db8:1111:2222:3333:4444:5555:6666"), at="end"
            ),
            Client("printer", IPv4Address("192.168.1.51"), at="shed", gateway="none"),
            Client("tv", IPv4Address("192.168.1.52"), at="attic", by="wifi", gateway="router"),
        ),
    )


def odd_marks() -> dict[str, Mark]:
    return {HOSTILE: Mark("bad", "offline " + HOSTILE), "tv": Mark("costly", "online, masqueraded")}


def big_home(clients: int, nodes: int, v6: bool = False) -> Home:
    """Clients spread evenly over the router and the nodes; two in three on Wi-Fi."""
    base = article_home()
    boxes = ["router", *(f"node-{i}" for i in range(nodes))]
    return replace(
        base,
        title=f"A home with {clients} devices",
        router=replace(base.router, ports=clients + nodes + 1, radios=("radio0", "radio1")),
        node=tuple(
            Node(name, "wifi" if i % 2 else "wire", at=boxes[i // 3], ports=clients + nodes + 1)
            for i, name in enumerate(boxes[1:])
        ),
        client=tuple(
            Client(
                f"device-{i}",
                IPv4Address("10.0.0.10") + i,
                IPv6Address("2001:db8:1:1::100") + i if v6 else None,
                at=boxes[i % len(boxes)],
                by="wifi" if i // len(boxes) % 3 else "wire",
                rate_mbit=1000 if i % 7 == 0 else None,
            )
            for i in range(clients)
        ),
    )


SPLIT = Split(
    "phone",
    (
        SplitScene(
            "Without a proxy",
            (Visit("www.example", "lie", "a page of 192.0.2.66", 2.0), Visit("a.example", "dead", "lost")),
        ),
        SplitScene("Engine killed", (Visit("www.example", "proxied", "the server saw 192.0.2.9", 3.1),)),
    ),
    310.4,
)


def demo_result() -> Result:
    """A demo of `article_home` that went as it should."""
    v6 = Reach("direct", "200 OK", 2.5)
    dead = Reach("dead", "no answer within 1 s", 1000)
    direct, masqueraded = Reach("direct", "200 OK", 1.8), Reach("masqueraded", "200 OK", 2.2)
    wired, wireless = ("my-computer",), ("desk-computer", "tablet", "phone")

    def clients(for_wired: Reach, for_wireless: Reach) -> tuple[ClientReach, ...]:
        found = [*((n, for_wired) for n in wired), *((n, for_wireless) for n in wireless)]
        return tuple(ClientReach(name, v4, None if name == "phone" else v6) for name, v4 in found)

    return Result(
        home="velop-mesh",
        title="The article's home",
        stages=(
            Stage("gateway only forwards", "forwarding", "server", clients(direct, dead)),
            Stage("sidegate up", "sidegate", "server", clients(direct, masqueraded)),
        ),
        durations=Durations(built_ms=212.4, decided_ms=1310, total_ms=9800),
        versions=Versions(sidegate="0.1.0", kernel="6.18.5"),
        command="sidegate demo --home velop-mesh",
        probes=(
            _probe("my-computer", "direct", "answered after 1.1 ms"),
            _probe("tablet", "masquerade", "no answer within 300 ms"),
            ProbeFinding("phone", "unknown", "none", "", "", ()),
        ),
        throughput=(
            Bar("wired client, masquerade for all", 95.2, "gateway port 100 Mbit/s, client 1 Gbit/s"),
            Bar("wired client, with Sidegate", 949.0, "the same home in the same run"),
        ),
        split=SPLIT,
    )


def _probe(client: str, verdict: str, treatment: str) -> ProbeFinding:
    lines = (
        (0.0, "control: echo 41 to 1.1.1.1 by way of the router"),
        (1.1, "control: answered after 1.1 ms"),
        (1.4, f"poison: echo 42 to 1.1.1.1, TTL 1, to the MAC of {client}"),
        (6.0, "treatment: echo 42 to 1.1.1.1 by way of the router"),
        (306.0, f"treatment: {treatment}"),
    )
    evidence = tuple(EvidenceLine(at_ms, text) for at_ms, text in lines)
    return ProbeFinding(client, verdict, "strong", "icmp", "1.1.1.1", evidence)  # type: ignore[arg-type]
