"""The daemon's control socket: HTTP with JSON on a Unix socket. Everybody in its group may read, only root may change.

Requests are small and come one to a connection. A handler gets method, path and query and returns a status and data;
it is called in the daemon's loop, between two events, and must not wait.
"""

from __future__ import annotations

import grp
import os
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
_ANSWER_WITHIN_S = 10.0


class Request(msgspec.Struct, frozen=True):
    """uid: of the process at the other end (unix(7), SO_PEERCRED)."""

    method: str
    path: str
    query: dict[str, str]
    uid: int


class Reply(msgspec.Struct, frozen=True):
    status: int
    data: Any


Handler = Callable[[Request], Reply]


class ControlSocket:
    """Listens; `accept` gives a conversation for a selectors loop."""

    def __init__(self, path: Path, handler: Handler) -> None:
        self._path, self._handler = path, handler
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.bind(str(path))
        _let_group_read(path)
        self._socket.listen(16)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def accept(self) -> Conversation | None:
        try:
            connection, _ = self._socket.accept()
        except BlockingIOError:
            return None
        return Conversation(connection, self._handler)

    def close(self) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)


def _let_group_read(path: Path) -> None:
    """Connecting needs write permission on the socket's file (unix(7)). Without the group it stays with root."""
    try:
        os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
        path.chmod(0o660)
    except KeyError:
        path.chmod(0o600)


class Conversation:
    """One connection: a request is read as it comes, answered, and the connection closed."""

    def __init__(self, connection: socket.socket, handler: Handler) -> None:
        self._socket, self._handler = connection, handler
        self._socket.setblocking(False)
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_LARGEST_REQUEST)
        self._out = b""
        self.is_over = False

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def wants_to_write(self) -> bool:
        return bool(self._out)

    def turn(self) -> None:
        """Reads, answers, writes: as far as it goes without waiting."""
        try:
            if not self._out:
                self._read()
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
            self._answer(self._handler(self._request(event)))
        elif not data:
            self.is_over = True

    def _request(self, event: h11.Request) -> Request:
        target = urlsplit(event.target.decode("ascii", "replace"))
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", credentials)
        return Request(event.method.decode("ascii"), target.path, dict(parse_qsl(target.query)), uid)

    def _answer(self, reply: Reply) -> None:
        body = msgspec.json.encode(reply.data, enc_hook=encode_address)
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            start = h11.Response(status_code=reply.status, headers=headers)
            parts = (self._http.send(start), self._http.send(h11.Data(body)), self._http.send(h11.EndOfMessage()))
            self._out = b"".join(part or b"" for part in parts)
        else:
            self.is_over = True


def ask(socket_path: Path, method: str, target: str) -> Any:
    """What the daemon answers, decoded. Raises Problems: no daemon, no permission, or what the daemon refused."""
    where = str(socket_path)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_ANSWER_WITHIN_S)
            connection.connect(where)
            status, body = _exchange(connection, method, target)
    except PermissionError:
        remedy = f"run it with sudo, or join the group {GROUP}"
        raise Problems(Problem(where, "no permission to ask the daemon", remedy, Exit.MISSING)) from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise Problems(Problem(where, "no daemon is running", "start it: sidegate up")) from None
    except (OSError, h11.ProtocolError) as error:
        raise Problems(Problem(where, f"the daemon does not answer: {error}", exit_code=Exit.FAULT)) from None
    data = msgspec.json.decode(body)
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
