"""The daemon's control socket: HTTP with JSON on a Unix socket. Everybody in its group may read, only root may change.

Requests are small and come one to a connection. A handler gets method, path and query and returns a status and data,
or raises Problems; it is called in the daemon's loop, between two events, and must not wait: what takes longer is
answered `Later`.
"""

from __future__ import annotations

import grp
import os
import selectors
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import h11
import msgspec

from sidegate.problems import Exit, Problem, Problems
from sidegate.reading import encode_address

SOCKET_NAME = "control.sock"
GROUP = "sidegate"
_LARGEST_REQUEST = 16384
_MOST_CONVERSATIONS = 32
_CONVERSATION_S = 5.0
_ANSWER_WITHIN_S = 5.0
"""Longer than the daemon's longest wait, for a router that does not answer ARP."""
_DONE_WITHIN_S = 30.0
"""What is answered later: longer than another configuration waits for engine and resolver."""
_CHANGED_WITHIN_S = _DONE_WITHIN_S + _ANSWER_WITHIN_S
_STUCK = "everybody stays online meanwhile; start it anew: sidegate down, then sidegate up"


class Request(msgspec.Struct, frozen=True):
    """uid: of the process at the other end (unix(7), SO_PEERCRED)."""

    method: str
    path: str
    query: dict[str, str]
    uid: int


class Reply(msgspec.Struct, frozen=True):
    status: int
    data: Any


class Later(msgspec.Struct):
    """The reply to something that takes a while. reply: None until it is done."""

    reply: Reply | None = None


Handler = Callable[[Request], Reply | Later]


class ControlSocket:
    """Listens and converses, for a selectors loop: wait for `fileno` until `next_deadline`, then `turn`.

    Nobody can hold it up: a conversation ends after `_CONVERSATION_S`, and of too many the oldest makes room.
    All times are `time.monotonic()`.
    """

    def __init__(self, path: Path, handler: Handler) -> None:
        """Raises Problems if the socket cannot be made."""
        self._path, self._handler = path, handler
        self._ends_s: dict[Conversation, float] = {}
        self._listener = _listener(path)
        self._selector = selectors.EpollSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)

    def fileno(self) -> int:
        return self._selector.fileno()

    def next_deadline(self) -> float | None:
        """When a conversation has lasted long enough, or can be answered; None: there is none."""
        if any(c.can_answer for c in self._ends_s):
            return 0.0
        return min(self._ends_s.values(), default=None)

    def turn(self, now: float) -> None:
        """Accepts, reads, answers, writes: as far as it goes without waiting."""
        for key, _ in self._selector.select(0):
            if key.fileobj is self._listener:
                self._accept(now)
            elif key.data in self._ends_s:
                self._go_on(key.data, now)
        for conversation in [c for c in self._ends_s if c.can_answer]:
            self._go_on(conversation, now)
        for conversation in [c for c, ends_s in self._ends_s.items() if ends_s <= now]:
            self._end(conversation)

    def close(self) -> None:
        for conversation in list(self._ends_s):
            self._end(conversation)
        self._selector.close()
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _accept(self, now: float) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            # Whoever asked has gone already.
            return
        if len(self._ends_s) >= _MOST_CONVERSATIONS:
            self._end(min(self._ends_s, key=lambda it: it.waits))
        conversation = Conversation(connection, self._handler)
        self._ends_s[conversation] = now + _CONVERSATION_S
        self._selector.register(conversation, selectors.EVENT_READ, conversation)

    def _go_on(self, conversation: Conversation, now: float) -> None:
        has_waited = conversation.waits
        conversation.turn()
        if conversation.is_over:
            self._end(conversation)
        elif conversation.waits and not has_waited:
            self._ends_s[conversation] = now + _DONE_WITHIN_S
        elif conversation.wants_to_write:
            self._selector.modify(conversation, selectors.EVENT_WRITE, conversation)

    def _end(self, conversation: Conversation) -> None:
        del self._ends_s[conversation]
        self._selector.unregister(conversation)
        conversation.close()


def _listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        _let_group_read(path)
        listener.listen(_MOST_CONVERSATIONS)
    except OSError as error:
        listener.close()
        raise Problems(Problem(str(path), f"cannot listen there: {error.strerror or error}")) from None
    listener.setblocking(False)
    return listener


def _let_group_read(path: Path) -> None:
    """Connecting needs write permission on the socket's file (unix(7)). Without the group it stays with root."""
    try:
        group = grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return
    os.chown(path, -1, group)
    path.chmod(0o660)


