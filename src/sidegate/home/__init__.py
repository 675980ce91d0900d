"""A home and a router profile, as plain frozen data.

A home is one household's network: the internet as far as it matters, the router, mesh nodes and access points, the
bypass gateway, the clients, how they are linked, and what is expected to work. A router profile says how a family of
routers behaves, each field with its evidence; a field without a value is unknown, and unknown is a value.

This module knows no network: the lab builds a home, the walk explains it, the renderers draw it.
"""

from __future__ import annotations

from sidegate.home.checks import check_home, check_router
from sidegate.home.data import (
    CERTIFIED_SERVICES,
    PROXY_SERVICES,
    SERVICE_PORTS,
    UDP_SERVICES,
    Address,
    Assumed,
    Attached,
    Behaviour,
    Box,
    BridgeFilter,
    Client,
    Dhcp,
    Evidence,
    Expectation,
    Firewall,
    Gateway,
    GatewayRuns,
    Home,
    Internet,
    Isp,
    Known,
    Lie,
    Medium,
    Modem,
    Nat,
    Node,
    NodeName,
    Outcome,
    Port,
    PortForward,
    Router,
    RouterProfile,
    Server,
    Service,
    behaviour,
)
from sidegate.home.loading import load_home, load_router, shipped_homes, shipped_routers

__all__ = [
    "CERTIFIED_SERVICES",
    "PROXY_SERVICES",
    "SERVICE_PORTS",
    "UDP_SERVICES",
    "Address",
    "Assumed",
    "Attached",
    "Behaviour",
    "Box",
    "BridgeFilter",
    "Client",
    "Dhcp",
    "Evidence",
    "Expectation",
    "Firewall",
    "Gateway",
    "GatewayRuns",
    "Home",
    "Internet",
    "Isp",
    "Known",
    "Lie",
    "Medium",
    "Modem",
    "Nat",
    "Node",
    "NodeName",
    "Outcome",
    "Port",
    "PortForward",
    "Router",
    "RouterProfile",
    "Server",
    "Service",
    "behaviour",
    "check_home",
    "check_router",
    "load_home",
    "load_router",
    "shipped_homes",
    "shipped_routers",
]
