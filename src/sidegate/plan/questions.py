"""What is known of a router, what is not, and what a person can say or do about it.

A catalogue value whose evidence is `guess` counts as unknown: it is shown, and asked about.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from sidegate.home import Known, RouterProfile
from sidegate.plan.data import Device, Ground, Question, Wish
from sidegate.problems import Problem, Problems

ANSWERS = ("yes", "no", "unknown")
YOUR_ANSWER = "your answer"
_EXAMPLE = "write it as field=yes, field=no or field=unknown, for example --answer dhcp_gateway=no"

QUESTIONS: dict[str, Question] = {
    "dhcp_gateway": Question(
        "dhcp_gateway",
        "Can the router's DHCP page name another gateway than the router itself (DHCP option 3)?",
        'look on the page "LAN" or "DHCP server" for a field "gateway", "default gateway" or "router"',
        "whether one page of the router is all it takes",
    ),
    "dhcp_off": Question(
        "dhcp_off",
        "Can the router's DHCP server be turned off?",
        'look on the page "LAN" or "DHCP server" for a switch',
        "whether the box can hand out the addresses instead",
    ),
    "bridge_filter": Question(
        "bridge_filter",
        "Does the router's bridge run conntrack on frames between its ports (bridge-nf-call-iptables)?",
        "put the box on a LAN port and let it ask, for one device on Wi-Fi (its IPv4 address in place of ADDRESS)",
        "whether devices on Wi-Fi and on mesh nodes need masquerade",
        "sidegate probe bridge --client ADDRESS",
    ),
    "ssh": Question(
        "ssh",
        "Can you log in to the router over SSH?",
        "try `ssh root@192.168.1.1` with the router's address, or look for a switch on its administration page",
        "whether the router itself can be changed: its bridge filter turned off, or a proxy run on it",
    ),
    "dhcp_dns": Question(
        "dhcp_dns",
        "Can the router's DHCP page name another DNS server than the router itself (DHCP option 6)?",
        'look on the page "LAN" or "DHCP server" for a field "DNS"',
        "whether devices can be told to ask the box for names",
    ),
    "ra_off": Question(
        "ra_off",
        "Can the router's IPv6 router advertisements be turned off?",
        'look on the page "IPv6" or "LAN" for "router advertisement", "RA" or "SLAAC"',
        "whether devices that heed no preference can be made to send IPv6 by the box",
    ),
}
"""The most deciding first."""


def parse_answers(words: Iterable[str]) -> dict[str, str]:
    """`field=yes|no|unknown` each -> field and answer. Raises Problems with every word that is wrong."""
    answers: dict[str, str] = {}
    problems = []
    for word in words:
        name, equals, said = word.partition("=")
        field, value = name.strip().replace("-", "_"), said.strip().lower()
        problem = _wrong_answer(word, field, equals + value)
        if problem is None and answers.get(field, value) != value:
            problem = Problem(f"--answer {word}", f"{field} was already answered with {answers[field]}", "answer once")
        if problem is not None:
            problems.append(problem)
        answers[field] = value
    if problems:
        raise Problems(*problems)
    return answers


def _wrong_answer(word: str, field: str, said: str) -> Problem | None:
    where = f"--answer {word}"
    if not said.startswith("="):
        return Problem(where, "no answer in it", _EXAMPLE)
    if field not in QUESTIONS:
        near = difflib.get_close_matches(field, QUESTIONS, n=1)
        remedy = f'did you mean "{near[0]}"?' if near else "fields: " + ", ".join(QUESTIONS)
        return Problem(where, f'no field "{field}"', remedy)
    if said[1:] not in ANSWERS:
        return Problem(where, f'expected yes, no or unknown, got "{said[1:]}"', _EXAMPLE)
    return None


def with_answers(profile: RouterProfile, answers: dict[str, str]) -> RouterProfile:
    """The profile with a person's answers in place of its own values; `unknown` takes a value away."""
    values: dict[str, Any] = {field: _known(field, answer) for field, answer in answers.items()}
    return msgspec.structs.replace(profile, **values)


