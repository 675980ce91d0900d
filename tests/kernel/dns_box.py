"""A resolver of ours on a lab's gateway, by itself: without the daemon, and with a stand-in for the engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import msgspec

from sidegate.gateway.dns.names import name_table
from sidegate.gateway.dns.resolver import Resolver
from sidegate.gateway.ruleset.nft import Shape, ruleset
from sidegate.gateway.ruleset.services import Services
from sidegate.gateway.split.policy import Destination, Policy, Rule
from sidegate.lab.lab import Lab
from sidegate.lab.resolving import resolve
from sidegate.reading import encode_address

ENGINE_PORT = 15499
WE = "192.168.1.2"
TRUTH, LIE = "5.1.2.3", "123.100.96.66"
PATIENCE_S = 15.0
"""For an answer that is sure to come: the question passes a client, us, another server, and all the way back."""
ISP = IPv4Address("123.100.96.53")
WANT = """
import sys, time, msgspec
from pathlib import Path
from sidegate.gateway.dns.child import Resolving
from sidegate.gateway.dns.resolver import Resolver
from sidegate.gateway.box.places import Places
from sidegate.reading import decode_address
it = msgspec.json.decode(sys.stdin.read(), type=Resolver | None, dec_hook=decode_address)
resolving = Resolving(Places(Path("/run/state"), Path("/run/own")), print, grace_s=0)
for change in resolving.want(it, sys.argv[1]):
    print(change.what)
deadline = time.monotonic() + 30
while not (resolving.has_followed() if it is None else resolving.is_settled()):
    resolving.turn(time.monotonic())
    if resolving.answers():
        resolving.led(resolving.lead)
    assert time.monotonic() < deadline, resolving.faults()
    time.sleep(0.01)
resolving.turn(time.monotonic())
print(resolving.pid())
"""
ASK_FIRST = """
from ipaddress import IPv4Address
from sidegate.gateway.dns.here import port_problem
print(port_problem(IPv4Address("192.168.1.2")) or "", end="")
"""
KEY = Destination(suffixes=("foreign.example",)).names_key
NAMES4, KEPT4, NAMES6 = f"names_{KEY}_4", f"kept_{KEY}_4", f"names_{KEY}_6"
TABLE = f"""
table inet sidegate {{
    set {NAMES4} {{ type ipv4_addr; flags timeout; timeout 2h; }}
    set {KEPT4} {{ type ipv4_addr; flags timeout; timeout 2h; }}
}}
"""


def proxied(*suffixes: str, send: str = "proxy", default: str = "direct") -> Policy:
    return Policy((Rule("rule[0]", send, Destination(suffixes=suffixes)),), default)


def resolver(policy: Policy, **settings: Any) -> Resolver:
    return msgspec.structs.replace(
        Resolver(
            interface="eth0",
            lan=(IPv4Network("192.168.1.0/24"),),
            router=IPv4Address("192.168.1.1"),
            direct=(ISP,),
            engine_port=ENGINE_PORT,
            names=name_table(policy),
        ),
        **settings,
    )


class DnsBox:
    """The gateway of a lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.nft(TABLE)

    def want(self, it: Resolver | None, names: str = "") -> list[str]:
        """What it says it does, and last the resolver's process id."""
        text = msgspec.json.encode(it, enc_hook=encode_address).decode()
        return self.lab.run("gateway", sys.executable, "-c", WANT, names, text=text).stdout.splitlines()

    def start_engine(self, *options: str) -> None:
        """Something that answers the truth where the engine would."""
        self.lab.run(
            "gateway",
            "dnsmasq",
            f"--port={ENGINE_PORT}",
            "--conf-file=/dev/null",
            "--listen-address=127.0.0.1",
            "--bind-interfaces",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--group=",
            "--pid-file=/run/engine.pid",
            f"--address=/foreign.example/{TRUTH}",
            "--local-ttl=600",
            *options,
        )

    def stop_engine(self) -> None:
        end(self.lab, "gateway", "/run/engine.pid")

    def ask(
        self, name: str, kind: str = "A", client: str = "phone", over: str = "udp", again_s: float = PATIENCE_S
    ) -> str:
        """Addresses, or why there are none: see `resolve`. Asked once, however late the answer: questions are counted,
        and a second one may find what the first does not.
        """
        return self.lab.call(client, resolve, name, WE, kind, over, PATIENCE_S, 53, "", again_s).detail

    def ask_first(self) -> str:
        """Who is in the way, in words; empty for nobody."""
        return self.lab.run("gateway", sys.executable, "-c", ASK_FIRST).stdout

    def learned(self, name: str = NAMES4) -> dict[str, int]:
        """The addresses in a set, and the seconds that each has left."""
        text = self.lab.run("gateway", "nft", "-j", "list", "set", "inet", "sidegate", name).stdout
        found = next(o["set"] for o in msgspec.json.decode(text)["nftables"] if "set" in o)
        return {e["elem"]["val"]: e["elem"]["expires"] for e in found.get("elem", ())}

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """The gateway's own rules meanwhile, with our resolver as the only service."""
        mac = self.lab.plan.wire_of("gateway").near.mac
        shape = Shape("eth0", mac, (IPv4Network("192.168.1.0/24"),), "never", services=Services(names=True))
        self.nft(ruleset(shape))
        yield
        self.nft(f"delete table inet sidegate\n{TABLE}")

    def nft(self, text: str) -> None:
        self.lab.run("gateway", "nft", "-f", "-", text=text)


def end(lab: Lab, machine: str, pid_file: str) -> None:
    """Ends a dnsmasq, and waits: until it is gone it holds its port, and then it removes the file (EVENT_TERM in its
    src/dnsmasq.c), which may be its successor's.
    """
    script = f"pid=$(cat {pid_file}); kill $pid; while kill -0 $pid 2>/dev/null; do sleep 0.01; done"
    lab.run(machine, "sh", "-ec", script)
