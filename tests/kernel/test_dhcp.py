"""DHCP on the real kernel: real clients, a second server, and what is left when something is killed or full."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from sidegate.home import Home, load_home
from sidegate.lab.lab import Lab
from tests.kernel.gateway_lab import told, wait_for
from tests.kernel.test_dhcp_probe import start_udhcpd

pytestmark = pytest.mark.kernel

CLIENTS = ("computer", "phone", "tablet")
GOT = """#!/bin/sh
ip=${ip:-$new_ip_address}
[ -n "$ip" ] || exit 0
echo "$ip ${router:-$new_routers} ${dns:-$new_domain_name_servers} ${lease:-$new_dhcp_lease_time}" >/run/got
"""
UDHCPC = "busybox udhcpc -i eth0 -n -q -f -t 10 -s /run/got.sh"
PROGRAMS = {
    "udhcpc": UDHCPC,
    # its own copy: where AppArmor knows dhclient by its path, it may not run our script
    "dhclient": "cp $(command -v dhclient) /run/client; /run/client -4 -1 -sf /run/got.sh -lf /run/l -pf /run/p eth0",
    # a passwd without its user: it would drop to that, which a rootless lab cannot
    "dhcpcd": "grep '^root' /etc/passwd >/run/passwd; mount --bind /run/passwd /etc/passwd; "
    "mount -t tmpfs tmpfs /var/lib/dhcpcd; "
    "dhcpcd -4 -1 -A -o routers -o domain_name_servers -f /dev/null -c /run/got.sh eth0",
}


def home(router_serves: bool = False) -> Home:
    it = load_home("bypass")
    dhcp = type(it.router.dhcp)(off=not router_serves)
    return msgspec.structs.replace(it, router=msgspec.structs.replace(it.router, dhcp=dhcp))


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A router without DHCP; clients that have no address yet."""
    with Lab.up(home()) as up:
        _forget_addresses(up)
        yield up


@pytest.fixture
def served() -> Iterator[Lab]:
    """A router that hands itself out, from .100 to .199."""
    with Lab.up(home(router_serves=True), dhcp=True) as up:
        _forget_addresses(up)
        yield up


def _forget_addresses(lab: Lab) -> None:
    for client in CLIENTS:
        as_a_dhcp_client(lab, client)


def as_a_dhcp_client(lab: Lab, client: str) -> None:
    """Without an address, and with what `get_lease` needs."""
    lab.run(client, "ip", "address", "flush", "dev", "eth0")
    lab.run(client, "sh", "-c", "cat >/run/got.sh; chmod +x /run/got.sh", text=GOT)


def mac(lab: Lab, client: str) -> str:
    return lab.plan.wire_of(client).near.mac


def sidegate(lab: Lab, *words: str) -> tuple[int, str]:
    done = lab.run("gateway", sys.executable, "-m", "sidegate", *words, check=False)
    return done.returncode, done.stdout + done.stderr


def up(lab: Lab, config: str) -> tuple[int, str]:
    lab.run("gateway", "sh", "-c", "cat >/run/sidegate.toml", text=config)
    return sidegate(lab, "up", "--config", "/run/sidegate.toml")


def status(lab: Lab) -> Any:
    return told(lab, "status")


def fault(lab: Lab, begins: str = "", says: str = "") -> str:
    """The one of this kind, once it is told."""
    return str(wait_for(lambda: [f for f in status(lab)["faults"] if f.startswith(begins) and says in f])[0])


def held(lab: Lab, ip: str) -> dict[str, Any]:
    """Whose lease a client has, once the kernel has told the daemon of that one."""
    found = wait_for(lambda: [c["lease"] for c in told(lab, "clients")["clients"] if c["ip"] == ip])
    return dict(found[0])


