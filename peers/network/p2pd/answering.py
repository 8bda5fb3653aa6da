"""Answering the requests of other peers, each on a stream of its own, and refusing what is too much."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from dataclasses import dataclass

from peers.network import framing
from peers.network.bandwidth import Budget
from peers.network.discipline import Discipline
from peers.network.framing import RemoteError, Status
from peers.network.peer_scores import Limits
from peers.network.stall_timeouts import unless_slow, while_listening
from peers.network.traffic import REFUSED, TrafficMeter
from peers.network.transport import Handler
from peers.network.versions import encode_versions
from recipes.errors import ManyhandsError, MessageError, Offence
from recipes.keys.keys import PeerId, public_key

_log = logging.getLogger(__name__)

_FAREWELL_SECONDS = 5.0  # for a refused peer to take note and close


@dataclass(frozen=True)
class _Service:
    handler: Handler
    limit: int
    purpose: str


class Answering:
    """What a peer serves, and how much of it others may have at a time."""

    def __init__(self, discipline: Discipline, limits: Limits, traffic: TrafficMeter, budget: Budget) -> None:
        self._discipline = discipline
        self._limits = limits
        self._traffic = traffic
        self._budget = budget
        self._services: dict[str, _Service] = {}
        self._in_flight: Counter[PeerId] = Counter()

    def serve(self, kind: str, handler: Handler, *, limit: int, purpose: str) -> None:
        """Answer requests of this kind from now on, instead of whatever answered them before."""
        framing.check_kind(kind)
        self._services[kind] = _Service(handler, limit, purpose)

    async def answer(self, peer: PeerId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Deal with one stream that `peer` opened."""
        if public_key(peer) is None:
            return  # its signatures could not be checked from its id: it is no peer of a run
        if self._discipline.turns_away(peer):
            return
        self._in_flight[peer] += 1
        try:
            crowding = self._crowding(peer)
            if crowding <= 1:
                await self._serve_request(peer, reader, writer)
            elif crowding <= 2:
                await self._refuse(reader, writer, Status.BUSY, "busy: too many requests at once")
            # beyond that, even a refusal is too much
        except asyncio.TimeoutError:
            _log.debug("%s was too slow to send a request or to fetch its response", peer)
        except MessageError as refusal:
            self._discipline.blame(peer, refusal)
            await self._refuse(reader, writer, Status.REFUSED, str(refusal))
        except RemoteError as refusal:
            await self._refuse(reader, writer, Status.REFUSED, str(refusal))
        except ManyhandsError as error:  # the peer need not know what is wrong here
            _log.warning("Could not answer %s: %s", peer, error)
            await self._refuse(reader, writer, Status.BUSY, "cannot answer now")
        finally:
            self._in_flight[peer] -= 1
            if not self._in_flight[peer]:
                del self._in_flight[peer]

    async def tell_versions(
        self, peer: PeerId, _: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer a stream that `peer` opened to learn which versions of the protocol are spoken here."""
        if not self._discipline.turns_away(peer):
            writer.write(encode_versions())
            await asyncio.wait_for(writer.drain(), _FAREWELL_SECONDS)

    def _crowding(self, peer: PeerId) -> float:
        """Return how much of what `peer`, or all peers together, may hold is in use; above 1 is too much."""
        return max(
            self._in_flight[peer] / self._limits.requests_per_peer,
            self._in_flight.total() / self._limits.requests,
        )

    async def _serve_request(
        self, peer: PeerId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        kind, length = await asyncio.wait_for(framing.read_request_head(reader), self._limits.stall_seconds)
        service = self._services.get(kind)
        received = self._traffic.count_received(service.purpose if service else REFUSED)
        received(framing.request_head_bytes(kind))
        passage = self._budget.receiving(kind)
        await passage.admit(framing.request_head_bytes(kind))
        if service is None:
            unknown = self._discipline.unknown_kind(peer, kind)
            raise MessageError(f"Nobody here serves {kind!r}.", offence=unknown)
        if length > service.limit:
            raise MessageError(
                f"{kind!r} with {length} bytes is too long: {service.limit} are allowed.",
                offence=Offence.OVERSIZED,
            )
        if not self._discipline.admits(peer, kind, length):
            self._discipline.strike(peer, Offence.TOO_MANY)
            await self._refuse(reader, writer, Status.BUSY, "busy: too many requests in this time")
            return
        body = await unless_slow(
            framing.read_body(reader, length, count=received, passage=passage),
            passage,
            seconds=self._limits.transfer_seconds(length),
        )
        response = await while_listening(reader, service.handler(peer, body))
        if response is None:
            return
        sent = self._traffic.count_sent(service.purpose)
        passage = self._budget.sending(kind)
        await unless_slow(
            framing.send_response(writer, Status.OK, response, count=sent, passage=passage),
            passage,
            seconds=self._limits.transfer_seconds(len(response)),
        )

    async def _refuse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: Status, reason: str
    ) -> None:
        """Send a refusal, then let the rest of the request run off: closing at once could lose it."""

        async def send_and_wait() -> None:
            count, passage = self._traffic.count_sent(REFUSED), self._budget.sending(REFUSED)
            await framing.send_response(
                writer, status, framing.encode_reason(reason), count=count, passage=passage
            )
            await framing.discard(reader, passage=self._budget.receiving(REFUSED))

        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(send_and_wait(), _FAREWELL_SECONDS)
