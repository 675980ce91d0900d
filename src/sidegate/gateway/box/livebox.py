"""The Box of `apply` that is this network namespace: /proc/sys, nft, iptables and ip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sidegate.gateway.box import facts, policyroutes, programs
from sidegate.gateway.box.children import end_child
from sidegate.gateway.box.journal import ChildStep
from sidegate.gateway.desired import COMMENT, Accept, PolicyRoute
from sidegate.gateway.ruleset.nfttext import STEERED
from sidegate.gateway.split.ports import MARK_MASK, STEERED_MARK
from sidegate.problems import Exit, Problem, Problems

_SYS = Path("/proc/sys")
_LACKS = "Could not process rule: No such file or directory"
"""What nft says where the kernel does not know an expression and has no module for it (net/netfilter/nf_tables_api.c,
nft_expr_type_get)."""
_MODULES = "this kernel may lack a module: modprobe -a nft_masq nft_tproxy nft_socket; for a container, on its host"


class LiveBox:
    """See `apply.Box`."""

    def read_sysctl(self, path: str) -> str | None:
        try:
            return (_SYS / path).read_text().strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Problems(Problem(path, f"cannot be read: {error.strerror}", exit_code=Exit.MISSING)) from None

    def write_sysctl(self, path: str, value: str) -> None:
        try:
            (_SYS / path).write_text(value)
        except OSError as error:
            remedy = "run it as root; in a container, /proc/sys must be writable"
            raise Problems(Problem(path, f"cannot be set: {error.strerror}", remedy, Exit.MISSING)) from None

    def list_table(self) -> str | None:
        return facts.list_table()

    def check(self, text: str) -> None:
        status, _, err = programs.attempt("nft", "--check", "--file", "-", text=text)
        if status:
            what = err.strip() or f"failed with exit code {status}"
            raise Problems(Problem("nft --check --file -", what, _MODULES if _LACKS in err else ""))

    def nft(self, text: str) -> None:
        programs.run("nft", "--file", "-", text=text)

    def has_accept(self, accept: Accept) -> bool:
        if accept.backend == "nft":
            return _handle(accept) is not None
        arguments = _iptables(accept, "-C")
        status, _, err = programs.attempt(*arguments)
        if status > 1:
            raise Problems(Problem(" ".join(arguments), err.strip()))
        return status == 0

    def insert_accept(self, accept: Accept) -> None:
        if accept.backend == "nft":
            name = accept.interface
            match = f'oifname "{name}"' if accept.hook == "forward" else STEERED
            rule = f'iifname "{name}" {match} accept comment "{COMMENT}"'
            self.nft(f"insert rule {accept.family} {accept.table} {accept.chain} {rule}\n")
        else:
            programs.run(*_iptables(accept, "-I"))

    def delete_accept(self, accept: Accept) -> None:
        if accept.backend == "nft":
            self.nft(f"delete rule {accept.family} {accept.table} {accept.chain} handle {_handle(accept)}\n")
        else:
            programs.run(*_iptables(accept, "-D"))

    def has_parts(self, route: PolicyRoute) -> tuple[bool, bool]:
        return policyroutes.has_parts(route)

    def add_route(self, route: PolicyRoute) -> None:
        policyroutes.add(route)

    def delete_route(self, route: PolicyRoute) -> None:
        policyroutes.delete(route)

    def delete_rule(self, route: PolicyRoute) -> None:
        policyroutes.delete_rule(route)

    def end_child(self, child: ChildStep) -> bool:
        return end_child(child)


def _iptables(accept: Accept, verb: str) -> list[str]:
    """-w 5: waits up to 5 s for the lock that Docker and others hold at times."""
    marked = ["-m", "mark", "--mark", f"{STEERED_MARK:#x}/{MARK_MASK:#x}"]
    passing = ["-o", accept.interface] if accept.hook == "forward" else marked
    match = ["-i", accept.interface, *passing, "-m", "comment", "--comment", COMMENT]
    return [accept.backend, "-w", "5", "-t", accept.table, verb, accept.chain, *match, "-j", "ACCEPT"]


def _handle(accept: Accept) -> int | None:
    """Of our rule in a foreign chain; None if it, or the chain, is not there."""
    where = (accept.family, accept.table, accept.chain)
    status, out, err = programs.attempt("nft", "--json", "--handle", "list", "chain", *where)
    if status and "No such file or directory" not in err:
        raise Problems(Problem(accept.place, err.strip()))
    rules = [o["rule"] for o in json.loads(out)["nftables"] if "rule" in o] if not status else []
    return next((r["handle"] for r in rules if r.get("comment") == COMMENT and _is_by(r, accept.interface)), None)


def _is_by(rule: dict[str, Any], interface: str) -> bool:
    matches = [s["match"] for s in rule["expr"] if "match" in s]
    return any(m["left"] == {"meta": {"key": "iifname"}} and m["right"] == interface for m in matches)