def get_lease(lab: Lab, client: str, program: str = "udhcpc") -> list[str]:
    """Address, gateway, DNS server, seconds: as the client's own script was told."""
    done = lab.run(client, "sh", "-c", f"rm -f /run/got; {PROGRAMS[program]}; cat /run/got", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


def box(lab: Lab) -> str:
    """What `down` must restore, and whether a DHCP server listens in the gateway's network."""
    settings = "sysctl -a 2>/dev/null | grep -E '^net.ipv4.(conf|ip_forward)'"
    script = f"nft list ruleset; {settings}; grep -o ':0043 ' /proc/net/udp || true"
    return lab.run("gateway", "sh", "-c", script).stdout


def leases(lab: Lab, name: str = "leases") -> set[str]:
    """Address and MAC of each."""
    text = lab.run("gateway", "cat", f"/run/state/dhcp/{name}").stdout
    return {" ".join(line.split()[1:3]) for line in text.splitlines()}


def dnsmasq(lab: Lab) -> int:
    """Its process id in the lab; 0 if it does not run."""
    return int(status(lab)["dhcp"]["pid"] or 0)


def kill(lab: Lab, pid: int) -> None:
    """And waits until it is gone, or is nobody's to wait for but its parent's."""
    is_there = f"grep -qs '^State:.[^Z]' /proc/{pid}/status"
    lab.run("gateway", "sh", "-c", f"kill -9 {pid}; while {is_there}; do sleep 0.01; done")


def test_real_clients_get_us_as_their_gateway_and_one_keeps_the_router(lab: Lab) -> None:
    before = box(lab)
    tv = f'[[client]]\nmac = "{mac(lab, "tablet")}"\nname = "tv"\nip = "192.168.1.50"\ngateway = "router"'
    code, said = up(lab, f'[dhcp]\nmode = "server"\nlease_s = 600\n{tv}')
    assert code == 0, said
    assert "dnsmasq hands out 192.168.1.100-192.168.1.199 for 600 s\n" in said
    got = {c: get_lease(lab, c, p) for c, p in zip(CLIENTS, PROGRAMS, strict=True)}
    assert [got[c][1:] for c in CLIENTS] == [
        ["192.168.1.2", "192.168.1.1", "600"],
        ["192.168.1.2", "192.168.1.1", "600"],
        ["192.168.1.1", "192.168.1.1", "600"],
    ]
    assert got["tablet"][0] == "192.168.1.50"
    expected = {f"{mac(lab, c)} {got[c][0]}" for c in CLIENTS}
    assert leases(lab) == expected
    wait_for(lambda: leases(lab, "leases.copy") == expected)
    lab.run("computer", "ip", "address", "replace", f"{got['computer'][0]}/24", "dev", "eth0")
    lab.run("computer", "busybox", "ping", "-c", "1", "-W", "15", "192.168.1.2")
    lease = held(lab, got["computer"][0])
    assert lease["holder"] == "ours"
    assert 300 < lease["left_s"] <= 600
    assert status(lab)["dhcp"]["leases"] == 3
    assert status(lab)["faults"] == []
    assert "DHCP: server, 192.168.1.100-192.168.1.199, 3 leases" in sidegate(lab, "status")[1]
    code, said = sidegate(lab, "down", "--now")
    assert (code, "dnsmasq ended; nobody hands out addresses now" in said) == (0, True)
    assert box(lab) == before


def test_refuses_to_start_beside_another_server_and_changes_nothing(served: Lab) -> None:
    before = box(served)
    code, said = up(served, '[dhcp]\nmode = "server"')
    assert code == 1
    assert "another DHCP server, 192.168.1.1" in said
    assert "hands out gateway 192.168.1.1, DNS 192.168.1.1, an address such as 192.168.1.1" in said
    assert 'dhcp.mode = "coexist"' in said
    assert box(served) == before
    served.run("gateway", "test", "!", "-e", "/run/state/journal.json")


def test_another_server_that_comes_later_is_a_fault_soon(lab: Lab) -> None:
    assert up(lab, '[dhcp]\nmode = "server"')[0] == 0
    start_udhcpd(lab, "router", "br-lan", "192.168.1.1")
    said = fault(lab, "dhcp: another DHCP server, 192.168.1.1 (")
    assert "hands out gateway 192.168.1.1, DNS 192.168.1.1 and 1.1.1.1" in said
    (other,) = wait_for(lambda: status(lab)["dhcp"]["others"])
    assert (other["server"], other["lease_s"]) == ("192.168.1.1", 7200)


def test_leases_survive_whoever_is_killed(lab: Lab) -> None:
    """First dnsmasq, then the daemon, then both, each with kill -9; at last `down` without a daemon."""
    before = box(lab)
    assert up(lab, '[dhcp]\nmode = "server"')[0] == 0
    got = {c: get_lease(lab, c)[0] for c in CLIENTS}
    lent = leases(lab)
    first = dnsmasq(lab)
    kill(lab, first)
    second = wait_for(lambda: (pid := dnsmasq(lab)) != first and pid)
    assert any("ended: signal SIGKILL" in it for it in status(lab)["faults"])
    assert leases(lab) == lent
    kill(lab, status(lab)["pid"])
    wait_for(lambda: not status(lab)["daemon"])
    assert get_lease(lab, "phone")[0] == got["phone"], "it hands out without the daemon"
    assert sidegate(lab, "up", "--config", "/run/sidegate.toml")[0] == 0
    assert dnsmasq(lab) == second, "adopted"
    kill(lab, status(lab)["pid"])
    kill(lab, second)
    assert sidegate(lab, "up", "--config", "/run/sidegate.toml")[0] == 0
    assert get_lease(lab, "tablet")[0] == got["tablet"]
    assert leases(lab) == lent
    kill(lab, status(lab)["pid"])
    assert sidegate(lab, "down", "--now")[0] == 0
    assert box(lab) == before
    assert leases(lab) == lent, "who comes back gets the same address"


def test_a_truncated_lease_file_is_recovered(lab: Lab) -> None:
    """As kill -9 left it in 1 of 20 runs: the file begins anew and ends in the middle of a line."""
    ends_s = int(time.time()) + 3600
    lines = [f"{ends_s} 02:00:00:00:01:{n:02x} 192.168.1.{n} * *\n" for n in range(100, 180)]
    lines.append(f"{ends_s} {mac(lab, 'phone')} 192.168.1.180 * 01:{mac(lab, 'phone')}\n")
    whole = "".join(lines)
    lab.run("gateway", "mkdir", "-p", "/run/state/dhcp")
    lab.run("gateway", "sh", "-c", "cat >/run/state/dhcp/leases.copy", text=whole)
    lab.run("gateway", "sh", "-c", "cat >/run/state/dhcp/leases", text=whole[: len(whole) // 2 + 11])
    assert up(lab, '[dhcp]\nmode = "server"')[0] == 0
    events = [e["what"] for e in status(lab)["events"]]
    assert any("the lease file was cut off" in e and "of 81 leases came from its copy" in e for e in events)
    assert len(leases(lab)) == 81
    assert get_lease(lab, "phone")[0] == "192.168.1.180"
    assert get_lease(lab, "tablet")[0] in {f"192.168.1.{n}" for n in range(181, 200)}, "none that somebody holds"


def test_coexisting_answers_beside_the_router(served: Lab) -> None:
    before = box(served)
    code, said = up(served, '[dhcp]\nmode = "coexist"\nrange = "192.168.1.90-192.168.1.240"')
    assert code == 1
    assert "which our range holds too" in said
    assert box(served) == before
    code, said = up(served, '[dhcp]\nmode = "coexist"\nlease_s = 120')
    assert code == 0, said
    for client in CLIENTS:
        address, gateway, _, lease_s = get_lease(served, client)
        ours = int(address.split(".")[3]) > 200
        assert (gateway, lease_s) == (("192.168.1.2", "120") if ours else ("192.168.1.1", "43200"))
        served.run(client, "ip", "address", "replace", f"{address}/24", "dev", "eth0")
        served.run(client, "busybox", "ping", "-c", "1", "-W", "15", "192.168.1.2")
        assert held(served, address)["holder"] == ("ours" if ours else "not ours")
    now = status(served)
    assert now["faults"] == []
    assert now["dhcp"]["others"][0]["server"] == "192.168.1.1"
    daemon, child = now["pid"], now["dhcp"]["pid"]
    kill(served, daemon)
    kill(served, child)
    assert get_lease(served, "phone")[1] == "192.168.1.1", "without us they are the router's"


def test_another_configuration_is_taken_without_a_restart_of_the_daemon(lab: Lab) -> None:
    assert up(lab, "")[0] == 0
    pid = status(lab)["pid"]
    assert "dnsmasq hands out" in up(lab, '[dhcp]\nmode = "server"')[1]
    first = wait_for(lambda: dnsmasq(lab))
    assert "Nothing was changed" in up(lab, '[dhcp]\nmode = "server"')[1]
    assert "for 900 s" in up(lab, '[dhcp]\nmode = "server"\nlease_s = 900')[1]
    assert wait_for(lambda: (child := dnsmasq(lab)) != first and child)
    assert get_lease(lab, "phone")[3] == "900"
    assert "dnsmasq ends" in up(lab, "")[1]
    wait_for(lambda: ":0043" not in box(lab))
    assert status(lab)["pid"] == pid


def test_off_tells_who_hands_out_what(served: Lab) -> None:
    assert up(served, "")[0] == 0
    (hint,) = wait_for(lambda: [it for it in status(served)["hints"] if "DHCP server" in it])
    assert "the DHCP server 192.168.1.1 hands out gateway 192.168.1.1" in hint
    assert "set its gateway option to 192.168.1.2" in hint
    code, text = sidegate(served, "status")
    assert (code, "hint: the DHCP server" in text) == (0, True), "a hint is no fault"


def test_a_full_disk_is_a_fault_in_words(lab: Lab) -> None:
    lab.run("gateway", "sh", "-c", "mkdir -p /run/state && mount -t tmpfs -o size=256k tmpfs /run/state")
    assert up(lab, '[dhcp]\nmode = "server"')[0] == 0
    get_lease(lab, "phone")
    lab.run("gateway", "sh", "-c", "cat /dev/zero >/run/state/full 2>/dev/null || true")
    get_lease(lab, "tablet")
    assert "No space left on device" in fault(lab, says="leases cannot be copied")
    lab.run("gateway", "rm", "/run/state/full")
    get_lease(lab, "computer")
    wait_for(lambda: not status(lab)["faults"])
    wait_for(lambda: mac(lab, "computer") in " ".join(leases(lab, "leases.copy")))


def test_a_server_on_this_very_box_is_found_too(lab: Lab) -> None:
    before = box(lab)
    start_udhcpd(lab, "gateway", "eth0", "192.168.1.1")
    code, said = up(lab, '[dhcp]\nmode = "server"')
    assert code == 1
    assert "another program on this box listens on the DHCP servers' port" in said
    lab.run("gateway", "sh", "-c", "kill $(cat /run/udhcpd.pid)")
    wait_for(lambda: box(lab) == before)


def test_a_configuration_that_does_not_fit_this_lan(lab: Lab) -> None:
    before = box(lab)
    code, said = up(lab, '[dhcp]\nmode = "server"\nrange = "10.0.0.1-192.168.1.10"')
    assert code == 2
    assert "dhcp.range: 10.0.0.1 is no address for a client in 192.168.1.0/24" in said
    assert "dhcp.range: 192.168.1.1 is in it" in said
    assert box(lab) == before
