"""Countries out of databases and files of networks."""

from __future__ import annotations

import mmap
import os
import random
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses
from pathlib import Path
from typing import Any

import maxminddb
import pytest

from sidegate.gateway.config import Lists, parse_config
from sidegate.gateway.split import countries
from sidegate.gateway.split.countries import Countries
from sidegate.gateway.split.lists import ListFile, ListReader
from sidegate.gateway.split.mmdb import country_of, networks_of, node_reader
from sidegate.gateway.split.shelf import Shelf, read_ahead
from sidegate.problems import Problem, Problems
from tests.gateway.split.mmdb_writer import Network, mmdb


def iso(code: str) -> dict[str, Any]:
    return {"continent": {"code": "XX"}, "country": {"iso_code": code, "names": {"en": f"Land of {code}"}}}


FEW: dict[Network, Any] = {
    IPv4Network("192.0.2.0/25"): iso("CN"),
    IPv4Network("192.0.2.128/25"): iso("CN"),
    IPv4Network("198.51.100.0/24"): iso("DE"),
    IPv4Network("203.0.113.7/32"): {"registered_country": {"iso_code": "CN"}},
    IPv6Network("2001:db8::/33"): iso("CN"),
    IPv6Network("2001:db8:8000::/33"): iso("DE"),
}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "country.mmdb"
    path.write_bytes(mmdb(FEW))
    return path


def read(countries: Countries, codes: list[str], lists: Lists) -> tuple[dict[str, ListFile], list[Problem]]:
    errors: list[Problem] = []
    return countries.read(codes, lists, errors), errors


@pytest.mark.parametrize("record_bits", [24, 28, 32])
@pytest.mark.parametrize("ip_version", [4, 6])
def test_our_walk_of_the_tree_finds_what_the_library_finds(tmp_path: Path, record_bits: int, ip_version: int) -> None:
    rng = random.Random(record_bits)  # noqa: S311
    records: dict[Network, Any] = {IPv4Network((n << 18, 14)): iso(rng.choice(["CN", "DE", "SE"])) for n in range(200)}
    if ip_version == 6:
        records |= {IPv6Network(((0x20010DB8 << 16 | n) << 80, 48)): iso(rng.choice(["CN", "DE"])) for n in range(99)}
    path = tmp_path / "db"
    path.write_bytes(mmdb(records, record_bits, ip_version))
    found = networks_of(path, ["CN"])["CN"].destination()
    with maxminddb.open_database(path) as reader:
        theirs = [network for network, record in reader if country_of(record) == "CN"]
    assert found.networks4 == tuple(collapse_addresses(n for n in theirs if isinstance(n, IPv4Network)))
    assert found.networks6 == tuple(collapse_addresses(n for n in theirs if isinstance(n, IPv6Network)))
    assert len(found.networks4) > 20


def test_aliases_of_ipv4_are_not_ipv6_networks(database: Path) -> None:
    found = networks_of(database, ["CN"])["CN"]
    assert found.destination().networks6 == (IPv6Network("2001:db8::/33"),)
    assert found.destination().networks4 == (IPv4Network("192.0.2.0/24"),)


@pytest.mark.parametrize(
    ("record", "country"),
    [
        (iso("CN"), "CN"),
        ("cn", "CN"),
        ({"country": "China", "country_code": "CN"}, "CN"),
        ({"country": "CN"}, "CN"),
        ({"country": {"names": {}}}, ""),
        ({"asn": "AS1"}, ""),
        (None, ""),
        (7, ""),
    ],
)
def test_the_records_of_several_publishers(record: object, country: str) -> None:
    assert country_of(record) == country


@pytest.mark.parametrize("cut", [0, 1, 20, 200, -1])
def test_a_damaged_database(tmp_path: Path, database: Path, cut: int) -> None:
    path = tmp_path / "cut.mmdb"
    path.write_bytes(database.read_bytes()[:cut])
    with pytest.raises(Problems, match="is damaged, or no MMDB file"):
        networks_of(path, ["CN"])


def test_a_tree_that_is_none_ends(tmp_path: Path, database: Path) -> None:
    content = bytearray(database.read_bytes())
    content[0:6] = bytes(6)
    path = tmp_path / "circle.mmdb"
    path.write_bytes(content)
    with pytest.raises(Problems, match=r"is damaged, or no MMDB file\n.*is no tree"):
        networks_of(path, ["CN"])


