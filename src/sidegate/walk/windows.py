"""What conntrack remembers of one TCP connection besides its state, and how it takes a segment.

The rules are those of net/netfilter/nf_conntrack_proto_tcp.c, named function by function. Where a packet carries no
numbers (a socket's own segments, which are in the window) only the state and the latest segment count. Numbers are
compared as they are: a connection here is too short for them to wrap.
"""

from __future__ import annotations

from typing import Literal

from sidegate.walk.data import Numbers

Fate = Literal["accepted", "ignored", "invalid", "reopened"]

_TCP_STATES = ("NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT",
               "CLOSE", "SYN_SENT2")  # fmt: skip
_NEXT = {
    # packet, in the original direction: the next state for each state above; IV invalid, IG ignored
    ("syn", False): "SS SS IG IG IG IG IG SS SS S2",
    ("synack", False): "IV IV SR IV IV IV IV IV IV SR",
    ("fin", False): "IV IV FW FW LA LA LA TW CL IV",
    ("ack", False): "ES IV ES ES CW CW TW TW CL IV",
    ("rst", False): "IV CL CL CL CL CL CL CL CL CL",
    # in the reply direction
    ("syn", True): "IV S2 IV IV IV IV IV SS IV S2",
    ("synack", True): "IV SR IG IG IG IG IG IG IG SR",
    ("fin", True): "IV IV FW FW LA LA LA TW CL IV",
    ("ack", True): "IV IG SR ES CW CW TW TW CL IG",
    ("rst", True): "IV CL CL CL CL CL CL CL CL CL",
}
_SHORT = dict(
    zip(("NO", "SS", "SR", "ES", "FW", "CW", "LA", "TW", "CL", "S2"), _TCP_STATES, strict=True),
    IV="INVALID",
    IG="IGNORE",
)
TCP_NEXT: dict[tuple[str, bool, str], str] = {
    (index, reply, state): _SHORT[following]
    for (index, reply), row in _NEXT.items()
    for state, following in zip(_TCP_STATES, row.split(), strict=True)
}
"""(packet, in reply direction, state) -> next state. tcp_conntracks."""
_OVER = ("TIME_WAIT", "CLOSE")
_ENDS = ("fin", "rst")
_CLOSING = ("FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", *_OVER)
"""tcp_can_early_drop"""
_WHOLE = {frozenset(it.split()) for it in ("SYN", "SYN ACK", "RST", "RST ACK", "FIN ACK", "ACK")}
"""tcp_valid_flags; PSH does not matter."""
_ACK_WINDOW = 66000
"""MAXACKWINCONST"""


def tcp_index(kind: str) -> str:
    """The kernel's class of a segment (get_conntrack_index), `none` also for flags that do not go together."""
    flags = frozenset(kind.split()) - {"PSH"}
    if flags not in _WHOLE:
        return "none"
    if "RST" in flags:
        return "rst"
    if "SYN" in flags:
        return "synack" if "ACK" in flags else "syn"
    return "fin" if "FIN" in flags else "ack"


class _Side:
    """struct ip_ct_tcp_state, of who sends in one direction. closed_first: IP_CT_TCP_FLAG_CLOSE_INIT."""

    __slots__ = ("closed_first", "end", "liberal", "max_ack", "max_end", "max_window")

    def __init__(self) -> None:
        self.end = self.max_end = self.max_window = 0
        self.max_ack: int | None = None
        self.liberal = self.closed_first = False


