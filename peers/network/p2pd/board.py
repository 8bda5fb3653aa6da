"""The notice board in hivemind's DHT, of which this peer keeps a part.

hivemind's DHT trusts whoever speaks to it: it calls each peer that anybody names, takes records from anybody,
and hands all that it has to each newcomer. `_Gate` stands between it and the network. It lets calls out only
to peers that are connected already, hence dialled by this peer's own rules (peers/network/dialling.py), and
notices in only from their writers, by the rules of `NoticeBoard`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from hivemind.dht import DHTNode
from hivemind.dht.crypto import DHTRecord, RecordValidatorBase
from hivemind.dht.protocol import DHTProtocol
from hivemind.dht.routing import DHTID
from hivemind.dht.storage import DictionaryDHTValue
from hivemind.p2p import P2P, PeerID
from hivemind.utils import MSGPackSerializer
from hivemind.utils.logging import use_hivemind_log_handler
from hivemind.utils.multiaddr import Multiaddr

from peers.network.network_groups import group_of, is_circuit, taking_turns
from peers.network.p2pd.client import Streams
from peers.network.presence import (
    LIFETIME_SECONDS,
    NoticeBoard,
    NoticeReader,
    Presence,
    board_name,
    sign_presence,
)
from recipes.errors import MessageError, NetworkError, UnreachableError
from recipes.keys.keys import PeerId, SigningKey

_NOTICE_RPC_SECONDS = 5.0
_INTRODUCTION_SECONDS = 3.0
_MOST_RECORDS = 8  # of one request: a writer has one notice
_KEEPERS_NAMED = 4  # of those that one joined by
_KEEPERS_BY_CHANCE = 3
_MOST_NOTICES = 512  # that are read at a time
_WHOLE = DHTProtocol.IS_DICTIONARY  # in a record's place, if it holds everybody's
_CHANCE = random.SystemRandom()

Outcome = TypeVar("Outcome")

Handler = Callable[[Any, Any], Awaitable[Any]]  # of a request and its context, as hivemind has them


class Board:
    """The notice board in hivemind's DHT, of which this peer keeps a part."""

    def __init__(
        self, node: Any, gate: _Gate, streams: Streams, reader: NoticeReader, key: SigningKey
    ) -> None:
        self._node = node
        self._gate = gate
        self._streams = streams
        self._reader = reader
        self._key = key

    @classmethod
    async def open(cls, control_socket: Path, streams: Streams, key: SigningKey, run_id: str | None) -> Board:
        """Take part in the DHT, knowing nobody yet: see `introduce`. Notices of other runs are not kept.

        Raises:
            NetworkError: p2pd does not answer.
        """
        use_hivemind_log_handler("nowhere")  # let its messages go where the program's own go
        try:
            reader = NoticeReader(run_id)
            gate = await _Gate.replicate(Multiaddr(f"/unix{control_socket}"))
            gate.keep(streams, NoticeBoard(run_id, salt=secrets.token_bytes(32), chance=_CHANCE))
            node = await DHTNode.create(
                p2p=gate,
                node_id=DHTID.generate(key.peer_id),  # the same after a restart
                record_validator=_NoticeValidator(reader),
                wait_timeout=_NOTICE_RPC_SECONDS,
                # Each roll call asks the keepers anew, so caches would only hold what has run out. A search
                # must not wait for another one that may hang. A peer that was away for a night is asked again
                # soon: at the default rate of 2, the time for which a silent peer is ignored doubles without
                # end.
                cache_locally=False,
                cache_nearest=0,
                cache_on_store=False,
                cache_refresh_before_expiry=0,
                cache_size=16,
                reuse_get_requests=False,
                backoff_rate=1.0,
            )
        except (OSError, asyncio.IncompleteReadError) as error:
            raise NetworkError(f"The network daemon p2pd takes no requests: {error}.") from error
        gate.keep_in(node.protocol.storage)
        return cls(node, gate, streams, reader, key)

    async def introduce(self, peer: PeerId) -> bool:
        """Ask a connected peer to keep the board together with this one; False if it does not answer."""
        ping = self._node.protocol.call_ping(PeerID.from_base58(peer))
        try:
            return await asyncio.wait_for(ping, _INTRODUCTION_SECONDS) is not None
        except asyncio.TimeoutError:
            return False

    async def look_around(self) -> None:
        """Learn about more keepers of the board from those that are known."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(
                self._node.find_nearest_nodes([self._node.node_id]), timeout=_INTRODUCTION_SECONDS
            )

    async def post(self, presence: Presence, *, also: Collection[PeerId] = ()) -> bool:
        """Sign and post; False if no keeper took it, which can be this peer alone.

        Keepers are those whose ids are nearest to the board's name. Anybody may come nearer than all honest
        peers, and then keep nothing: hence it is posted with a few more.

        Args:
            presence: what to post.
            also: peers with whom to post it in any case, the first that are connected.

        Raises:
            MessageError: the notice is too large.
        """
        notice, expires = sign_presence(presence, self._key), time.time() + LIFETIME_SECONDS
        name = board_name(presence.run)

        async def post_with(keeper: PeerId) -> bool:
            stored = await self._node.protocol.call_store(
                PeerID.from_base58(keeper),
                [DHTID.generate(name)],
                [MSGPackSerializer.dumps(notice)],
                [expires],
                subkeys=[presence.peer],
            )
            return bool(stored and all(stored))

        storing = self._node.store(name, notice, expires, subkey=presence.peer)
        keepers = await self._some_keepers(also)
        outcomes = await asyncio.gather(
            _in_time(storing, False), *(_in_time(post_with(keeper), False) for keeper in keepers)
        )
        return any(outcomes)

    async def read(self, run_id: str, *, also: Collection[PeerId] = ()) -> dict[PeerId, Presence]:
        """Return the notices of a run, this peer's own included, from those keepers that answer in time.

        At most 512, of each network as many as of any other: what a keeper gives may be made up.
        """
        name = DHTID.generate(board_name(run_id))

        async def read_from(keeper: PeerId) -> Any:
            found = await self._node.protocol.call_find(PeerID.from_base58(keeper), [name])
            return found[name][0] if found else None

        keepers = await self._some_keepers(also)
        answers = await asyncio.gather(
            # a keeper's malformed answer can make hivemind's search hang
            _in_time(self._node.get_many_by_id([name], sufficient_expiration_time=math.inf), {}),
            *(_in_time(read_from(keeper), None) for keeper in keepers),
        )
        here = self._node.protocol.storage.get(name)
        newest: dict[PeerId, Presence] = {}
        for kept in (here, answers[0].get(name), *answers[1:]):
            for presence in self._presences(kept):
                if presence.run == run_id and newest.get(presence.peer, presence).time <= presence.time:
                    newest[presence.peer] = presence
        own = newest.pop(self._key.peer_id, None)
        turns = taking_turns(newest.values(), _network, _CHANCE)
        found = [*([own] if own is not None else []), *islice(turns, _MOST_NOTICES)]
        return {presence.peer: presence for presence in found}

    def _presences(self, kept: Any) -> Iterator[Presence]:
        """Read the notices that one keeper gave, or that are kept here."""
        if kept is None or not isinstance(kept.value, DictionaryDHTValue):
            return
        now = time.time()
        for notice in list(kept.value.data.values()):
            with contextlib.suppress(MessageError):
                yield self._reader.read(_unpack(notice.value), expires=notice.expiration_time, now=now)

    def came_from(self, run_id: str, peer: PeerId) -> str | None:
        """Return the address from which a peer brought its notice here; None if it did not lately."""
        return self._gate.board.came_from(run_id, peer)

    async def close(self) -> None:
        """Leave the DHT. p2pd may be dead already."""
        self._node.is_alive = False
        control = self._gate._client.control
        await self._gate.shutdown()  # of hivemind's side only: p2pd is not its child here
        # A p2pd that died broke these. Nobody else asks how they ended, and asyncio would complain of that.
        await asyncio.gather(control._read_task, control._write_task, return_exceptions=True)
        await asyncio.sleep(0)  # the tasks that this cancelled close their sockets

    async def _some_keepers(self, also: Collection[PeerId]) -> list[PeerId]:
        """Return the first of `also` that are connected, and a few more by chance."""
        connected = set(await self._streams.connections())
        others = sorted(connected - set(also))
        by_chance = _CHANCE.sample(others, min(_KEEPERS_BY_CHANCE, len(others)))
        return [*[peer for peer in also if peer in connected][:_KEEPERS_NAMED], *by_chance]


class _Gate(P2P):  # type: ignore[misc]  # hivemind is untyped
    """What hivemind's DHT may ask others, and others it."""

    board: NoticeBoard

    def keep(self, streams: Streams, board: NoticeBoard) -> None:
        """Look up connections with `streams`, and let `board` decide what is kept."""
        self._streams = streams
        self.board = board

    def keep_in(self, storage: Any) -> None:
        """Keep notices in hivemind's storage from now on."""
        self._storage = storage

    async def call_protobuf_handler(self, peer_id: PeerID, name: str, request: Any, answer_type: Any) -> Any:
        """Call a peer if it is connected: p2pd would look for any other one, and dial what strangers name."""
        peer = PeerId(peer_id.to_base58())
        if peer not in await self._streams.connections():
            raise UnreachableError(f"{peer} is not connected.")
        if _WHOLE in getattr(request, "subkeys", ()):  # what is kept here is not handed on: writers post it
            return answer_type(store_ok=[False] * len(request.keys))
        answer = await super().call_protobuf_handler(peer_id, name, request, answer_type)
        _forget_false_id(answer, peer)
        return answer

    async def add_protobuf_handler(
        self, name: str, handler: Handler, input_protobuf_type: Any, **options: Any
    ) -> None:
        """Answer others by `handler`, and notices in its stead."""

        async def answer(request: Any, context: Any) -> Any:
            peer = PeerId(context.remote_id.to_base58())
            _forget_false_id(request, peer)
            if not name.endswith(".rpc_store"):
                return await handler(request, context)
            about = type(request)(peer=request.peer)  # hivemind only notes that the peer is there
            response = await handler(about, context)
            response.store_ok.extend(await self._keep_notices(request, peer))
            return response

        await super().add_protobuf_handler(name, answer, input_protobuf_type, **options)

    async def _keep_notices(self, request: Any, poster: PeerId) -> list[bool]:
        records = list(
            zip(request.keys, request.subkeys, request.values, request.expiration_time, strict=False)
        )
        ends = (await self._streams.connections()).get(poster, ())
        if not ends or len(records) > _MOST_RECORDS:
            return [False] * len(records)
        came_from = min(ends, key=is_circuit)  # a direct connection, if there is one
        return [self._keep_notice(DHTRecord(*record), poster, came_from) for record in records]

    def _keep_notice(self, record: Any, poster: PeerId, came_from: str) -> bool:
        now = time.time()
        try:
            presence = self.board.check(
                _unpack(record.value), poster=poster, expires=record.expiration_time, now=now
            )
        except MessageError:
            return False
        key = DHTID.generate(board_name(presence.run))
        if (record.key, record.subkey) != (key.to_bytes(), MSGPackSerializer.dumps(poster)):
            return False
        if self.board.hangs_already(presence, expires=record.expiration_time):
            return True
        gave_way = self.board.hang(presence, came_from=came_from, expires=record.expiration_time, now=now)
        if gave_way is not None:
            run, writer = gave_way
            kept = self._storage.get(DHTID.generate(board_name(run)))
            if kept is not None and isinstance(kept.value, DictionaryDHTValue):
                del kept.value[writer]
        return bool(self._storage.store_subkey(key, poster, record.value, record.expiration_time))


