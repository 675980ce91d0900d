"""What a stock router loads into its kernel, in one of three languages; pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address

from sidegate.home import PortForward
from sidegate.lab.parts import Rules


def nat_rules(
    firewall: str,
    nat: str,
    wan: IPv4Address,
    forwards: tuple[PortForward, ...],
    drop_invalid: bool,
    dns_hijack: bool,
    targets: dict[str, IPv4Address],
) -> Rules:
    """A stock router's ruleset in one of three languages: NAT, port forwards, nothing else in from the WAN."""
    ports = [(f.protocol, f.port, targets[f.to], f.to_port) for f in forwards]
    if firewall == "nft":
        return Rules(("nft", "-f", "-"), _nft_router(nat, wan, ports, drop_invalid, dns_hijack))
    return Rules((f"{firewall}-restore",), _iptables_router(nat, wan, ports, drop_invalid, dns_hijack))


_Forwards = Sequence[tuple[str, int, IPv4Address, int]]


def _nft_router(nat: str, wan: IPv4Address, ports: _Forwards, drop_invalid: bool, dns_hijack: bool) -> str:
    inward = [f'iifname "wan" {proto} dport {port} dnat to {to}:{to_port}' for proto, port, to, to_port in ports]
    if dns_hijack:
        inward += [f'iifname "br-lan" {proto} dport 53 redirect' for proto in ("udp", "tcp")]
    outward = {"masquerade": ['oifname "wan" masquerade'], "snat": [f'oifname "wan" snat to {wan}'], "none": []}[nat]
    forward = [
        *(["ct state invalid drop"] if drop_invalid else []),
        'iifname != "wan" accept',
        "ct state established,related accept",
        "ct status dnat accept",
        "drop",
    ]

    def chain(name: str, head: str, rules: list[str]) -> str:
        return (
            f"    chain {name} {{\n        {head}; policy accept;\n"
            + "".join(f"        {r}\n" for r in rules)
            + "    }\n"
        )

    return (
        "table ip router {\n"
        + chain("inward", "type nat hook prerouting priority dstnat", inward)
        + chain("outward", "type nat hook postrouting priority srcnat", outward)
        + chain("forward", "type filter hook forward priority filter", forward)
        + "}\n"
    )


def _iptables_router(nat: str, wan: IPv4Address, ports: _Forwards, drop_invalid: bool, dns_hijack: bool) -> str:
    inward = [f"-i wan -p {proto} --dport {port} -j DNAT --to {to}:{to_port}" for proto, port, to, to_port in ports]
    if dns_hijack:
        inward += [f"-i br-lan -p {proto} --dport 53 -j REDIRECT" for proto in ("udp", "tcp")]
    outward = {"masquerade": ["-o wan -j MASQUERADE"], "snat": [f"-o wan -j SNAT --to {wan}"], "none": []}[nat]
    forward = [
        *(["-m conntrack --ctstate INVALID -j DROP"] if drop_invalid else []),
        "! -i wan -j ACCEPT",
        "-m conntrack --ctstate ESTABLISHED,RELATED,DNAT -j ACCEPT",
        "-j DROP",
    ]
    lines = ["*nat", *(f"-A PREROUTING {r}" for r in inward), *(f"-A POSTROUTING {r}" for r in outward), "COMMIT"]
    lines += ["*filter", *(f"-A FORWARD {r}" for r in forward), "COMMIT"]
    return "\n".join(lines) + "\n"
