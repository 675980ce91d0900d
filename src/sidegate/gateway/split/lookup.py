"""The answer to `GET /v1/explain`: the question as it comes in, what the kernel has learned, and what follows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

from msgspec import structs

from sidegate.gateway.box import programs
from sidegate.gateway.config.fields import OnFailure, mac_of
from sidegate.gateway.desired import TABLE
from sidegate.gateway.dns.learned import kept_set, names_set
from sidegate.gateway.ruleset.inbound import Forwarded
from sidegate.gateway.ruleset.sparing import PROXIES
from sidegate.gateway.split.explaining import Carries, ExplainView, Via, explained
from sidegate.gateway.split.judge import Packet
from sidegate.gateway.split.names import ascii_name
from sidegate.gateway.split.policy import Policy
from sidegate.problems import Problem, Problems

_PROTOCOLS = ("tcp", "udp", "icmp")


def answer(
    query: Mapping[str, str],
    policy: Policy,
    via: Via,
    on_failure: OnFailure,
    carries_udp: Carries,
    forwarded: Collection[Forwarded] = (),
) -> ExplainView:
    """query: see `packet_of`. Raises Problems: the question makes no sense, or nft is missing."""
    packet = packet_of(query)
    packet = structs.replace(packet, learned=learned_in(policy, packet.destination), is_spared=_is_spared(packet))
    return explained(policy, packet, via, on_failure, carries_udp, forwarded)


def packet_of(query: Mapping[str, str]) -> Packet:
    """query: client and destination: addresses; mac; and, if any, name, protocol and port. Raises Problems."""
    protocol = query.get("protocol", "tcp")
    try:
        if protocol not in _PROTOCOLS:
            raise ValueError(f"protocol: one of {', '.join(_PROTOCOLS)}")
        return Packet(
            mac=query["mac"].lower(),
            source=_address(query["client"]),
            destination=_address(query["destination"]),
            name=ascii_name(query["name"]) if query.get("name") else None,
            protocol=protocol,
            port=int(query.get("port", "443")),
        )
    except KeyError as error:
        raise Problems(Problem("explain", f"the question lacks {error}")) from None
    except ValueError as error:
        raise Problems(Problem("explain", f"no such question: {error}")) from None


def _address(text: str) -> IPv4Address | IPv6Address:
    """Without a zone (`%eth0`): it may be any text at all, and would become part of a command. Raises ValueError."""
    if "%" in text:
        raise ValueError("an address with a zone")
    return ip_address(text)


def learned_in(policy: Policy, address: IPv4Address | IPv6Address) -> tuple[int, ...]:
    """The rules, by their place, for one of whose names the kernel has this address now. Raises Problems."""
    named = [(i, it.names_key) for i, r in enumerate(policy.rules) if (it := r.destination) and it.has_names]
    version = address.version
    holding = {
        key for key in {key for _, key in named} if any(_is_in(s(key, version), address) for s in (names_set, kept_set))
    }
    return tuple(i for i, key in named if key in holding)


def _is_spared(packet: Packet) -> bool:
    """Whether the kernel takes the device for an upstream's server. Raises Problems.

    mac_of: what is no MAC address may be any text at all, and would become part of a command.
    """
    mac = mac_of(packet.mac)
    by_address = _is_in(f"unsteered{packet.source.version}", packet.source)
    return by_address or (mac is not None and _is_in(PROXIES, mac))


def _is_in(name: str, value: IPv4Address | IPv6Address | str) -> bool:
    """A set that is not there holds nothing."""
    status, _, _ = programs.attempt("nft", "get", "element", "inet", TABLE, name, f"{{ {value} }}")
    return status == 0
