"""`sidegate plan` as a person types it."""

from __future__ import annotations

import io
import json
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

import pytest

from sidegate.cli import plan as command
from sidegate.cli.main import main
from sidegate.gateway import lifecycle
from sidegate.gateway.config import load_config
from sidegate.gateway.view import ClientsView, ClientView, StatusView


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["plan", *words])
    return int(str(ended.value.code))


def test_a_routers_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--router", "linksys-velop-mx4200") == 0
    out = capsys.readouterr().out
    assert "Best: DHCP on the box, the router's DHCP turned off (own-dhcp)." in out


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--router", "redmi-ax5", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["schema"], plan["ways"][0]["id"]) == (1, "router-dhcp")
    assert {p["path"] for p in plan["ways"][0]["predictions"]} == {"direct"}


def test_a_config_file_that_the_gateway_loads(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("--router", "linksys-velop-mx4200", "--config-for", "masquerade-all") == 0
    file = tmp_path / "sidegate.toml"
    file.write_text(capsys.readouterr().out)
    assert load_config(file).nat.masquerade == "always"


def test_the_same_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--config-for", "static", "--json") == 0
    assert 'masquerade = "auto"' in json.loads(capsys.readouterr().out)["config"]


def test_one_way(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--router", "redmi-ax5", "--way", "own-dhcp") == 0
    assert "POSSIBLE WITH THIS ROUTER: UNKNOWN" in capsys.readouterr().out


def test_answers_count_and_are_in_the_command_to_ask_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--answer", "dhcp-gateway=YES", "--standby") == 0
    out = capsys.readouterr().out
    assert "(router-dhcp)" in out.split("WHAT TO DO")[0]
    assert "sidegate plan --answer dhcp_gateway=yes --standby --config-for router-dhcp" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--router", "no-such"], ["no such router profile", "linksys-velop-mx4200"]),
        (["--answer", "sshh=no", "--answer", "ssh=perhaps"], ['did you mean "ssh"?', 'got "perhaps"']),
        (["--answer", "ssh"], ["no answer in it"]),
        (["--answer", "ssh=yes", "--answer", "ssh=no"], ["already answered with yes"]),
        (["--proxy", "many"], ["'many' is not one of"]),
        (["--way", "magic"], ["no such way", "own-dhcp"]),
        (["--config-for", "magic"], ["no such way", "masquerade-all"]),
        (["--config-for", "router-proxy"], ["nothing to configure"]),
        (["--router", "linksys-velop-mx4200", "--config-for", "router-dhcp"], ["no gateway field", "dhcp_gateway=yes"]),
    ],
)
def test_what_is_wrong_is_said_with_exit_code_2(
    words: list[str], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    for part in said:
        assert part in printed.err


def test_a_terminal_is_asked_what_is_unknown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("n\nperhaps\nYes\n\n\n\n\n"))
    assert run() == 0
    printed = capsys.readouterr()
    assert "DHCP option 3" in printed.err
    assert "say yes, no or unknown" in printed.err
    assert "(own-dhcp)" in printed.out.split("WHAT TO DO")[0]
    assert "sidegate plan --answer dhcp_gateway=no --answer dhcp_off=yes --config-for own-dhcp" in " ".join(
        printed.out.split()
    )


@pytest.mark.parametrize(
    "words", [["--router", "generic"], ["--live"], ["--answer", "ssh=no"], ["--config-for", "coexist"]]
)
def test_a_terminal_is_not_asked_where_a_router_or_a_gateway_tells(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(""))
    monkeypatch.setattr(command, "_live_devices", tuple)
    assert run(*words) == 0
    assert capsys.readouterr().err == ""


def test_live_without_a_gateway(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(lifecycle, "status", lambda at: StatusView(up=False, daemon=False))
    assert run("--live") == 2
    assert "no gateway is up here" in capsys.readouterr().err


def test_live_without_a_daemon_knows_the_proofs_in_the_kernel(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def client(last: int, path: Literal["direct", "masqueraded"], proof_left_s: int | None) -> ClientView:
        ip, mac = IPv4Address(f"192.168.1.{last}"), f"02:5d:00:00:00:{last}"
        return ClientView(ip=ip, mac=mac, path=path, proof_left_s=proof_left_s)

    seen = ClientsView((client(10, "direct", 60), client(11, "masqueraded", None)), daemon=False)
    monkeypatch.setattr(lifecycle, "status", lambda at: StatusView(up=True, daemon=False))
    monkeypatch.setattr(lifecycle, "clients", lambda at, config, **how: seen)
    assert run("--live", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert [d["verdict"] for d in plan["devices"]] == ["direct", "unknown"]
