"""What the demo found, as one HTML file for everyone: no scripts, nothing loaded from elsewhere, printable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sidegate.demo.result import Bar, ClientReach, ProbeFinding, Reach, Result, Stage
from sidegate.home import Behaviour, GatewayRuns, Home
from sidegate.render.layout import Marks
from sidegate.render.picture import OUTCOMES, Mark, Tone
from sidegate.render.report_split import split_section
from sidegate.render.report_style import ASIDE, style_sheet
from sidegate.render.signs import tone_html
from sidegate.render.svg import svg
from sidegate.render.words import duration, escape, rate, unbroken

Pair = tuple[Stage, Stage]

_VERDICTS: dict[str, tuple[Tone, str]] = {
    "direct": ("good", "The router answers it directly: no masquerade"),
    "masquerade": ("costly", "The router would not NAT it: masqueraded"),
    "unknown": ("unknown", "Not proved: masqueraded, which always works"),
}


def report(result: Result, home: Home, behaviour: Behaviour | None = None) -> str:
    """The whole page.

    home: the home that the result is about. behaviour: how its router behaves (`home.behaviour`), for the pictures.
    Raises ValueError for a result without stages.
    """
    if not result.stages:
        raise ValueError("a result without stages has nothing to report")
    parts = [*_head(result), *_summary(result), *_pictures(result, home, behaviour)]
    parts += [*_reached(result), *_meaning(result)]
    parts += [
        *_probes(result),
        *_throughput(result),
        *split_section(result.split),
        *_reproduce(result),
        *_footnotes(result),
        "</main>",
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def marks_of(stage: Stage) -> Marks:
    """What a stage's picture says of each client: its IPv4, which is what breaks."""
    return {c.client: _mark(c) for c in stage.clients if c.v4 or c.v6}


def _mark(found: ClientReach) -> Mark:
    if found.v4 is None:
        return Mark("unknown", "IPv4 not asked")
    tone, words = OUTCOMES[found.v4.outcome]
    if found.v4.ok:
        return Mark(tone, words)
    return Mark("bad", "offline (IPv4)" if found.v6 and found.v6.ok else "offline")


def _pair(result: Result) -> Pair:
    return result.stages[0], result.stages[-1]


def _online(stage: Stage) -> list[str]:
    return [c.client for c in stage.clients if c.v4 and c.v4.ok]


def _offline(stage: Stage) -> list[str]:
    return [c.client for c in stage.clients if c.v4 and not c.v4.ok]


