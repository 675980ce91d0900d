"""The split as `status` tells it."""

from __future__ import annotations

from sidegate.gateway.daemon.naming import Naming
from sidegate.gateway.daemon.splitplan import Plan
from sidegate.gateway.engine.choice import Standing
from sidegate.gateway.engine.foreign import Foreign
from sidegate.gateway.engine.supervision import Supervision
from sidegate.gateway.engine.upstream import Upstream
from sidegate.gateway.view import ProxyView, SplitView, UpstreamView


def split_view(
    plan: Plan, engine: Supervision, foreign: Foreign, naming: Naming, notes: tuple[str, ...], now: float
) -> SplitView | None:
    """None where nothing is split and no name is answered. now: `time.monotonic()`."""
    if plan.is_empty:
        return None
    return SplitView(
        rules=len(plan.policy.rules),
        default=plan.policy.default,
        next_turn=plan.until.astimezone().isoformat(timespec="seconds") if plan.until else "",
        proxy=_proxy_view(plan, engine, foreign, now) if plan.aims else None,
        resolves=naming.serves() if plan.config.resolves else None,
        resolver_pid=naming.pid(),
        proxied_names=naming.proxied or "",
        notes=notes,
    )


def _proxy_view(plan: Plan, engine: Supervision, foreign: Foreign, now: float) -> ProxyView:
    proxy, state = plan.config.proxy, engine.state
    known = {it.name: it for it in plan.upstreams.found}
    standings = [s for s in engine.standings() if s.name in known]
    return ProxyView(
        engine=proxy.engine,
        serves=foreign.listens if plan.is_foreign else state.serves,
        mode=proxy.mode,
        on_failure=proxy.on_failure,
        chosen=state.chosen or "",
        why=engine.why,
        pid=engine.pid(),
        ending=len(state.leaving),
        upstreams=tuple(_upstream_view(s, known[s.name], state.chosen, now) for s in standings),
    )


def _upstream_view(standing: Standing, it: Upstream, chosen: str | None, now: float) -> UpstreamView:
    latency_ms = standing.latency_ms
    return UpstreamView(
        name=it.name,
        kind=it.kind,
        server=it.where,
        state=standing.state,
        since_s=round(now - standing.since_s, 1),
        why=standing.why,
        latency_ms=None if latency_ms is None else round(latency_ms, 1),
        is_chosen=it.name == chosen,
        carries_udp=it.udp,
    )
