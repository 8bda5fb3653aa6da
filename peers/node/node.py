"""One peer at work: the round engine bound to real time, a real network, a disk and a trainer.

The node owns a queue of none: every input goes straight into the engine, on the event loop, and each
effect that comes out is carried out here, the quick ones at once, the slow ones as tasks whose outcome is
the next input. Heavy arithmetic runs in one worker thread (`_compute`), proofs in another, training in a
third (window_tasks.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from peers.audit.auditor import Auditing, AuditParts
from peers.audit.responder import Answering
from peers.chain.chain import Chain
from peers.chain.rebuild import KeptFinal
from peers.consensus import effects as do
from peers.consensus.engine import RoundEngine
from peers.exchange.contributor import Contributor
from peers.exchange.segment_store import ExchangeStore
from peers.exchange.transfers import ExchangeTasks
from peers.ledger.catch_up import follow_branch
from peers.ledger.store import LedgerStore
from peers.network.discovery import LOOK_AROUND_SECONDS, Crowd
from peers.network.transport import RemoteError, Request, Transport
from peers.protocol.events import Event, Refused
from peers.protocol.length_prefixed import split_parts
from peers.protocol.messages import KINDS, Block, HeadNotice, Signed, kind_of, parse
from peers.protocol.requests import SpotCheck, encode_round
from peers.state.block_store import ChainStore
from peers.sync.state_sync import StateSync
from peers.training.interface import Trainer
from peers.training.start_weights import StartWeights
from peers.training.window_tasks import NodeSettings, WindowTasks
from recipes.errors import ManyhandsError, MessageError, NetworkError, StorageError, UnreachableError
from recipes.keys.keys import PeerId, SigningKey

MESSAGE_TIMEOUT = 10.0  # seconds for a small message to be taken
BLOCKS_BYTES = 8 << 20  # of one answer with blocks; others send less
BLOCKS_SECONDS = 600.0  # for one that comes slowly
BLOCKS_STALL_SECONDS = 15.0  # without a byte of one; others are asked before that (block_search.py)
MOST_BLOCKS = 4096
CALLS_PER_PEER = 6  # at once; a peer refuses more than 16
Outcome = TypeVar("Outcome")


class Node:
    """A peer of one run. `live` returns when it has left."""

    def __init__(
        self,
        *,
        key: SigningKey,
        engine: RoundEngine,
        transport: Transport,
        chain_store: ChainStore,
        exchange: ExchangeStore,
        contributor: Contributor,
        state_sync: StateSync,
        crowd: Crowd,
        trainer: Trainer,
        settings: NodeSettings,
        listener: Callable[[Event], None],
        load_chain: Callable[[], Chain],
        ledger: LedgerStore | None = None,
        start_weights: StartWeights | None = None,
        audits: AuditParts | None = None,
    ) -> None:
        self.key = key
        self.engine = engine
        self.transport = transport
        self.settings = settings
        self.chain_store = chain_store
        self._ledger = ledger
        self.exchange = exchange
        self._contributor = contributor
        self._state = state_sync
        self._crowd = crowd
        self._listener = listener
        self._load_chain = load_chain
        self._run = engine.rules.run
        self._left = asyncio.Event()
        self._finished = False
        self._failure: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._gates: dict[PeerId, asyncio.Semaphore] = {}
        self._compute_thread = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._proving_thread = ThreadPoolExecutor(1, thread_name_prefix="proving")
        self._windows = WindowTasks(
            engine=engine,
            trainer=trainer,
            contributor=contributor,
            exchange=exchange,
            state_sync=state_sync,
            starts=start_weights,
            settings=settings,
            spawn=self._spawn,
            compute=self._compute,
            take=self.take,
            tell=listener,
        )
        self.exchange_tasks = ExchangeTasks(
            engine=engine,
            store=exchange,
            contributor=contributor,
            spot_checks=settings.spot_checks,
            call=self._call,
            compute=self._compute,
            take=self.take,
            tell=listener,
            blame=transport.blame,
        )
        self._auditing: Auditing | None = None
        self._answering: Answering | None = None
        if audits is not None:
            self._auditing = Auditing(
                engine=engine,
                parts=audits,
                trainer=trainer,
                windows=self._windows,
                exchange=exchange,
                call=self._call,
                spawn=self._spawn,
                take=self.take,
                tell=listener,
            )
            self._answering = Answering(
                engine=engine,
                openings=audits.openings,
                layout=audits.terms.layout,
                compute=self._compute,
            )
        self._adopted_at = time.monotonic()
        self._spoilt_windows = 0  # in a row

    # ------------------------------------------------------------ life

    async def live(self) -> bool:
        """Take part until asked to leave and done; say whether the last round was finished.

        Raises:
            ManyhandsError: what cannot be mended here: disk, network daemon, a state that will not agree.
        """
        self._keep_for_audits()
        self._spawn(self._keep_acquainted())
        self._spawn(self._watch_daemon())
        try:
            await self._left.wait()
        finally:
            await self._end()
        if self._failure is not None:
            raise self._failure
        return self._finished

    def leave(self) -> None:
        """Finish the round, hand over, and leave. Audits that are not done are left to others."""
        if self._auditing is not None:
            self._auditing.stop()
        self.take(do.LeaveRequested())

    def leave_now(self) -> None:
        """Leave at once; the round goes on without this peer."""
        self._left.set()

    async def _end(self) -> None:
        self._windows.stop()
        if self._auditing is not None:
            self._auditing.stop()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._windows.shutdown()
        self._compute_thread.shutdown(wait=True, cancel_futures=True)
        self._proving_thread.shutdown(wait=True, cancel_futures=True)

    def take(self, happened: do.Input) -> None:
        """Hand the engine an input, carry out what it wants done, and set the alarm that it asks for.

        Whoever calls this, an alarm or a stranger's message, cannot mend what goes wrong: it ends the node.
        """
        if self._left.is_set():
            return
        now = time.monotonic()
        try:
            for effect in self.engine.handle(happened, now):
                self._carry_out(effect)
        except (ManyhandsError, OSError) as error:  # what was to follow, such as a signature, must not
            self._fail(error)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.engine.wake_at < float("inf"):
            loop = asyncio.get_running_loop()
            delay = max(0.001, self.engine.wake_at - now)
            self._timer = loop.call_later(delay, self.take, do.Tick())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` beside everything else; what it cannot mend ends the node."""

        async def guarded() -> None:
            try:
                await work
            except (UnreachableError, RemoteError, MessageError):
                pass  # a peer's failure is never ours
            except (ManyhandsError, OSError) as error:
                self._fail(error)

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        task.add_done_callback(lambda _: work.close())  # it never began if the task ended at once
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)  # a fault of ours: let it be seen

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, OSError):  # peers' failures have names of their own: this is the disk
            error = StorageError(
                f"The disk refused: {error}.",
                remedy="Free some space or make the folder writable, then run the same command again: it "
                "goes on from what is on disk.",
            )
        self._failure = self._failure or error
        self._left.set()

    async def _compute(self, work: Callable[[], Outcome]) -> Outcome:
        """Run heavy arithmetic off the event loop, one piece at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._compute_thread, work)

    async def prove(self, spot: SpotCheck) -> bytes:
        """Answer a spot check: all chunks of each part are hashed for it.

        In a thread of its own, for whoever asks waits some seconds only, and averaging can take longer.

        Raises:
            MessageError: that is not held here.
        """
        work = partial(self.exchange.prove, spot.roster, spot.segment, spot.chunk, spot.included)
        return await asyncio.get_running_loop().run_in_executor(self._proving_thread, work)

    # ------------------------------------------------------------ effects

    def _carry_out(self, effect: do.Effect) -> None:
        match effect:
            case do.Train():
                self._windows.train(effect)
            case do.GoOn():
                self._windows.go_on(effect)
            case do.Send(peers, message):
                content = message.canonical()
                for peer in peers:
                    self._spawn(self._send(peer, kind_of(message), content))
            case do.PushSegment():
                self._spawn(self.exchange_tasks.push(effect))
            case do.Reduce():
                self._spawn(self.exchange_tasks.reduce(effect))
            case do.FetchReduced():
                self._spawn(self.exchange_tasks.fetch_reduced(effect))
            case do.BeginExchange(roster):
                self._spawn(self.exchange_tasks.begin(roster))
            case do.Apply(block):
                self._spawn(self._apply(block))
            case do.FollowHead(block):
                self._follow_head(block)
            case do.AskHead(peers):
                for peer in peers:
                    self._spawn(self._ask_head(peer))
            case do.FetchBlocks(peer, after_round):
                self._spawn(self._fetch_blocks(peer, after_round))
            case do.FetchRoster(peer, roster):
                self._spawn(self._fetch_roster(peer, roster))
            case do.SaveBlock(block):
                self.chain_store.save(block)
            case do.SavePromise(promise):
                self.chain_store.save_promise(promise)
            case do.SaveFinal(round_number, block_hash, settled):
                self.chain_store.save_final(KeptFinal(round_number, block_hash, settled))
            case do.SaveEvidence(culprit, evidence):
                self.chain_store.save_evidence(culprit, evidence)
            case do.SaveCheckpoint(checkpoint):
                self.chain_store.save_checkpoint(checkpoint)
            case do.ReloadChain():
                self._spawn(self._reload_chain())
            case do.SaveClaim(claim):
                self._contributor.name_claim(claim.hash)
                self.chain_store.save_claim(claim)
            case do.SaveWord(word):
                self.chain_store.save_word(word)
            case do.AuditWanted():
                if self._auditing is not None:
                    self._auditing.want(effect)
            case do.AuditDropped(claim_hash):
                if self._auditing is not None:
                    self._auditing.drop(claim_hash)
            case do.Tell(event):
                self._listener(event)
            case do.Leave():
                self._finished = True
                self._left.set()

    def _follow_head(self, block: str) -> None:
        self._adopted_at = time.monotonic()
        self.chain_store.follow(self.engine.chain, block)
        self._keep_ledger(block)
        self._keep_for_audits()

    def _keep_for_audits(self) -> None:
        """Keep what the audits of the accounts at the head may ask for, of this peer and of its state."""
        if self._auditing is not None and self._answering is not None:
            self._state.keep_for_audits(self._auditing.oldest_state_needed())
            self._spawn(self._answering.keep_drawn())

    async def answer_auditor(self, auditor: PeerId, content: bytes) -> bytes:
        """Open what an auditor of an own claim asks for.

        Raises:
            MessageError: it is not asked by the chain here, or what it asks for is not here.
        """
        if self._answering is None:
            raise MessageError("nothing is opened here")
        return await self._answering.answer(auditor, content)

    def _keep_ledger(self, block: str) -> None:
        """Let the ledger on disk end with a block that was adopted."""
        if self._ledger is not None and not follow_branch(self._ledger, self.engine.chain, block):
            follow_branch(self._ledger, self._load_chain(), block)  # they part below what memory holds

    async def _call(self, peer: PeerId, request: Request) -> bytes:
        gate = self._gates.setdefault(peer, asyncio.Semaphore(CALLS_PER_PEER))
        async with gate:
            return await self.transport.call(peer, request)

    async def _send(self, peer: PeerId, kind: str, content: bytes) -> None:
        await self._call(peer, Request(kind, content, limit=0, timeout=MESSAGE_TIMEOUT))

    # ------------------------------------------------------------ state

    async def _apply(self, block: str) -> None:
        link = self.engine.chain.link(block)
        live = link.parent == self.engine.head
        await self._windows.state_may_change()
        try:
            digest = await self._state.bring_to(block, self.engine.chain)
        except (UnreachableError, MessageError) as error:
            self.take(do.ApplyFailed(block, str(error), self._state.stands_below(block, self.engine.chain)))
            return
        roots = {r.body.root for r in link.block.body.reductions if r is not None} if link.block else set()
        answered = self.exchange_tasks.take_checked(roots)
        checked = answered if live else self.engine.chain.is_final(block)
        self.exchange.forget_reduced(before_round=self._state.oldest_needed_round())
        self.take(do.Applied(block, digest, checked))

    # ------------------------------------------------------------ others' heads and blocks

    def head_notice(self) -> HeadNotice | None:
        """Return what this peer says of its head, or None while it is still finding it."""
        return self.engine.head_notice(age_seconds=time.monotonic() - self._adopted_at)

    async def _ask_head(self, peer: PeerId) -> None:
        content = await self._call(
            peer, Request("head", b"", limit=KINDS["head"][1], timeout=MESSAGE_TIMEOUT)
        )
        if content:
            self.receive(peer, "head", content)

    async def _reload_chain(self) -> None:
        await asyncio.sleep(0)  # the engine's step is over first
        chain = self._load_chain()
        self.chain_store.follow(chain, chain.final)
        self.take(do.ChainReloaded(chain))

    def roster(self, roster_hash: str) -> bytes:
        """Return the roster that this peer exchanges by, as it is sent.

        Raises:
            MessageError: it goes by another, or none.
        """
        roster = self.engine.roster
        if roster is None or roster.hash != roster_hash:
            raise MessageError("that roster is not in use here")
        return roster.canonical()

    async def _fetch_roster(self, peer: PeerId, roster: str) -> None:
        limit = KINDS["roster"][1]
        content = await self._call(
            peer,
            Request(
                "accepted", bytes.fromhex(roster), limit=limit, timeout=MESSAGE_TIMEOUT, purpose="roster"
            ),
        )
        self.receive(peer, "roster", content)

    async def _fetch_blocks(self, peer: PeerId, after_round: int) -> None:
        request = encode_round(after_round)
        blocks: list[Signed[Block]] = []
        try:
            answer = await self._call(
                peer,
                Request(
                    "blocks",
                    request,
                    limit=BLOCKS_BYTES,
                    timeout=BLOCKS_SECONDS,
                    stall=BLOCKS_STALL_SECONDS,
                ),
            )
        except (UnreachableError, RemoteError, MessageError):
            self.take(do.BlocksFetched(peer, ()))  # whom to ask instead is up to the engine
            return
        try:
            for part in split_parts(answer, most=MOST_BLOCKS):
                blocks.append(parse("block", part, run=self._run))  # type: ignore[arg-type]  # noqa: PERF401
        except MessageError as error:  # those before it may be good
            self._listener(Refused(peer, "block", str(error)))
            self.transport.blame(peer, error)
        self.take(do.BlocksFetched(peer, tuple(blocks)))

    def receive(self, sender: PeerId, kind: str, content: bytes) -> None:
        """Take in a message from another peer.

        Raises:
            MessageError: it is malformed, forged, or for another run.
        """
        try:
            message = parse(kind, content, run=self._run)
        except MessageError as error:
            self._listener(Refused(sender, "message", str(error), which=kind))
            self.transport.blame(sender, error)
            raise
        self.take(do.Received(sender, message))

    # ------------------------------------------------------------ who is about

    async def _keep_acquainted(self) -> None:
        """Say on the notice board that we are here, and read who else is, again and again."""
        while True:
            round_number = self.engine.chain.link(self.engine.head).round
            self.take(do.Acquainted(await self._crowd.look_around(announce_round=round_number)))
            await asyncio.sleep(LOOK_AROUND_SECONDS)

    async def _watch_daemon(self) -> None:
        await self.transport.died.wait()
        raise NetworkError(
            "The network daemon p2pd ended by itself again and again. "
            f"Its last words:\n{self.transport.last_words()}",
            remedy="Run the same command again: it goes on from what is on disk.",
        )
