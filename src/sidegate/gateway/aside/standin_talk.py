"""What to say, and to whom, while the router stands in for us: pure, and the one socket that it is heard and said by.

The laws are in `stepaside`.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address

from sidegate.packet import ETH_ARP, ETH_IPV4, NO_MAC, Arp, Frame, Ipv4, Mac, frame_of
from sidegate.probe.talk import Vantage
from sidegate.probe.wire import Step, assemble, attach_filter

LARGEST_FRAME = 65536
_WORD, _HALF = 0x20, 0x28
_IS, _TAKE = 0x15, 0x06
_PACKET_TYPE = 0xFFFFF000 + 4
_HOST, _OUTGOING = 0, 4


def announcement(at: Vantage, mac: Mac, to: Mac) -> Frame:
    """To one device: our address is at `mac`. A request, so that it is gratuitous for every kernel (arp_is_garp)."""
    return frame_of(to, at.mac, Arp(False, mac, at.ip, NO_MAC, at.ip))


def answer(at: Vantage, frame: Frame) -> Frame | None:
    """What to say to whoever sent this; None: nothing to say. Pure."""
    body = frame.body
    if not _is_client(at, frame.src):
        return None
    if isinstance(body, Arp):
        if body.reply or body.target_ip != at.ip or not _is_client(at, body.sender_mac):
            return None
        return frame_of(body.sender_mac, at.mac, Arp(True, at.router_mac, at.ip, body.sender_mac, body.sender_ip))
    if isinstance(body, Ipv4) and frame.dst == at.mac and body.dst != at.ip:
        return announcement(at, at.router_mac, frame.src)
    return None


def _is_client(at: Vantage, mac: Mac) -> bool:
    """Whether an answer may go there: one other device; the lowest bit of the first byte marks a group."""
    is_group = bool(int(mac[:2], 16) & 1)
    return not is_group and mac not in (at.mac, at.router_mac, NO_MAC)


def heard_by(our_ip: IPv4Address) -> dict[str, list[Step]]:
    """ARP requests for our address; IPv4 frames to our MAC address that are not for us."""
    return {
        "direction": [(_WORD, _PACKET_TYPE, "", ""), (_IS, _OUTGOING, "drop", "")],
        "ethertype": [(_HALF, 12, "", ""), (_IS, ETH_ARP, "arp", ""), (_IS, ETH_IPV4, "ip", "drop")],
        "arp": [(_HALF, 20, "", ""), (_IS, 1, "", "drop"), (_WORD, 38, "", ""), (_IS, int(our_ip), "take", "drop")],
        "ip": [
            *((_WORD, _PACKET_TYPE, "", ""), (_IS, _HOST, "", "drop")),
            *((_WORD, 30, "", ""), (_IS, int(our_ip), "drop", "take")),
        ],
        "drop": [(_TAKE, 0, "", "")],
        "take": [(_TAKE, LARGEST_FRAME, "", "")],
    }


def packet_socket(at: Vantage) -> socket.socket:
    """Hears `heard_by`. Raises OSError."""
    heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    attach_filter(heard, assemble(heard_by(at.ip)))
    heard.setblocking(False)
    heard.bind((at.interface, 0x0003))
    return heard
