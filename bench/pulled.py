"""The box pulled out in `coexist`: how long clients that hold our lease are offline, until they are the router's.

Each asks its server again at half of the lease, anybody at 7/8 of it (REBINDING), and begins anew when it has ended
(RFC 2131 section 4.4.5). What the router does with a stranger in REBINDING decides: an authoritative dnsmasq denies him
the address (DHCPNAK), so he begins anew at once; busybox udhcpd is silent, so he waits for the end of his lease.
Counted from the lease, though the cable is pulled a second or two later: a pull in the moment of a renewal costs that.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

import msgspec

from bench.figures import Figure
from sidegate.home import Home, load_home
from sidegate.lab.asking import http_get
from sidegate.lab.check import sidegate
from sidegate.lab.lab import Lab, Waiting

LEASE_S = 120
"""The least dnsmasq hands out (man page, --dhcp-range)."""
SERVER, OURS = "1.2.3.4", "192.168.1.2"
EVERY_S, PATIENCE_S = 0.05, 0.25
READY_WITHIN_S, BACK_WITHIN_S = 30.0, LEASE_S + 40.0
EXCHANGE_S = 10
"""To begin anew: 5 s as measured, of which udhcpd takes 2 to look whether the address is free."""
CONFIG = f'[dhcp]\nmode = "coexist"\nrange = "192.168.1.200-192.168.1.240"\nlease_s = {LEASE_S}\n'
SCRIPT = """#!/bin/sh
# udhcpc says its reason as an argument, dhclient in a variable, each names what it got in its own way
ip=${ip:-$new_ip_address}; router=${router:-$new_routers}
case ${1:-$reason} in
deconfig|EXPIRE|FAIL|PREINIT) ip address flush dev eth0; ip link set eth0 up; exit 0 ;;
esac
echo "$(date +%s.%N) ${1:-$reason} $ip $router" >>/run/told
[ "${1:-$reason}" != nak ] && [ -n "$ip" ] || exit 0
ip -4 -oneline address show dev eth0 | grep -q " $ip/" || ip address flush dev eth0
ip address replace $ip/24 dev eth0
ip route replace default via $router
"""
NOTES = """#!/bin/sh
echo "$(date +%s.%N) $reason $new_ip_address $new_routers" >>/run/told
"""
"""dhcpcd sets addresses and routes itself."""
PROGRAMS = {
    "udhcpc": (SCRIPT, "exec busybox udhcpc -i eth0 -f -s /run/script"),
    # its own copy: where AppArmor knows dhclient by its path, it may not run our script
    "dhclient": (
        SCRIPT,
        "cp $(command -v dhclient) /run/client; exec /run/client -4 -d -sf /run/script -lf /run/l -pf /run/p eth0",
    ),
    # a passwd without its user: it would drop to that, which a rootless lab cannot
    "dhcpcd": (
        NOTES,
        "grep '^root' /etc/passwd >/run/passwd; mount --bind /run/passwd /etc/passwd; "
        "mount -t tmpfs tmpfs /var/lib/dhcpcd; exec dhcpcd -4 -B -A -o routers -f /dev/null -c /run/script eth0",
    ),
}
"""The script that each calls, and its command line."""
CLIENTS = dict(zip(("computer", "phone", "tablet"), PROGRAMS, strict=True))
HUSH = "add table inet hush; add chain inet hush in { type filter hook input priority 0; }; "
HUSH += "add rule inet hush in udp dport 67 drop"
"""While clients get their leases the router hears none of them: who answers first is chance, and not measured here."""
SILENT = """
start 192.168.1.100
end 192.168.1.199
interface br-lan
option router 192.168.1.1
option subnet 255.255.255.0
option lease 43200
lease_file /run/udhcpd.leases
pidfile /run/udhcpd.pid
"""
"""busybox udhcpd answers no client in REBINDING that it does not know (networking/udhcp/dhcpd.c, DHCPREQUEST)."""


def online_at(within_s: float) -> float:
    """When (`time.time`) the first answered connection began; they are 50 ms apart at the least. Runs on the client.

    Infinite if none was answered.
    """
    end_s = time.time() + within_s
    while (began_s := time.time()) < end_s:
        if http_get(SERVER, timeout_s=PATIENCE_S).ok:
            return began_s
        time.sleep(max(0.0, began_s + EVERY_S - time.time()))
    return float("inf")


def pulled_out() -> list[Figure]:
    """Both kinds of router at once: all that happens is that leases run out."""
    with Lab.up(_home(is_off=False), dhcp=True) as answering, Lab.up(_home(is_off=True)) as silent:
        silent.run("router", "sh", "-c", "cat >/run/udhcpd.conf; :>/run/udhcpd.leases", text=SILENT)
        silent.run("router", "busybox", "udhcpd", "/run/udhcpd.conf")
        begun = [_pulled(lab) for lab in (answering, silent)]
        answered, waited = (_offline(lab, it) for lab, it in zip((answering, silent), begun, strict=True))
    return [_figure("answers", answered, LEASE_S), _figure("is silent", waited, LEASE_S + EXCHANGE_S)]


def _home(is_off: bool) -> Home:
    home = load_home("bypass")
    router = msgspec.structs.replace(home.router, dhcp=type(home.router.dhcp)(off=is_off))
    return msgspec.structs.replace(home, router=router)


def _pulled(lab: Lab) -> dict[str, Waiting[float]]:
    """Clients get our lease, each by its program, and the cable is pulled: when each will be online again."""
    lab.run("gateway", "sh", "-c", "cat >/run/sidegate.toml", text=CONFIG)
    sidegate(lab, "up", "--config", "/run/sidegate.toml")
    lab.run("router", "nft", HUSH)
    for client, program in CLIENTS.items():
        script, command = PROGRAMS[program]
        lab.run(client, "ip", "address", "flush", "dev", "eth0")
        lab.run(client, "sh", "-c", "cat >/run/script; chmod +x /run/script", text=script)
        lab.start(client, "sh", "-c", f"{{ {command}; }} >/run/log 2>&1")
    for client in CLIENTS:
        _wait_for_our_lease(lab, client)
    lab.run("router", "nft", "delete table inet hush")
    port = lab.plan.wire_of("gateway").far
    lab.run(port.machine, "ip", "link", "set", port.interface, "down")
    return {client: lab.begin(client, online_at, BACK_WITHIN_S) for client in CLIENTS}


def _wait_for_our_lease(lab: Lab, client: str) -> None:
    """Until it is online by us."""
    end_s = time.monotonic() + READY_WITHIN_S
    while _route(lab, client) != OURS or not lab.call(client, http_get, SERVER).ok:
        if time.monotonic() > end_s:
            log = lab.run(client, "sh", "-c", "cat /run/told /run/log", check=False).stdout
            raise RuntimeError(f"{CLIENTS[client]} is not online by us: {log}")
        time.sleep(0.05)


def _route(lab: Lab, client: str) -> str:
    routes = json.loads(lab.run(client, "ip", "-json", "-4", "route", "show", "default").stdout)
    return " ".join(route["gateway"] for route in routes)


def _offline(lab: Lab, waits: Mapping[str, Waiting[float]]) -> dict[str, float]:
    """By program: seconds from our lease, the last one it was told of, to the first answered connection."""
    found = {}
    for client, wait in waits.items():
        online_s = wait.result()
        told = [line.split() for line in lab.run(client, "cat", "/run/told").stdout.splitlines()]
        found[CLIENTS[client]] = online_s - max(float(words[0]) for words in told if words[-1] == OURS)
    return found


def _figure(router: str, found: Mapping[str, float], bar_s: float) -> Figure:
    note = ", ".join(f"{program} {seconds:.1f}" for program, seconds in found.items())
    name = f"coexist, box pulled out, router {router} in REBINDING: offline"
    return Figure(name, max(found.values()), "s", bar_s, note=f"lease {LEASE_S} s, cable pulled as it begins: {note}")
