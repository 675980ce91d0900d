"""The box as the programs on it tell it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidegate.gateway.box import programs
from sidegate.gateway.box.livebox import LiveBox
from sidegate.problems import Problems

_LACKING = "/dev/stdin:1:1-9: Error: Could not process rule: No such file or directory"


@pytest.mark.parametrize(
    ("said", "remedy"), [(_LACKING, "modprobe -a nft_masq nft_tproxy nft_socket"), ("syntax error", "")]
)
def test_a_module_that_the_kernel_lacks_is_named(
    said: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nft = tmp_path / "nft"
    nft.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    nft.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(Problems) as caught:
        LiveBox().check("table inet sidegate { }")
    (problem,) = caught.value.problems
    assert problem.what == said
    assert remedy in problem.remedy
    assert bool(problem.remedy) == bool(remedy)


def test_the_resolver_comes_without_a_service_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package dnsmasq would take port 53 for a server of its own."""
    monkeypatch.setattr(programs, "find", lambda _: None)
    (problem,) = programs.missing("dnsmasq")
    assert problem.remedy == "apt install dnsmasq-base"
