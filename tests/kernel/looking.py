"""What `sidegate` says on a machine of a lab, without an interpreter started for each question.

A test that waits for something asks many times, and most of what a command costs is the loading of its libraries. What
only looks is therefore run here, in a forked process that has them already; what changes a box is run as a user would.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import traceback
from typing import NoReturn

from sidegate.cli import explain, gateway, main, probe  # noqa: F401 - here, so that they are loaded before the fork
from sidegate.lab import namespaces as ns
from sidegate.lab.lab import Lab
from sidegate.lab.machine import main_environment
from sidegate.lab.processes import fork

_SPACES = ("mnt", "uts", "net", "pid")


def look(lab: Lab, machine: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`sidegate WORDS` on a machine, to its end."""
    outputs = [os.memfd_create(name) for name in ("stdout", "stderr")]
    try:
        pid = fork()
        if pid == 0:
            _enter_and_run(lab, machine, words, outputs)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said = [os.pread(fd, os.fstat(fd).st_size, 0).decode() for fd in outputs]
    finally:
        for fd in outputs:
            os.close(fd)
    return subprocess.CompletedProcess(words, code, *said)


def _enter_and_run(lab: Lab, machine: str, words: tuple[str, ...], outputs: list[int]) -> NoReturn:
    """Two forks: only a child is in the PID namespace that its parent entered (setns(2))."""
    gc.disable()
    code = 1
    try:
        for number, fd in enumerate(outputs, 1):
            os.dup2(fd, number)
        ns.enter(lab.holder(machine).outside, ("user", *_SPACES) if lab.user_namespace else _SPACES)
        pid = os.fork()
        code = _run(words) if pid == 0 else os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _run(words: tuple[str, ...]) -> int:
    os.chdir("/")
    os.environ.clear()
    os.environ.update(main_environment())
    with open(os.devnull) as sys.stdin, open(1, "w") as sys.stdout, open(2, "w") as sys.stderr:
        try:
            main.main(list(words))
        except SystemExit as end:
            return int(end.code or 0)
    return 0
