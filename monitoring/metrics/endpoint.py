"""Where a volunteer's metrics are served: HTTP on 127.0.0.1, for a Prometheus on the same machine.

Neither a port in use nor anything else that the system refuses here stops the training.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server

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
        server, thread = _start(registry, port, say)
    except OSError as error:
        say(f"No metrics are served: {error.strerror or error}. Training does not need them.")
        yield None
        return
    try:
        found = int(server.server_port)
        say(f"Metrics: http://{LOOPBACK}:{found}/metrics")
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _start(registry: CollectorRegistry, port: int, say: Callable[[str], None]):  # type: ignore[no-untyped-def]
    try:
        return start_http_server(port, addr=LOOPBACK, registry=registry)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not port:
            raise
        say(f"Port {port}, where the metrics were to be, is in use: taking a free one.")
        return start_http_server(0, addr=LOOPBACK, registry=registry)