def test_a_tree_whose_branches_meet_again_ends(tmp_path: Path, database: Path) -> None:
    """60 nodes, each of which leads to the next one twice: 2^60 ways."""
    content = bytearray(database.read_bytes())
    for node in range(60):
        content[6 * node : 6 * node + 6] = (node + 1).to_bytes(3, "big") * 2
    path = tmp_path / "braid.mmdb"
    path.write_bytes(content)
    with pytest.raises(Problems, match=r"is damaged, or no MMDB file\n.*is no tree"):
        networks_of(path, ["CN"])


def test_records_of_28_bits_share_a_byte() -> None:
    """The high four bits of both lie in the middle one."""
    with mmap.mmap(-1, 7) as data:
        data[:] = bytes.fromhex("234567" + "18" + "9abcde")
        assert node_reader(data, 28)(0) == (0x1234567, 0x89ABCDE)


def test_what_was_found_is_kept_until_the_database_changes(tmp_path: Path, database: Path) -> None:
    lists, state = Lists(country_db=str(database)), tmp_path / "state"
    first, _ = read(Countries(ListReader(), state), ["CN", "DE"], lists)
    kept = state / "countries" / "CN.txt"
    assert kept.read_text().splitlines()[1:] == ["192.0.2.0/24", "2001:db8::/33"]
    kept.write_text(kept.read_text() + "198.18.0.0/15\n")
    again, _ = read(Countries(ListReader(), state), ["CN"], lists)
    assert again["CN"].entries.networks4[-1] == IPv4Network("198.18.0.0/15")
    os.utime(database, (1, 1))
    anew, _ = read(Countries(ListReader(), state), ["CN"], lists)
    assert anew["CN"].entries == first["CN"].entries


def test_what_is_kept_may_be_damaged(tmp_path: Path, database: Path) -> None:
    lists, state = Lists(country_db=str(database)), tmp_path / "state"
    first, _ = read(Countries(ListReader(), state), ["CN"], lists)
    kept = state / "countries" / "CN.txt"
    kept.write_text(kept.read_text() + "oops/\n")
    again, errors = read(Countries(ListReader(), state), ["CN"], lists)
    assert again["CN"].entries == first["CN"].entries
    assert not errors


def test_where_nothing_can_be_kept_it_is_read_anew(tmp_path: Path, database: Path) -> None:
    (tmp_path / "state").write_text("no directory")
    found, errors = read(Countries(ListReader(), tmp_path / "state"), ["CN"], Lists(country_db=str(database)))
    assert not errors
    assert found["CN"].entries.networks4


def test_a_file_of_networks_comes_first(tmp_path: Path, database: Path) -> None:
    path = tmp_path / "cn.txt"
    path.write_text("198.18.0.0/15\n2001:db8:c::/48\n")
    lists = Lists(country_db=str(database), country_files={"cn": str(path)})
    found, _ = read(Countries(ListReader(), None), ["CN", "DE"], lists)
    assert found["CN"].entries.networks4 == (IPv4Network("198.18.0.0/15"),)
    assert IPv4Address("198.51.100.9") in found["DE"].entries.networks4[0]
    assert IPv6Address("2001:db8:8000::1") in found["DE"].entries.networks6[0]


def test_what_is_wrong_is_told(tmp_path: Path, database: Path) -> None:
    names = tmp_path / "cn.txt"
    names.write_text("example.cn\n")
    found, errors = read(
        Countries(ListReader(), None),
        ["CN", "DE", "XX"],
        Lists(country_db=str(database), country_files={"CN": str(names)}),
    )
    assert list(found) == ["DE"]
    assert [p.what for p in errors] == [
        "names domains, and was to hold the networks of CN alone",
        "knows no network of a country XX",
    ]
    _, errors = read(Countries(ListReader(), None), ["CN"], Lists(country_db=str(tmp_path / "missing")))
    assert "No such file" in errors[0].what
    assert "DB-IP" in errors[0].remedy
    _, errors = read(Countries(ListReader(), None), ["CN"], Lists())
    assert errors[0].what == "no file and no database holds the networks of CN"


def test_what_the_command_line_read_ahead_is_text_for_the_daemon(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database is a second's work, and the daemon's loop is not to stand still for it."""
    config = parse_config(f'[[rule]]\ncountry = ["cn"]\nsend = "block"\n[lists]\ncountry_db = "{database}"\n', "test")
    read_ahead(config, tmp_path / "state")
    monkeypatch.setattr(countries, "_networks_of", lambda *_: pytest.fail("the database was read again"))
    found = Shelf(tmp_path / "state").read(config).countries["CN"]
    assert [str(it) for it in found.networks4] == ["192.0.2.0/24"]