def _known(field: str, answer: str) -> Known[Any]:
    if answer == "unknown":
        return Known(note=f"{YOUR_ANSWER}: unknown")
    value: bool | str = answer == "yes"
    if field == "bridge_filter":
        value = "on" if answer == "yes" else "off"
    return Known(value, "report", YOUR_ANSWER)


def with_probes(profile: RouterProfile, devices: Sequence[Device]) -> tuple[RouterProfile, tuple[str, ...]]:
    """The profile with what a running gateway's probes have shown of the bridge filter, and notes about it.

    One client that needs masquerade proves the filter on, now. Clients that are answered directly prove nothing about
    others: frames between cables never reach the router's kernel.
    """
    filtered = [d for d in devices if d.verdict == "masquerade"]
    if not filtered:
        return profile, _note_direct(profile, devices)
    said, source = profile.bridge_filter, "the bridge probe of " + ", ".join(_called(d) for d in filtered)
    if value_of(said) == "unless-dhcp-points-away":
        note = f"{source}: the filter is on now; it goes off as this router's profile says"
        return profile, (note,)
    notes = (f"{source} contradicts the profile, which says the filter is off",) if said.value == "off" else ()
    return msgspec.structs.replace(profile, bridge_filter=Known("on", "measured", source)), notes


def _note_direct(profile: RouterProfile, devices: Sequence[Device]) -> tuple[str, ...]:
    direct = [d for d in devices if d.verdict == "direct"]
    if not direct:
        return ("no client has been probed yet: use the internet on a device behind the gateway, then ask again",)
    if value_of(profile.bridge_filter) == "off":
        return ()
    return (
        "every device probed so far is answered directly; only one on Wi-Fi or on a mesh node tells about the filter",
    )


def _called(device: Device) -> str:
    return f"{device.ip} ({device.name})" if device.name else device.ip


def value_of(known: Known[Any]) -> Any:
    """The value; None where it is unknown or only guessed."""
    return None if known.evidence == "guess" else known.value


def ground(profile: RouterProfile, field: str) -> Ground:
    """What the profile says of a field, with its evidence. value: empty for what is unknown or only guessed."""
    known: Known[Any] = getattr(profile, field)
    says = _SAYS[field].get(value_of(known), f"unknown: {_SUBJECTS[field]}")
    shown = {True: "yes", False: "no", None: ""}.get(known.value, str(known.value))
    if known.evidence == "guess":
        says, shown = f'{says} (guessed: "{shown}")', ""
    return Ground(field, says, shown, known.evidence or "", known.source, known.note)


_SUBJECTS = {
    "dhcp_gateway": "whether its DHCP can name another gateway",
    "dhcp_off": "whether its DHCP can be turned off",
    "bridge_filter": "whether its bridge runs conntrack on frames",
    "ssh": "whether it can be logged in to over SSH",
    "dhcp_dns": "whether its DHCP can name another DNS server",
    "ra_off": "whether its router advertisements can be turned off",
}
_SAYS: dict[str, dict[Any, str]] = {
    "dhcp_gateway": {
        True: "its DHCP can name another gateway",
        False: "its DHCP has no gateway field: it can name no other gateway than the router",
    },
    "dhcp_off": {True: "its DHCP can be turned off", False: "its DHCP cannot be turned off"},
    "bridge_filter": {
        "on": "its bridge runs conntrack on frames that cross its kernel",
        "off": "its bridge runs no conntrack on frames",
        "unless-dhcp-points-away": "its bridge runs conntrack on frames, unless its DHCP names another gateway or DNS",
    },
    "ssh": {True: "it can be logged in to over SSH", False: "it has no SSH"},
    "dhcp_dns": {True: "its DHCP can name another DNS server", False: "its DHCP can name no other DNS server"},
    "ra_off": {
        True: "its router advertisements can be turned off",
        False: "its router advertisements cannot be turned off",
    },
}


def relevant(wish: Wish) -> tuple[str, ...]:
    """The fields that a plan for this wish asks about."""
    return tuple(field for field in QUESTIONS if field != "ra_off" or wish.ipv6)


def open_questions(profile: RouterProfile, wish: Wish) -> tuple[Question, ...]:
    """What is unknown and matters, the most deciding first."""
    return tuple(QUESTIONS[field] for field in relevant(wish) if value_of(getattr(profile, field)) is None)
