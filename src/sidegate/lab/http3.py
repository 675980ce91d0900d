"""The lab's HTTP/3 servers (RFC 9114): a process of its own, since they are the only ones that need an event loop.

They answer `/` with the machine's name and `/who` with the asking address as the server sees it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from sidegate.lab import namespaces as ns
from sidegate.lab.papers import Certificate, Papers
from sidegate.lab.parts import Machine
from sidegate.problems import Exit, Problem, Problems


def serve(machine: Machine, pid: int, papers: Papers, ready: Callable[[int], None]) -> None:
    """Opens a machine's QUIC sockets, says that it is ready, and answers for as long as it lives. Raises Problems."""
    try:
        import aioquic  # noqa: F401 - whether it is there
    except ImportError:
        what = "this home's servers speak HTTP/3, and the library that does is missing"
        remedy = "in a checkout of Sidegate: make setup, then .venv/bin/sidegate"
        raise Problems(Problem("aioquic", what, remedy, Exit.MISSING)) from None
    ns.enter_network(pid)
    asyncio.run(_serve(machine, papers, ready))


async def _serve(machine: Machine, papers: Papers, ready: Callable[[int], None]) -> None:
    from aioquic.asyncio.server import serve as serve_quic

    for service, address, port in machine.listens:
        if service == "quic":
            configuration = _configuration(papers.of(address))
            protocol = _protocol(machine.name)
            await serve_quic(address, port, configuration=configuration, create_protocol=protocol)
    ready(0)
    await asyncio.Event().wait()


def _configuration(certificate: Certificate) -> Any:
    from aioquic.quic.configuration import QuicConfiguration
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509 import load_pem_x509_certificates

    made = QuicConfiguration(is_client=False, alpn_protocols=["h3"])
    made.certificate, *made.certificate_chain = load_pem_x509_certificates(certificate.chain.encode())
    made.private_key = load_pem_private_key(certificate.key.encode(), None)
    return made


def _protocol(name: str) -> Any:
    """A class, made here: its parent is there only with the library."""
    from aioquic.asyncio.protocol import QuicConnectionProtocol
    from aioquic.h3.connection import H3Connection
    from aioquic.h3.events import HeadersReceived
    from aioquic.quic.events import ProtocolNegotiated, QuicEvent

    class Answering(QuicConnectionProtocol):
        http: H3Connection | None = None
        asker: tuple[str, int] = ("", 0)

        def datagram_received(self, data: bytes | str, addr: Any) -> None:
            self.asker = addr[:2]
            super().datagram_received(data, addr)

        def quic_event_received(self, event: QuicEvent) -> None:
            if isinstance(event, ProtocolNegotiated):
                self.http = H3Connection(self._quic)
            if self.http is None:
                return
            for heard in self.http.handle_event(event):
                if isinstance(heard, HeadersReceived):
                    self._answer(self.http, heard.stream_id, dict(heard.headers).get(b":path", b""))

        def _answer(self, http: H3Connection, stream: int, path: bytes) -> None:
            pages = {b"/": f"{name}\n", b"/who": f"{self.asker[0]} {self.asker[1]}\n"}
            page = pages.get(path)
            status = b"404" if page is None else b"200"
            http.send_headers(stream, [(b":status", status)])
            http.send_data(stream, (page or "").encode(), end_stream=True)
            self.transmit()

    return Answering
