"""Which snapshots there are to be had, and the manifest of one that the chain vouches for.

Of the hundreds of snapshots that a long chain vouches for, each peer holds two or three. What a peer claims
to hold is not proven: it is asked for one manifest, and for no second one if it does not give the first.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Sequence

from peers.chain.chain import Chain
from peers.network.asking import Asking
from peers.network.discovery import Sources
from peers.network.transport import RemoteError, Request, Transport
from peers.protocol.requests import ROUND_BYTES, decode_rounds, encode_round
from peers.state.manifest import SnapshotManifest, manifest_limit, parse_manifest
from recipes.errors import MessageError, UnreachableError
from recipes.keys.keys import PeerId
from recipes.layout import Layout

_ASKED = 16  # peers, at once, for what they hold
_MOST_ROUNDS = 64  # that one may name
_LIST_SECONDS = 5.0  # for that
_CALL_SECONDS = 600.0  # for an answer that comes slowly
_STALL_SECONDS = 10.0  # without a byte of a manifest
_NEXT_OFFER_SECONDS = 1.0  # without a manifest, after which the next offer is tried beside


class SnapshotOffers:
    """Asks peers for snapshots of one run."""

    def __init__(
        self,
        transport: Transport,
        asking: Asking,
        sources: Sources,
        *,
        layout: Layout,
        has_momentum: bool,
    ) -> None:
        self._transport = transport
        self._asking = asking
        self._layout = layout
        self._has_momentum = has_momentum
        self._sources = sources

    async def of(self, rounds: Collection[int]) -> dict[int, list[PeerId]]:
        """Return, for those of these rounds whose snapshot any peer claims to hold, the peers that do."""
        peers = list(self._sources.peers())
        if len(peers) > _ASKED:
            peers = random.sample(peers, _ASKED)
        answers = await asyncio.gather(*(self._held_by(peer) for peer in peers))
        held: dict[int, list[PeerId]] = {}
        for peer, answer in zip(peers, answers, strict=True):
            for round_number in answer.intersection(rounds):
                held.setdefault(round_number, []).append(peer)
        return held

    async def _held_by(self, peer: PeerId) -> frozenset[int]:
        limit = _MOST_ROUNDS * ROUND_BYTES
        try:
            request = Request("snapshots", b"", limit=limit, timeout=_CALL_SECONDS, purpose="snapshot")
            asking = self._asking.ask(peer, request)
            return decode_rounds(await asyncio.wait_for(asking, _LIST_SECONDS))
        except MessageError as error:
            self._transport.blame(peer, error)
        except (asyncio.TimeoutError, UnreachableError, RemoteError):
            pass
        return frozenset()

    async def first_agreed(
        self, offers: Sequence[tuple[int, PeerId]], target: str, chain: Chain
    ) -> SnapshotManifest | None:
        """Return the first manifest that comes and that the chain vouches for, or None if there is none.

        A peer is asked for one at a time, and not again once it failed: it named what it does not give.

        Args:
            offers: rounds, each with a peer that names its snapshot, the best first.
            target: a block on top of all of them.
            chain: what is known.
        """
        left, failed = list(offers), set[PeerId]()
        asking: dict[asyncio.Task[SnapshotManifest | None], tuple[int, PeerId]] = {}
        try:
            while left or asking:
                busy = {peer for _, peer in asking.values()}
                left = [offer for offer in left if offer[1] not in failed]
                offer = next((offer for offer in left if offer[1] not in busy), None)
                if offer is not None:
                    left.remove(offer)
                    asking[asyncio.create_task(self._manifest_of(offer[1], offer[0]))] = offer
                elif not asking:
                    break
                done, _ = await asyncio.wait(
                    asking,
                    timeout=_NEXT_OFFER_SECONDS if left else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    (round_number, peer), manifest = asking.pop(task), task.result()
                    if manifest is not None and is_agreed(manifest, round_number, target, chain):
                        return manifest
                    failed.add(peer)
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        return None

    async def _manifest_of(self, peer: PeerId, round_number: int) -> SnapshotManifest | None:
        """Return a peer's manifest of the snapshot of a round, or None if it gives none."""
        limit = manifest_limit(self._layout)
        try:
            body = encode_round(round_number)
            request = Request("snapshot", body, limit=limit, timeout=_CALL_SECONDS, stall=_STALL_SECONDS)
            content = await self._asking.ask(peer, request)
            manifest = parse_manifest(content, layout=self._layout, has_momentum=self._has_momentum)
        except MessageError as error:
            self._transport.blame(peer, error)
        except (UnreachableError, RemoteError):
            pass
        else:
            return manifest
        return None


def is_agreed(manifest: SnapshotManifest, round_number: int, target: str, chain: Chain) -> bool:
    """Return whether a manifest is that of the snapshot of a round that the chain vouches for."""
    try:
        expected = agreed(round_number, target, chain)
    except UnreachableError:
        return False
    return manifest.round == round_number and (manifest.block, manifest.digest().hex()) == expected


def agreed(round_number: int, target: str, chain: Chain) -> tuple[str, str]:
    """Return the block of that round below `target`, and the digest after it that the chain vouches for.

    Raises:
        UnreachableError: the chain here does not reach so far back, or nobody co-signed yet.
    """
    child = ""
    link = chain.link(target)
    while link.round > round_number and link.parent in chain:
        child, link = link.hash, chain.link(link.parent)
    signed = chain.link(child).block if child else None
    digest = signed.body.digest_before if signed is not None else chain.digest_after(link.hash)
    if link.round != round_number or digest is None:
        raise UnreachableError(f"The chain known here does not vouch for a state after round {round_number}.")
    return link.hash, digest
