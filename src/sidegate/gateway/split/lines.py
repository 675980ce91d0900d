"""Pure: one line of a list file -> what it names. The syntax is known by the line, so that one file may mix them.

    example.org   *.example.org   +.example.org   a domain with all below it
    192.0.2.0/24   2001:db8::1                    networks and addresses
    server=/a.example/b.example/192.0.2.1         dnsmasq: server, local, address, ipset, nftset (dnsmasq(8))
    domain:a  full:a  include:file  a @attribute  v2fly's domain-list-community
    DOMAIN-SUFFIX,a   IP-CIDR,192.0.2.0/24        Clash's rules, without a target of their own
    - '+.example.org'                             Clash's payload, in which a plain name is that name alone
    0.0.0.0 a.example b.example                   hosts(5): the names, each alone
    # at a line's beginning or after a blank      a remark

What can be known only from the traffic itself (keyword, regexp, a process's name) is refused, since neither the kernel
nor the resolver could decide it.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable

from msgspec import Struct

from sidegate.gateway.split.destinations import Gathered
from sidegate.gateway.split.names import ascii_name

_REMARK = re.compile(r"(?:^|\s)#.*|^;.*", re.DOTALL)
_NETWORK4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?:/[0-9]{1,2})?").fullmatch
_NETWORK6 = re.compile(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:/[0-9]{1,3})?").fullmatch
_DNSMASQ = re.compile(r"(server|local|address|ipset|nftset)=/(.*)/[^/]*").fullmatch
_OPTION = re.compile(r"[a-z0-9-]+=").match
_PAYLOAD = re.compile(r"-\s+(?:'([^']*)'|\"([^\"]*)\"|([^'\"].*))").fullmatch
_V2FLY = re.compile(r"(domain|full|keyword|regexp):(.*)").fullmatch
_CLASH = re.compile(r"([A-Z][A-Z0-9-]+),([^,]*)((?:,.*)?)").fullmatch
_LONGEST_LINE = 16384
_SHOWN_CHARACTERS = 60
_KINDS = 'domains, networks, and what dnsmasq, v2fly ("domain:…") and Clash ("DOMAIN-SUFFIX,…") write are understood'
_UNDECIDABLE = "neither the kernel nor the resolver can decide it; name the domains instead"
_CLASH_REMEDIES = {
    "GEOIP": "give countries by proxy.country or a rule's country",
    **dict.fromkeys(("DOMAIN-KEYWORD", "DOMAIN-REGEX", "DOMAIN-WILDCARD"), _UNDECIDABLE),
}
_HOSTS_OWN = frozenset({"localhost", "localhost.localdomain", "local", "broadcasthost"})


class BadLine(Exception):
    """what: as in a Problem. remedy: likewise."""

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy


class Selection(Struct, frozen=True):
    """What of a file is taken: entries with each attribute of `having` (as `cn` or `!cn`) and none of `lacking`."""

    having: frozenset[str] = frozenset()
    lacking: frozenset[str] = frozenset()

    def takes(self, attributes: frozenset[str]) -> bool:
        return attributes >= self.having and not attributes & self.lacking

    def within(self, attributes: frozenset[str]) -> Selection:
        """What is left of an included file, whose line has these attributes: `cn`, or `-cn` for those without."""
        lacking = frozenset(a[1:] for a in attributes if a.startswith("-"))
        having = frozenset(a for a in attributes if not a.startswith("-"))
        return Selection(self.having | having, self.lacking | lacking)


Include = Callable[[str, Selection], None]
"""Takes in another file, by its name. Raises BadLine."""


def take_line(line: str, into: Gathered, selection: Selection, include: Include) -> None:
    """Raises BadLine."""
    text = _REMARK.sub("", line).strip() if len(line) <= _LONGEST_LINE else line
    if not text or text in ("payload:", "---"):
        return
    if len(text) > _LONGEST_LINE:
        raise BadLine(f"longer than {_LONGEST_LINE} characters: {_shown(text)}")
    text, attributes = _attributes(text)
    if text.startswith("include:"):
        include(text.removeprefix("include:").strip(), selection.within(attributes))
    elif selection.takes(attributes):
        _take(text, into)


def _take(text: str, into: Gathered) -> None:
    if _take_network(text, into):
        return
    if found := _DNSMASQ(text):
        _take_suffixes(found[2].split("/"), into)
    elif found := _V2FLY(text):
        _take_v2fly(found[1], found[2].strip(), into)
    elif found := _PAYLOAD(text):
        _take_payload((found[1] or found[2] or found[3] or "").strip(), into)
    elif found := _CLASH(text):
        _take_clash(found[1], found[2].strip(), found[3], into)
    elif _OPTION(text):
        raise BadLine(f"an option that names no domains: {_shown(text)}")
    elif " " in text or "\t" in text:
        _take_hosts(text, into)
    else:
        _take_suffixes([text], into)


def _attributes(text: str) -> tuple[str, frozenset[str]]:
    """The line without v2fly's attributes (`@cn`) and affiliations (`&list`), which say nothing to us but for `@`."""
    words = text.split()
    kept = len(words)
    while kept > 1 and words[kept - 1][0] in "@&":
        kept -= 1
    if kept == len(words):
        return text, frozenset()
    return " ".join(words[:kept]), frozenset(w[1:] for w in words[kept:] if w[0] == "@")


