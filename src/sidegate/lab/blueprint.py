"""A home -> machines and wires: what the lab will build, as pure data.

Laws of the model (each decides whether the article's fault shows):

- A machine is a network namespace. A box (router, mesh node, access point) is two: its kernel, and its *hardware*,
  `<box>.hw`, which forwards frames that its kernel never sees.
- LAN ports hang on the switch chip, a bridge in the hardware with filtering off, joined to `br-lan` by one CPU port.
- A radio forwards between its own stations (net/mac80211/rx.c, ieee80211_deliver_skb); all else it hands to `br-lan`.
  So a radio is a bridge in the hardware too, joined to `br-lan` by its network device.
- A mesh node's backhaul is a port of both kernel bridges; a wired access point's uplink is a wire between two chips.
- `bridge-nf-call-*` is per network namespace and 1 in a new one (br_netfilter_hooks.c, brnf_init_net): always set.
- IPv4 device settings of a new namespace are copied from the machine's own (net/ipv4/devinet.c, devinet_init_net):
  what matters is set, so that a lab does not depend on the machine.
- The internet is one machine that owns every server's address and knows no route to private addresses. What the ISP
  does to the home's packets it does where they come in, at `wan`: servers reach each other, blocked or not.
"""

from __future__ import annotations

from sidegate.home import (
    Attached,
    Behaviour,
    Box,
    Client,
    Gateway,
    GatewayRuns,
    Home,
    Modem,
    Node,
    Router,
    RouterProfile,
    behaviour,
)
from sidegate.lab.internet import internet, resolvers
from sidegate.lab.natrules import nat_rules
from sidegate.lab.parts import (
    INTERNET,
    LAN_PORT,
    MODEM,
    Blueprint,
    Bridge,
    End,
    Machine,
    Rules,
    Wire,
    dnsmasq,
    other_end,
    settings,
)

__all__ = [
    "INTERNET",
    "LAN_PORT",
    "MODEM",
    "Blueprint",
    "Bridge",
    "End",
    "Machine",
    "Rules",
    "Wire",
    "blueprint",
    "dhcp_options",
    "gateway_commands",
    "hardware",
    "mac_of",
    "place",
]

_FIRST_INDEX = 100


def hardware(box: str) -> str:
    """The machine that stands for a box's switch chip and radios."""
    return f"{box}.hw"


def mac_of(number: int) -> str:
    """A locally administered address; the same home always gets the same ones."""
    return f"02:5d:00:00:{number >> 8:02x}:{number & 255:02x}"


def place(box: Box, it: Attached | None, by: str, radio: str | None) -> tuple[str, str]:
    """The machine and bridge that a device attached to a box becomes a port of.

    A mesh node's backhaul is a port of the kernel bridge: each node is a network device of its own there (4-address
    mode). Everything else goes by the chip or the radio.
    """
    if by == "wifi" and isinstance(it, Node):
        return box.name, "br-lan"
    if by == "wifi":
        return hardware(box.name), radio or box.radios[0]
    return (hardware(box.name), "chip") if box.switch_chip else (box.name, "br-lan")


def blueprint(home: Home, profile: RouterProfile, *, dhcp: bool = False) -> Blueprint:
    """Everything the lab builds for a home. dhcp: the router really hands out addresses, as `router.dhcp` says."""
    return _Drawing(home, behaviour(home, profile), dhcp and not home.router.dhcp.off).drawn()


