"""Pure: what becomes of one packet, in words: which rule, why, and where it goes as things are now."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Literal

from msgspec import Struct, structs

from sidegate.gateway.config.fields import OnFailure
from sidegate.gateway.dns.names import name_table
from sidegate.gateway.dns.resolver import Answer
from sidegate.gateway.ruleset.inbound import Forwarded
from sidegate.gateway.split.destinations import holds_name
from sidegate.gateway.split.judge import Judgement, Outcome, Packet, outcome
from sidegate.gateway.split.policy import BLOCK, DIRECT, PROXY, Destination, Policy

Via = Callable[[str], str | None]
"""What a rule sends to (`proxy` or an upstream's name) -> the upstream that carries it now; None: none works."""
Carries = Callable[[str], bool]
"""Whether an upstream carries UDP."""
FOREIGN = "another program"
"""What `Via` says where the engine is not ours: our rules are not asked again there, and it is asked for no name."""
SCHEMA = 1


class ExplainView(Struct, frozen=True, kw_only=True):
    """goes: by an upstream, straight on, or refused. upstream: by which. rule, why: in words.

    decides: who has the last word. dns: who is asked for the name where our resolver serves; empty without a name.
    notes: what else somebody should know.
    """

    goes: Literal["proxied", "straight", "refused"]
    upstream: str = ""
    rule: str
    why: str
    decides: Literal["kernel", "engine"]
    dns: Answer | Literal[""] = ""
    notes: tuple[str, ...] = ()
    schema: int = SCHEMA


def explained(
    policy: Policy,
    packet: Packet,
    via: Via,
    on_failure: OnFailure,
    carries_udp: Carries = lambda _: True,
    forwarded: Collection[Forwarded] = (),
) -> ExplainView:
    """packet: see `lookup.learned_in` for what was learned. forwarded: see `inbound`."""
    it = outcome(policy, packet)
    if it.engine is not None and via(it.kernel.send) in (None, FOREIGN):
        it = structs.replace(it, engine=None)  # there is nobody who would judge by our rules
    final = it.final
    lost_by = _lost_by(it, packet, via, carries_udp)
    lost = (f"{lost_by} carries no UDP: it is refused at once, so that TCP is tried",) if lost_by else ()
    return ExplainView(
        goes="refused" if lost_by else _goes(final, packet, via, on_failure),
        upstream=_upstream(final, packet, via),
        rule=_rule(final),
        why=final.why,
        decides="engine" if it.engine else "kernel",
        dns="" if packet.name is None else _asked(policy, packet.name, is_foreign=via(PROXY) == FOREIGN),
        notes=(
            *lost,
            *_notes(it, packet, via, on_failure),
            *_asked_straight(policy, final, packet, via),
            *_answering(packet, forwarded),
        ),
    )


def _asked(policy: Policy, name: str, *, is_foreign: bool) -> Answer:
    answer = asked_for(policy, name)
    return "direct" if is_foreign and answer == "proxied" else answer


def asked_for(policy: Policy, name: str) -> Answer:
    """Who is asked for this name: the table of all names would say the same, and be long."""
    rules = []
    for rule in policy.rules:
        if rule.destination is None:
            rules.append(rule)
        elif holds_name(rule.destination, name):
            rules.append(structs.replace(rule, destination=Destination(names=(name,))))
    table = name_table(structs.replace(policy, rules=tuple(rules)))
    return next((group.answer for group in table.asked if name in group.names), table.default)


def _is_steered(it: Judgement, packet: Packet) -> bool:
    return it.send not in (DIRECT, BLOCK) and packet.protocol in ("tcp", "udp")


def _goes(it: Judgement, packet: Packet, via: Via, on_failure: OnFailure) -> Literal["proxied", "straight", "refused"]:
    if it.send == BLOCK:
        return "refused"
    if not _is_steered(it, packet):
        return "straight"
    if via(it.send) is not None:
        return "proxied"
    return "refused" if on_failure == "block" else "straight"


def _lost_by(it: Outcome, packet: Packet, via: Via, carries_udp: Carries) -> str | None:
    """The upstream that the kernel would lead it to, and that carries no UDP."""
    by = via(it.kernel.send) if packet.protocol == "udp" and _is_steered(it.kernel, packet) else None
    return by if by is not None and not carries_udp(by) else None


def _upstream(it: Judgement, packet: Packet, via: Via) -> str:
    return (via(it.send) or "") if _is_steered(it, packet) else ""


def _rule(it: Judgement) -> str:
    if it.by in ("private", "spared"):
        return "none: straight"
    sent = f'"{it.send}"' if it.send not in (PROXY, DIRECT, BLOCK) else it.send
    return f"{'the mode' if it.rule is None else it.origin}: {sent}"


def _asked_straight(policy: Policy, it: Judgement, packet: Packet, via: Via) -> Iterator[str]:
    """As for a rule by client alone. Another program as the engine answers no names, and its owner knows."""
    if packet.name is None or it.rule is None or policy.rules[it.rule].destination or via(PROXY) == FOREIGN:
        return
    if _is_steered(it, packet) and asked_for(policy, packet.name) == "direct":
        yield (
            f"{packet.name} itself is asked straight, so the provider sees it and may lie: a rule that sends it to an "
            "upstream by domain or list has it asked through the upstream, for everybody"
        )


def _answering(packet: Packet, forwarded: Collection[Forwarded]) -> Iterator[str]:
    """From which port it would be sent is not asked."""
    ports = [it.port for it in sorted(forwarded) if (it.mac, it.protocol) == (packet.mac, packet.protocol)]
    if ports:
        yield (
            f"what the device sends by {packet.protocol} from port {', '.join(map(str, ports))} goes straight all the "
            "same, with its own address: its [[client]] section says that the router forwards it (forwarded)"
        )


def _notes(it: Outcome, packet: Packet, via: Via, on_failure: OnFailure) -> Iterator[str]:
    final = it.final
    if final.send not in (DIRECT, BLOCK) and not _is_steered(final, packet):
        yield f"{packet.protocol} goes straight even to what is proxied: no upstream carries it"
    if _is_steered(final, packet) and via(final.send) is None:
        what = "no upstream works" if final.send == PROXY else f"{final.send} does not work"
        becomes = "refused" if on_failure == "block" else "sent straight on"
        yield f'{what} now, so it is {becomes}: proxy.on_failure = "{on_failure}"'
    if it.engine is not None:
        why = f"{it.kernel.origin}: {it.kernel.why}"
        yield f"the kernel hands it to the engine ({why}), which judges by the name it shows"
    if it.engine is not None and final.send == DIRECT:
        yield "straight from the engine: with this box's own address"
    if it.meant.send != final.send:
        yield (
            f"with its name known it would be {_rule(it.meant)} ({it.meant.why}); the kernel knows no name for "
            f"{packet.destination} now: the client has to ask this box for it"
        )
