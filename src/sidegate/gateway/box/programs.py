"""Other programs: run by argument list, with a time limit; their errors become Problems with their own words."""

from __future__ import annotations

import os
import subprocess
from shutil import which

from sidegate.problems import Exit, Problem, Problems

TIMEOUT_S = 10.0
_PACKAGES = {
    "nft": "nftables",
    "ip": "iproute2",
    "ss": "iproute2",
    # The package dnsmasq starts a service of its own, which takes port 53.
    "dnsmasq": "dnsmasq-base",
    "iptables-nft": "iptables",
    "iptables-legacy": "iptables",
}


def find(program: str) -> str | None:
    """The program's path, or None. The sbin directories count: a user's PATH often lacks them."""
    return which(program, path=os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin")


def missing(*programs: str) -> list[Problem]:
    """A Problem for each of these programs that is not there."""
    return [_missing(p) for p in programs if find(p) is None]


def _missing(program: str) -> Problem:
    package = _PACKAGES.get(program, program)
    return Problem(program, "the program is missing", f"apt install {package}", Exit.MISSING)


def run(*arguments: str, text: str = "", timeout_s: float = TIMEOUT_S) -> str:
    """What the program printed. text: its standard input.

    Raises Problems if it is missing, fails (with what it said on standard error) or takes longer than timeout_s.
    """
    status, out, err = attempt(*arguments, text=text, timeout_s=timeout_s)
    if status:
        raise Problems(Problem(" ".join(arguments), err.strip() or f"failed with exit code {status}"))
    return out


def attempt(*arguments: str, text: str = "", timeout_s: float = TIMEOUT_S) -> tuple[int, str, str]:
    """Exit code, standard output, standard error. Raises Problems if the program is missing or takes too long."""
    path = find(arguments[0])
    if path is None:
        raise Problems(_missing(arguments[0]))
    try:
        done = subprocess.run(
            [path, *arguments[1:]],
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise Problems(Problem(" ".join(arguments), f"no end after {timeout_s:g} s")) from None
    except OSError as error:
        raise Problems(Problem(path, f"cannot be run: {error.strerror}", exit_code=Exit.MISSING)) from None
    return done.returncode, done.stdout, done.stderr
