"""The user's file: TOML -> Config, or every error at once. An empty or a missing file is a complete configuration."""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, structs

from sidegate.problems import Problem, Problems
from sidegate.reading import read

DEFAULT_PATH = Path("/etc/sidegate/sidegate.toml")

Masquerade = Literal["auto", "always", "never"]
Mac = Annotated[
    str,
    Meta(
        pattern="^[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}$",
        description="the MAC address of one device such as aa:bb:cc:dd:ee:ff",
    ),
]
InterfaceName = Annotated[
    str, Meta(pattern=r'^[^\s/"*:]{1,15}$', description="the name of a network interface such as eth0")
]


class Network(Struct, frozen=True, forbid_unknown_fields=True):
    """interface: default: where the default route points. router: default: the current default gateway."""

    interface: InterfaceName | None = None
    router: IPv4Address | None = None


class Nat(Struct, frozen=True, forbid_unknown_fields=True):
    """masquerade: `auto`: each client until its direct return path is proved; `always`, `never`: without asking."""

    masquerade: Masquerade = "auto"


class Probe(Struct, frozen=True, forbid_unknown_fields=True):
    """targets: public addresses that answer ICMP echo and DNS; asked in this order."""

    targets: tuple[IPv4Address, ...] = (
        IPv4Address("1.1.1.1"),
        IPv4Address("8.8.8.8"),
        IPv4Address("223.5.5.5"),
        IPv4Address("9.9.9.9"),
    )


class ClientConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """One device. mac: lower case once loaded. masquerade: default: as `nat.masquerade` says."""

    mac: Mac
    name: str = ""
    masquerade: Masquerade | None = None


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    network: Network = Network()
    nat: Nat = Nat()
    probe: Probe = Probe()
    client: tuple[ClientConfig, ...] = ()

    def masquerade_of(self, mac: str) -> Masquerade:
        """What holds for the client with this MAC address (lower case)."""
        own = next((c.masquerade for c in self.client if c.mac == mac), None)
        return own or self.nat.masquerade

    def name_of(self, mac: str) -> str:
        """The name given to the client with this MAC address (lower case); empty without one."""
        return next((c.name for c in self.client if c.mac == mac), "")


def load_config(path: Path | None = None) -> Config:
    """The configuration in this file. None: the default file, if there is one.

    A path that is given must exist. Raises Problems with every error of the file.
    """
    text, source = config_text(path)
    return parse_config(text, source)


def config_text(path: Path | None = None) -> tuple[str, str]:
    """What is in this file, and its name for messages. None: the default file; empty, without a name, if it lacks.

    Raises Problems.
    """
    if path is None and not DEFAULT_PATH.exists():
        return "", ""
    return _text(path or DEFAULT_PATH), str(path or DEFAULT_PATH)


def digest(config: Config) -> str:
    """Tells two configurations apart."""
    return hashlib.sha256(repr(config).encode()).hexdigest()[:16]


def parse_config(text: str, source: str) -> Config:
    """The configuration in a TOML text. source: the file's name for messages. Raises Problems with every error."""
    config = read(text, Config, source, _check)
    clients = tuple(structs.replace(c, mac=c.mac.lower()) for c in config.client)
    return structs.replace(config, client=clients)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise Problems(Problem(str(path), "not UTF-8 text")) from None
    except OSError as error:
        raise Problems(Problem(str(path), f"cannot be read: {error.strerror}")) from None


def _check(config: Config) -> list[Problem]:
    problems = []
    if not config.probe.targets:
        problems.append(Problem("probe.targets", "empty: nothing to probe with", "name one address, or drop the key"))
    first: dict[str, int] = {}
    for i, client in enumerate(config.client):
        seen = first.setdefault(client.mac.lower(), i)
        if seen != i:
            problems.append(Problem(f"client[{i}].mac", f"{client.mac} is already client[{seen}]", "keep one of them"))
    return problems
