"""The engine as the daemon keeps it: its processes, how its upstreams stand, and where traffic for each is taken in.

Everything told is about the generation that is current: an upstream that only the next one knows has no place yet.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from sidegate.gateway.box.files import replace_file
from sidegate.gateway.box.places import Places
from sidegate.gateway.engine.child import engine_children, refused_file
from sidegate.gateway.engine.choice import GRACE_S, Choice, Standing, Way
from sidegate.gateway.engine.generations import Generations
from sidegate.gateway.engine.hints import hint
from sidegate.gateway.engine.knock import Knocks
from sidegate.gateway.engine.trial import Outcome, Question, Trials
from sidegate.gateway.engine.upstream import Upstream
from sidegate.gateway.engine.xray import Engine, asks_names, dns_endpoints
from sidegate.gateway.split.policy import Policy
from sidegate.gateway.split.ports import Ports, lan_port, ports
from sidegate.problems import Exit, Problem

_LOG_END = 8192
_REFUSED = Outcome(False, "the engine refuses its settings")


class Wanted(Struct, frozen=True):
    """engine: what it is to do, whatever its generation. choose, check: as proxy.choose and proxy.check."""

    engine: Engine
    choose: Way
    check: Question

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(it.name for it in self.engine.upstreams)


class State(Struct, frozen=True):
    """What others go by. generation: None before any has served. down: the upstreams that do not work."""

    generation: int | None = None
    serves: bool = False
    chosen: str | None = None
    down: frozenset[str] = frozenset()
    leaving: tuple[int, ...] = ()


class Supervision:
    """For a selectors loop: wait for `fileno` until `next_deadline`, then `turn`. Times are `time.monotonic()`.

    lasting: how many connections a generation still carries; may raise Problems.
    """

    def __init__(self, at: Places, tell: Callable[[str], None], lasting: Callable[[int], int]) -> None:
        self._places, self._directory = at, at.runtime / "engine"
        self._tell = tell
        self._generations = Generations(self._directory, at.state, tell, lasting)
        self._trials = Trials()
        self._knocks = Knocks()
        self._choice = Choice()
        self._wanted: Wanted | None = None
        self._started: Engine | None = None
        self._latest: Wanted | None = None
        self._made: dict[int, Wanted] = {}
        self._refused: frozenset[str] = frozenset()
        self._known: tuple[Upstream, ...] = ()
        self._used: set[str] = set()
        self._state = State()
        self._poll = select.epoll()
        for part in (self._generations, self._trials, self._knocks):
            self._poll.register(part, select.EPOLLIN)
        if before := _text(at.chosen):
            self._choice.resume(before)

    def fileno(self) -> int:
        return self._poll.fileno()

    def next_deadline(self) -> float | None:
        """When `turn` has something to do although nothing came in; None: never."""
        due_s = self._choice.next_due_s() if self._state.serves else None
        parts = (self._generations, self._trials, self._knocks)
        times = (*(part.next_deadline() for part in parts), due_s)
        return min((t for t in times if t is not None), default=None)

    def want(self, wanted: Wanted | None, now: float) -> None:
        """From the next `turn` on this engine runs; None: none. The one that serves goes on until this one does."""
        self._wanted = wanted
        if wanted is None:
            self._started, self._latest = None, None
            self._generations.want(None)
            self._choice.take((), "first", now)
            return
        self._start(wanted)
        if self._generations.current in (None, self._generations.target):
            self._take(wanted, now)

    def try_all(self, now: float) -> None:
        """Somebody asks: each upstream is tried as soon as may be."""
        self._choice.try_all(now)

    def turn(self, now: float) -> bool:
        """Whether what others go by is another now."""
        before = self._state
        turned = self._generations.turn(now)
        self._make()
        if turned:
            self._turned(now)
        if self._generations.serves:
            self._try(now)
        for name, outcome in self._trials.turn(now):
            self._note(name, outcome, now)
        for name, why in self._knocks.turn(now):
            self._explain(name, why)
        self._settle_choice(before)
        return self._state != before

    @property
    def state(self) -> State:
        return self._state

    @property
    def is_sure(self) -> bool:
        """Whether the chosen upstream has answered, or none works."""
        name = self._state.chosen
        return self._state.serves and (name is None or self._choice[name].state == "up")

    @property
    def waits(self) -> bool:
        """Whether another engine can only start when one of those that end their connections has done so."""
        return self._generations.waits

    @property
    def starts(self) -> bool:
        """Whether another engine than the one that serves is still to be started."""
        return self._generations.starts

    @property
    def fails(self) -> bool:
        """Whether the engine that is wanted ended, or could not be started. One without an upstream that works runs."""
        return bool(self._generations.faults())

    def judges(self, policy: Policy) -> bool:
        """Whether the engine that serves goes by these rules."""
        return self._generations.is_new and self._started is not None and self._started.policy == policy

    # Where traffic is taken in

    def place(self, name: str | None) -> Ports | None:
        """Where the current generation takes traffic for this upstream; None if it does not work, or is not there."""
        state = self._state
        if state.generation is None or name is None or name in state.down:
            return None
        return self._ports(state.generation, name)

    def held(self) -> tuple[Ports, ...]:
        """Where datagram flows may be that began when another upstream was chosen, or with another generation."""
        state = self._state
        used = [self.place(name) for name in sorted(self._used - {state.chosen or ""})]
        return (*(it for g in state.leaving for it in self.places(g)), *(it for it in used if it is not None))

    def places(self, generation: int) -> tuple[Ports, ...]:
        """Of all upstreams of a generation."""
        return tuple(ports(generation, number) for number in range(len(self._names(generation))))

    def dns_port(self) -> int | None:
        """Where proxied names are asked by the chosen upstream, on 127.0.0.1; None while there is none that works."""
        state = self._state
        made = self._made.get(state.generation) if state.generation is not None else None
        if made is None or state.chosen not in made.names:
            return None
        number = made.names.index(state.chosen)
        return dns_endpoints(made.engine.generation, number, made.engine.proxied_dns)[0][1]

    def lan_port(self) -> int | None:
        """Where it takes what comes by `proxy.lan_port`; None while it does not."""
        state = self._state
        made = self._made.get(state.generation) if state.generation is not None and state.serves else None
        if made is None or made.engine.lan is None:
            return None
        chosen = made.names.index(state.chosen) if state.chosen in made.names else None
        return lan_port(made.engine.generation, chosen)

    # What is known

    def standings(self) -> tuple[Standing, ...]:
        return self._choice.standings()

    @property
    def why(self) -> str:
        """Why this upstream is chosen, or none."""
        return self._choice.chosen.why

    def pid(self) -> int | None:
        return self._generations.pid()

    def faults(self) -> tuple[Problem, ...]:
        """What is wrong now."""
        found = self._generations.faults()
        if self._wanted is not None and self._state.generation is not None and self._state.chosen is None:
            what = "; ".join(f"{s.name}: {s.why}" for s in self._choice.standings())
            found = (*found, Problem("proxy", f"no upstream works: {what}", "proxy.on_failure holds", Exit.FAULT))
        return found

    def close(self) -> None:
        """Lets go of the engine; it goes on."""
        for part in (self._trials, self._knocks, self._generations):
            part.close()
        self._poll.close()

    # What is done

    def _names(self, generation: int) -> tuple[str, ...]:
        made = self._made.get(generation)
        return made.names if made else ()

    def _ports(self, generation: int, name: str) -> Ports | None:
        names = self._names(generation)
        if name not in names:
            return None
        number = names.index(name)
        return msgspec.structs.replace(
            ports(generation, number), udp=self._made[generation].engine.upstreams[number].udp
        )

    def _start(self, wanted: Wanted) -> None:
        """The engine that is wanted, with the upstream by which it may ask for names itself."""
        engine = msgspec.structs.replace(wanted.engine, generation=0, dns_by=self._dns_by(wanted))
        if engine != self._started:
            self._started = engine
            self._generations.want(engine_children(engine, self._directory))
        # Of what was made, all is asked for later but the policy, which may be large.
        self._latest = msgspec.structs.replace(wanted, engine=msgspec.structs.replace(engine, policy=Policy()))
        self._make()

    def _make(self) -> None:
        """Notes what is wanted for the generation that it has a place in, as soon as it has one."""
        target = self._generations.target
        if self._latest is not None and target is not None:
            engine = msgspec.structs.replace(self._latest.engine, generation=target)
            self._made[target] = msgspec.structs.replace(self._latest, engine=engine)

    def _dns_by(self, wanted: Wanted) -> int:
        """Stays with the one it was while that works: another one means another engine. Mostly it asks nothing."""
        if not asks_names(wanted.engine.upstreams, wanted.engine.proxied_dns):
            return 0
        before = self._started.upstreams[self._started.dns_by].name if self._started else None
        kept = before if before not in self._state.down else None
        return next((wanted.names.index(n) for n in (kept, self._state.chosen) if n in wanted.names), 0)

    def _turned(self, now: float) -> None:
        """Another generation is current, or the current one came or went."""
        self._trials.give_up_all()
        self._choice.untried(now)
        generation = self._generations.current
        if generation is None or not self._generations.serves:
            return
        made = self._made.get(generation)
        if made is not None:
            self._refused = frozenset(_text(refused_file(generation, self._directory)).split("\n"))
            self._take(made, now)

    def _take(self, made: Wanted, now: float) -> None:
        """What is another upstream under an old name begins anew."""
        old = {it.name: it for it in self._known}
        others = [it.name for it in made.engine.upstreams if old.get(it.name, it) != it]
        self._known = made.engine.upstreams
        self._choice.take(made.names, made.choose, now, forget=others)
        self._used &= set(made.names)

    def _try(self, now: float) -> None:
        generation = self._generations.current
        made = self._made.get(generation) if generation is not None else None
        if made is None:
            return
        for name in self._choice.due(now):
            self._ask(name, made, now, self._choice[name].patience_s)
        for name in self._choice.doubted(now):
            self._ask(name, made, now, GRACE_S)

    def _ask(self, name: str, made: Wanted, now: float, within_s: float) -> None:
        if name in self._refused:
            self._note(name, _REFUSED, now)
        elif (own := self._ports(made.engine.generation, name)) is not None:
            self._trials.start(name, own.socks, made.check, now, within_s)

    def _note(self, name: str, outcome: Outcome, now: float) -> None:
        turned = self._choice.result(name, outcome, now)
        if turned is None:
            return
        self._tell(f"upstream {name}: {turned.state}: {turned.why}")
        known = next((it for it in self._known if it.name == name), None)
        if turned.state == "down" and known is not None and name not in self._refused:
            self._find_out(known, now)

    def _find_out(self, it: Upstream, now: float) -> None:
        """Why it does not work. What Xray says of a name that cannot be looked up: "... for domain NAME > ..."."""
        generation = self._generations.current
        if f" domain {it.host} >" in _end_of(self._directory / f"engine-{generation}.log"):
            self._explain(it.name, f"its server's name {it.host} cannot be looked up")
        elif not self._knocks.start(it, now):
            self._explain(it.name, f"{self._choice[it.name].why}; {hint(it, datetime.now(UTC))}")

    def _explain(self, name: str, why: str) -> None:
        self._choice.explain(name, why)
        self._tell(f"upstream {name}: {why}")

    def _settle_choice(self, before: State) -> None:
        chosen = self._choice.chosen
        self._state = State(
            self._generations.current,
            self._generations.serves,
            chosen.name,
            frozenset(s.name for s in self._choice.standings() if s.state == "down"),
            self._generations.leaving,
        )
        if chosen.name == before.chosen:
            return
        self._tell(f"upstream {before.chosen or 'none'} -> {chosen.name or 'none'}: {chosen.why}")
        if chosen.name is not None:
            self._used.add(chosen.name)
            with contextlib.suppress(OSError):
                # Only the next daemon's first guess depends on it.
                replace_file(self._places.chosen, chosen.name.encode())
        if self._wanted is not None:
            self._start(self._wanted)


def _end_of(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_END))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
