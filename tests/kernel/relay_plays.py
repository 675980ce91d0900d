"""What is played on the relay: `unshare -Urn python -m tests.kernel.relay_plays PLAY`; its result is JSON.

The relay runs in this process, but where Xray is beside it.
"""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from hashlib import sha256
from ipaddress import IPv4Network
from typing import Any

from sidegate.gateway.engine import opening, relay
from sidegate.gateway.engine.handshakes import Proxy
from sidegate.gateway.engine.lasting import lasting
from sidegate.gateway.engine.splicing import Pipe, Pipes, break_off
from sidegate.gateway.engine.xray import Engine
from sidegate.gateway.split.policy import Policy
from sidegate.gateway.split.ports import engine_mark, ports, upstream_mark
from tests.kernel.engine_plays import datagram, lan, page, steer_to, unmarked_packets, watch_marks
from tests.kernel.engine_stage.addresses import TARGET, TARGET6
from tests.kernel.engine_stage.clients import exactly
from tests.kernel.engine_stage.programs import engine, sh, wait_until
from tests.kernel.engine_stage.stage import stage, upstreams_of
from tests.kernel.relay_stage import HERE, HERE6, PORT, WITHIN_S, Target, all_of, begin, client, hello

Json = Any

_SIZE, _STREAMS = 4_000_000, 16


# Plays


def wanted() -> Json:
    """Whom the proxy is asked for: by the name that is shown, in pieces too, or else by the address."""
    target = Target()
    begin(target.proxy)
    data = hello("a.example")
    moment_s, opening.SHOWS_WITHIN_S = opening.SHOWS_WITHIN_S, WITHIN_S
    told = {
        "hello": _wanted(target, HERE, data),
        "hello in pieces": _wanted(target, HERE, data[:60], data[60:]),
        "request": _wanted(target, HERE6, b"GET / HTTP/1.1\r\nHost: b.example:80\r\n\r\n"),
        "others": _wanted(target, HERE, b"SSH-2.0-x\r\n"),
        "others, IPv6": _wanted(target, HERE6, b"SSH-2.0-x\r\n"),
        "others, an end": _wanted(target, HERE, None),
    }
    opening.SHOWS_WITHIN_S = moment_s
    unshown = {"others, half a hello": _wanted(target, HERE, data[:60]), "others, nothing": _wanted(target, HERE)}
    return {**told, **unshown, "looked at late": _looked_at_late(target, data)}


def _looked_at_late(target: Target, words: bytes) -> str:
    """What was said in time is heard by a relay, too, that was kept from the processor until the time was over."""
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(target.accept()[0]))
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        client(server.getsockname(), words),
        server.accept()[0] as it,
    ):
        it.setblocking(False)
        assert select.select([it], [], [], WITHIN_S)[0]
        one = opening.Opening(it, target.proxy, upstream_mark(0), 0.0)
        one.mind(opening.SHOWS_WITHIN_S)
        thread.start()
        wait_until(lambda: one.turn(one.server.fileno(), select.EPOLLOUT, 0.0))
        one.server.close()
    thread.join()
    return found[0].partition(":")[0]


def _wanted(target: Target, at: tuple[str, int], *pieces: bytes | None) -> str:
    """pieces: None: the end. The target hears all of it."""
    with client(at) as it:
        for piece in pieces:
            time.sleep(0.02)
            if piece is None:
                it.shutdown(socket.SHUT_WR)
            else:
                it.sendall(piece)
        found, other = target.accept()
        it.shutdown(socket.SHUT_WR)
        with other, other.makefile("rb") as heard:
            assert heard.read() == b"".join(piece or b"" for piece in pieces)
    return found


def ends() -> Json:
    """Of words, each way, and of connections."""
    target = Target("http")
    begin(target.proxy)
    told: Json = {}
    with client(words=b"question") as it:
        it.shutdown(socket.SHUT_WR)
        _, other = target.accept()
        told["question"] = all_of(other)
        other.sendall(b"late answer")
        other.close()
        told["answer after the client's end"] = all_of(it)
    with client() as it:
        _, other = target.accept(b"banner\r\n\r\n")
        told["server speaks first"] = exactly(it, len(b"banner\r\n\r\n")).decode()
        other.shutdown(socket.SHUT_WR)
        told["server's end"] = all_of(it)
        it.sendall(b"upload goes on")
        it.close()
        told["upload after the server's end"] = all_of(other)
        other.close()
    for who in ("client", "server"):
        told[f"the {who} breaks off"] = _told(target, who, break_off)
        told[f"the {who} is in a hurry"] = _told(target, who, _hurry)
    wait_until(lambda: not _sockets())
    return told


