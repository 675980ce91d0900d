"""A certificate of the stage's own."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path
from typing import Any

import trustme

from tests.kernel.engine_stage.addresses import NAME


class Certificate:
    """Of NAME, signed by an authority that nobody knows. pin: its SHA-256. authority: a file with that one's own."""

    def __init__(self, directory: Path) -> None:
        self.authority = directory / "authority.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.authority))
        made = authority.issue_cert(NAME)
        self.chain, self.key = directory / "chain.pem", directory / "key.pem"
        made.cert_chain_pems[0].write_to_path(str(self.chain))
        made.private_key_pem.write_to_path(str(self.key))
        self.pin = hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.chain.read_text())).hexdigest()

    def settings(self) -> dict[str, Any]:
        return {"certificates": [{"certificateFile": str(self.chain), "keyFile": str(self.key)}]}
