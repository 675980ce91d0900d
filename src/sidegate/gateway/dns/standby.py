"""Our resolver while the router stands in for this box: it goes on, and asks nobody behind the engine any more."""

from __future__ import annotations

import re
from ipaddress import IPv4Address

from sidegate.gateway.box.children import Nursery
from sidegate.gateway.box.places import Places, unwritable
from sidegate.gateway.dns.child import resolver_child
from sidegate.gateway.dns.places import NAME, RELIEF, ResolverPlaces
from sidegate.problems import Problems

_ENGINE = re.compile(r"^(server=.*)\b127\.0\.0\.[0-9]+#[0-9]+$", re.MULTILINE)
_LEARNED = re.compile(r"^nftset=.*\n", re.MULTILINE)


def past_engine(conf: str, direct: IPv4Address) -> str:
    """The configuration without the engine: another server in its place. The sets that it filled are gone too."""
    lines = _LEARNED.sub("", _ENGINE.sub(rf"\g<1>{direct}", conf)).splitlines()
    return "\n".join(dict.fromkeys(lines)) + "\n"


def resolve_past_engine(at: Places, direct: IPv4Address) -> None:
    """For a resolver that runs while no daemon does; nothing to do where none runs. Raises Problems.

    It is started anew: 30 ms in which nobody answers, and clients ask again.
    """
    where = ResolverPlaces(at.runtime)
    nursery = Nursery(where.directory, at.state, lambda _: None)
    try:
        if nursery.runs(NAME) or nursery.runs(RELIEF):
            conf = past_engine(where.conf.read_text("utf-8"), direct)
            nursery.want((resolver_child(conf, where),), leaving=(RELIEF,))
            nursery.settle()
    except OSError as error:
        raise Problems(unwritable(where.conf, error)) from None
    finally:
        nursery.close()