def _told(target: Target, who: str, does: Callable[[socket.socket], None]) -> str:
    """What the other one hears of what one of them does."""
    it = client(words=b"words")
    _, other = target.accept()
    assert exactly(other, len(b"words")) == b"words"
    acts, hears = (it, other) if who == "client" else (other, it)
    with acts, hears:
        does(acts)
        return all_of(hears)


def _hurry(it: socket.socket) -> None:
    """The middle one of three octets is urgent (RFC 6093)."""
    it.sendall(b"a")
    it.send(b"b", socket.MSG_OOB)
    it.sendall(b"c")
    it.shutdown(socket.SHUT_WR)


def _sockets() -> list[str]:
    """Of the relay's, that are connected to anybody."""
    with open("/proc/net/tcp6", encoding="ascii") as lines:
        return [line for line in lines if line.split()[1].endswith(f":{PORT:04X}") and line.split()[3] in ("01", "08")]


def refusals() -> Json:
    """What a client is told where its upstream does not serve."""
    sh("ip link set lo up")
    opening.ANSWERS_WITHIN_S = 0.5
    silent = socket.create_server(("127.0.0.1", 0))
    # Held, so that none of the others is given its port; but nobody listens.
    nobody = socket.socket()
    nobody.bind(("127.0.0.1", 0))
    listed = {
        "nobody there": Proxy("socks", *nobody.getsockname()),
        "no way there": Proxy("socks", "192.0.2.1", 1),
        "another login": _answering("socks", b"\5\xff"),
        "refuses": _answering("socks", b"\5\2\1\0\5\5"),
        "closes": _answering("http", b""),
        "is silent": Proxy("socks", *silent.getsockname()),
        "wrong password": _answering("http", b"HTTP/1.1 407 no\r\n\r\n"),
    }
    marks = (engine_mark(0), upstream_mark(0))
    at = [relay.Port(name, "::", PORT + i, *marks, it) for i, (name, it) in enumerate(listed.items())]
    threading.Thread(target=relay.lead, args=(at,), daemon=True).start()
    with ThreadPoolExecutor(len(listed)) as pool:
        return dict(zip(listed, pool.map(_told_at, range(PORT, PORT + len(listed))), strict=True))


def _told_at(port: int) -> str:
    """It may be told while it still connects."""
    try:
        with client(("127.0.0.1", port)) as it:
            return all_of(it)
    except OSError as error:
        return type(error).__name__


def _answering(kind: str, answer: bytes) -> Proxy:
    """Says this to whoever asks, and ends."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        it = server.accept()[0]
        it.recv(1000)
        it.sendall(answer)
        it.close()

    threading.Thread(target=serve, daemon=True).start()
    return Proxy(kind, "127.0.0.1", server.getsockname()[1], "name", "hunter2")


def many() -> Json:
    """A lot of octets over many connections, both ways at once; one of the clients is slow."""
    target = Target()
    begin(target.proxy)
    told: Json = {}
    made = [(client(words=bytes([number])), *target.accept()) for number in range(_STREAMS)]
    threads = []
    for number, (it, _, other) in enumerate(made):
        for end in (it, other):
            end.settimeout(None)
        up, down = _words(number), _words(number + 100)
        assert other.recv(1) == bytes([number])
        for one, words, what in ((it, up, f"up {number}"), (other, down, f"down {number}")):
            threads.append(threading.Thread(target=_say, args=(one, words)))
            reader = other if one is it else it
            threads.append(threading.Thread(target=_hear, args=(reader, words, what, told, number == 3)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def _words(number: int) -> bytes:
    return b"".join(sha256(f"{number} {at}".encode()).digest() for at in range(1000)) * (_SIZE // 32_000)


def _say(it: socket.socket, words: bytes) -> None:
    it.sendall(words)
    it.shutdown(socket.SHUT_WR)


def _hear(it: socket.socket, words: bytes, what: str, told: Json, is_slow: bool) -> None:
    heard = sha256()
    while more := it.recv(20_000 if is_slow else 1 << 20):
        heard.update(more)
        time.sleep(0.001 if is_slow else 0)
    told[what] = heard.digest() == sha256(words).digest()


def no_files_left() -> Json:
    """Who comes then waits, and costs nothing, until there are some; and so does what is to be passed on."""
    target = Target()
    sh("ip link set lo up")
    sh("for it in rmem wmem; do echo 4096 16384 16384 > /proc/sys/net/ipv4/tcp_$it; done")
    port = relay.Port("play", "::", PORT, engine_mark(0), upstream_mark(0), target.proxy)
    pipes = Pipes(0)
    it = relay.Relay([port], pipes)
    first = client(words=b"SSH-2.0")
    _, other = _meanwhile(it, target.accept)
    others = [client(words=b"SSH-2.0") for _ in range(6)]
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = os.dup(0)
    os.close(used)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 3, hard))
    while not port.is_paused:
        it.turn()
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    told: Json = {"events that are waited for": _waited_for(port.socket.fileno())}
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
    _fill(it, first)
    lent = _all_of_them(pipes)
    other.sendall(b"answer")
    for _ in range(5):
        it.turn()
    told["heard"] = len(select.select([first], [], [], 0)[0])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    for pipe in lent:
        pipe.close()
    told["heard then"] = _meanwhile(it, partial(first.recv, 100)).decode()
    told["came in then"] = len([_meanwhile(it, target.accept) for _ in others])
    return told


def _all_of_them(pipes: Pipes) -> list[Pipe]:
    """Where no more can be made: the relay's turns may have left one in which there is nothing just now."""
    lent: list[Pipe] = []
    with suppress(OSError):
        while True:
            lent.append(pipes.take())
    return lent


