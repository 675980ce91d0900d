"""`python -m sidegate.gateway.engine.fetch`: gets one address, in a process of its own, so that nobody waits for it.

Standard input: a JSON object with `url` and `proxy` (an HTTP proxy's address, or null). Standard output: what was got,
exit code 0; or one line for a person, exit code 1. Addresses of subscriptions hold secrets: they are on no command line
and in no message.
"""

from __future__ import annotations

import http.client
import json
import resource
import signal
import ssl
import sys
import urllib.error
import urllib.request
from http.client import HTTPMessage
from typing import IO

from sidegate import __version__
from sidegate.gateway.engine.fetch_limits import LARGEST, WITHIN_S

_SILENCE_S = 10
_MOST_REDIRECTS = 4
_MOST_MEMORY = 512 << 20


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Few, and never from TLS to none."""

    max_redirections = _MOST_REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        schemes = ("https",) if req.type == "https" else ("http", "https")
        if newurl.partition(":")[0].lower() not in schemes:
            raise urllib.error.URLError("it leads on to an address without TLS")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(url: str, proxy: str | None) -> bytes:
    """Raises OSError, HTTPException, ValueError."""
    proxies = {"http": proxy, "https": proxy} if proxy else {}
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(proxies),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    request = urllib.request.Request(url, headers={"User-Agent": f"Sidegate/{__version__}"})  # noqa: S310
    with opener.open(request, timeout=_SILENCE_S) as answer:
        body: bytes = answer.read(LARGEST + 1)
    if len(body) > LARGEST:
        raise ValueError(f"larger than {LARGEST} bytes")
    return body


def words(error: Exception) -> str:
    """Why, for a person, without the address."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code}"
    if isinstance(error, urllib.error.URLError):
        return words(error.reason) if isinstance(error.reason, Exception) else str(error.reason)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not good: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error) if isinstance(error, ValueError) else "its answer is not HTTP"


def _too_late(*_: object) -> None:
    raise TimeoutError


def main() -> int:
    """The exit code."""
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    signal.signal(signal.SIGALRM, _too_late)
    signal.alarm(WITHIN_S)
    asked = json.load(sys.stdin)
    try:
        body = fetch(asked["url"], asked["proxy"])
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(words(error))
        return 1
    sys.stdout.buffer.write(body)
    return 0


if __name__ == "__main__":
    sys.exit(main())
