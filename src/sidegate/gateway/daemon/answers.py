"""What the control socket is asked: who may ask it, and what is answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from sidegate.gateway.box.apply import Changes
from sidegate.gateway.change import history
from sidegate.gateway.change.diff import on_this_box
from sidegate.gateway.daemon import telling
from sidegate.gateway.daemon.control import Later, Reply, Request
from sidegate.gateway.decide import forwarded
from sidegate.gateway.split import lookup
from sidegate.problems import Problems, in_file

Query = Mapping[str, str]
Reload = Callable[[Path | None, bool, Callable[[Changes | Problems], None]], None]
_CHANGES = "only root may change something"
_READS = "only root may have a file read"


class Answers:
    """The handler of a `ControlSocket`.

    state: where the journal is. told: the daemon's parts as they stand. reload: takes the configuration of this file
    (None: the one in force), or the last good one, and tells how that went, which may be later; raises Problems.
    """

    def __init__(self, state: Path, told: Callable[[], telling.Parts], reload: Reload) -> None:
        self._state, self._told, self._reload = state, told, reload
        self._began_s = time.monotonic()
        self._open: dict[tuple[str, str], Callable[[Query], Reply]] = {
            ("GET", "/v1/status"): self._status,
            ("GET", "/v1/clients"): self._clients,
            ("GET", "/v1/explain"): self._explain,
        }
        self._for_root: dict[tuple[str, str], tuple[str, Callable[[Query], Reply | Later]]] = {
            ("GET", "/v1/diff"): (_READS, self._diff),
            ("POST", "/v1/probe"): (_CHANGES, self._probe_again),
            ("POST", "/v1/take-back"): (_CHANGES, self._take_back),
            ("POST", "/v1/accept-address"): (_CHANGES, self._accept_address),
            ("POST", "/v1/reload"): (_CHANGES, self._take),
        }

    def __call__(self, request: Request) -> Reply | Later:
        asked = request.method, request.path
        if asked in self._open:
            return self._open[asked](request.query)
        if asked not in self._for_root:
            return Reply(404, {"error": f"no such thing: {request.method} {request.path}"})
        refusal, answer = self._for_root[asked]
        if request.uid != 0:
            return Reply(403, {"error": refusal, "remedy": "use sudo"})
        return answer(request.query)

    def _status(self, _: Query) -> Reply:
        return Reply(200, telling.status(self._told(), self._state, time.monotonic() - self._began_s))

    def _clients(self, query: Query) -> Reply:
        return Reply(200, telling.clients(self._told(), query.get("ip"), with_evidence="evidence" in query))

    def _explain(self, query: Query) -> Reply:
        split = self._told().splitter
        plan = split.plan_in_force
        on_failure, ports = plan.config.proxy.on_failure, forwarded(plan.config)
        return Reply(200, lookup.answer(query, plan.policy, split.via, on_failure, split.carries_udp, ports))

    def _diff(self, query: Query) -> Reply:
        """As a reload, but that nothing is done."""
        split = self._told().splitter
        try:
            chosen = history.read(_path(query))
            with in_file(chosen.source):
                plan = split.plan(chosen.config)
            return Reply(200, on_this_box(chosen.config, split.situation(plan, as_settled=True), self._state))
        except Problems as error:
            return _refused(error)

    def _probe_again(self, _: Query) -> Reply:
        now, parts = time.monotonic(), self._told()
        parts.splitter.try_all(now)
        parts.checkup.ask_all(now)
        return Reply(200, {"probing": parts.clientele.probe_again()})

    def _take_back(self, _: Query) -> Reply:
        parts = self._told()
        parts.aside.take_back()
        parts.checkup.ask_all(time.monotonic())
        return Reply(200, {"stands_in_for": parts.aside.cause})

    def _accept_address(self, _: Query) -> Reply:
        self._told().former_address.accept()
        return Reply(200, {})

    def _take(self, query: Query) -> Later:
        """Answered once it is in force: what it needs may have to start first."""
        later = Later()

        def hear(outcome: Changes | Problems) -> None:
            later.reply = Reply(200, outcome) if isinstance(outcome, Changes) else _refused(outcome)

        try:
            self._reload(_path(query), query.get("use") == "last-good", hear)
        except Problems as error:
            hear(error)
        return later


def _path(query: Query) -> Path | None:
    return Path(query["config"]) if "config" in query else None


def _refused(error: Problems) -> Reply:
    return Reply(409, {"error": str(error), "problems": error.problems})
