"""The program as it runs now, ready to be copied: this package, the packages that it needs, and the Python below them.

A release is a virtual environment (PEP 405) with nothing in it but what is needed: no pip, no activation scripts.
"""

from __future__ import annotations

import hashlib
import re
import sys
from importlib import metadata
from pathlib import Path

from msgspec import Struct

import sidegate
from sidegate.gateway.box import programs
from sidegate.install import layout
from sidegate.problems import Exit, Problem, Problems

_PACKAGE = "sidegate"
_NOT_NEEDED = {"INSTALLER", "REQUESTED", "direct_url.json"}
"""Notes of pip about how and whence a package came; they would be wrong in a copy."""
_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")


_TELL_VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"


class Python(Struct, frozen=True):
    """The interpreter that runs a release. executable: its absolute path on the machine; version: as 3.11."""

    executable: str
    version: str


class Release(Struct, frozen=True):
    """id: tells any two releases apart by their content. modules: path below site-packages -> content."""

    id: str
    version: str
    python: Python
    modules: dict[str, bytes]

    @property
    def directory(self) -> str:
        return layout.release_dir(self.id)

    @property
    def libraries(self) -> str:
        """Its site-packages (PEP 405, sysconfig's scheme `venv`)."""
        return f"{self.directory}/lib/python{self.python.version}/site-packages"


def gather(executable: Path | None = None) -> Release:
    """The running program as a release, to be run by this Python, or by the system's. Raises Problems.

    executable: absolute; of the running version. None: found by `find_python`.
    """
    python = _given(executable) if executable else find_python()
    modules = {**_own_modules(), **_required_modules()}
    return Release(_identify(modules, python), sidegate.__version__, python, modules)


def _given(executable: Path) -> Python:
    """Raises Problems if that is no Python of the running version."""
    status, said, _ = programs.attempt(str(executable), "-I", "-c", _TELL_VERSION)
    if status or said.strip() != _version():
        what = f"is no Python {_version()}, and compiled packages fit no other version"
        raise Problems(Problem(str(executable), what, f"leave --python out, or name a Python {_version()}"))
    return Python(str(executable), _version())


def check_visible(executable: Path) -> None:
    """Raises Problems if the service could not start this Python."""
    if _is_hidden(executable):
        what = "lies where a service cannot see it (ProtectHome=, PrivateTmp=)"
        raise Problems(Problem(str(executable), what, "name one below /usr, or leave --python out"))


def _is_hidden(executable: Path) -> bool:
    return any(layout.is_below(str(executable), directory) for directory in layout.HIDDEN_FROM_SERVICE)


def find_python() -> Python:
    """A Python of the running version that the service can reach. Raises Problems if there is none.

    Compiled packages fit one minor version of Python only, so no other will do.
    """
    running = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    for candidate in (running, Path(f"/usr/bin/python{_version()}"), Path(f"/usr/local/bin/python{_version()}")):
        if not _is_hidden(candidate) and candidate.exists():
            return Python(str(candidate), _version())
    what = f"this Python {_version()} lies where a service cannot see it, and there is no other one of that version"
    raise Problems(Problem(str(running), what, "make clean, then make install PYTHON=/usr/bin/python3", Exit.MISSING))


def _version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _identify(modules: dict[str, bytes], python: Python) -> str:
    digest = hashlib.sha256(f"{python.executable}\n{python.version}\n".encode())
    for path, content in sorted(modules.items()):
        digest.update(f"{path}\n{len(content)}\n".encode() + content)
    return f"{sidegate.__version__}-{digest.hexdigest()[:12]}"


def _own_modules() -> dict[str, bytes]:
    """This package from where it was imported: in an editable install pip does not know its files.

    With its metadata, so that the copy can be copied in its turn.
    """
    top, known = Path(sidegate.__file__).parent, metadata.distribution(_PACKAGE)
    files = (f for f in top.rglob("*") if f.is_file() and "__pycache__" not in f.parts)
    licence = {f"{_PACKAGE}/{f.name}": f.read_binary() for f in known.files or () if f.name == "LICENSE"}
    about = {f"{_PACKAGE}-{sidegate.__version__}.dist-info/METADATA": (known.read_text("METADATA") or "").encode()}
    return {**about, **licence, **{f"{_PACKAGE}/{f.relative_to(top)}": f.read_bytes() for f in files}}


def _required_modules() -> dict[str, bytes]:
    """Everything of the packages that we need, directly or not: their licences too."""
    modules: dict[str, bytes] = {}
    problems: list[Problem] = []
    for name in sorted(_required(_PACKAGE, problems) - {_PACKAGE}):
        files = metadata.distribution(name).files
        if files is None:
            remedy = "install from a checkout, with make install"
            problems.append(Problem(name, "whoever installed this package left no list of its files", remedy))
        wanted = [f for f in files or () if _is_wanted(f)]
        modules |= {str(f): Path(str(f.locate())).read_bytes() for f in wanted}
    if problems:
        raise Problems(*problems)
    return modules


def _is_wanted(file: metadata.PackagePath) -> bool:
    """Not what lies outside of site-packages, as scripts do, and not compiled files, which know their place."""
    return ".." not in file.parts and "__pycache__" not in file.parts and file.name not in _NOT_NEEDED


def _required(name: str, problems: list[Problem], seen: frozenset[str] = frozenset()) -> frozenset[str]:
    """The packages that are installed and needed by this one, itself included.

    A requirement with a condition other than an extra counts if its package is there: pip has judged the condition.
    """
    if name in seen:
        return seen
    seen |= {name}
    for requirement in metadata.distribution(name).requires or ():
        package, _, condition = requirement.partition(";")
        match = _NAME.match(package)
        if match is None or "extra" in condition:
            continue
        if _is_installed(match[1]):
            seen = _required(match[1], problems, seen)
        elif not condition:
            problems.append(Problem(match[1], f"the package is missing; {name} needs it", "make setup", Exit.MISSING))
    return seen


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