def _take_network(text: str, into: Gathered) -> bool:
    """Whether it is one. Raises BadLine for one that is wrong."""
    if _NETWORK4(text):
        into.networks4.append(_network(text, socket.AF_INET, 32))
        return True
    if _NETWORK6(text):
        into.networks6.append(_network(text, socket.AF_INET6, 128))
        return True
    return False


def _network(text: str, family: socket.AddressFamily, bits: int) -> tuple[int, int]:
    address, _, length_text = text.partition("/")
    try:
        value = int.from_bytes(socket.inet_pton(family, address), "big")
    except OSError:
        raise BadLine(f"not an address: {_shown(text)}") from None
    length = int(length_text) if length_text else bits
    if length > bits:
        raise BadLine(f"a prefix longer than {bits} bits: {_shown(text)}")
    behind = value & ((1 << (bits - length)) - 1)
    if behind:
        network = socket.inet_ntop(family, (value - behind).to_bytes(bits // 8, "big"))
        raise BadLine(f"not a network: {_shown(text)} has bits behind its prefix", f"did you mean {network}/{length}?")
    return value, length


def _take_suffixes(texts: list[str], into: Gathered) -> None:
    names = [_name(text) for text in texts]
    into.suffixes.update(names)


def _name(text: str) -> str:
    """Wildcards in front are dropped: all below a domain is meant with it anyway."""
    for wildcard in ("*.", "+."):
        text = text.removeprefix(wildcard)
    try:
        return ascii_name(text)
    except ValueError as error:
        raise BadLine(f"{error}: {_shown(text)}") from None


def _take_v2fly(kind: str, value: str, into: Gathered) -> None:
    if kind in ("keyword", "regexp"):
        raise BadLine(f"{kind} is not supported: {_shown(value)}", _UNDECIDABLE)
    if kind == "full":
        into.names.add(_name(value))
    else:
        into.suffixes.add(_name(value))


def _take_clash(kind: str, value: str, rest: str, into: Gathered) -> None:
    if rest and rest.strip(", ") != "no-resolve":
        raise BadLine(
            f"a rule with a target of its own: {_shown(kind + ',' + value + rest)}", "list what, not where to"
        )
    if kind == "DOMAIN":
        into.names.add(_name(value))
    elif kind == "DOMAIN-SUFFIX":
        into.suffixes.add(_name(value))
    elif kind not in ("IP-CIDR", "IP-CIDR6"):
        raise BadLine(f"{kind} is not supported: {_shown(value)}", _CLASH_REMEDIES.get(kind, ""))
    elif not _take_network(value, into):
        raise BadLine(f"not a network: {_shown(value)}")


def _take_payload(text: str, into: Gathered) -> None:
    if _take_network(text, into):
        return
    if found := _CLASH(text):
        _take_clash(found[1], found[2].strip(), found[3], into)
    elif text.startswith(("+.", "*.", ".")):
        into.suffixes.add(_name(text))
    else:
        into.names.add(_name(text))


def _take_hosts(text: str, into: Gathered) -> None:
    address, *names = text.split()
    if not (_NETWORK4(address) or _NETWORK6(address)):
        raise BadLine(f"not understood: {_shown(text)}", _KINDS)
    into.names.update(_name(n) for n in names if n not in _HOSTS_OWN and not n.startswith("ip6-") and n != address)


def _shown(text: str) -> str:
    """For people's eyes, on whatever they read it: nothing that a terminal obeys."""
    plain = text[:_SHOWN_CHARACTERS].encode("unicode_escape", "surrogatepass").decode("ascii")
    return f'"{plain}{"…" if len(text) > _SHOWN_CHARACTERS else ""}"'
