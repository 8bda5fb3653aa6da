"""Where a volunteer's metrics are served: HTTP on 127.0.0.1, for a Prometheus on the same machine.

Neither a port in use nor anything else that the system refuses here stops the training.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 31380  # below Linux's ephemeral ports, so that no outgoing connection takes it


@contextmanager
def metrics_served(
    registry: CollectorRegistry, *, port: int, say: Callable[[str], None]
) -> Iterator[int | None]:
    """Serve a registry's metrics while the block runs.

    Args:
        registry: what is served.
        port: TCP port, 0 for a free one. If it is in use, a free one is taken.
        say: is told in a sentence where the metrics are, or why nowhere.

    Yields:
        The port; None if the system gave none.
    """
    try:
        door = _door(port, say)
    except OSError as error:
        say(f"No metrics are served: {error.strerror or error}. Training does not need them.")
        yield None
        return
    with door, _answering(registry, door):
        found = int(door.getsockname()[1])
        say(f"Metrics: http://{LOOPBACK}:{found}/metrics")
        yield found


@contextmanager
def _answering(registry: CollectorRegistry, door: socket.socket) -> Iterator[None]:
    """Answer in a thread of its own, so that a busy training does not keep Prometheus waiting."""
    from prometheus_client import make_asgi_app

    from monitoring.http.server import Server

    server = Server(make_asgi_app(registry))
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[door])), name="metrics", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


def _door(port: int, say: Callable[[str], None]) -> socket.socket:
    try:
        return socket.create_server((LOOPBACK, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not port:
            raise
        say(f"Port {port}, where the metrics were to be, is in use: taking a free one.")
        return socket.create_server((LOOPBACK, 0))