class Connection:
    """struct ip_ct_tcp. last: the latest segment's class and whether it was of the reply direction."""

    __slots__ = ("challenged", "ended", "last", "numbers", "sides", "simultaneous", "state")

    def __init__(self) -> None:
        self.state = "NONE"
        self.last = ("", False)
        self.sides = [_Side(), _Side()]
        self.ended = 0
        self.numbers: Numbers | None = None
        self.simultaneous = self.challenged = False

    def begin(self, index: str, numbers: Numbers | None) -> bool:
        """The first segment; False: it begins nothing (tcp_new)."""
        state = TCP_NEXT.get((index, False, "NONE"), "INVALID")
        if state == "INVALID":
            return False
        first = self.sides[0]
        if numbers is not None:
            first.end = first.max_end = numbers.end
            first.max_window = max(numbers.window, 1)
        if state == "ESTABLISHED":
            first.max_end += first.max_window
            first.liberal = self.sides[1].liberal = True
        if index == "ack" and numbers is not None:
            self.numbers, self.ended = numbers, numbers.end
        self._move(index, False, state)
        return True

    def take(self, index: str, backwards: bool, numbers: Numbers | None, replied: bool, assured: bool) -> Fate:
        """A further segment (nf_conntrack_tcp_packet)."""
        old = self.state
        new = TCP_NEXT.get((index, backwards, old), "INVALID")
        if new == "INVALID":
            return "invalid"
        if new == "SYN_SENT" and old in _OVER:
            if any(side.closed_first for side in self.sides) or self.last == ("rst", backwards):
                return "reopened"
            new = "IGNORE"
        if new == "IGNORE":
            if not self._answers_ignored(index, backwards, numbers):
                return self._ignored(index, backwards, numbers)
            new = "SYN_RECV"
        elif new == "TIME_WAIT" and self._is_challenge(index, backwards):
            return "ignored"
        elif index == "rst":
            return self._reset(backwards, numbers, replied, assured)
        return self._checked(index, backwards, numbers, self._refined(index, backwards, new), assured)

    def _refined(self, index: str, backwards: bool, new: str) -> str:
        """The table does not know of a simultaneous open (cases TCP_CONNTRACK_SYN_SENT2 and _SYN_RECV)."""
        if new == "SYN_SENT2":
            self.simultaneous = True
        if new == "SYN_RECV" and backwards and index == "ack" and self.simultaneous:
            return "ESTABLISHED"
        return new

    def _is_challenge(self, index: str, backwards: bool) -> bool:
        """RFC 5961: the answer to a SYN in LAST_ACK does not acknowledge the FIN."""
        met = self.challenged and self.state == "LAST_ACK" and index == "ack" and self.last == ("syn", not backwards)
        self.challenged = self.challenged and not met
        return met

    def _answers_ignored(self, index: str, backwards: bool, numbers: Numbers | None) -> bool:
        """A SYN ACK for a SYN that was ignored: the two ends know better than the entry, which follows them."""
        if index != "synack" or self.last != ("syn", not backwards):
            return False
        if numbers is not None:
            if numbers.ack != self.ended:
                return False
            other, sender = self.sides[not backwards], _Side()
            other.end = other.max_end = self.ended
            other.max_window = max(self.numbers.window if self.numbers else 0, 1)
            other.liberal = other.closed_first = False
            other.max_ack = None
            self.sides[backwards] = sender
        self.challenged = False
        return True

    def _ignored(self, index: str, backwards: bool, numbers: Numbers | None) -> Fate:
        self._note(index, backwards, numbers)
        if index == "syn" and not backwards:
            self.simultaneous = False
            self.challenged = self.state == "LAST_ACK"
        return "ignored"

    def _note(self, index: str, backwards: bool, numbers: Numbers | None) -> None:
        self.last = (index, backwards)
        if numbers is not None:
            self.numbers, self.ended = numbers, numbers.end

    def _reset(self, backwards: bool, numbers: Numbers | None, replied: bool, assured: bool) -> Fate:
        """case TCP_CONNTRACK_CLOSE"""
        new, other = "CLOSE", self.sides[not backwards]
        if numbers is None or self.state in _CLOSING:
            self._move("rst", backwards, new)
            return "accepted"
        if other.max_ack is not None and self.last[0] != "syn":
            settled = self.state == "ESTABLISHED" and assured
            if numbers.seq < other.max_ack and (settled or numbers.seq):
                return "invalid"
            in_train = self.last == ("ack", backwards) and numbers.seq == self.ended
            if not settled or numbers.seq == other.max_ack or in_train:
                return self._checked("rst", backwards, numbers, new, assured)
            new = self.state
        if self._is_believed(backwards, numbers, replied, assured):
            self._move("rst", backwards, new)
            return "accepted"
        return self._checked("rst", backwards, numbers, new, assured)

    def _is_believed(self, backwards: bool, numbers: Numbers, replied: bool, assured: bool) -> bool:
        """A RST for a segment that was let through unchecked, or for a challenge: it is not held to the window."""
        unchecked = (replied and self.last == ("syn", not backwards)) or (not assured and self.last[0] == "ack")
        if unchecked and (numbers.ack or 0) == self.ended:
            return True
        challenged = self.state == "SYN_SENT" and self.last == ("ack", True)
        return challenged and self.numbers is not None and numbers.seq == self.numbers.ack

    def _checked(self, index: str, backwards: bool, numbers: Numbers | None, new: str, assured: bool) -> Fate:
        fate: Fate = "accepted" if numbers is None else self._in_window(index, backwards, numbers)
        if fate == "accepted":
            self._move(index, backwards, new)
        elif fate == "invalid" and assured and index in _ENDS:
            self._note_invalid_end(index, backwards)
        return fate

    def _note_invalid_end(self, index: str, backwards: bool) -> None:
        """nf_tcp_handle_invalid"""
        if self.last[1] == backwards or self.last[0] not in _ENDS:
            self.last = (index, backwards)

    def _move(self, index: str, backwards: bool, new: str) -> None:
        self.last = (index, backwards)
        if new == "FIN_WAIT" and self.state != new:
            self.sides[backwards].closed_first = True
        self.state = new

    def _in_window(self, index: str, backwards: bool, it: Numbers) -> Fate:
        """tcp_in_window"""
        sender, receiver = self.sides[backwards], self.sides[not backwards]
        if self._first_of_side(index, backwards, it):
            return "accepted"
        ack = it.ack if it.ack is not None and not (index == "rst" and it.ack == 0) else receiver.end
        seq, end = it.seq, it.end
        if index == "rst" and seq == 0 and self.state == "SYN_SENT":
            seq = end = sender.end
        low = sender.end - receiver.max_window
        if seq > sender.max_end:
            overshot = end - sender.max_end + 1
            if (
                ack > receiver.end
                or _is_late(sender, receiver, ack)
                or not low <= end
                or overshot > receiver.max_window
            ):
                return _refused(sender, "invalid")
            sender.end = end
            return _refused(sender, "ignored")
        if ack > receiver.end:
            return _refused(sender, "invalid")
        if (receiver.max_window and end < low) or _is_late(sender, receiver, ack):
            return _refused(sender, "ignored")
        _learn(sender, receiver, it, ack, end)
        if index == "ack":
            # Not of a segment that only be_liberal let pass: `last_end` then stays what it was.
            self.numbers, self.ended = it, it.end
        return "accepted"

    def _first_of_side(self, index: str, backwards: bool, it: Numbers) -> bool:
        """What a side's first segment tells; True: nothing more is to be checked (tcp_init_sender)."""
        sender, receiver = self.sides[backwards], self.sides[not backwards]
        syn = index in ("syn", "synack")
        if sender.max_window == 0 and not syn:
            sender.end, sender.max_window = it.end, max(it.window, 1)
            sender.max_end = it.end + sender.max_window
            if receiver.max_window == 0:
                receiver.end = receiver.max_end = it.ack or 0
            elif it.ack == receiver.end + 1:
                receiver.end += 1
            return False
        again = syn and it.end > sender.end and self.state in ("SYN_SENT", "SYN_RECV")
        if sender.max_window == 0 or again:
            began = sender.max_window == 0
            sender.end = sender.max_end = it.end
            sender.max_window = max(it.window, 1)
            return index == "syn" and (began or backwards)
        return False


def _is_late(sender: _Side, receiver: _Side, ack: int) -> bool:
    return ack < receiver.end - max(sender.max_window, _ACK_WINDOW)


def _refused(sender: _Side, fate: Fate) -> Fate:
    """nf_tcp_log_invalid: a connection that was picked up is not held to its window."""
    return "accepted" if sender.liberal else fate


def _learn(sender: _Side, receiver: _Side, it: Numbers, ack: int, end: int) -> None:
    sender.max_window = max(sender.max_window, it.window)
    sender.end = max(sender.end, end)
    if it.ack is not None:
        sender.max_ack = ack if sender.max_ack is None else max(sender.max_ack, ack)
    if receiver.max_window and end > sender.max_end:
        receiver.max_window += end - sender.max_end
    if ack + it.window >= receiver.max_end:
        # Into a window that is shut one octet may go: the other side probes whether it is open again.
        receiver.max_end = ack + max(it.window, 1)
