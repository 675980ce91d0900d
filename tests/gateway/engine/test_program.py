"""What the engine's process allows itself."""

from __future__ import annotations

import pytest

from sidegate.gateway.engine.program import most_files


@pytest.mark.parametrize(("mib", "files"), [(256, 6144), (1024, 24576), (8192, 65536)])
def test_files_are_as_many_as_the_memory_holds(mib: int, files: int) -> None:
    assert most_files(f"MemTotal: {1024 * mib:>15} kB\nMemFree: 1 kB\n") == files
