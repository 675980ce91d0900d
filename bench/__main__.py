"""`python -m bench [NAME …]`: runs the measurements, prints the figures, writes bench/results/figures.json."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import msgspec

from bench import dataplane, dhcp, dns, engine, failover, gateway, handover, lab, memory, pulled, steer, walk
from bench.figures import Figure, table
from sidegate import __version__

MEASUREMENTS = {
    "lab": lab.build_and_teardown,
    "help": lab.help_starts,
    "decided": gateway.decided_after_up,
    "late": gateway.late_client,
    "roaming": gateway.roaming_client,
    "masquerade": gateway.masquerade_costs,
    "crowd": gateway.daemon_with_a_crowd,
    "handover": handover.stepping_aside,
    "pulled": pulled.pulled_out,
    "table": dataplane.table_costs,
    "split": steer.straight_costs,
    "lists": steer.large_lists,
    "walk": walk.walk_speed,
    "agreement": walk.walk_agreement,
    "engine": engine.proxied_throughput,
    "memory": memory.all_processes,
    "engine-killed": failover.engine_killed,
    "dns": dns.resolver_with_many_names,
    "dhcp-crowd": dhcp.crowd_at_once,
    "dhcp-other": dhcp.other_server_noticed,
}
RESULTS = Path(__file__).parent / "results" / "figures.json"


def main(names: list[str]) -> int:
    """The exit code: 1 if a figure misses its bar, 2 for an unknown name."""
    unknown = [n for n in names if n not in MEASUREMENTS]
    if unknown:
        print(f"no measurement {', '.join(unknown)}; there are: {', '.join(MEASUREMENTS)}", file=sys.stderr)
        return 2
    figures: list[Figure] = []
    for name in names or MEASUREMENTS:
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        figures += MEASUREMENTS[name]()
    kernel, python = platform.release(), platform.python_version()
    machine = f"Sidegate {__version__}, Linux {kernel}, {os.cpu_count()} cores, Python {python}"
    print(f"{machine}\n\n{table(figures)}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode({"machine": machine, "figures": figures}), indent=2))
    return int(not all(f.is_met for f in figures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
