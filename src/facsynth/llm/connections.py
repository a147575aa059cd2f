"""The way to an endpoint: open connections in small pools, whole responses, and no key in what comes back.

Before: `llm.endpoint` says what is sent. After: `llm.wire` tells responses apart.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any

import httpx

from facsynth.llm.address import EndpointSettings
from facsynth.llm.wire import Fault, Kind

MAX_BODY = 16 << 20
"""Bytes, unpacked. A reply of 100,000 tokens has half a megabyte."""
POOL = 4
"""Connections of one pool: for each request httpx looks through all of its own. At 256 at once, a call takes 2.3 ms of
CPU with 32 a pool, 1.1 with 4."""
CONNECT_S, LIST_S = 10.0, 20.0
"""For a connection, and for the list of models."""
SHORTEST_KEY, SHORTEST_IN_ERRORS = 12, 8
"""Shorter ones are words, which a text may hold, or an error by which it is told."""
Response = tuple[int, Mapping[str, str], bytes]
"""Status, headers and body."""


class Connections:
    """Connections to one endpoint; for tasks of one event loop."""

    def __init__(self, settings: EndpointSettings, headers: Mapping[str, str]) -> None:
        """Nothing is sent yet; raises what httpx does of proxies and certificates that the environment names."""
        self._settings, self._headers = settings, headers
        limits, n = httpx.Limits(max_connections=None, max_keepalive_connections=None), -(-settings.concurrency // POOL)
        common: dict[str, Any] = {
            "base_url": settings.url, "headers": headers, "limits": limits,
            "timeout": httpx.Timeout(settings.timeout_s, connect=min(CONNECT_S, settings.timeout_s)),
            "verify": httpx.create_ssl_context(),  # one for all: each takes 20 ms
        }  # fmt: skip
        self._clients = [httpx.AsyncClient(**common) for _ in range(n)]
        self._next_client = itertools.cycle(self._clients)

    async def close(self) -> None:
        """Let go of them."""
        await asyncio.gather(*(client.aclose() for client in self._clients))

    async def fetch(self, method: str, path: str, body: bytes | None = None) -> Response | Fault:
        """One request to its whole response, or why there is none."""
        seconds = min(self._settings.timeout_s, LIST_S) if method == "GET" else self._settings.timeout_s
        try:
            async with asyncio.timeout(seconds):
                async with next(self._next_client).stream(method, path, content=body) as response:
                    data = bytearray()
                    async for part in response.aiter_bytes():
                        data += part
                        if len(data) > MAX_BODY:
                            return Fault(Kind.TOO_LARGE, f"the body has more than {MAX_BODY >> 20} MB")
                    return response.status_code, response.headers, self._without_key(response.status_code, bytes(data))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as err:
            return Fault(Kind.CONNECTION, str(err) or type(err).__name__)
        except (TimeoutError, httpx.TimeoutException):
            return Fault(Kind.TIMEOUT, f"no whole response in {seconds:g} s")
        except httpx.DecodingError as err:
            return Fault(Kind.MALFORMED, f"the body cannot be unpacked: {err}")
        except httpx.HTTPError as err:
            return Fault(Kind.RESET, str(err) or type(err).__name__)

    def _without_key(self, status: int, data: bytes) -> bytes:
        """Endpoints repeat keys in their errors; from here on, it is nowhere."""
        key = self._headers.get("authorization", "").removeprefix("Bearer ").encode()
        if len(key) < (SHORTEST_KEY if status == 200 else SHORTEST_IN_ERRORS):
            return data
        return data.replace(key, b"***").replace(key.replace(b"/", rb"\/"), b"***")