class _Drawing:
    """Numbers MACs and ports while the wires are drawn."""

    def __init__(self, home: Home, does: Behaviour, dhcp: bool) -> None:
        self.home, self.does, self.dhcp = home, does, dhcp
        self.macs = 0
        self.ports: dict[tuple[str, str], int] = {}
        self.wires: list[Wire] = []
        self.bridges: dict[str, list[Bridge]] = {}

    def mac(self) -> str:
        self.macs += 1
        return mac_of(self.macs)

    def end(self, machine: str, interface: str, bridge: str | None = None) -> End:
        mac = self.mac()
        return End(machine, interface, mac, _FIRST_INDEX + self.macs, bridge)

    def port(self, machine: str, prefix: str) -> str:
        number = self.ports[machine, prefix] = self.ports.get((machine, prefix), 0) + 1
        return f"{prefix}{number}"

    def bridge(self, machine: str, name: str) -> str:
        existing = self.bridges.setdefault(machine, [])
        if name not in (b.name for b in existing):
            existing.append(Bridge(name, self.mac()))
        return name

    def drawn(self) -> Blueprint:
        self._draw_wan()
        for box in self.home.boxes:
            self._draw_inside(box)
        for it in self.home.attached:
            self._draw_attached(it)
        return Blueprint(self._machines(), tuple(self.wires))

    def _draw_wan(self) -> None:
        router, modem = self.home.router, self.home.modem
        outside = self.end(INTERNET, "wan")
        if modem:
            self.wires.append(Wire(self.end(MODEM, "wan"), outside, router.wan_rate_mbit))
            self.wires.append(Wire(self.end(router.name, "wan"), self.end(MODEM, "lan")))
        else:
            self.wires.append(Wire(self.end(router.name, "wan"), outside, router.wan_rate_mbit))

    def _draw_inside(self, box: Box) -> None:
        """br-lan in the kernel; the chip and the radios that somebody uses in the hardware, one link to each."""
        self.bridge(box.name, "br-lan")
        inside, outside = box.name, hardware(box.name)
        used = {r for it in self.home.attached if it.at == box.name and it.by == "wifi" for r in self._radios_of(it)}
        units = [("chip", "cpu")] if box.switch_chip else []
        for unit, link in [*units, *((radio, radio) for radio in box.radios if radio in used)]:
            near = self.end(inside, link, "br-lan")
            self.wires.append(Wire(near, self.end(outside, f"{unit}-up", self.bridge(outside, unit))))

    def _radios_of(self, it: Attached) -> tuple[str, ...]:
        box = next(b for b in self.home.boxes if b.name == it.at)
        return () if isinstance(it, Node) else (it.radio or box.radios[0],)

    def _draw_attached(self, it: Attached) -> None:
        box = next(b for b in self.home.boxes if b.name == it.at)
        machine, bridge = place(box, it, it.by, it.radio)
        prefix = "mesh" if isinstance(it, Node) and it.by == "wifi" else ("sta" if it.by == "wifi" else "p")
        far = self.end(machine, self.port(machine, prefix), bridge)
        near = self._uplink(it) if isinstance(it, Node) else self.end(it.name, LAN_PORT)
        cut = isinstance(it, Gateway) and not it.plugged
        self.wires.append(Wire(near, far, it.rate_mbit, cut))

    def _uplink(self, node: Node) -> End:
        if node.by == "wifi" or not node.switch_chip:
            return self.end(node.name, "uplink", "br-lan")
        return self.end(hardware(node.name), "uplink", self.bridge(hardware(node.name), "chip"))

    def _machines(self) -> tuple[Machine, ...]:
        home, router = self.home, self.home.router
        machines = [internet(home)]
        if home.modem:
            machines.append(_modem(home.modem))
        machines.append(_router(home, self.does, tuple(self.bridges[router.name]), self.dhcp))
        for node in home.node:
            own = settings(bridge_filter=node.bridge_filter, forwards=False)
            machines.append(Machine(node.name, own, tuple(self.bridges[node.name])))
        for name in (hardware(box.name) for box in home.boxes):
            if name in self.bridges:
                machines += [Machine(name, settings(False, False), tuple(self.bridges[name]))]
        machines.extend(_host(home, host) for host in home.lan_hosts)
        return tuple(machines)


def _modem(modem: Modem) -> Machine:
    wan, lan = modem.wan, modem.lan
    return Machine(
        MODEM,
        settings(False, True),
        addresses=(
            f"addr add {wan} dev wan",
            f"addr add {lan} dev lan",
            f"route add default via {other_end(wan)}",
        ),
        rules=(nat_rules("nft", "masquerade", wan.ip, (), False, False, {}),),
    )


