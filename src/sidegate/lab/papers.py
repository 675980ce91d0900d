"""Certificates of a lab's servers, by a certificate authority of its own that every machine of the lab trusts."""

from __future__ import annotations

import os
import ssl
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING

from msgspec import Struct

from sidegate.lab.parts import Blueprint
from sidegate.problems import Exit, Problem, Problems

if TYPE_CHECKING:
    import trustme

_END = "-----END CERTIFICATE-----"
_REMEDY = "in a checkout of Sidegate: make setup, then .venv/bin/sidegate"


class Certificate(Struct, frozen=True):
    """Of one domain and its addresses. chain, key: PEM."""

    domain: str
    addresses: tuple[str, ...]
    chain: str
    key: str


class Papers(Struct, frozen=True):
    """ca: the authority's own certificate, PEM."""

    ca: str
    certificates: tuple[Certificate, ...]

    @property
    def pins(self) -> dict[str, str]:
        """By domain the SHA-256 of its certificate, in hexadecimal."""
        firsts = ((c.domain, c.chain.partition(_END)) for c in self.certificates)
        return {domain: sha256(ssl.PEM_cert_to_DER_cert(pem + end)).hexdigest() for domain, (pem, end, _) in firsts}

    def of(self, address: str) -> Certificate:
        """What the server at this address shows."""
        return next(c for c in self.certificates if address in c.addresses)


def papers(plan: Blueprint) -> Papers | None:
    """Fresh certificates for what a lab serves; None where it needs none. Raises Problems without the libraries."""
    needed = [it for machine in plan.machines for it in machine.certificates]
    if not needed:
        return None
    authority = _authority()
    return Papers(
        authority.cert_pem.bytes().decode(),
        tuple(_issued(authority, domain, addresses) for domain, addresses in needed),
    )


@cache
def _authority() -> trustme.CA:
    """One for all labs of this process: making it takes longer than using it."""
    try:
        import trustme
    except ImportError:
        what = "this home's servers show certificates, and the library that makes them is missing"
        raise Problems(Problem("trustme", what, _REMEDY, Exit.MISSING)) from None
    return trustme.CA(organization_name="Sidegate lab")


def _issued(authority: trustme.CA, domain: str, addresses: tuple[str, ...]) -> Certificate:
    made = authority.issue_cert(domain, *addresses)
    chain = b"".join(pem.bytes() for pem in made.cert_chain_pems).decode()
    return Certificate(domain, addresses, chain, made.private_key_pem.bytes().decode())


def server_context(certificate: Certificate) -> ssl.SSLContext:
    """For HTTPS. OpenSSL takes keys from files only: these are in memory."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    files = [_in_memory(text) for text in (certificate.chain, certificate.key)]
    try:
        context.load_cert_chain(*(f"/proc/self/fd/{fd}" for fd in files))
    finally:
        for fd in files:
            os.close(fd)
    return context


def _in_memory(text: str) -> int:
    fd = os.memfd_create("paper")
    os.write(fd, text.encode())
    return fd
