"""The grammar of nft that our table is written in, and the keys by which its sets know clients and flows: pure text.

Rules one per line: nft 1.0.6 wants a newline before a closing brace.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sidegate.gateway.split.ports import ENGINE_MARK, LAN_BIT, MARK_MASK, STEERED_MARK, UPSTREAM_BIT

CLIENT = "ether saddr . ip saddr"
COUNTED = f"meta nfproto ipv4 update @clients4 {{ {CLIENT} }}"
"""The family first, where nothing in the rule has asked for it: else nft has the frame's type read as well, and what
is read from a frame's header is the slow kind (`nf_tables_core.c` nft_payload_fast_eval, `nft_payload.c`)."""
TUPLE = "ip saddr . th sport . ip daddr . th dport"
"""Of TCP, where that is known already: `tcp sport` would make nft ask for the protocol again, in each rule."""
FLOW = "ip saddr . meta l4proto . th sport . ip daddr . th dport"
FLOW6 = "ip6 saddr . meta l4proto . th sport . ip6 daddr . th dport"
SYN = "tcp flags & (fin | syn | rst | ack) == syn"
NO_SYN = "tcp flags & (fin | syn | rst | ack) != syn"
HAS_ACK = "tcp flags & ack != 0"
STEERED = f"meta mark & {MARK_MASK:#010x} == {STEERED_MARK:#010x}"
TO_UPSTREAM = f"socket mark & {MARK_MASK | UPSTREAM_BIT:#010x} == {ENGINE_MARK | UPSTREAM_BIT:#010x}"
FOR_LAN_PORT = f"meta mark & {MARK_MASK | LAN_BIT:#010x} == {ENGINE_MARK | LAN_BIT:#010x}"
MARKING = f"meta mark set meta mark & {~MARK_MASK & 0xFFFFFFFF:#010x} | {STEERED_MARK:#010x}"
"""Other bits of the mark are not ours."""

OF_A_LAN6 = ("2000::/3", "fc00::/7")
"""What an address may be in that leaves a LAN (RFC 4291 section 2.4, RFC 4193 section 3.1)."""
FLOWS_SIZE = 65536


def block(kind: str, name: str, lines: Iterable[str]) -> str:
    """kind: set, map or chain."""
    return f"\t{kind} {name} {{\n" + "".join(f"\t\t{line}\n" for line in lines) + "\t}\n"


def constant(name: str, kind: str, elements: Sequence[str], *flags: str) -> str:
    """A set that the ruleset fills; elements: one at least."""
    return block("set", name, [f"type {kind}", *flags, f"elements = {{ {', '.join(elements)} }}"])


def dynamic(name: str, key: str, size: int, timeout_s: int, *more: str) -> str:
    """A set that packets fill."""
    lines = [f"typeof {key}", f"size {size}", "flags dynamic,timeout", f"timeout {timeout_s}s", *more]
    return block("set", name, lines)
