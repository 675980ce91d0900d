"""Where things go on a Debian box (Filesystem Hierarchy Standard 3.0, hier(7), file-hierarchy(7)).

Absolute paths of the machine itself, without `--root`. What a package manager would put below /usr we put below
/usr/local: /usr is the package manager's.
"""

from __future__ import annotations

OPT = "/opt/sidegate"
RELEASES = f"{OPT}/releases"
CURRENT = f"{OPT}/current"
MANIFEST = f"{OPT}/manifest.json"

COMMAND = "/usr/local/bin/sidegate"
UNIT_NAME = "sidegate.service"
UNIT = f"/usr/local/lib/systemd/system/{UNIT_NAME}"
SYSUSERS = "/usr/local/lib/sysusers.d/sidegate.conf"
TMPFILES = "/usr/local/lib/tmpfiles.d/sidegate.conf"

MAN = "/usr/local/share/man"
DOC = "/usr/local/share/doc/sidegate"
COMPLETIONS = {
    "bash": "/usr/local/share/bash-completion/completions/sidegate",
    "zsh": "/usr/local/share/zsh/site-functions/_sidegate",
    "fish": "/usr/local/share/fish/vendor_completions.d/sidegate.fish",
}

CONFIG_DIR = "/etc/sidegate"
CONFIG = f"{CONFIG_DIR}/sidegate.toml"
STATE_DIR = "/var/lib/sidegate"
RUNTIME_DIR = "/run/sidegate"
DROP_INS = f"/etc/systemd/system/{UNIT_NAME}.d"
"""What `systemctl edit sidegate` writes: a person's own settings, like the configuration."""
ENABLED = f"/etc/systemd/system/multi-user.target.wants/{UNIT_NAME}"
"""What `systemctl enable sidegate` writes."""

GROUP = "sidegate"
"""Whoever is in it may ask the daemon; see `sidegate.gateway.daemon.control`."""

HIDDEN_FROM_SERVICE = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - named, not written to
"""What ProtectHome=yes and PrivateTmp=yes hide from a service (systemd.exec(5)): no Python of ours may lie there."""


def release_dir(release_id: str) -> str:
    return f"{RELEASES}/{release_id}"


def ancestors(path: str) -> list[str]:
    """Every directory above a path, the outermost first, without `/`."""
    parts = path.strip("/").split("/")[:-1]
    return ["/" + "/".join(parts[: i + 1]) for i in range(len(parts))]


def is_below(path: str, directory: str) -> bool:
    """Whether a path is this directory or lies in it."""
    return path == directory or path.startswith(directory + "/")
