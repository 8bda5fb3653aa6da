"""The web server itself: its socket, and the bounds that it keeps before any request is looked at."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from monitoring.http.connections import Connection, Connections
from monitoring.http.guard import Guard
from monitoring.http.hosts import Hosts
from recipes.errors import NetworkError

_KEEP_ALIVE_SECONDS = 15
_FAREWELL_SECONDS = 5  # for answers that are under way at the end
_MOST_HEAD_BYTES = 16 << 10
_WAITING = 128  # connections that are not accepted yet


class Server(uvicorn.Server):
    """Answers for an application, guarded, and leaves signals to the command that runs it."""

    def __init__(self, app: ASGIApp, hosts: Hosts | None = None) -> None:
        """Prepare to answer.

        Args:
            app: the application.
            hosts: the names under which it may be asked; by default its IP address and localhost.
        """
        http = partial(Connection, Connections())
        super().__init__(
            uvicorn.Config(
                Guard(app, hosts or Hosts()),
                http=cast(type[asyncio.Protocol], http),
                ws="none",
                lifespan="off",
                log_level="error",  # warnings tell of strangers' requests, one by one
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_FAREWELL_SECONDS,
                h11_max_incomplete_event_size=_MOST_HEAD_BYTES,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Give a socket that listens, until the block ends.

    Args:
        host: an IP address; 127.0.0.1 is this machine alone.
        port: 0 for any free one.

    Raises:
        NetworkError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((host, port))
            door.listen(_WAITING)
        except OSError as error:
            raise NetworkError(
                f"Cannot listen on {host} port {port}: {error.strerror or error}.",
                remedy="Name another port with --port, 0 for any free one.",
            ) from error
        yield door
