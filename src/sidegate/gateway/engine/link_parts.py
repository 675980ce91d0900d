"""What share links are made of: a URL's parts, hosts, base64, keys. Pure; hostile input is expected.

`Wrong` names the part that is wrong and never repeats what stands there, which may be a secret.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from urllib.parse import unquote

from msgspec import Struct

LONGEST_LINK = 16384
"""Characters. A link with a post-quantum key of Reality's has some 3,000."""
_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*"
)
_PORT = re.compile(r"[0-9]{1,5}")
_UUID = re.compile(r"[0-9A-Fa-f]{8}-?([0-9A-Fa-f]{4}-?){3}[0-9A-Fa-f]{12}")


class Wrong(Exception):
    """part: of the link, as people call it. what: what is wrong there. remedy: what to do; may be empty."""

    def __init__(self, part: str, what: str, remedy: str = "") -> None:
        self.part, self.what, self.remedy = part, what, remedy
        super().__init__(part, what)


class Url(Struct, frozen=True):
    """scheme://user@host:port?query#name. user: still encoded, None without one. name, query: decoded."""

    scheme: str
    user: str | None
    address: str
    query: Mapping[str, str]
    name: str

    @property
    def server(self) -> tuple[str, int]:
        """Raises Wrong."""
        return host_port(self.address)

    def get(self, key: str, default: str = "") -> str:
        return self.query.get(key) or default


def url(link: str) -> Url:
    """Raises Wrong. A path behind the address is dropped: no kind of link gives it a meaning."""
    scheme, body, name = split_link(link)
    body, _, query = body.partition("?")
    user, at, address = body.rpartition("@")
    return Url(scheme, user if at else None, address.partition("/")[0], query_of(query), name)


def split_link(link: str) -> tuple[str, str, str]:
    """The scheme in lower case, what follows it, and the name, which may have blanks in it. Raises Wrong."""
    if len(link) > LONGEST_LINK:
        raise Wrong("link", f"longer than {LONGEST_LINK} characters")
    address, _, name = link.partition("#")
    if any(ord(c) <= 32 or ord(c) == 127 for c in address):
        raise Wrong("link", "a blank or a control character in it", "write %20 for a blank")
    scheme, sep, body = address.partition("://")
    if not sep or not scheme:
        raise Wrong("link", "it does not begin with a scheme", "such as socks5:// or ss://")
    return scheme.lower(), body, unquote(name, errors="replace")


def query_of(text: str) -> dict[str, str]:
    """A plus is a plus: share links are written with encodeURIComponent, not as forms. Raises Wrong.

    `&amp;` is what a web page's source shows for `&`: the key behind it, such as `security`, would be lost.
    """
    query: dict[str, str] = {}
    for pair in filter(None, text.replace("&amp;", "&").split("&")):
        key, _, value = pair.partition("=")
        key = decoded(key, "query")
        if key in query:
            raise Wrong("query", "a key is there twice")
        query[key] = decoded(value, "query")
    return query


def decoded(text: str, part: str) -> str:
    """Without percent encoding. Raises Wrong."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise Wrong(part, "its percent encoding is not UTF-8") from None


def host_port(text: str) -> tuple[str, int]:
    """host:port, with brackets around an IPv6 address. Raises Wrong."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or host.endswith(":"):
        raise Wrong("server", "not host:port", "write 192.0.2.1:443, example.org:443 or [2001:db8::1]:443")
    if host.startswith("[") and host.endswith("]"):
        return _ipv6(host[1:-1]), checked_port(port)
    if ":" in host:
        raise Wrong("server", "an IPv6 address without brackets", "write [2001:db8::1]:443")
    return checked_host(host), checked_port(port)


def checked_port(text: str) -> int:
    """Raises Wrong."""
    if not _PORT.fullmatch(text) or not 1 <= int(text) <= 65535:
        raise Wrong("port", "not a number from 1 to 65535")
    return int(text)


def checked_host(text: str) -> str:
    """A name in ASCII and lower case, or an address. Raises Wrong."""
    if ":" in text:
        return _ipv6(text.strip("[]"))
    try:
        return str(IPv4Address(text))
    except AddressValueError:
        pass
    try:
        name = text.encode("idna").decode("ascii").lower().rstrip(".")
    except UnicodeError:
        raise Wrong("server", "neither an address nor a domain name") from None
    if not _NAME.fullmatch(name) or name.rpartition(".")[2].isdigit():
        raise Wrong("server", "neither an address nor a domain name")
    return name


def _ipv6(text: str) -> str:
    try:
        address = IPv6Address(text)
    except AddressValueError:
        raise Wrong("server", "not an IPv6 address") from None
    if address.scope_id is not None:
        raise Wrong("server", "an IPv6 address with a zone", "give an address that needs none")
    return str(address)


def unbase64(text: str, part: str) -> str:
    """Base64 of UTF-8, in either alphabet, padded or not (RFC 4648 sections 4 and 5). Raises Wrong."""
    try:
        return unbase64_bytes(text, part).decode("utf-8")
    except UnicodeDecodeError:
        raise Wrong(part, "base64 of something that is no text") from None


def unbase64_bytes(text: str, part: str) -> bytes:
    """Raises Wrong."""
    plain = text.strip().rstrip("=").translate({ord("-"): "+", ord("_"): "/"})
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Wrong(part, "not base64") from None


def key32(text: str, part: str) -> bytes:
    """32 bytes in base64. Raises Wrong."""
    data = unbase64_bytes(text, part)
    if len(data) != 32:
        raise Wrong(part, f"not a key of 32 bytes but of {len(data)}")
    return data


def user_id(text: str) -> str:
    """A UUID, or up to 30 bytes that Xray makes one of (common/uuid/uuid.go, ParseString). Raises Wrong."""
    if not _UUID.fullmatch(text) and not 1 <= len(text.encode()) <= 30:
        raise Wrong("id", "not a UUID", "such as 11111111-2222-4333-8444-555555555555")
    return text
