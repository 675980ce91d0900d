"""The split in `sidegate status`, as lines."""

from __future__ import annotations

from sidegate.cli.output import duration, table
from sidegate.gateway.view import ProxyView, SplitView, UpstreamView

_NAMES = {
    "asked": ", proxied names by the upstream",
    "direct": ", proxied names like all others",
    "refused": ", others only",
}


def split_lines(split: SplitView | None) -> list[str]:
    """None for nothing to tell."""
    if split is None:
        return []
    turns = f"; the clock turns one on or off at {split.next_turn}" if split.next_turn else ""
    rules = f"rules: {split.rules}, the rest {_default(split.default)}{turns}"
    return [rules, *(_proxy_lines(split.proxy) if split.proxy else []), *_resolver_lines(split)]


def _default(default: str) -> str:
    return "goes straight" if default == "direct" else "is proxied"


def _proxy_lines(proxy: ProxyView) -> list[str]:
    if proxy.engine == "tproxy":
        return [f"proxy: another program, which {'listens' if proxy.serves else 'does not listen'}"]
    engine = f"engine process {proxy.pid}" if proxy.pid is not None else "no engine process"
    ending = f", {proxy.ending} more to end its connections" if proxy.ending else ""
    lines = [f"proxy: {_used(proxy)} ({engine}{ending})"]
    rows = [_row(it) for it in proxy.upstreams]
    listed = table(("UPSTREAM", "STATE", "LATENCY", "SERVER", "WHY"), rows).splitlines() if rows else []
    return lines + [f"  {line}" for line in listed]


def _used(proxy: ProxyView) -> str:
    meanwhile = f"; meanwhile: {proxy.on_failure}"
    if not proxy.serves and not proxy.upstreams and not proxy.chosen:
        return f"by nobody, there is no upstream{meanwhile}"
    if not proxy.serves:
        later = f", then by {proxy.chosen}" if proxy.chosen else ""
        return f"by nobody now, the engine does not serve{later}{meanwhile}"
    return f"by {proxy.chosen}, {proxy.why}" if proxy.chosen else f"{proxy.why}{meanwhile}"


def _row(it: UpstreamView) -> tuple[str, ...]:
    latency = f"{it.latency_ms:.0f} ms" if it.latency_ms is not None else ""
    state = f"{it.state} for {duration(it.since_s)}"
    kind = it.kind if it.carries_udp else f"{it.kind} (no UDP)"
    return (f"{it.name}{' (used)' if it.is_chosen else ''}", state, latency, f"{kind} {it.server}", it.why)


def _resolver_lines(split: SplitView) -> list[str]:
    if split.resolves is None:
        return []
    if not split.resolves:
        return ["names: our resolver does not answer"]
    return [f"names: our resolver answers{_NAMES.get(split.proxied_names, '')} (process {split.resolver_pid})"]
