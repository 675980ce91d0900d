"""Configuration and subscriptions -> all upstreams, in the order of preference, each with a name of its own.

First those of `proxy.upstream`, then the sections [[upstream]], then what the subscriptions list.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
from msgspec import Struct

from sidegate.gateway.config import Config, UpstreamConfig
from sidegate.gateway.config.split import TARGETS
from sidegate.gateway.engine.entries import read_entries
from sidegate.gateway.engine.link_parts import Wrong, checked_host
from sidegate.gateway.engine.links import upstream_of_link
from sidegate.gateway.engine.upstream import Json, Kind, Upstream
from sidegate.gateway.split.ports import MOST_UPSTREAMS
from sidegate.problems import Problem, Problems, unreadable

_LONGEST_NAME = 32
_LARGEST_FILE = 1 << 16
_KINDS: Mapping[str, Kind] = {
    "socks": "socks",
    "http": "http",
    "shadowsocks": "shadowsocks",
    "vmess": "vmess",
    "vless": "vless",
    "trojan": "trojan",
    "wireguard": "wireguard",
}

ReadFile = Callable[[str], str]
"""A file's text. Raises OSError and UnicodeDecodeError."""


class Upstreams(Struct, frozen=True):
    """found: at most MOST_UPSTREAMS. problems: of subscriptions' entries, which are left out."""

    found: tuple[Upstream, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(it.name for it in self.found)


def upstreams(config: Config, read: ReadFile, subscriptions: Sequence[tuple[str, str]] = ()) -> Upstreams:
    """subscriptions: where each is from, for people, and its text.

    Raises Problems: all that is wrong in the configuration itself and in the files that it names.
    """
    own, problems = _configured(config, read)
    if problems:
        raise Problems(*problems)
    lists = [read_entries(text, where) for where, text in subscriptions]
    listed = [it for one in lists for it in one.upstreams]
    taken = {it.name for it in config.upstream}
    named = [*_named(own[: len(config.proxy.links)], taken), *own[len(config.proxy.links) :], *_named(listed, taken)]
    problems = [p for one in lists for p in one.problems]
    if len(named) > MOST_UPSTREAMS:
        what = f"{len(named)} upstreams, of which the first {MOST_UPSTREAMS} are used"
        problems.append(Problem("proxy", what, "name those that you want in proxy.upstream"))
    return Upstreams(tuple(named[:MOST_UPSTREAMS]), tuple(problems))


def _configured(config: Config, read: ReadFile) -> tuple[list[Upstream], list[Problem]]:
    makers = [
        *(_maker(upstream_of_link, link, _link_path(config, i)) for i, link in enumerate(config.proxy.links)),
        *(_maker(_section, it, f"upstream[{i}]", read) for i, it in enumerate(config.upstream)),
    ]
    found: list[Upstream] = []
    problems: list[Problem] = []
    for make in makers:
        try:
            found.append(make())
        except Problems as error:
            problems += error.problems
    return found, problems


def _maker(function: Callable[..., Upstream], *arguments: object) -> Callable[[], Upstream]:
    return lambda: function(*arguments)


def _link_path(config: Config, i: int) -> str:
    return "proxy.upstream" if isinstance(config.proxy.upstream, str) else f"proxy.upstream[{i}]"


# Sections


def _section(it: UpstreamConfig, where: str, read: ReadFile) -> Upstream:
    if it.outbound_file is not None:
        return _of_outbound(_text(it.outbound_file, read), it.name, it.outbound_file)
    if it.link_file is not None:
        found = upstream_of_link(_one_line(_text(it.link_file, read), it.link_file), it.link_file)
    else:
        found = upstream_of_link(it.link or "", f"{where}.link")
    return msgspec.structs.replace(found, name=it.name)


def _text(path: str, read: ReadFile) -> str:
    try:
        text = read(path)
    except UnicodeDecodeError:
        raise Problems(Problem(path, "not UTF-8 text")) from None
    except OSError as error:
        raise Problems(unreadable(path, error, "mend [[upstream]] or the file")) from None
    if len(text) > _LARGEST_FILE:
        raise Problems(Problem(path, f"larger than {_LARGEST_FILE} bytes"))
    return text


def _one_line(text: str, path: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if len(lines) != 1:
        raise Problems(Problem(path, f"{len(lines)} links in it", "one is wanted; a list of them is a subscription"))
    return lines[0]


def _of_outbound(text: str, name: str, path: str) -> Upstream:
    """The user's own, as it is; tag and mark are ours, though."""
    remedy = 'an outbound of Xray\'s is wanted, as {"protocol": …, "settings": …}'
    try:
        outbound = msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise Problems(Problem(path, "not a JSON object", remedy)) from None
    protocol = outbound.get("protocol")
    if not isinstance(protocol, str) or "outbounds" in outbound:
        raise Problems(Problem(path, "not an outbound", remedy))
    kind = _KINDS.get(protocol, "other")
    return Upstream(name, kind, *_server(outbound), outbound, udp=kind != "http", full_cone=kind != "http")


def _server(outbound: Json) -> tuple[str, int]:
    """As far as it shows: settings.address, or that of the one member of vnext or servers (infra/conf)."""
    settings = outbound.get("settings")
    candidates = [settings]
    if isinstance(settings, dict):
        for key in ("vnext", "servers"):
            members = settings.get(key)
            candidates += members[:1] if isinstance(members, list) else []
    for it in candidates:
        if isinstance(it, dict) and isinstance(it.get("address"), str) and isinstance(it.get("port"), int):
            try:
                return checked_host(it["address"]), it["port"]
            except Wrong:
                continue
    return "", 0


# Names


def _named(found: Iterable[Upstream], taken: set[str]) -> Iterator[Upstream]:
    """taken: names that are used already; grows."""
    for it in found:
        name = _free(safe_name(it.name) or safe_name(it.host) or it.kind, taken)
        taken.add(name)
        yield msgspec.structs.replace(it, name=name)


def safe_name(text: str) -> str:
    """Letters and digits of any script, dots, hyphens and underscores; 32 at the most; empty if nothing is left."""
    plain = unicodedata.normalize("NFKC", text)
    words = "".join(c if c.isalnum() or c in "._-" else " " for c in plain).split()
    return "-".join(words)[:_LONGEST_NAME].strip("._-")


def _free(name: str, taken: set[str]) -> str:
    candidate, number = name, 1
    while candidate in taken or candidate in TARGETS:
        number += 1
        candidate = f"{name[: _LONGEST_NAME - 4]}-{number}"
    return candidate
