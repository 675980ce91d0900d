"""What is told of one bridge probe, within limits: whoever floods us must not fill our memory."""

from __future__ import annotations

from typing import Literal

from sidegate.packet import Ipv4, Mac
from sidegate.probe.bridge_message import flow_number, words
from sidegate.probe.talk import Observation

_SEEN_MOST = 256
"""Frames told of one probe; one without strangers has at most 4 attempts of 21 questions, an answer to each."""
_NOTES_MOST = 16
_MORE = "more was heard than is told here"


class Evidence:
    """seen: the frames sent and received. notes: what else was noticed, each a sentence, told once."""

    began_s = 0.0

    def __init__(self) -> None:
        self.seen: list[Observation] = []
        self.notes: list[str] = []

    def record(
        self, way: Literal["sent", "received"], at_s: float, mac: Mac, step: str, packet: Ipv4, flow: int | None = None
    ) -> None:
        """flow: of an error, which shows it only in what it quotes."""
        if len(self.seen) >= _SEEN_MOST:
            self.note(_MORE)
            return
        number = flow_number(packet) if flow is None else flow
        self.seen.append(Observation(at_s - self.began_s, way, mac, step, words(packet), number))

    def note(self, note: str) -> None:
        if len(self.notes) < _NOTES_MOST and note not in self.notes:
            self.notes.append(note if len(self.notes) < _NOTES_MOST - 1 else _MORE)
