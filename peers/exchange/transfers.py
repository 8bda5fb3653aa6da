"""The exchange's slow work: moving segments, averaging them, checking the averages of others.

The round engine orders it (peers/consensus/effects.py) and takes in how it went. The network and the worker
thread belong to the host (host.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from peers.consensus import effects as do
from peers.exchange.averaging import newcomers_in
from peers.exchange.contributor import Contributor
from peers.exchange.host import EngineView, Host
from peers.exchange.segment_store import ExchangeStore, read_push
from peers.network.transport import RemoteError, Request
from peers.protocol.events import Refused
from peers.protocol.messages import Reduction, Roster, Signed
from peers.protocol.requests import SpotCheck, encode_spot_check
from recipes.errors import MessageError, UnreachableError
from recipes.keys.keys import PeerId

_CHECK_SECONDS = 10.0
_ROSTERS_KEPT = 3


@dataclass(frozen=True)
class _Terms:
    """The terms of a roster that follow from the block below it: its tokens, and the places of newcomers."""

    tokens: int
    newcomers: frozenset[int]


class ExchangeTasks:
    """One peer's part in the exchange, as the engine orders it."""

    def __init__(
        self,
        host: Host,
        *,
        engine: EngineView,
        store: ExchangeStore,
        contributor: Contributor,
        spot_checks: int,
    ) -> None:
        """Put it together.

        Args:
            host: takes inputs of the engine, and has the network and the worker thread.
            engine: has the round.
            store: keeps and checks the bytes.
            contributor: has the own contribution.
            spot_checks: chunks to recompute in a round.
        """
        self._host = host
        self._engine = engine
        self._store = store
        self._contributor = contributor
        self._spot_checks = spot_checks
        self._spots: dict[str, list[tuple[int, int]]] = {}  # by roster: segments and chunks to spot-check
        self._terms: dict[str, _Terms] = {}  # by roster
        self._unchecked: set[str] = set()  # roots whose reducer did not answer a spot check
        self._next_roster = asyncio.Event()

    async def begin(self, roster: Signed[Roster]) -> None:
        """Make room for a roster's segments, draw the spot checks, and let in segments that came early."""
        terms = self._terms[roster.hash] = self._terms_of(roster.body)
        self._store.begin(roster, tokens=terms.tokens, newcomers=terms.newcomers)
        self._spots[roster.hash] = self._store.draw_spots(self._spot_checks)
        while len(self._spots) > _ROSTERS_KEPT:
            self._terms.pop(next(iter(self._spots)), None)
            del self._spots[next(iter(self._spots))]
        self._next_roster.set()
        self._next_roster = asyncio.Event()

    def _terms_of(self, roster: Roster) -> _Terms:
        chain = self._engine.chain
        newcomers = newcomers_in(roster, chain.link(roster.parent).say.established)
        return _Terms(chain.tokens_at(roster.parent), newcomers)

    def take_checked(self, roots: set[str]) -> bool:
        """Return whether every spot check of these reduced segments was answered, and forget them."""
        checked = not roots & self._unchecked
        self._unchecked -= roots
        return checked

    async def push(self, effect: do.PushSegment) -> None:
        """Send an own segment to its reducer."""
        claim = self._engine.own_claim
        if claim is None:
            return
        if not self._store.holds(claim.body.contribution):  # claimed before a restart
            await self._host.compute(partial(self._contributor.recall, claim))
        content = self._store.push_content(claim.body, effect.segment, effect.roster)
        if effect.reducer == self._engine.me:
            await self.accept(self._engine.me, content)
            return
        timeout = 2 * self._engine.deadlines.transfer
        request = Request("segment", content, limit=0, timeout=timeout, purpose="segments")
        pushed = do.SegmentPushed(effect.roster, effect.segment, effect.reducer, taken=True)
        for last_try in (False, True):
            try:
                await self._host.call(effect.reducer, request)
            except (UnreachableError, RemoteError):
                if last_try:
                    self._host.take(replace(pushed, taken=False))
                    raise
            else:
                self._host.take(pushed)
                return

    async def accept(self, sender: PeerId, content: bytes) -> None:
        """Take in a segment to reduce; one that overtook its roster waits for it, for a while.

        Raises:
            MessageError: it is not what its claim committed to, or its roster never came.
        """
        roster, segment, _, _ = read_push(content)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._known(roster), self._engine.deadlines.transfer)
        self._must_reduce(roster, segment)
        roster, segment = await self._host.compute(lambda: self._store.take_push(sender, content))
        self._host.take(do.SegmentStored(roster, segment, sender))

    async def _known(self, roster: str) -> None:
        """Wait until a roster is here."""
        # Not by a condition: its lock would break where a waiting task is cancelled twice.
        while not self._store.knows(roster):
            await self._next_roster.wait()

    def _must_reduce(self, roster: str, segment: int) -> None:
        """Check that a pushed segment is this peer's to reduce, now or as a backup.

        Raises:
            MessageError: it is not.
        """
        current, assignments = self._engine.roster, self._engine.assignments
        if current is None or current.hash != roster or segment >= len(assignments):
            raise MessageError("a segment of no roster at hand")
        assignment = assignments[segment]
        if self._engine.me not in (assignment.reducer, assignment.backup):
            raise MessageError(f"segment {segment} is not this peer's to reduce")

    async def reduce(self, effect: do.Reduce) -> None:
        """Average a segment."""
        root, size = await self._host.compute(
            lambda: self._store.reduce(effect.roster, effect.segment, effect.included)
        )
        self._host.take(do.SegmentReduced(effect.roster, effect.segment, root, size, effect.included))

    async def fetch_reduced(self, effect: do.FetchReduced) -> None:
        """Fetch a reduced segment of the round at hand, and check it before it counts as fetched."""
        roster, reduction = self._reduction(effect)
        if roster is None or reduction is None:
            return
        terms = self._terms.get(effect.roster) or self._terms_of(roster)
        check = partial(
            self._store.check_bound, roster, reduction, tokens=terms.tokens, newcomers=terms.newcomers
        )
        try:
            await self._get_reduced(effect, roster.round, terms.tokens)
            with self._answerable(reduction.peer):
                await self._host.compute(check)
            await self._check_spots(roster, effect.roster, reduction, terms)
        except (UnreachableError, RemoteError) as error:
            self._host.take(do.ReducedLost(effect.root, str(error)))
        except MessageError as error:
            self._host.tell(Refused(reduction.peer, "segment", str(error), which=str(effect.segment)))
            self._host.take(do.ReducedLost(effect.root, str(error)))
        else:
            self._host.take(do.ReducedFetched(effect.root))

    async def _get_reduced(self, effect: do.FetchReduced, round_number: int, tokens: int) -> None:
        """Have a reduced segment on disk, from whichever source gives it first.

        Raises:
            UnreachableError: none of the sources answered.
            RemoteError: none of those that answered has it.
            MessageError: the last one asked sent something else.
        """
        request = Request(
            "reduced",
            bytes.fromhex(effect.root),
            limit=self._store.form.at(tokens).reduced_limit,
            timeout=2 * self._engine.deadlines.transfer,
            purpose="segments",
        )
        for source in effect.sources:
            if self._store.has_reduced(effect.root):
                return
            try:
                data = await self._host.call(source, request)
                take = partial(self._store.take_reduced, round_number, effect.root, data, tokens=tokens)
                with self._answerable(source):
                    await self._host.compute(take)
            except (UnreachableError, RemoteError, MessageError):
                if source == effect.sources[-1]:
                    raise

    def _reduction(self, effect: do.FetchReduced) -> tuple[Roster | None, Reduction | None]:
        current = self._engine.roster
        if current is None or current.hash != effect.roster:
            return None, None
        reductions = (signed.body for signed in self._engine.reductions_of(effect.segment))
        return current.body, next((one for one in reductions if one.root == effect.root), None)

    async def _check_spots(
        self, roster: Roster, roster_hash: str, reduction: Reduction, terms: _Terms
    ) -> None:
        """Recompute the chunks that the draw gave this segment, from the reducer's inputs.

        Raises:
            MessageError: the reducer's own evidence shows that the reduced segment is false.
        """
        for segment, chunk in self._spots.get(roster_hash, []):
            if segment != reduction.segment:
                continue
            body = encode_spot_check(SpotCheck(roster_hash, segment, chunk, reduction.included))
            limit = self._store.form.at(terms.tokens).check_limit(len(reduction.included))
            request = Request("check", body, limit=limit, timeout=_CHECK_SECONDS, purpose="spot checks")
            try:
                answer = await self._host.call(reduction.peer, request)
            except (UnreachableError, RemoteError):
                self._unchecked.add(reduction.root)
                continue
            check = partial(
                self._store.check_spot,
                roster,
                reduction,
                chunk,
                answer,
                tokens=terms.tokens,
                newcomers=terms.newcomers,
            )
            with self._answerable(reduction.peer):
                await self._host.compute(check)

    @contextlib.contextmanager
    def _answerable(self, peer: PeerId) -> Iterator[None]:
        """Blame `peer` for the offences found inside."""
        try:
            yield
        except MessageError as error:
            self._host.blame(peer, error)
            raise
