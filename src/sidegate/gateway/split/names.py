"""Domain names as DNS carries them, and which is below which."""

from __future__ import annotations

import encodings.idna
import re
import unicodedata
from collections.abc import Container, Iterator

LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
TOP_LABEL = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
is_plain_name = re.compile(rf"(?:{LABEL}\.)*{TOP_LABEL}").fullmatch
"""Letter case, length and what is not ASCII aside, the names that there are; `ascii_name` knows the rest."""
_MOST_CHARACTERS = 253
_KEPT_BY_BROWSERS = re.compile("[\u00df\u03c2\u200c\u200d]")


def ascii_name(name: str) -> str:
    """The name as DNS carries it: lower case, in ASCII, without dots at its ends. Raises ValueError, with the reason.

    Of a name's labels, those that are not ASCII are encoded as browsers do (UTS 46, not transitional): as IDNA 2003
    does, but the four deviation characters, such as the German sharp s, are kept.
    """
    found = name.strip(".").lower()
    if not found.isascii():
        try:
            found.encode()
            found = ".".join(_ascii_label(label) for label in re.split("[.\u3002\uff0e\uff61]", found))
        except UnicodeError:
            raise ValueError("not a domain name") from None
    if len(found) > _MOST_CHARACTERS:
        raise ValueError(f"longer than {_MOST_CHARACTERS} characters")
    if not is_plain_name(found):
        raise ValueError("not a domain name")
    return found


def _ascii_label(label: str) -> str:
    """Raises UnicodeError."""
    if _KEPT_BY_BROWSERS.search(label):
        return "xn--" + unicodedata.normalize("NFKC", label).encode("punycode").decode("ascii")
    return encodings.idna.ToASCII(label).decode("ascii").lower()


def parents(name: str) -> Iterator[str]:
    """The names above it, nearest first: of `a.b.c`, `b.c` and `c`."""
    while name := name.partition(".")[2]:
        yield name


def is_below(name: str, suffixes: Container[str]) -> bool:
    while name := name.partition(".")[2]:
        if name in suffixes:
            return True
    return False
