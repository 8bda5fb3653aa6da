"""Bringing the canonical state to a block of the chain, whatever it takes.

    one block on       apply the block's reduced segments
    a lost branch      restore a snapshot below the fork, replay the blocks since
    far behind         fetch the newest snapshot that the chain vouches for, replay the blocks since
    torn by a crash    restore the own newest snapshot, replay
    another digest     fetch the pieces that differ, replay; if that ends the same way, stop and say so

Nothing that is fetched is trusted: reduced segments are named by their root in a block, snapshots by the
digest that the next block carries, pieces by their hash in the snapshot's manifest.
"""

from __future__ import annotations

import asyncio
from functools import partial

from peers.chain.chain import Chain
from peers.chain.link import Link
from peers.codec.segment import SegmentFrame
from peers.exchange.segment_store import ExchangeStore
from peers.network.asking import Asking
from peers.network.discovery import Sources
from peers.network.transport import RemoteError, Request, Transport
from peers.protocol.events import Diverged, Listener, Notice
from peers.protocol.messages import Block, Reduction
from peers.protocol.rules import Rules
from peers.state.canonical_state import CanonicalState
from peers.state.chain_memory import leaves_after, memory_after
from peers.state.manifest import SnapshotManifest
from peers.sync.piece_download import PieceDownload
from peers.sync.rate_control import Flow
from peers.sync.snapshot_offers import SnapshotOffers, agreed, is_agreed
from peers.sync.snapshot_pieces import SnapshotPieces
from recipes.errors import MessageError, StateError, UnreachableError
from recipes.keys.keys import PeerId
from recipes.layout import Layout

_CALL_SECONDS = 600.0  # for an answer that comes slowly
_STALL_SECONDS = 30.0  # without a byte of it
_STALL_BEFORE_OTHERS_SECONDS = 5.0  # without a byte of an answer, where the next source may be asked instead
_ROUNDS_TOLD = 4  # of snapshots that were named
_DIVERGENCES = 2  # from an agreed base, before giving up


class _DivergedError(Exception):
    """The state after a block is not the one that its co-signers agree on."""

    def __init__(self, link: Link) -> None:
        super().__init__(link.hash)
        self.link = link


