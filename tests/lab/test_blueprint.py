"""What the lab will build, as text: one golden file per shipped home, and what must hold for every blueprint."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from sidegate.home import GatewayRuns, Home, PortForward, load_home, load_router, shipped_homes
from sidegate.lab.blueprint import Blueprint, End, blueprint, gateway_commands
from sidegate.lab.listing import listing
from sidegate.lab.machine import rate_command
from sidegate.lab.natrules import nat_rules
from tests.conftest import Golden

ADDRESSES = {"nas": load_home("velop-mesh").client_named("nas").v4}
FORWARDS = (PortForward(port=8443, to="nas", to_port=443), PortForward(port=27015, to="nas", protocol="udp"))


def plan_of(home: Home) -> Blueprint:
    return blueprint(home, load_router(home.router.profile))


def ends(plan: Blueprint) -> list[End]:
    return [end for wire in plan.wires for end in (wire.near, wire.far)]


@pytest.mark.parametrize("name", shipped_homes())
def test_shipped_home(name: str, golden: Golden) -> None:
    golden(f"lab/{name}.txt", listing(plan_of(load_home(name))))


def test_a_gateway_that_is_unplugged_has_a_cut_wire_and_no_routes(golden: Golden) -> None:
    home = load_home("bypass")
    assert home.gateway
    unplugged = msgspec.structs.replace(home.gateway, plugged=False, rate_mbit=100.0)
    golden("lab/unplugged.txt", listing(plan_of(msgspec.structs.replace(home, gateway=unplugged))))


def test_dhcp_is_served_only_when_asked_for(golden: Golden) -> None:
    home = load_home("bypass")
    golden("lab/dhcp.txt", listing(blueprint(home, load_router(home.router.profile), dhcp=True)))


@pytest.mark.parametrize("name", shipped_homes())
class TestEveryBlueprint:
    """What the kernel, or the model, needs of each."""

    def test_macs_and_indexes_are_all_different(self, name: str) -> None:
        plan = plan_of(load_home(name))
        macs = [e.mac for e in ends(plan)] + [b.mac for m in plan.machines for b in m.bridges]
        assert len(set(macs)) == len(macs)
        indexes = [e.index for e in ends(plan)]
        assert len(set(indexes)) == len(indexes)

    def test_interface_names_fit_and_are_unique_within_a_machine(self, name: str) -> None:
        plan = plan_of(load_home(name))
        names = [(e.machine, e.interface) for e in ends(plan)]
        names += [(m.name, b.name) for m in plan.machines for b in m.bridges]
        assert len(set(names)) == len(names)
        assert all(len(interface) <= 15 for _, interface in names)  # linux/if.h, IFNAMSIZ

    def test_every_end_is_on_a_machine_and_a_bridge_that_exist(self, name: str) -> None:
        plan = plan_of(load_home(name))
        bridges = {(m.name, b.name) for m in plan.machines for b in m.bridges}
        machines = {m.name for m in plan.machines}
        assert {e.machine for e in ends(plan)} <= machines
        assert {(e.machine, e.bridge) for e in ends(plan) if e.bridge} == bridges

    def test_every_namespace_says_whether_its_bridges_filter(self, name: str) -> None:
        home = load_home(name)
        for machine in plan_of(home).machines:
            filters = {value for path, value in machine.settings if path.startswith("net/bridge/")}
            assert len(filters) == 1
            assert filters == {"0"} or machine.name in {box.name for box in home.boxes}

    def test_the_same_home_gives_the_same_blueprint(self, name: str) -> None:
        assert plan_of(load_home(name)) == plan_of(load_home(name))


LANGUAGES = ("nft", "iptables-nft", "iptables-legacy")


@pytest.mark.parametrize("language", LANGUAGES)
def test_router_rules(language: str, golden: Golden) -> None:
    blocks = []
    for nat, drop_invalid, hijack in (("masquerade", False, False), ("snat", True, True), ("none", False, False)):
        wan = load_home("velop-mesh").router.wan.ip
        rules = nat_rules(language, nat, wan, FORWARDS, drop_invalid, hijack, ADDRESSES)
        head = f"nat {nat}, drop invalid: {drop_invalid}, DNS hijack: {hijack}"
        blocks.append(f"# {head}\n# {' '.join(rules.program)}\n{rules.text}")
    golden(f"lab/rules-{language}.txt", "\n".join(blocks))


STATES: tuple[GatewayRuns, ...] = ("nothing", "forwarding", "masquerade", "sidegate")


def test_gateway_commands(golden: Golden) -> None:
    lines = (f"{runs}: {' '.join(command)}\n" for runs in STATES for command in gateway_commands(runs))
    golden("lab/gateway-commands.txt", "".join(lines))


@pytest.mark.parametrize(("before", "after"), [*itertools.permutations(STATES, 2)])
def test_each_state_of_the_gateway_undoes_every_other(before: GatewayRuns, after: GatewayRuns) -> None:
    """The same switches are set in every state, and the masquerade rule is always removed first."""
    switches = [gateway_commands(runs)[0] for runs in (before, after)]
    names = [[word.partition("=")[0] for word in command] for command in switches]
    assert names[0] == names[1]
    assert all(gateway_commands(runs)[1][-2:] == ("-F", "POSTROUTING") for runs in (before, after))


@pytest.mark.parametrize(
    ("rate_mbit", "burst"), [(1, 262144), (100, 262144), (1000, 1250000), (0.5, 262144), (10000, 12500000)]
)
def test_rate_command_holds_10_ms_and_at_least_four_segments(rate_mbit: float, burst: int) -> None:
    expected = f"tc qdisc add dev eth0 root tbf rate {rate_mbit}mbit burst {burst} latency 50ms"
    assert " ".join(rate_command("eth0", rate_mbit)) == expected
