"""A run's chain, followed without taking part: blocks in, each checked in its place, and a picture out.

The same rules as those of a peer say which blocks are valid, which branch is followed and what is final
(peers/chain/chain.py). Nothing here does I/O but the archive's database, and times are passed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from monitoring.swarm.archive import Archive
from monitoring.swarm.block_times import Seen
from monitoring.swarm.chain_history import Chronicle, Told, tell
from monitoring.swarm.loss_store import Measured
from monitoring.swarm.peer_list import roll_of
from monitoring.swarm.round_times import Stopwatch
from monitoring.swarm.view import Picture, RoundPicture, RunPicture, Validation
from peers.chain.chain import Chain
from peers.chain.fork_choice import best_head
from peers.chain.link import Link
from peers.chain.validation import block_fault
from peers.ledger.derive import Ground
from peers.protocol.messages import Block, CoSignature, Signed
from recipes.errors import DataError
from recipes.keys.keys import PeerId

SHOWN_ROUNDS = 64  # on the page; older ones are in the archive


class SwarmWatch:
    """One run as it is watched. Not to be used from two threads at once."""

    def __init__(
        self,
        run: RunPicture,
        ground: Ground,
        chain: Chain,
        *,
        archive: Archive,
        measured: Measured,
        seen: Seen,
    ) -> None:
        """Take in what `chain` holds already, which may take a while.

        Args:
            run: what the recipe says.
            ground: what the run stands on.
            chain: from genesis on, not pruned.
            archive: empty.
            measured: losses that were measured before.
            seen: when blocks came before.
        """
        self.chain = chain
        self.head = chain.root
        self.archive = archive
        self.measured = measured
        self._run = run
        self._rules = ground.rules
        self._seen = seen
        self._stopwatch = Stopwatch(seen, window_seconds=run.window_seconds, overlaps=run.overlaps)
        self._told: dict[str, Told] = {}  # at blocks that may still be undone
        self._chronicles: dict[str, Chronicle] = {chain.root: Chronicle()}
        self._settle()
        self._follow()

    @property
    def round(self) -> int:
        """The newest block's round."""
        return self.chain.link(self.head).round

    def take(self, blocks: Iterable[Signed[Block]], *, seen_at: float | None = None) -> list[Signed[Block]]:
        """Take in blocks whose signatures hold, parents first; return those that are new and valid.

        Args:
            blocks: from any source.
            seen_at: when they came, Unix time; None if they were not watched.

        Raises:
            DataError: one of them is not valid in its place. Those before it are taken.
        """
        new: list[Signed[Block]] = []
        try:
            for signed in blocks:
                if signed.hash in self.chain or signed.body.parent not in self.chain:
                    continue
                if self.chain.rules_out(signed):
                    continue
                if (fault := block_fault(self.chain, signed.body)) is not None:
                    raise DataError(f"Block {signed.hash[:8]} of round {signed.body.round}: {fault}.")
                self.chain.add(signed)
                new.append(signed)
                if seen_at is not None:
                    self._seen.note(signed.hash, seen_at)
        finally:
            if new:
                self._settle()
                self._follow()
        return new

    def hear(self, word: Signed[CoSignature]) -> bool:
        """Take in a co-signature, which may make blocks final or change the branch; return if it is new."""
        new = self.chain.add_cosignature(word)
        if new:
            self._follow()
        return new

    def keep_final(self, block: str) -> None:
        """Take a block for final because the peer beside does."""
        if block in self.chain and not self.chain.is_final(block):
            self.chain.keep_final(block)
            self._follow()

    def picture(
        self,
        *,
        now: float,
        heard_at: float | None,
        board: Iterable[PeerId] | None = None,
        trouble: str = "",
        model_trouble: str = "",
    ) -> Picture:
        """Return what is known now.

        Args:
            now: Unix time.
            heard_at: when the swarm was last heard.
            board: the peers on the notice board; None if that is not known.
            trouble: what keeps the observer from its work.
            model_trouble: what keeps it from measuring the model.
        """
        link = self.chain.link(self.head)
        known = self._chronicles[self.head]
        rounds = self._stopwatch.timed(self.archive.rounds(limit=SHOWN_ROUNDS))
        peers, observing = roll_of(known, round_number=link.round, convicted=self._convicted(), board=board)
        return Picture(
            run=self._run,
            now=now,
            round=link.round,
            final_round=self.chain.link(self.chain.final).round,
            digest=self.chain.digest_after(self.head),
            totals=known.totals,
            watched=self._stopwatch.watched(),
            rounds=rounds,
            peers=peers,
            validations=self.measured.up_to(link.round),
            observing=observing,
            heard_at=heard_at,
            trouble=trouble,
            model_trouble=model_trouble,
        )

    def validated(self, round_number: int, loss: float, *, at: float) -> None:
        """Note a loss that was measured here of the model after a round.

        Raises:
            StorageError: the disk refuses.
        """
        found = self.archive.tokens_by(round_number)
        self.measured.add(Validation(round_number, found, loss, at))

    def ledger_head(self) -> str | None:
        """Return the block that the ledger is exported up to: the final one, or else the head, if any."""
        final = self.chain.link(self.chain.final)
        head = final.hash if final.round else self.head
        return head if self.chain.link(head).round else None

    def timed(self, rounds: Sequence[RoundPicture]) -> tuple[RoundPicture, ...]:
        """Return rounds, newest first, with their times as far as they were watched."""
        return self._stopwatch.timed(rounds)

    # ------------------------------------------------------------ following the head

    def _convicted(self) -> set[PeerId]:
        accounts = self._chronicles[self.head].accounts
        double = {peer for peer, account in accounts.peers.items() if account.contradicted}
        return self.chain.equivocators | double

    def _follow(self) -> None:
        """Go to the head of the best branch, and tell what lies on the way."""
        head = best_head(self.chain, self.head)
        if head == self.head:
            return
        fork = self.chain.common_ancestor(self.head, head)
        path = self.chain.path(fork, head) or []
        parent = self.chain.link(fork)
        told = []
        for link in path:
            if link.hash not in self._told:
                before = self._chronicles[parent.hash]
                self._told[link.hash] = tell(
                    before, link, parent, rules=self._rules, parameters=self._run.parameters
                )
            told.append(self._told[link.hash])
            self._chronicles[link.hash] = told[-1].chronicle
            parent = link
        self.archive.replace_after(self.chain.link(fork).round, told)
        for one in told:
            self._stopwatch.adopted(one.round)
        self.head = head
        self._forget()

    def _settle(self) -> None:
        """Let time make final what lies deep enough where nothing else does, as it does for peers."""
        rules, chain = self.chain.rules, self.chain
        tip = chain.link(best_head(chain, self.head))
        if tip.round - chain.link(chain.final).round <= rules.settled_depth:
            return
        link: Link = tip
        while link.round > tip.round - 2 * rules.rewind_depth:
            link = chain.link(link.parent)
        chain.settle(link.hash)

    def _forget(self) -> None:
        """Drop what lies so deep below the final block that no branch can leave the one followed there."""
        chain = self.chain
        oldest = min(chain.link(chain.final).round, self.round) - 2 * chain.rules.rewind_depth
        if oldest <= chain.link(chain.root).round + 2 * chain.rules.rewind_depth:
            return
        if not chain.stands_on(self.head, chain.final):
            return
        chain.prune(below_round=oldest)
        self._told = {block: told for block, told in self._told.items() if block in chain}
        self._chronicles = {block: known for block, known in self._chronicles.items() if block in chain}
        self._seen.forget_oldest()
