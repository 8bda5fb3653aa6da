"""Connections of one server: how many there may be, and how long each may let us wait.

uvicorn gives a request no time for its head, and counts idle connections as it counts requests: a few hundred
half-open ones would keep everybody out. Here, a head has to come in time, a connection that only waits gives
way to a new one, and what is answered has to be read. All clients behind one address share its places, those
of a reverse proxy too.
"""

from __future__ import annotations

import asyncio
from ipaddress import IPv6Address, ip_address
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

MOST_CONNECTIONS = 256
MOST_FOR_ONE = 48  # from one client: fewer than may follow a page live
MOST_WAITING_FOR_ONE = 16  # of these, without a request that is being answered
HEAD_SECONDS = 10.0
STALLED_SECONDS = 120.0  # in which a reader takes nothing of what is buffered for it
_IPV6_NETWORK = 64  # bits: within it, one client has as many addresses as it likes


class Connections:
    """The open connections of one server, by client, the oldest first."""

    def __init__(self) -> None:
        self._of: dict[str, dict[Connection, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def admit(self, new: Connection) -> str:
        """Take a connection in, and close another one if need be. Return why not, or nothing."""
        mine = self._of.get(new.client_network, {})
        waiting = [one for one in mine if one.waits]
        if len(waiting) >= MOST_WAITING_FOR_ONE or (waiting and len(mine) >= MOST_FOR_ONE):
            self._close(waiting[0])
        elif len(mine) >= MOST_FOR_ONE:
            return "Too many connections from your address."
        if self._count >= MOST_CONNECTIONS:
            idle = next((one for many in self._of.values() for one in many if one.waits), None)
            if idle is None:
                return "Too many connections."
            self._close(idle)
        self._of.setdefault(new.client_network, {})[new] = None
        self._count += 1
        return ""

    def forget(self, gone: Connection) -> None:
        """Note that a connection is no more, if that is not known yet."""
        mine = self._of.get(gone.client_network, {})
        if gone in mine:
            del mine[gone]
            self._count -= 1
        if not mine:
            self._of.pop(gone.client_network, None)

    def _close(self, one: Connection) -> None:
        self.forget(one)
        one.transport.abort()


class Connection(H11Protocol):
    """One connection of uvicorn's, within bounds."""

    def __init__(
        self,
        connections_of_server: Connections,
        *,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._all = connections_of_server
        self._head: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    @property
    def client_network(self) -> str:
        """Who is at the other end: an IPv4 address, or the network of an IPv6 one."""
        return network_of(self.client[0]) if self.client else ""

    @property
    def waits(self) -> bool:
        """Whether nothing is being answered or still to be read by the client."""
        answering = self.cycle is not None and not self.cycle.response_complete
        return not answering and self.transport.get_write_buffer_size() == 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # what is not sent at once is a reader's delay
        refusal = self._all.admit(self)
        if refusal:
            self._turn_away("503 Service Unavailable", refusal)
        else:
            self._head = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.forget(self)
        self._stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._head is None:  # the first bytes of the next head: what follows has the same end
            self._head = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(STALLED_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _stop_waiting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _head_is_late(self) -> None:
        self._head = None
        self._turn_away("408 Request Timeout", "The head of the request did not come in time.")

    def _turn_away(self, status: str, words: str) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(
            f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(words) + 1}\r\n"
            f"Retry-After: 5\r\nConnection: close\r\n\r\n{words}\n".encode()
        )
        self.transport.close()


def network_of(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or the network of an IPv6 one."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return str(found)
    return str(found.ipv4_mapped or int(found) >> (128 - _IPV6_NETWORK))
