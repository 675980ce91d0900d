"""What the tracer tells the process in the lab, and what comes back."""

from __future__ import annotations

from msgspec import Struct

from sidegate.walk.conversation import Ask, Do, Ear
from sidegate.walk.data import Sighting, Step, Tracked
from sidegate.walk.setting import Setting

ENGINE_LISTENS = 39998
"""Where a proxy engine listens on the gateway while a proxied conversation is captured."""


class Order(Struct, frozen=True, tag="order"):
    """A conversation to be played. ear: where to listen; None: nobody does. engine: one listens on the gateway.

    unheard: what each machine's bridges are to forget first, as `bridge -batch` lines. answers: the machine asked.
    """

    ask: Ask
    ear: Ear | None
    steps: tuple[Do, ...]
    gateway: str = ""
    gateway_v4: str = ""
    engine: bool = False
    unheard: dict[str, tuple[str, ...]] = {}
    answers: str = ""


class Arrangement(Struct, frozen=True, tag="arrangement"):
    """How the machines are to be. gateway: its name, empty for none. lan: the LAN's network.

    neighbours: of each machine, as `ip -batch` lines; empty when they are known.
    """

    clients: tuple[str, ...]
    gateway: str
    lan: str
    setting: Setting
    ruleset: str
    neighbours: dict[str, tuple[str, ...]]


class Barrage(Struct, frozen=True, tag="barrage"):
    """Frames for one box, each as (machine, its interface, the frame). All other machines fall silent for good."""

    box: str
    frames: tuple[tuple[str, str, bytes], ...]


class Capture(Struct, frozen=True):
    """What was seen and heard. entries: what conntrack held in the end, on every machine.

    took_s: from the first step to the end of the last. is_prompt: see `Stage`.
    """

    steps: tuple[Step, ...]
    seen: tuple[Sighting, ...]
    entries: tuple[Tracked, ...]
    took_s: float = 0.0
    is_prompt: bool = True


class Failed(Struct, frozen=True, tag="failed"):
    said: str


class Played(Struct, frozen=True, tag="played"):
    capture: Capture