class _NoticeValidator(RecordValidatorBase):  # type: ignore[misc]  # hivemind is untyped
    """Lets out of the DHT what a `NoticeReader` accepts, where it belongs, and nothing else."""

    def __init__(self, reader: NoticeReader) -> None:
        self._reader = reader

    def validate(self, record: DHTRecord) -> bool:
        expires = record.expiration_time
        if not isinstance(expires, (int, float)):
            return False
        try:
            presence = self._reader.read(_unpack(record.value), expires=expires, now=time.time())
        except MessageError:
            return False
        place = (DHTID.generate(board_name(presence.run)).to_bytes(), MSGPackSerializer.dumps(presence.peer))
        return bool((record.key, record.subkey) == place)


async def _in_time(asking: Awaitable[Outcome], otherwise: Outcome) -> Outcome:
    try:
        return await asyncio.wait_for(asking, 3 * _NOTICE_RPC_SECONDS)
    except asyncio.TimeoutError:
        return otherwise


def _network(presence: Presence) -> str:
    return group_of(presence.addresses[0]) if presence.addresses else ""


def _forget_false_id(message: Any, peer: PeerId) -> None:
    """Take out of a request or an answer a place in the DHT that is not its sender's."""
    if message.peer.node_id not in (b"", DHTID.generate(peer).to_bytes()):
        message.peer.node_id = b""


def _unpack(value: object) -> bytes:
    """Return the bytes inside a MessagePack `bin`, without a decoder that a stranger could lead astray."""
    if isinstance(value, bytes):
        for head_bytes in (2, 3):
            content = value[head_bytes:]
            if MSGPackSerializer.dumps(content) == value:
                return content
    raise MessageError("A record in the DHT is not a byte string of at most 64 KiB.")