class StateSync:
    """Moves one run's canonical state along its chain."""

    def __init__(
        self,
        state: CanonicalState,
        exchange: ExchangeStore,
        *,
        rules: Rules,
        layout: Layout,
        has_momentum: bool,
        transport: Transport,
        sources: Sources,
        listener: Listener,
    ) -> None:
        self.state = state
        self._exchange = exchange
        self._rules = rules
        self._layout = layout
        self._has_momentum = has_momentum
        self._transport = transport
        self._sources = sources
        self._listener = listener
        self._divergences = 0
        self._audited_from: int | None = None
        self._flow = Flow()
        self._given_up: set[int] = set()  # rounds of snapshots that were begun in vain
        self._asking = Asking(transport)
        self._offers = SnapshotOffers(
            transport, self._asking, sources, layout=layout, has_momentum=has_momentum
        )
        self._download = PieceDownload(transport, sources, listener, flow=self._flow)

    def keep_for_audits(self, round_number: int) -> None:
        """Keep on disk what it takes to make the state after this round again, and after all later ones."""
        self._audited_from = round_number
        self.state.snapshots.need_from(round_number)

    def oldest_needed_round(self) -> int:
        """Return the round whose reduced segments are still worth keeping: those after the older snapshot.

        Where audits need an older state, it is those after the snapshot below that.
        """
        rounds = [number for number in self.state.snapshots.rounds() if number > 0]
        if len(rounds) < 2:
            return 0
        oldest = min(rounds[0], self.state.round - self._rules.rewind_depth)
        if self._audited_from is None:
            return oldest
        return min(oldest, self.state.snapshots.newest_below(self._audited_from) or 0)

    async def bring_to(self, target: str, chain: Chain) -> str:
        """Make the state the one after block `target`; return its digest, hex.

        Raises:
            UnreachableError: no peer has what is needed, for now.
            MessageError: a block on the way starts from a state that nobody vouches for.
            StateError: this machine computes another state than everybody else.
        """
        while True:
            try:
                await self._stand_below(target, chain)
                digest = await self._replay(target, chain)
            except _DivergedError as diverged:
                await self._heal(diverged.link, target, chain)
            except UnreachableError:  # of a block too old for anybody to keep its segments
                above = self.state.round if self.state.clean else 0
                if not await self._fetch_newest(target, chain, above=above):
                    raise
            else:
                self._divergences = 0
                return digest

    def stands_below(self, target: str, chain: Chain) -> str:
        """Return the block below `target` after which the state stands, or the oldest one known."""
        below = self.state.clean and self._is_below(self.state.block, target, chain)
        return self.state.block if below else chain.root

    # ------------------------------------------------------------ finding a base

    async def _stand_below(self, target: str, chain: Chain) -> None:
        """Have the state stand at an ancestor of `target`, as near as is cheap."""
        below = self.state.clean and self._is_below(self.state.block, target, chain)
        below = below or await self._restore_newest(target, chain)
        if below and not self._worth_a_snapshot(self.state.round, target, chain):
            return
        newest = await self._fetch_newest(target, chain, above=self.state.round if below else 0)
        if not newest and not below:
            await self._begin_anew(target, chain)

    async def _begin_anew(self, target: str, chain: Chain) -> None:
        """Stand at genesis, if what leads on from there can still be had: its weights alone lead nowhere.

        Raises:
            UnreachableError: it cannot.
        """
        agreed(0, target, chain)
        try:
            for first in (chain.path(chain.root, target) or [])[:1]:
                await self._frames(first, chain.tokens_at(first.parent))
        except UnreachableError as error:
            raise UnreachableError(
                f"none of {len(self._sources.peers())} peers holds a snapshot that the chain vouches "
                "for, nor the segments of the first round"
            ) from error
        await self._fetch_snapshot(0, target, chain)

    def _is_below(self, block: str, target: str, chain: Chain) -> bool:
        return block in chain and chain.path(block, target) is not None

    def _worth_a_snapshot(self, base: int, target: str, chain: Chain) -> bool:
        """Return whether a snapshot moves fewer bytes than the reduced segments of each block."""
        links = _links_between(base, target, chain)
        missing = sum(
            reduction.bytes
            for link in links
            for reduction in _reductions(link).values()
            if not self._exchange.has_reduced(reduction.root)
        )
        return missing > 4 * self._layout.padded * (2 if self._has_momentum else 1)

    async def _restore_newest(self, target: str, chain: Chain) -> bool:
        """Go back to the newest snapshot here that `target` stands on."""
        for round_number in reversed(self.state.snapshots.rounds()):
            manifest = self.state.snapshots.manifest(round_number)
            if manifest is not None and self._is_below(manifest.block, target, chain):
                if await asyncio.to_thread(self.state.restore, round_number):
                    await self._fetch_pieces(manifest, chain)
                    await asyncio.to_thread(self.state.restore, round_number)
                return True
        return False

    async def _fetch_newest(self, target: str, chain: Chain, *, above: int) -> bool:
        """Fetch the newest snapshot after round `above` that the chain vouches for; False if there is none.

        The peers are asked which they hold, all at once: of the hundreds that a long chain vouches for,
        two or three are still held. One that was begun and can still be had comes first: while a thin line
        fetches one, newer ones appear.
        """
        interval = self._rules.snapshot_interval
        vouched = {n for link in _links_between(above, target, chain) if (n := link.round) % interval == 0}
        held = await self._offers.of(vouched) if vouched else {}
        begun = set(self.state.snapshots.begun()) - self._given_up
        offers = [
            (number, peer)
            for number in sorted(held, key=lambda number: (number not in begun, -number))
            for peer in self._asking.silent_last(held[number])
        ]
        while (manifest := await self._offers.first_agreed(offers, target, chain)) is not None:
            try:
                await self._stand_at(manifest, chain)
            except (UnreachableError, MessageError) as error:
                self._listener.tell(Notice(f"No snapshot of round {manifest.round}: {error}"))
                self._given_up.add(manifest.round)  # peers may name it that have no pieces of it
                offers = [offer for offer in offers if offer[0] != manifest.round]
            else:
                self._given_up.clear()
                return True
        if offers:
            newest = ", ".join(map(str, sorted(held)[-_ROUNDS_TOLD:]))
            count = len({peer for _, peer in offers})
            self._listener.tell(
                Notice(
                    f"No snapshot could be had: {count} peers name those of rounds {newest}, and none of "
                    "them gave one that the chain vouches for."
                )
            )
        return False

    async def _fetch_snapshot(self, round_number: int, target: str, chain: Chain) -> None:
        """Fetch a snapshot and stand there.

        Raises:
            UnreachableError: no peer has it.
        """
        await self._stand_at(await self._agreed_manifest(round_number, target, chain), chain)

    async def _stand_at(self, manifest: SnapshotManifest, chain: Chain) -> None:
        """Fetch what is missing of a snapshot, and stand there."""
        await self._fetch_pieces(manifest, chain)
        await asyncio.to_thread(self.state.restore, manifest.round)

    async def _agreed_manifest(self, round_number: int, target: str, chain: Chain) -> SnapshotManifest:
        """Return the manifest whose digest the chain vouches for, from here or from a peer that has it.

        Raises:
            UnreachableError: no peer has it.
        """
        own = self.state.snapshots.manifest(round_number)
        if own is not None and is_agreed(own, round_number, target, chain):
            return own
        agreed(round_number, target, chain)
        offers = [(round_number, peer) for peer in self._asking.silent_last(self._sources.peers())]
        found = await self._offers.first_agreed(offers, target, chain)
        if found is None:
            raise UnreachableError(f"Nobody who answered has the snapshot of round {round_number}.")
        return found

    async def _fetch_pieces(self, manifest: SnapshotManifest, chain: Chain) -> int:
        """Fetch what is missing of a snapshot, verified piece by piece; return how many pieces came.

        What it holds of the chain is known here, and is not fetched.

        Raises:
            MessageError: the snapshot holds other counters or accounts than follow from the chain.
            UnreachableError: nobody is left to ask.
        """
        snapshots = self.state.snapshots
        memory = memory_after(chain.link(manifest.block))
        if manifest.chain_leaves() != memory.leaves:  # as long as whoever co-signs computes them, it is so
            raise MessageError(
                f"The snapshot of round {manifest.round} holds other counters or accounts than its chain."
            )
        await asyncio.to_thread(snapshots.begin, manifest)
        for piece, content in memory.pieces():
            snapshots.write_piece(manifest, piece, content)
        pieces = SnapshotPieces(snapshots, manifest, self._layout)
        await asyncio.to_thread(pieces.reuse_own)
        missing = await asyncio.to_thread(pieces.missing)
        await self._download.fetch(missing, pieces)
        await asyncio.to_thread(snapshots.complete, manifest)
        return len(missing)

    # ------------------------------------------------------------ replaying blocks

    async def _replay(self, target: str, chain: Chain) -> str:
        """Apply the blocks from the state's place up to `target`; return the digest there."""
        links = chain.path(self.state.block, target)
        if links is None:
            raise StateError("The state does not stand below the block that it is brought to.")
        here = chain.link(self.state.block)
        digest = await asyncio.to_thread(self._digest, here)
        for link in links:
            block = link.block.body if link.block is not None else None
            if block is None:
                raise StateError("A chain does not pass through its own beginning twice.")
            if block.digest_before != digest:
                if block.digest_before != chain.digest_after(link.parent):  # its leader stands alone with it
                    raise MessageError(
                        f"Nobody vouches for the state that block {link.hash[:8]} starts from."
                    )
                raise _DivergedError(chain.link(link.parent))
            frames = await self._frames(link, chain.tokens_at(link.parent))
            await asyncio.to_thread(self.state.apply, frames, round_number=link.round, block=link.hash)
            digest = await asyncio.to_thread(self._digest, link)
            if link.round % self._rules.snapshot_interval == 0:
                await asyncio.to_thread(self.state.save_snapshot, memory_after(link))
        return digest

    def _digest(self, link: Link) -> str:
        return self.state.digest(leaves_after(link)).hex()

    async def _frames(self, link: Link, tokens: int) -> dict[int, SegmentFrame]:
        """Return the block's reduced segments, fetching those that are not here, a few at a time.

        `tokens` were trained on by the block below it.
        """
        gate = asyncio.Semaphore(self._flow.in_flight)

        async def fetched(reduction: Reduction) -> SegmentFrame:
            async with gate:
                return await self._frame(link, reduction, tokens)

        reductions = _reductions(link)
        tasks = [asyncio.create_task(fetched(reduction)) for reduction in reductions.values()]
        try:
            return dict(zip(reductions, await asyncio.gather(*tasks), strict=True))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _frame(self, link: Link, reduction: Reduction, tokens: int) -> SegmentFrame:
        exchange = self._exchange
        read = partial(exchange.read_reduced, reduction.root, tokens=tokens)
        try:
            return await asyncio.to_thread(read)
        except MessageError:
            pass  # not here, or damaged on disk
        tried: list[PeerId] = []
        sources = self._asking.silent_last([reduction.peer, *_claimants(link), *self._sources.peers()])
        for peer in sources:
            is_last = len(tried) + 1 == len(sources)
            try:
                request = Request(
                    "reduced",
                    bytes.fromhex(reduction.root),
                    limit=exchange.form.at(tokens).reduced_limit,
                    timeout=_CALL_SECONDS,
                    stall=_STALL_SECONDS if is_last else _STALL_BEFORE_OTHERS_SECONDS,
                    purpose="catching up",
                )
                data = await self._asking.ask(peer, request)
                take = partial(exchange.take_reduced, link.round, reduction.root, data, tokens=tokens)
                await asyncio.to_thread(take)
                return await asyncio.to_thread(read)
            except MessageError as error:
                self._transport.blame(peer, error)
                tried.append(peer)
            except (UnreachableError, RemoteError):
                tried.append(peer)
        raise UnreachableError(
            f"No peer of {len(tried)} asked has segment {reduction.segment} of round {link.round}."
        )

    # ------------------------------------------------------------ when this peer stands alone

    async def _heal(self, link: Link, target: str, chain: Chain) -> None:
        """Get back to a state that the electors agree on, fetching only the pieces that differ.

        Raises:
            StateError: it went wrong again from an agreed base.
        """
        self._divergences += 1
        if self._divergences > _DIVERGENCES:
            raise StateError(
                f"After round {link.round}, this machine again computed another state than all other peers.",
                remedy="Its memory or processor may be faulty: run a memory test before you join again.",
            )
        own = [number for number in self.state.snapshots.rounds() if number <= link.round]
        fetched = 0
        for round_number in reversed(own or [0]):
            try:
                manifest = await self._agreed_manifest(round_number, target, chain)
            except (UnreachableError, StateError):
                continue
            fetched = await self._fetch_pieces(manifest, chain)
            if await asyncio.to_thread(self.state.restore, round_number):
                continue
            self._listener.tell(Diverged(link.round, fetched))
            return
        raise UnreachableError("No peer has a snapshot to go back to.")


def _links_between(base: int, target: str, chain: Chain) -> list[Link]:
    links = []
    link: Link | None = chain.link(target)
    while link is not None and link.block is not None and link.round > base:
        links.append(link)
        link = chain.links.get(link.parent)
    return links[::-1]


def _reductions(link: Link) -> dict[int, Reduction]:
    """Return the reductions of a block's segments that are not empty."""
    block: Block | None = link.block.body if link.block is not None else None
    reductions = block.reductions if block is not None else ()
    return {segment: signed.body for segment, signed in enumerate(reductions) if signed is not None}


def _claimants(link: Link) -> list[PeerId]:
    return [claim.body.peer for claim in link.block.body.roster.body.claims] if link.block is not None else []