def _meanwhile(it: relay.Relay, action: Callable[[], Any]) -> Any:
    """What comes of it while the relay has its turns, short ones."""
    relay.LOOK_S = 0.02
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(action()))
    thread.start()
    while thread.is_alive():
        it.turn()
    return found[0]


def _waited_for(fd: int) -> list[int]:
    """By epoll, with this file (proc_pid_fdinfo(5))."""
    lines: list[list[str]] = []
    for name in os.listdir("/proc/self/fd"):
        if os.path.islink(f"/proc/self/fd/{name}") and "eventpoll" in os.readlink(f"/proc/self/fd/{name}"):
            with open(f"/proc/self/fdinfo/{name}", encoding="ascii") as file:
                lines += [line.split() for line in file if line.startswith("tfd:")]
    # Errors are always told (epoll_ctl(2)).
    return [int(line[3], 16) & ~(select.EPOLLERR | select.EPOLLHUP) for line in lines if int(line[1]) == fd]


def _fill(it: relay.Relay, speaker: socket.socket) -> None:
    """Until nobody on the way takes any more."""
    speaker.setblocking(False)
    refused = 0
    while refused < 5:
        try:
            speaker.send(bytes(1 << 14))
            refused = 0
        except BlockingIOError:
            refused += 1
        it.turn()
    speaker.settimeout(WITHIN_S)


def beside_xray() -> Json:
    """A client's traffic as the kernel hands it over, by both kinds of proxies; UDP is Xray's."""
    with stage() as it, lan() as inside:
        watch_marks()
        links = {name: it.links[name] for name in ("socks", "http")}
        links["wrong"] = links["socks"].replace("pass%3Aword", "other")
        told: Json = {}
        with engine(Engine(Policy(), upstreams_of(links)), it.directory):
            for number, name in enumerate(links):
                steer_to(ports(0, number).decided)
                told[name] = {
                    "by name": inside(partial(page, "listed.example")),
                    "by address": inside(partial(page, "")),
                    "IPv6": inside(partial(page, "six.example", TARGET6)),
                }
            steer_to(ports(0, 0).decided)
            told["udp"] = inside(partial(datagram, b"hello"))
            wait_until(lambda: _lasting() == 0)
            with inside(partial(client, (TARGET, 80), b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n")) as open_one:
                open_one.recv(100)
                told["lasting"] = _lasting()
            wait_until(lambda: _lasting() == 0)
        return {**told, "unmarked": unmarked_packets()}


def _lasting() -> int:
    return lasting(0, (), (IPv4Network("10.0.0.0/24"),))


PLAYS: dict[str, Callable[[], Json]] = {
    it.__name__: it for it in (wanted, ends, refusals, many, no_files_left, beside_xray)
}

if __name__ == "__main__":
    print(json.dumps(PLAYS[sys.argv[1]]()))
