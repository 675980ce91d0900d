"""What every test room shares: golden files, and the count of kernel tests.

A golden file is the full expected text of one result. `pytest --regenerate` writes them anew; the change is then
reviewed as a diff like any other.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it puts in the background so, and every child would inherit it: Ctrl-C is tested here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    # And nohup(1) so: a terminal that closes is tested too.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


# How long an example takes says nothing on a loaded machine. CI asks the same every time: what is red there is new.
_ASKS_THE_SAME = os.environ.get("SIDEGATE_REQUIRE_KERNEL") == "1"
settings.register_profile(
    "sidegate",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=_ASKS_THE_SAME,
)
settings.load_profile("sidegate")
if _ASKS_THE_SAME:
    # Else it draws from the constants of all modules that are loaded by then as well, derandomized or not, and which
    # ones are is the work of whatever tests this worker was given before.
    vars(providers)["_get_local_constants"] = Constants


Golden = Callable[[str | Path, str], None]

GOLDEN_ROOT = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write the golden files anew instead of comparing")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """`golden(path, text)`: fails unless the golden file holds exactly this text.

    path: relative to tests/golden, or absolute. A missing file fails as well, so that no result goes unreviewed.
    """
    regenerate = bool(request.config.getoption("--regenerate"))

    def compare(path: str | Path, text: str) -> None:
        __tracebackhide__ = True
        file = GOLDEN_ROOT / path
        if regenerate:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text.encode())
        elif not file.exists():
            pytest.fail(f"{file} is missing; write it with `pytest --regenerate` and review it")
        else:
            assert text == file.read_bytes().decode(), f"{file} differs; if that is meant: `pytest --regenerate`"

    return compare


def _count_kernel_tests(config: pytest.Config) -> tuple[int, int]:
    """How many tests of tests/kernel there are, and how many of them were skipped."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    stats = reporter.stats if reporter else {}
    kernel = [(r.nodeid, outcome) for outcome, reports in stats.items() for r in reports if _is_kernel(r)]
    skipped = {nodeid for nodeid, outcome in kernel if outcome == "skipped"}
    return len({nodeid for nodeid, _ in kernel}), len(skipped)


def _is_kernel(report: object) -> bool:
    return isinstance(report, pytest.TestReport) and report.nodeid.startswith("tests/kernel/")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where kernel tests are required, a run without any is a failure: a wrong selection must not pass for success."""
    required = os.environ.get("SIDEGATE_REQUIRE_KERNEL") == "1"
    is_worker = hasattr(session.config, "workerinput")
    if required and not is_worker and _count_kernel_tests(session.config)[0] == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    all_of_them, skipped = _count_kernel_tests(config)
    terminalreporter.write_line(f"kernel tests: {all_of_them}, of which skipped: {skipped}")
