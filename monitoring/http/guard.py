"""What every request and answer goes through: reading alone, under our own names, within bounds."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from monitoring.http.hosts import REFUSAL, Hosts

MOST_PATH_BYTES = 512
MOST_QUERY_BYTES = 256
MOST_HEADER_BYTES = 16 << 10
MOST_REQUESTS = 128  # at once

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
"""Headers of every answer: nothing comes from elsewhere, nothing is inline, no other page may frame it."""


class Guard:
    """Refuses what no reader sends before anything looks at it, and adds the headers."""

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self._app = app
        self._hosts = hosts
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Deal with one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no WebSockets here: the server closes them

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-cache")
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, with_headers)
            return
        self._running += 1
        try:
            await self._app(scope, receive, with_headers)
        finally:
            self._running -= 1

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse(
                "Only GET and HEAD: nothing can be changed here.\n",
                405,
                {"Allow": "GET, HEAD", "Connection": "close"},
            )
        reached = scope["server"][0] if scope.get("server") else None
        if not self._hosts.includes(Headers(scope=scope).get("host", ""), reached):
            return PlainTextResponse(REFUSAL, 421, {"Connection": "close"})
        if self._running >= MOST_REQUESTS:
            return PlainTextResponse("Too many requests at once.\n", 503, {"Retry-After": "5"})
        path, query = scope.get("raw_path") or scope["path"].encode(), scope["query_string"]
        if len(path) > MOST_PATH_BYTES or len(query) > MOST_QUERY_BYTES:
            return PlainTextResponse("The address is too long.\n", 414)
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEADER_BYTES:
            return PlainTextResponse("Too many headers.\n", 431)
        if not all(name.isascii() and value.isascii() for name, value in scope["headers"]):
            return PlainTextResponse("Headers are ASCII.\n", 400, {"Connection": "close"})
        length = Headers(scope=scope).get("content-length", "0")
        if length != "0" or "transfer-encoding" in Headers(scope=scope):
            return PlainTextResponse("A request to read has no body.\n", 400, {"Connection": "close"})
        return None
