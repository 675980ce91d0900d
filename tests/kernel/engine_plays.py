"""What is played on the engine's stage: `unshare -Urn python -m tests.kernel.engine_plays PLAY`; its result is JSON."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

import msgspec

from sidegate.gateway.engine import questions
from sidegate.gateway.engine.upstream import Upstream
from sidegate.gateway.engine.xray import Engine, dns_endpoints
from sidegate.gateway.split.policy import BLOCK, DIRECT, PROXY, Destination, Policy, Rule
from sidegate.gateway.split.ports import ENGINE_MARK, MARK_MASK, STEERED_MARK, TABLE, dns_port, ports
from tests.kernel.engine_stage.addresses import (
    BOX,
    BOX6,
    CLIENT,
    CLIENT6,
    NAME,
    RESOLVER,
    SILENT,
    TARGET,
    TARGET6,
)
from tests.kernel.engine_stage.clients import (
    WITHIN_S,
    dns_answer,
    dns_answers,
    exactly,
    read_page,
    talking,
    udp_answer,
    web_answer,
)
from tests.kernel.engine_stage.kinds import Json
from tests.kernel.engine_stage.networks import Inside, network
from tests.kernel.engine_stage.programs import engine, sh, wait_until
from tests.kernel.engine_stage.resolver import Resolver
from tests.kernel.engine_stage.stage import Stage, stage, upstreams_of
from tests.kernel.gateway_rig import once_own

_ATTEMPTS = 4
"""At what is a fault only where nobody who takes part was kept waiting for a second, as by a busy machine."""


def every_kind() -> Json:
    """Web and UDP through an upstream of each kind; nothing leaves without the engine's mark."""
    with stage() as it:
        watch_marks()
        upstreams = upstreams_of(it.links)
        with engine(Engine(Policy(), upstreams), it.directory) as program:
            told = {u.name: _through(ports(0, i).socks, u) for i, u in enumerate(upstreams)}
            rights = _rights(program.pid)
        return {**told, "unmarked": unmarked_packets(), "rights": rights}


def _rights(pid: int) -> Json:
    """What the process may do, and what its command line shows (proc_pid_status(5))."""
    fields = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    shown = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")
    rights: Json = {key: int(fields[key], 16) for key in shown}
    rights["command"] = Path(f"/proc/{pid}/cmdline").read_text()
    return {**rights, "ends first": int(Path(f"/proc/{pid}/oom_score_adj").read_text()) > 0}


def _through(port: int, it: Upstream) -> Json:
    return {"web": web_answer(port), "udp": udp_answer(port) if it.udp else "none"}


def mistakes() -> Json:
    """Wrong secrets, a server that is not there, an upstream that Xray refuses: the others work all the same."""
    with stage() as it:
        wrong = {name: _with_another_secret(it.links[name]) for name in ("socks", "http", "ss2022", "trojan")}
        protocols = {"refused": "vless", "refused-too": "vmess"}
        refused = [Upstream(n, "other", "", 0, {"protocol": p, "settings": {}}) for n, p in protocols.items()]
        dead = it.links["ss"].rpartition(":")[0] + ":9"
        links = {**wrong, "dead": "socks5://192.0.2.1:9", "dead-too": dead, "good": it.links["ss"]}
        upstreams = (*refused, *upstreams_of(links))
        with engine(Engine(Policy(), upstreams), it.directory):
            told: Json = {u.name: web_answer(ports(0, i).socks) for i, u in enumerate(upstreams)}
        return {**told, "left out": (it.directory / "engine-0.refused").read_text().split()}


def _with_another_secret(link: str) -> str:
    for old, new in (
        ("pass%3Aword", "other"),
        ("YWVzLTEyOC1nY206cHc", "YWVzLTEyOC1nY206b3RoZXI"),
        ("AAECAw", "AAECAA"),
    ):
        link = link.replace(old, new)
    return link.replace("pw@", "other@")


def port_taken() -> Json:
    with stage() as it, socket.create_server(("127.0.0.1", ports(0, 0).socks)):
        engine_ = Engine(Policy(), upstreams_of({"ss": it.links["ss"]}))
        with engine(engine_, it.directory) as program:
            return {"code": program.wait(2 * WITHIN_S)}


