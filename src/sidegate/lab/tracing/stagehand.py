"""Arranging the machines of a lab, in the process inside."""

from __future__ import annotations

import contextlib
import socket
import struct

from sidegate.lab.blueprint import LAN_PORT, gateway_commands
from sidegate.lab.tracing.orders import ENGINE_LISTENS, Arrangement
from sidegate.lab.tracing.stage import Stage, run, set_ipv4

_ETH_EXPERIMENT = 0x88B5  # IEEE Std 802, local experimental ethertype


class Stagehand:
    """Makes every machine as an arrangement says."""

    def __init__(self, stage: Stage, it: Arrangement) -> None:
        self.stage, self.setting, self.it = stage, it.setting, it

    def arrange(self) -> None:
        for name, lines in self.it.neighbours.items():
            self._prepare(name, lines)
        for name in self.stage.spaces:
            self.stage.enter(name)
            set_ipv4(f"conf/all/rp_filter={int(name in self.setting.strict)}")
        for client in self.it.clients:
            self.stage.enter(client)
            accepts = int(self.setting.redirects_accepted)
            set_ipv4(*(f"conf/{i}/accept_redirects={accepts}" for i in _SCOPES))
        if self.it.gateway:
            self.stage.enter(self.it.gateway)
            self._arrange_gateway()
        self.stage.settle(0)

    def _prepare(self, name: str, neighbours: tuple[str, ...]) -> None:
        self.stage.enter(name)
        set_ipv4("icmp_ratelimit=0")
        with contextlib.suppress(FileNotFoundError):
            # Per network namespace only since Linux 6.12 (net/ipv4/icmp.c, icmp_global_allow).
            set_ipv4("icmp_msgs_per_sec=1000000")
        if neighbours:
            run("ip", "-batch", "-", text="\n".join(neighbours) + "\n")
        _announce()

    def _arrange_gateway(self) -> None:
        setting = self.setting
        run("nft", "flush", "ruleset")
        for command in gateway_commands("forwarding" if setting.runs == "sidegate" else setting.runs):
            run(*command)
        set_ipv4(*(f"conf/{i}/send_redirects={int(setting.redirects_sent)}" for i in _SCOPES))
        if setting.runs == "sidegate":
            run("nft", "-f", "-", text=self.it.ruleset)
        run("ip", "rule", "del", "fwmark", "1", check=False)
        if setting.proxied and setting.forwards:
            run("ip", "rule", "add", "fwmark", "1", "lookup", "100")
            run("ip", "route", "replace", "local", "0.0.0.0/0", "dev", "lo", "table", "100")
            run("nft", "-f", "-", text=_engine_rules(self.it.lan))


_SCOPES = ("all", LAN_PORT)


def _announce() -> None:
    """A broadcast from every interface, so that every bridge knows the way to it."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        for _, name in socket.if_nameindex():
            if name != "lo":
                with contextlib.suppress(OSError):  # a pulled cable
                    sender.bind((name, 0))
                    sender.send(b"\xff" * 6 + sender.getsockname()[4] + struct.pack("!H", _ETH_EXPERIMENT) + bytes(46))


def _engine_rules(lan: str) -> str:
    """All TCP of the LAN to the internet goes to the engine (nft(8), TPROXY STATEMENT)."""
    return (
        "table ip engine {\n    chain arriving {\n        type filter hook prerouting priority mangle; policy accept;\n"
        f"        ip saddr {lan} ip daddr != {lan} meta l4proto tcp tproxy to :{ENGINE_LISTENS} meta mark set 1\n"
        "    }\n}\n"
    )
