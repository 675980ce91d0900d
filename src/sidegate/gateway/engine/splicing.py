"""Two connections made one: the kernel moves what comes, page by page, and no octet is copied here (splice(2)), but
for those at an urgent one.

Each end that is told by one side is told to the other at once: the end of its words as the end of its words, a break as
a break. Who does not take what is his is not sent more, and the other is not read any further.

A pipe is lent for the moment in which octets are in it: so an idle connection has none, and most of them share one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import struct

PIPE_OCTETS = 1 << 18
"""Of a pipe: 64 pages, each of which holds one piece, however small (fs/splice.c, splice_to_pipe)."""
CHUNKS = 8
"""At most so many in a turn, or one who is fast would keep the others waiting."""
_FIRST, _MOST_SPARE = 4, 16
_HOW = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_BREAK = struct.pack("ii", 1, 0)
"""SO_LINGER: what is not sent yet is dropped, and the other end gets a reset (socket(7))."""


class Pipe:
    """Raises OSError, as where no more files may be open.

    Beyond a user's share of pages, of which Xray takes some as well, it has 2 instead of 64, and moves little
    (fs/pipe.c, alloc_pipe_info; pipe(7), pipe-user-pages-soft).
    """

    __slots__ = ("into", "is_large", "out")

    def __init__(self) -> None:
        self.out, self.into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.fcntl(self.into, fcntl.F_SETPIPE_SZ, PIPE_OCTETS)
            self.is_large = True
        except OSError:
            self.is_large = False

    def close(self) -> None:
        os.close(self.into)
        os.close(self.out)


class Pipes:
    """Those that nobody has anything in. first: so many from the beginning on, before the share is used up."""

    def __init__(self, first: int = _FIRST) -> None:
        self._spare = [Pipe() for _ in range(first)]

    def take(self) -> Pipe:
        """Raises OSError."""
        return self._spare.pop() if self._spare else Pipe()

    def give(self, pipe: Pipe) -> None:
        """It must be empty."""
        if pipe.is_large and len(self._spare) < _MOST_SPARE:
            self._spare.append(pipe)
        else:
            pipe.close()

    def drop(self, pipe: Pipe) -> None:
        """With what is in it. Its share is free for another one now, and later may not be."""
        pipe.close()
        # With no files left there is one less.
        with contextlib.suppress(OSError):
            self.give(Pipe())


class Way:
    """One direction. held: octets in `pipe`, on their way. is_over: whether the end was passed on.

    may_be_marked: whether an urgent octet may have come, as EPOLLPRI tells. Before it splice(2) stops for good, as if
    nothing came, or as if all were said (net/ipv4/tcp.c, tcp_read_sock). By SO_OOBINLINE it is one of the others.
    """

    __slots__ = ("held", "is_over", "may_be_marked", "pipe", "source", "to", "to_fd")

    def __init__(self, source: int, to: socket.socket) -> None:
        self.source, self.to, self.to_fd = source, to, to.fileno()
        self.pipe: Pipe | None = None
        self.held = 0
        self.is_over = False
        self.may_be_marked = True

    def turn(self, pipes: Pipes) -> bool:
        """Goes on as far as it goes without waiting; whether it stopped only because others have their turn.

        Raises OSError when either end is broken.
        """
        for _ in range(CHUNKS):
            pipe = self.pipe or self._take(pipes)
            if pipe is None or not self._pass_on(pipe, pipes):
                return False
        return True

    def _take(self, pipes: Pipes) -> Pipe | None:
        """With what came; None: nothing did."""
        if self.is_over:
            return None
        pipe = pipes.take()
        try:
            came = self._fill(pipe)
        except OSError:
            pipes.drop(pipe)
            raise
        if came:
            self.held, self.pipe = came, pipe
            return pipe
        pipes.give(pipe)
        if came == 0:
            self.is_over = True
            _end(self.to)
        return None

    def _fill(self, pipe: Pipe) -> int | None:
        """How many octets came; 0: the end; None: nothing. Raises OSError when the source is broken."""
        try:
            came = os.splice(self.source, pipe.into, PIPE_OCTETS, flags=_HOW)
        except BlockingIOError:
            return self._copy(pipe) if self.may_be_marked else None
        return came or self._copy(pipe)

    def _copy(self, pipe: Pipe) -> int | None:
        """As `_fill`, past an urgent octet. An empty pipe takes so much at once, however small it is (pipe(7))."""
        try:
            data = os.read(self.source, select.PIPE_BUF)
        except BlockingIOError:
            self.may_be_marked = False
            return None
        return os.write(pipe.into, data) if data else 0

    def _pass_on(self, pipe: Pipe, pipes: Pipes) -> bool:
        """Whether any of it went."""
        try:
            self.held -= os.splice(pipe.out, self.to_fd, self.held, flags=_HOW)
        except BlockingIOError:
            return False
        if self.held:
            return True
        pipes.give(pipe)
        self.pipe = None
        return True

    def drop(self, pipes: Pipes) -> None:
        """What is still on its way."""
        if self.pipe is not None:
            pipes.drop(self.pipe)
            self.pipe = None


def _end(it: socket.socket) -> None:
    """Raises OSError, unless the other end is gone: its own words then tell how."""
    try:
        it.shutdown(socket.SHUT_WR)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise


def break_off(it: socket.socket) -> None:
    """Closes it by a reset."""
    with contextlib.suppress(OSError):
        it.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _BREAK)
    it.close()