def names() -> Json:
    """Who is asked for which name, and by which way."""
    with stage() as it:
        link = it.links["socks"].replace("192.0.2.1", "server.example")
        servers = (RESOLVER, "tls://proxy.example")
        engine_ = Engine(Policy(), upstreams_of({"socks": link}), 0, servers, (IPv4Address("192.0.2.53"),))
        # No engine takes the certificate of an authority that was made up here.
        known = '"serverName": "proxy.example"'
        with engine(engine_, it.directory, known, f'{known}, "pinnedPeerCertSha256": "{it.certificate.pin}"'):
            plain, over_tls = dns_endpoints(0, 0, servers)
            told: Json = {
                "plain": dns_answer(plain, "a.example"),
                "tls": dns_answer(over_tls, "b.example"),
                "dns_port": dns_answer(("127.0.0.1", dns_port(0)), "c.example"),
                "text": dns_answer(plain, "d.example", 16),
                "https": dns_answer(plain, "e.example", 65),
                "web": web_answer(ports(0, 0).socks),
            }
        return {**told, "proxied": it.resolver.asked, "direct": it.direct_resolver.asked}


def many_names() -> Json:
    """Of a server that allows few connections; of one that closes each after its answer."""
    with stage() as it:
        servers = (RESOLVER,)
        with engine(Engine(Policy(), upstreams_of({"socks": it.links["socks"]}), 0, servers), it.directory):
            (at,) = dns_endpoints(0, 0, servers)
            it.resolver.closes, it.resolver.allows = False, 3
            kept = _all_in_time(it.resolver, at)
            most = it.resolver.most
            it.resolver.closes, it.resolver.allows = True, 1000
            dns_answers(at, [f"l{i}.example" for i in range(20)])
            closed, _ = dns_answers(at, [f"m{i}.example" for i in range(60)])
            return {"kept": sorted(set(kept)), "closed": sorted(set(closed)), "most": most}


def _all_in_time(resolver: Resolver, at: tuple[str, int]) -> list[str]:
    """What comes of many names. Only where none is answered late, more than one connection says anything: what is late
    is asked for on another."""
    for attempt in range(_ATTEMPTS):
        wait_until(lambda: resolver.open == 0)
        resolver.most = 0
        found, slowest_s = dns_answers(at, [f"n{attempt}-{i}.example" for i in range(200)])
        if resolver.most == 1 or slowest_s < questions.LATE_S:
            break
    return found


def names_over_https() -> Json:
    """Many at a time, of two servers of which one says nothing; the authority is one that this system trusts."""
    with stage() as it:
        os.environ["SSL_CERT_FILE"] = str(it.certificate.authority)
        for _ in range(_ATTEMPTS):
            it.resolver.most = 0
            found, slowest_s = _asked_over_https(it)
            # The first one goes alone, so that the others share its connection, but for no longer than this.
            if it.resolver.most == 1 or slowest_s < questions.ALONE_S:
                break
        return {"found": sorted(set(found)), "direct": it.direct_resolver.asked, "most": it.resolver.most}


def _asked_over_https(it: Stage) -> tuple[list[str], float]:
    """As `dns_answers`, of an engine that has no connection yet."""
    servers = (f"https://{SILENT}/dns-query", f"https://{NAME}/dns-query")
    with engine(Engine(Policy(), upstreams_of({"socks": it.links["socks"]}), 0, servers), it.directory):
        first, second = dns_endpoints(0, 0, servers)
        found, slowest_s = dns_answers(first, [f"n{i}.example" for i in range(50)])
        others, slowest_of_others_s = dns_answers(second, [f"m{i}.example" for i in range(50)])
    return found + others, max(slowest_s, slowest_of_others_s)


# With a client behind it

_CLIENT, _WITHOUT_COOKIE = 1, 4
"""Documentation/networking/ip-sysctl.rst, tcp_fastopen; who is asked has none of it, and hears as from anybody."""


def steered() -> Json:
    """A client's traffic as the kernel hands it over: decided, and by the name that it shows."""
    listed = Destination(suffixes=("listed.example",))
    blocked = Destination(names=("blocked.example",))
    networks = Destination(networks4=())
    policy = Policy((Rule("0", BLOCK, blocked), Rule("1", PROXY, listed), Rule("2", DIRECT, networks)), DIRECT)
    with stage() as it, lan() as inside:
        watch_marks()
        with engine(Engine(policy, upstreams_of({"ss": it.links["ss"]})), it.directory):
            steer_to(ports(0, 0).decided)
            told: Json = {
                "decided": inside(lambda: page("other.example")),
                "decided, listed": inside(lambda: page("listed.example")),
                "decided, late": inside(late_answer),
                "decided, IPv6": inside(lambda: page("six.example", TARGET6)),
                "udp, IPv6": inside(lambda: datagram(b"hello", TARGET6)),
                "udp": inside(lambda: datagram(b"hello")),
                "udp, other port": inside(lambda: datagram(b"other port")),
            }
            steer_to(ports(0, 0).named)
            hosts = ("other.example", "www.listed.example", "listed.example", "blocked.example", "cloudflare-ech.com")
            told |= {f"named, {host}": inside(partial(page, host)) for host in hosts}
            told["named, none"] = inside(lambda: page(""))
            told["named, udp"] = inside(lambda: datagram(b"hello"))
        return {**told, "unmarked": unmarked_packets()}


