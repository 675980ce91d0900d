"""Killed at every step of `apply` and `undo`: the next one brings the box to where it should be."""

from __future__ import annotations

import pytest

from sidegate.gateway.box.apply import Changes
from tests.kernel.box_rig import IPTABLES_LEGACY, NFT, STRICT, changed, down, files, state, up
from tests.kernel.gateway_rig import Rig, in_namespaces, shell
from tests.kernel.killing import every_step

pytestmark = pytest.mark.kernel


@in_namespaces
def test_killed_at_every_step_of_up_then_down() -> None:
    Rig()
    shell(f"{NFT}; {IPTABLES_LEGACY}; {STRICT}")
    before = state()

    def restored(step: int) -> None:
        down()
        assert (step, changed(before), files()) == (step, {}, [])

    every_step(lambda box: up(box=box), restored, least=14)


@in_namespaces
def test_killed_at_every_step_of_up_then_up_then_down() -> None:
    Rig()
    shell(f"{NFT}; {STRICT}")
    before = state()
    up()
    desired = state()
    down()

    def converges(step: int) -> None:
        up()
        assert (step, changed(desired)) == (step, {})
        assert up() == Changes()
        down()
        assert (step, changed(before), files()) == (step, {}, [])

    every_step(lambda box: up(box=box), converges, least=12)


@in_namespaces
def test_killed_at_every_step_of_down_then_down() -> None:
    Rig()
    shell(f"{NFT}; {IPTABLES_LEGACY}; {STRICT}")
    before = state()
    up()

    def restored(step: int) -> None:
        down()
        assert (step, changed(before), files()) == (step, {}, [])
        up()

    every_step(down, restored, least=8)


@in_namespaces
def test_killed_at_every_step_of_down_then_up() -> None:
    Rig()
    shell(f"{NFT}; {STRICT}")
    before = state()
    up()
    desired = state()

    def converges(step: int) -> None:
        up()
        assert (step, changed(desired)) == (step, {})

    every_step(down, converges, least=6)
    assert (changed(before), files()) == ({}, [])