def _names(names: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`; already escaped."""
    *others, last = [f"<b>{escape(n)}</b>" for n in names]
    return f"{', '.join(others)} and {last}" if others else last


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


# Head and summary


def _head(result: Result) -> Iterator[str]:
    title = escape(f"Sidegate: {result.title}")
    yield '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width,initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark">'
    yield f"<title>{title}</title>\n<style>{style_sheet()}</style></head><body><main>"
    yield f'<p class="kicker">Sidegate demo · {escape(result.home)}</p>'


def headline(result: Result) -> str:
    """What happened, in one sentence of plain words (no HTML)."""
    before, after = (_offline(stage) for stage in _pair(result))
    total = len(_pair(result)[1].clients)
    if before and not after:
        return f"{_plural(len(before), 'device')} of {total} had lost the internet. Now all are online."
    if not before and not after:
        return f"All {_plural(total, 'device')} were online before, and still are."
    if len(after) < len(before):
        return f"{len(before) - len(after)} of {_plural(len(before), 'device')} came back online; {len(after)} did not."
    return f"{_plural(len(after), 'device')} of {total} cannot reach the internet over IPv4."


def _summary(result: Result) -> Iterator[str]:
    before, after = _pair(result)
    yield f"<h1>{escape(headline(result))}</h1>"
    yield f'<p class="lead">{_story(before, after)}</p>'
    yield '<dl class="figures">'
    for words, value in _figures(result):
        yield f"<div><dt>{escape(words)}</dt><dd>{escape(value)}</dd></div>"
    yield "</dl>"


_GATEWAYS: dict[GatewayRuns, str] = {
    "nothing": "a gateway that does not forward",
    "forwarding": "a gateway that only forwards",
    "masquerade": "a gateway that masquerades everything",
    "sidegate": "Sidegate",
}


def _story(before: Stage, after: Stage) -> str:
    """The lead, as HTML."""
    told = "This home has a main router and, beside it, a bypass gateway that the devices send their traffic through."
    return told + _lost(before) + _came_back(before, after)


def _lost(before: Stage) -> str:
    lost = _offline(before)
    if not lost:
        return ""
    told = f" With {_GATEWAYS[before.gateway]}, {_names(lost)} had no IPv4 internet"
    alive = any((found := before.reach(name).v6) and found.ok for name in lost)
    return told + (", while IPv6 went on working." if alive else ".")


def _came_back(before: Stage, after: Stage) -> str:
    back = [name for name in _offline(before) if name in _online(after)]
    if not back:
        return ""
    told = " Sidegate tested for each device whether the router answers it directly, and stepped in only where it must:"
    told += f" {_names(back)} came back"
    return told + (", and the others kept their fast, direct way." if _count(after, "direct") else ".")


def _count(stage: Stage, outcome: str) -> int:
    return sum(c.v4 is not None and c.v4.outcome == outcome for c in stage.clients)


def _figures(result: Result) -> Iterator[tuple[str, str]]:
    before, after = _pair(result)
    yield "online before (IPv4)", f"{len(_online(before))} of {len(before.clients)}"
    yield "online after (IPv4)", f"{len(_online(after))} of {len(after.clients)}"
    yield "masqueraded, because they must be", str(_count(after, "masqueraded"))
    if result.durations.decided_ms is not None:
        yield "from start to every device decided", duration(result.durations.decided_ms)


# Pictures and the table


def _pictures(result: Result, home: Home, behaviour: Behaviour | None) -> Iterator[str]:
    yield f"<h2>The home, before and after</h2>{ASIDE}"
    for ident, stage in zip(("before", "after"), _pair(result), strict=True):
        drawing = svg(home, marks_of(stage), behaviour, f"{home.title}: {stage.name}", ident)
        yield f'<figure tabindex="0" aria-label="{escape(stage.name)}"><figcaption>{ident.capitalize()}:'
        yield f" <b>{escape(stage.name)}</b></figcaption>\n{drawing}</figure>"


def _reached(result: Result) -> Iterator[str]:
    before, after = _pair(result)
    yield "<h2>What each device could reach</h2>"
    asked = _names(dict.fromkeys((before.target, after.target)))
    yield f"<p>Each device asked a server on the internet: {asked}.</p>"
    yield f'{ASIDE}<div class="scroll" tabindex="0" role="region" aria-label="Reachability"><table><thead>'
    yield '<tr><th rowspan="2" scope="col">Device</th>'
    yield "".join(f'<th colspan="2" scope="colgroup">{escape(s.name)}</th>' for s in (before, after)) + "</tr>"
    yield "<tr>" + '<th scope="col">IPv4</th><th scope="col">IPv6</th>' * 2 + "</tr></thead><tbody>"
    for name in dict.fromkeys(c.client for s in (before, after) for c in s.clients):
        reaches = [r for s in (before, after) for r in (s.reach(name).v4, s.reach(name).v6)]
        yield f'<tr><th scope="row">{escape(name)}</th>{"".join(_cell(r) for r in reaches)}</tr>'
    yield "</tbody></table></div>"


def _cell(reach: Reach | None) -> str:
    if reach is None:
        return '<td class="none">not asked</td>'
    tone, words = OUTCOMES[reach.outcome]
    took = f" · {unbroken(duration(reach.took_ms))}" if reach.took_ms is not None else ""
    detail = f"{escape(reach.detail)}{took}".removeprefix(" · ")
    return f"<td>{tone_html(tone, words)}{f'<small>{detail}</small>' if detail else ''}</td>"


# What it means


_MEANING = """\
<p>A device's address at home is private: nobody on the internet can answer it. So the router writes its own,
public address on every packet that leaves (<em>NAT</em>). It decides this once per connection, at the first
packet it sees, and remembers the decision (<em>connection tracking</em>, conntrack).</p>
<p>With a bypass gateway, a packet passes the router twice: first as a plain frame from the device to the
gateway, then again, sent back by the gateway, on its way out. Between two sockets of the switch chip the
router's kernel does not see the first pass. But a frame that comes by Wi-Fi or mesh crosses the kernel's
bridge, and on some routers the bridge hands its frames to conntrack. There the connection begins as local
traffic: <em>no NAT needed</em>. When the packet comes back, bound for the internet, that is already decided. It
leaves with its private address, and no answer ever finds its way home. IPv6 needs no NAT, so it is not
affected.</p>
<p>If the gateway puts its own address on the packet (<em>masquerade</em>), the second pass is a new connection
to the router, and is translated as it should be. The price: the answers must come back through the gateway's
one network port. Sidegate pays it only for the devices that need it.</p>"""


def _meaning(result: Result) -> Iterator[str]:
    lost = bool(_offline(_pair(result)[0]))
    yield f"<h2>{'Why the devices went offline' if lost else 'Why devices can go offline behind a gateway'}</h2>"
    yield _MEANING


_METHOD = """\
<p>The router cannot be asked. So the probe makes the same thing happen to a harmless packet of its own. A
<em>control</em> goes to the internet by way of the router, and is answered. A second packet is first sent to
the device, which drops it (<em>poison</em>), and then by way of the router (<em>treatment</em>). If only this one
stays without an answer, the router tracked it on the way to the device, and will not NAT what that device sends
through the gateway.</p>"""


def _probes(result: Result) -> Iterator[str]:
    if not result.probes:
        return
    yield "<h2>What Sidegate proved, device by device</h2>"
    yield _METHOD
    for probe in result.probes:
        yield from _probe(probe)


def _probe(probe: ProbeFinding) -> Iterator[str]:
    tone, words = _VERDICTS[probe.verdict]
    yield f"<details><summary><b>{escape(probe.client)}</b> {tone_html(tone, words)}</summary>"
    facts = (("confidence", probe.confidence), ("method", probe.method), ("target", probe.target))
    yield f"<p>{' · '.join(f'{name}: <b>{escape(value)}</b>' for name, value in facts if value)}</p>"
    yield '<ol class="evidence">' if probe.evidence else "<p>No evidence was recorded.</p>"
    for line in probe.evidence:
        yield f"<li><time>{line.at_ms:.1f} ms</time> <span>{escape(line.text)}</span></li>"
    yield ("</ol>" if probe.evidence else "") + "</details>"


# Throughput


def _throughput(result: Result) -> Iterator[str]:
    if not result.throughput:
        return
    highest = max(bar.mbit for bar in result.throughput) or 1.0
    yield "<h2>What masquerade costs</h2><p>Measured in this run, all bars to one scale.</p>"
    yield '<ul class="bars">'
    for bar in result.throughput:
        yield _bar(bar, highest)
    yield "</ul>"


def _bar(bar: Bar, highest: float) -> str:
    share = min(max(bar.mbit / highest * 100, 0.0), 100.0)
    note = f"<small>{escape(bar.note)}</small>" if bar.note else ""
    return (
        f"<li><span>{escape(bar.label)}</span> <b>{escape(rate(bar.mbit))}</b>"
        f'<i aria-hidden="true"><i style="width:{share:.1f}%"></i></i>{note}</li>'
    )


# How to see it again


def _reproduce(result: Result) -> Iterator[str]:
    times = result.durations
    yield "<h2>See it yourself</h2>"
    yield f"<pre><code>{escape(result.command)}</code></pre>"
    told = f"The home was built on the kernel in {duration(times.built_ms)}."
    if times.total_ms is not None:
        told += f" The whole demonstration took {duration(times.total_ms)}."
    yield f"<p>{escape(told)} It needs Linux, and touches nothing of the machine's own network.</p>"


_FOOTNOTES = """<ul>
<li>A laboratory: network namespaces on one machine, with the kernel's real bridge, connection tracking and NAT. Radios
are modelled as bridge ports: there is no real Wi-Fi, no interference and no vendor's firmware.</li>
<li>The servers of the internet stand on the same machine: their answers come faster than real ones.</li>
<li>How the router treats its bridge follows its profile in the catalogue, where each statement names its source. Your
router may differ; the probe finds out.</li>
<li>Throughputs are of one run and depend on the machine: compare them with each other, not with other machines.</li>
</ul>"""


def _footnotes(result: Result) -> Iterator[str]:
    versions = result.versions
    yield f"<footer><h2>What to keep in mind</h2>{_FOOTNOTES}"
    yield f"<p>Sidegate {escape(versions.sidegate)} · Linux {escape(versions.kernel)} · format {result.schema}</p>"
    yield "</footer>"
