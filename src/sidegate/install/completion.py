"""Shell completion: the scripts of click's own machinery, for each shell that it knows."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

PROGRAM = "sidegate"
_VARIABLE = "_SIDEGATE_COMPLETE"
"""The environment variable by which the script asks the program; click derives it from the program's name."""


def completion(command: click.Command, shell: str) -> str:
    """The script for `bash`, `zsh` or `fish`. Raises ValueError for another shell."""
    kind = get_completion_class(shell)
    if kind is None:
        raise ValueError(f"click has no completion for {shell}")
    made = kind(command, {}, PROGRAM, _VARIABLE)
    # bash's own source() would run bash first, to ask for its version; every Debian bash is new enough.
    return (made.source_template % made.source_vars()).strip() + "\n"
