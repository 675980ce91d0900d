"""The engine, and Xray as the server of everything it leads to, as processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sidegate.gateway.engine.child import engine_child
from sidegate.gateway.engine.xray import Engine
from tests.kernel.engine_stage.addresses import HOSTS, SERVER, SERVER6
from tests.kernel.engine_stage.kinds import Json

_SERVE_XRAY = "import sys, xray; xray.startFromJSON(sys.stdin.read())"


@contextmanager
def running(*command: str, text: str = "", **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sys.stderr, **options)
    try:
        assert program.stdin is not None
        program.stdin.write(text.encode())
        program.stdin.close()
        yield program
    finally:
        program.terminate()
        program.wait()


def serving(inbounds: list[Json]) -> Any:
    """A server that lets its clients reach what it would take for a private network, and knows HOSTS."""
    settings = {"finalRules": [{"action": "allow"}], "domainStrategy": "UseIP"}
    freedom = {"protocol": "freedom", "settings": settings}
    config: Json = {"log": {"loglevel": "none"}, "inbounds": inbounds, "dns": {"hosts": HOSTS}}
    config["outbounds"] = [{**freedom, "sendThrough": SERVER}, {**freedom, "tag": "six", "sendThrough": SERVER6}]
    rule = {"ip": ["::/0"], "outboundTag": "six"}
    config["routing"] = {"domainStrategy": "IPOnDemand", "rules": [rule]}
    return running(sys.executable, "-c", _SERVE_XRAY, text=json.dumps(config))


@contextmanager
def engine(it: Engine, directory: Path, old: str = "", new: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """Once it says that it is ready, or has ended. old, new: words to exchange in its configuration."""
    child = engine_child(it, directory)
    for file in child.files:
        assert old in child.files[0].text
        Path(file.path).write_text(file.text.replace(old, new) if old else file.text)
    with running(*child.command) as program:
        wait_until(lambda: program.poll() is not None or _is_ready(child.ready, program.pid))
        yield program


def _is_ready(path: str, pid: int) -> bool:
    return Path(path).exists() and Path(path).read_text().strip() == str(pid)


def wait_until(holds: Callable[[], object], within_s: float = 90.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


def sh(script: str) -> None:
    subprocess.run(["sh", "-ec", script], check=True)