@contextmanager
def lan() -> Iterator[Inside]:
    """A client behind this box."""
    with network("lan", BOX, CLIENT) as inside:
        sh(f"ip addr add {BOX6}/64 dev lan nodad\n{once_own(BOX6)}")
        way = f"ip route add default via {BOX6}"
        inside(lambda: sh(f"ip addr add {CLIENT6}/64 dev eth0 nodad; {way}\n{once_own(CLIENT6)}"))
        inside(lambda: sh(f"echo {_CLIENT | _WITHOUT_COOKIE} > /proc/sys/net/ipv4/tcp_fastopen"))
        for version in (4, 6):
            sh(f"ip -{version} rule add fwmark {STEERED_MARK}/{MARK_MASK} lookup {TABLE}")
            sh(f"ip -{version} route add local default dev lo table {TABLE}")
        yield inside


def steer_to(port: int, **others: int) -> None:
    """others: where goes what a condition of nft's holds for."""
    to = [*(f"{condition} tproxy to :{its} meta mark set {STEERED_MARK} accept" for condition, its in others.items())]
    listed = "\n        ".join(to)
    _nft(f"""\
table inet steer
delete table inet steer
table inet steer {{
    chain p {{
        type filter hook prerouting priority raw
        iifname != lan accept
        {listed}
        meta l4proto {{ tcp, udp }} tproxy to :{port} meta mark set {STEERED_MARK} accept
    }}
}}
""")


def _nft(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text.encode(), check=True)


def page(host: str, at: str = TARGET) -> str:
    """host: empty: words that are no HTTP, which the server takes for a broken request."""
    words = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode() if host else b"GET /\r\n\r\n"
    with talking((at, 80), words) as it, suppress(ConnectionResetError):
        return read_page(it)
    return "closed"


def late_answer() -> str:
    """To a client that has closed its own way."""
    with socket.create_connection((TARGET, 81), WITHIN_S) as it:
        it.sendall(b"that is all")
        it.shutdown(socket.SHUT_WR)
        return exactly(it, len(b"late")).decode() or "closed"


def datagram(words: bytes, at: str = TARGET) -> str:
    with socket.socket(socket.AF_INET6 if ":" in at else socket.AF_INET, socket.SOCK_DGRAM) as it:
        it.settimeout(WITHIN_S)
        it.sendto(words, (at, 7))
        try:
            data, peer = it.recvfrom(2048)
        except OSError as error:
            return type(error).__name__
    return f"{data.decode()} by {peer[0]}:{peer[1]}"


# Marks


def watch_marks() -> None:
    """Counts what leaves without the engine's mark: nobody but the engine talks to anybody out there.

    A reset may come from the kernel, when no socket is left: it begins nothing.
    """
    _nft(f"""\
table inet marks {{
    counter unmarked {{
    }}
    chain o {{
        type filter hook output priority 0
        oifname wan meta l4proto udp meta mark & {MARK_MASK} != {ENGINE_MARK} counter name unmarked
        oifname wan tcp flags & rst == 0 meta mark & {MARK_MASK} != {ENGINE_MARK} counter name unmarked
    }}
}}
""")


def unmarked_packets() -> int:
    text = subprocess.run(
        ["nft", "-j", "list", "counter", "inet", "marks", "unmarked"], check=True, capture_output=True
    ).stdout
    found = msgspec.json.decode(text, type=dict[str, list[dict[str, Json]]])
    return int(next(it["counter"]["packets"] for it in found["nftables"] if "counter" in it))


PLAYS: dict[str, Callable[[], Json]] = {
    it.__name__: it for it in (every_kind, mistakes, port_taken, names, many_names, names_over_https, steered)
}

if __name__ == "__main__":
    print(json.dumps(PLAYS[sys.argv[1]]()))