def _router(home: Home, does: Behaviour, bridges: tuple[Bridge, ...], dhcp: bool) -> Machine:
    router = home.router
    upstream = str(home.modem.lan.ip) if home.modem else other_end(router.wan)
    lines = [
        f"addr add {router.wan} dev wan",
        f"addr add {router.lan} dev br-lan",
        f"route add default via {upstream}",
    ]
    if router.wan6 and router.lan6:
        lines += [
            f"addr add {router.wan6} dev wan nodad",
            f"addr add {router.lan6} dev br-lan nodad",
            f"route add default via {other_end(router.wan6)}",
        ]
    options = (f"--listen-address={router.lan.ip}", *(f"--server={a}" for a in resolvers(home)))
    forwarder = dnsmasq(router.name, *options, *(dhcp_options(router) if dhcp else ()))
    return Machine(
        router.name,
        settings(does.bridge_filter, True),
        bridges,
        tuple(lines),
        rules=(_router_rules(home, does),),
        daemons=(forwarder,),
        listens=(("http", str(router.lan.ip), 80),),
    )


def dhcp_options(router: Router) -> tuple[str, ...]:
    """dnsmasq's, for the addresses from the 100th to the 199th, or the middle of a small LAN.

    `no-ping`: a client has its address at once; a router that looks first needs 3 s more (src/config.h, PING_WAIT).
    """
    lan = router.lan.network
    first, last = (100, 199) if lan.num_addresses >= 256 else (lan.num_addresses // 2, lan.num_addresses - 2)
    return (
        f"--dhcp-range={lan[first]},{lan[last]},{lan.netmask},12h",
        f"--dhcp-option=option:router,{router.dhcp.gateway or router.lan.ip}",
        f"--dhcp-option=option:dns-server,{router.dhcp.dns or router.lan.ip}",
        "--dhcp-authoritative",
        "--no-ping",
        "--dhcp-leasefile=/run/router.leases",
    )


def _router_rules(home: Home, does: Behaviour) -> Rules:
    targets = {c.name: c.v4 for c in home.client}
    return nat_rules(
        does.firewall,
        does.nat,
        home.router.wan.ip,
        home.router.port_forward,
        does.drop_invalid,
        does.dns_hijack,
        targets,
    )


def _host(home: Home, host: Gateway | Client) -> Machine:
    router = home.router
    lines = [f"addr add {host.v4}/{router.lan.network.prefixlen} dev {LAN_PORT}"]
    way = router.lan.ip
    if isinstance(host, Client) and host.gateway == "gateway" and home.gateway:
        way = home.gateway.v4
    if not (isinstance(host, Client) and host.gateway == "none"):
        lines.append(f"route add default via {way}")
    if host.v6 and router.lan6:
        lines.append(f"addr add {host.v6}/{router.lan6.network.prefixlen} dev {LAN_PORT} nodad")
        lines.append(f"route add default via {router.lan6.ip}")
    listens = tuple((service, str(a), port) for a in (host.v4, host.v6) if a for service, port in _HOST_SERVICES)
    if isinstance(host, Gateway) and not host.plugged:
        # Its port has no carrier, so that the routes would be refused.
        lines, listens = [line for line in lines if line.startswith("addr")], ()
    return Machine(
        host.name,
        settings(False, False),
        addresses=tuple(lines),
        listens=listens,
        resolver=str(router.dhcp.dns or router.lan.ip),
    )


_HOST_SERVICES = (("http", 80), ("echo", 7))


def gateway_commands(runs: GatewayRuns, interface: str = LAN_PORT) -> tuple[tuple[str, ...], ...]:
    """Commands that make the gateway forward as people do by hand; for `sidegate` it starts from a plain box.

    `forwarding` and `masquerade` turn ICMP redirects off: with them on, a client that accepts one leaves the gateway
    and the fault hides (net/ipv4/route.c, ip_rt_send_redirect).
    """
    on = str(int(runs in ("forwarding", "masquerade")))
    settings = (f"net.ipv4.ip_forward={on}", *(f"net.ipv4.conf.{i}.send_redirects=0" for i in ("all", interface)))
    commands: list[tuple[str, ...]] = [
        ("sysctl", "-q", "-w", *settings),
        ("iptables", "-t", "nat", "-F", "POSTROUTING"),
    ]
    if runs == "masquerade":
        commands.append(("iptables", "-t", "nat", "-I", "POSTROUTING", "-j", "MASQUERADE"))
    return tuple(commands)