class Conversation:
    """One connection: a request is read as it comes, answered, and the connection closed."""

    def __init__(self, connection: socket.socket, handler: Handler) -> None:
        self._socket, self._handler = connection, handler
        self._socket.setblocking(False)
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_LARGEST_REQUEST)
        self._later: Later | None = None
        self._is_head = False
        self._out = b""
        self.is_over = False

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def wants_to_write(self) -> bool:
        return bool(self._out)

    @property
    def waits(self) -> bool:
        """Whether what was asked for is still being done."""
        return self._later is not None

    @property
    def can_answer(self) -> bool:
        """Whether what was asked for is done, and not answered yet."""
        return self._later is not None and self._later.reply is not None

    def turn(self) -> None:
        """Reads, answers, writes: as far as it goes without waiting."""
        try:
            if not self._out and not self.can_answer:
                self._read()
            if self._later is not None and self._later.reply is not None:
                self._answer(self._later.reply)
                self._later = None
            if self._out:
                self._out = self._out[self._socket.send(self._out) :]
                self.is_over = self.is_over or not self._out
        except BlockingIOError:
            return
        except OSError:
            self.is_over = True

    def close(self) -> None:
        self._socket.close()

    def _read(self) -> None:
        data = self._socket.recv(_LARGEST_REQUEST)
        try:
            self._http.receive_data(data)
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            self._answer(Reply(error.error_status_hint, {"error": "not an HTTP request"}))
            return
        if isinstance(event, h11.Request):
            self._is_head = event.method == b"HEAD"
            reply = self._reply_to(event)
            self._later = reply if isinstance(reply, Later) else Later(reply)
        elif not data:
            self.is_over = True

    def _reply_to(self, event: h11.Request) -> Reply | Later:
        if event.method not in (b"GET", b"HEAD", b"POST"):
            return Reply(405, {"error": "no such method"})
        try:
            return self._handler(self._request(event))
        except ValueError:
            return Reply(400, {"error": "no such address"})
        except Problems as error:
            return Reply(503, {"error": str(error)})

    def _request(self, event: h11.Request) -> Request:
        """Raises ValueError for a target that is no URL."""
        target = urlsplit(event.target.decode("ascii"))
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", credentials)
        return Request(event.method.decode("ascii"), target.path, dict(parse_qsl(target.query)), uid)

    def _answer(self, reply: Reply) -> None:
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.is_over = True
            return
        try:
            body = msgspec.json.encode(reply.data, enc_hook=encode_address)
        except UnicodeError:
            # Of a path whose bytes are no text (PEP 383), for one.
            reply = Reply(500, {"error": "the answer holds what is no text"})
            body = msgspec.json.encode(reply.data)
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
        head, content = h11.Response(status_code=reply.status, headers=headers), h11.Data(data=body)
        # The answer to HEAD has no content (RFC 9110, section 9.3.2).
        events = [head, h11.EndOfMessage()] if self._is_head else [head, content, h11.EndOfMessage()]
        self._out = b"".join(self._http.send(event) or b"" for event in events)


class NotListening(Problems):
    """Nobody is at the other end: no daemon, or one that has not begun yet."""


class NotAnswering(Problems):
    """Somebody listens and says nothing, or nothing that can be understood."""


class Unknown(Problems):
    """The daemon does not know what it was asked for."""


def ask(socket_path: Path, method: str, target: str) -> Any:
    """What the daemon answers, decoded. Raises Problems: no permission, or what the daemon refused.

    Raises NotListening, one of them, where nobody listens, NotAnswering where nobody speaks, and Unknown for what a
    daemon of another version does not know.
    """
    where = str(socket_path)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_ANSWER_WITHIN_S if method == "GET" else _CHANGED_WITHIN_S)
            connection.connect(where)
            status, body = _exchange(connection, method, target)
    except PermissionError:
        remedy = f"run it with sudo, or join the group {GROUP}"
        raise Problems(Problem(where, "no permission to ask the daemon", remedy, Exit.MISSING)) from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise NotListening(Problem(where, "the daemon does not listen", "try again", Exit.FAULT)) from None
    except (OSError, h11.ProtocolError) as error:
        raise NotAnswering(Problem(where, f"the daemon does not answer: {error}", _STUCK, Exit.FAULT)) from None
    data = msgspec.json.decode(body)
    if status == 404:
        raise Unknown(Problem(where, data.get("error", "unknown"), "restart the daemon after an update"))
    if status != 200 and "problems" in data:
        raise Problems(*msgspec.convert(data["problems"], tuple[Problem, ...]))
    if status != 200:
        raise Problems(Problem(where, data.get("error", f"status {status}"), data.get("remedy", "")))
    return data


def _exchange(connection: socket.socket, method: str, target: str) -> tuple[int, bytes]:
    http = h11.Connection(h11.CLIENT)
    request = h11.Request(method=method, target=target, headers=[("Host", "sidegate"), ("Connection", "close")])
    connection.sendall((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
    status, body = 0, b""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(connection.recv(1 << 16))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            return status, body
