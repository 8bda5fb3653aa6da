"""One peer at work: the round engine bound to real time, a real network, a disk and a trainer.

Every input goes straight into the engine, on the event loop. Each effect that comes out is carried out here:
the quick ones at once, the slow ones by the node's parts as tasks, whose outcome is the next input.

    correspondence.py                messages, and fetching of heads, rosters and blocks
    peers/training/window_tasks.py   windows and replays, in a thread of their own
    peers/exchange/transfers.py      the exchange: segments out and in, averaging, spot checks
    peers/sync/state_sync.py         the canonical state
    peers/audit/                     audits of others' claims, and openings of own ones
    disk.py                          chain, ledger, state, segments, contributions
    running.py                       tasks, worker threads, failures

To all of these the node is the host (peers/exchange/host.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from peers.audit.auditor import Auditing, AuditParts
from peers.audit.responder import Answering
from peers.consensus import effects as do
from peers.consensus.engine import RoundEngine
from peers.consensus.host import save
from peers.exchange.host import Result
from peers.exchange.transfers import ExchangeTasks
from peers.network.discovery import LOOK_AROUND_SECONDS, Crowd
from peers.network.transport import Request, Transport
from peers.node.clock import MachineClock
from peers.node.correspondence import Correspondence
from peers.node.disk import NodeDisk
from peers.node.running import RunningTasks
from peers.protocol.events import Event, Listener, Notice
from peers.protocol.messages import HeadNotice
from peers.protocol.requests import SpotCheck
from peers.training.interface import Trainer
from peers.training.window_tasks import NodeSettings, WindowTasks
from recipes.errors import (
    ManyhandsError,
    MessageError,
    NetworkError,
    OutdatedError,
    UnreachableError,
)
from recipes.keys.keys import PeerId

CUT_OFF = (
    "No peer is connected any more, and those named with --peer do not answer: trying on. "
    "To begin a run alone, start without --peer."
)
CALLS_PER_PEER = 6  # at once; a peer refuses more than 16


class Node:
    """A peer of one run, and the host of its parts. `live` returns when it has left."""

    def __init__(
        self,
        *,
        engine: RoundEngine,
        transport: Transport,
        crowd: Crowd,
        disk: NodeDisk,
        trainer: Trainer,
        settings: NodeSettings,
        audits: AuditParts,
        listener: Listener,
    ) -> None:
        """Put it together. Nothing runs yet.

        Args:
            engine: decides on the effects.
            transport: reaches other peers.
            crowd: finds them.
            disk: keeps the run's files.
            trainer: trains and replays.
            settings: the volunteer's.
            audits: the parts that audit, and open own claims to auditors.
            listener: is told all events.
        """
        self.engine = engine
        self.transport = transport
        self.disk = disk
        self._crowd = crowd
        self._listener = listener
        self._running = RunningTasks()
        self._timer: asyncio.TimerHandle | None = None
        self._gates: dict[PeerId, asyncio.Semaphore] = {}
        self._finished = False
        self._clock = MachineClock()
        self._adopted_at = self._clock.now()
        self.correspondence = Correspondence(self, run=engine.rules.run)
        self.windows = WindowTasks(
            self,
            engine=engine,
            trainer=trainer,
            contributor=disk.contributor,
            exchange=disk.exchange,
            state_sync=disk.state,
            starts=disk.starts,
            settings=settings,
        )
        self.transfers = ExchangeTasks(
            self,
            engine=engine,
            store=disk.exchange,
            contributor=disk.contributor,
            spot_checks=settings.spot_checks,
        )
        self.auditing = Auditing(
            self, engine=engine, parts=audits, windows=self.windows, exchange=disk.exchange
        )
        self.answering = Answering(self, engine=engine, openings=audits.openings, layout=audits.terms.layout)

    # ------------------------------------------------------------ life

    async def live(self) -> bool:
        """Take part until asked to leave and done; return whether the last round was finished.

        Raises:
            ManyhandsError: something failed past mending: disk, network daemon, a state that will not agree.
        """
        self._keep_for_audits()
        self.spawn(self._keep_acquainted())
        self.spawn(self._watch_daemon())
        try:
            await self._running.over.wait()
        finally:
            await self.end()
        if self._running.failure is not None:
            raise self._running.failure
        return self._finished

    def leave(self) -> None:
        """Finish the round, hand over, and leave. Audits that are not done are left to others."""
        self.auditing.stop()
        self.take(do.LeaveRequested())

    def leave_now(self) -> None:
        """Leave at once; the round goes on without this peer."""
        self._running.over.set()

    async def end(self) -> None:
        """End everything that runs."""
        self.windows.stop()
        self.auditing.stop()
        if self._timer is not None:
            self._timer.cancel()
        await self._running.cancel()
        self.windows.shutdown()
        self._running.shutdown()

    async def _keep_acquainted(self) -> None:
        """Post this peer's presence on the notice board, and read that of others, again and again."""
        said = False
        while True:
            round_number = self.engine.chain.link(self.engine.head).round
            found = await self._crowd.look_around(announce_round=round_number)
            if self._crowd.is_cut_off and not self.engine.context.started:
                if not said:
                    self.tell(Notice(CUT_OFF))  # beginning alone would make another chain beside theirs
                said = True
            else:
                self.take(do.Acquainted(found))
            await asyncio.sleep(LOOK_AROUND_SECONDS)

    async def _watch_daemon(self) -> None:
        await self.transport.died.wait()
        raise NetworkError(
            "The network daemon p2pd ended by itself again and again. "
            f"Its last words:\n{self.transport.last_words()}",
            remedy="Run the same command again: it goes on from what is on disk.",
        )

    # ------------------------------------------------------------ the host of the node's parts

    def take(self, happened: do.Input) -> None:
        """Hand the engine an input, carry out its effects, and set the alarm that it asks for.

        Its callers, such as an alarm or a stranger's message, cannot mend a failure: so it ends the node.
        """
        if self._running.over.is_set():
            return
        now = self._clock.now()
        try:
            for effect in self.engine.handle(happened, now):
                self._carry_out(effect)
        except (
            ManyhandsError,
            OSError,
        ) as error:  # the effects after it, such as a signature, are not
            self._running.fail(error)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.engine.wake_at < float("inf"):
            loop = asyncio.get_running_loop()
            delay = max(0.001, self.engine.wake_at - now)
            self._timer = loop.call_later(delay, self.take, do.Tick())

    def tell(self, event: Event) -> None:
        """Tell the listener of an event."""
        self._listener.tell(event)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` beside everything else; a failure that it cannot mend ends the node."""
        return self._running.spawn(work)

    async def compute(self, work: Callable[[], Result]) -> Result:
        """Run heavy arithmetic off the event loop, one piece at a time."""
        return await self._running.compute(work)

    async def call(self, peer: PeerId, request: Request) -> bytes:
        """Send a request to another peer, not too many at once, and return its response.

        Raises:
            UnreachableError: the peer cannot be reached, hung up, or took too long.
            RemoteError: it refused.
            MessageError: its response is malformed or longer than the request's limit.
        """
        gate = self._gates.setdefault(peer, asyncio.Semaphore(CALLS_PER_PEER))
        async with gate:
            return await self.transport.call(peer, request)

    def blame(self, peer: PeerId, error: MessageError) -> None:
        """Count an error against the peer that caused it, if it is an offence."""
        self.transport.blame(peer, error)

    # ------------------------------------------------------------ effects

    def _carry_out(self, effect: do.Effect) -> None:
        match effect:
            case do.Train():
                self.windows.train(effect)
            case do.GoOn():
                self.windows.go_on(effect)
            case do.Send(peers, message):
                self.correspondence.send(peers, message)
            case do.PushSegment():
                self.spawn(self.transfers.push(effect))
            case do.Reduce():
                self.spawn(self.transfers.reduce(effect))
            case do.FetchReduced():
                self.spawn(self.transfers.fetch_reduced(effect))
            case do.BeginExchange(roster):
                self.spawn(self.transfers.begin(roster))
            case do.Apply(block):
                self.spawn(self._apply(block))
            case do.FollowHead(block):
                self._follow_head(block)
            case do.AskHead(peers):
                for peer in peers:
                    self.spawn(self.correspondence.ask_head(peer))
            case do.FetchBlocks(peer, after_round):
                self.spawn(self.correspondence.fetch_blocks(peer, after_round))
            case do.FetchRoster(peer, roster_hash):
                self.spawn(self.correspondence.fetch_roster(peer, roster_hash))
            case do.ReloadChain():
                self.spawn(self._reload_chain())
            case do.AuditWanted():
                self.auditing.want(effect)
            case do.AuditDropped(claim_hash):
                self.auditing.drop(claim_hash)
            case do.StopOutdated(rule, round_number):
                self._running.fail(_outdated(rule, round_number))
            case do.Tell(event):
                self.tell(event)
            case do.Leave():
                self._finished = True
                self._running.over.set()
            case do.SaveClaim(claim):
                self.disk.contributor.name_claim(claim.hash)
                save(effect, self.disk.chain.store)
            case _:
                save(effect, self.disk.chain.store)

    async def _apply(self, block: str) -> None:
        state, link = self.disk.state, self.engine.chain.link(block)
        live = link.parent == self.engine.head
        await self.windows.state_may_change()
        try:
            digest = await state.bring_to(block, self.engine.chain)
        except (UnreachableError, MessageError) as error:
            self.take(do.ApplyFailed(block, str(error), state.stands_below(block, self.engine.chain)))
            return
        roots = {r.body.root for r in link.block.body.reductions if r is not None} if link.block else set()
        answered = self.transfers.take_checked(roots)
        checked = answered if live else self.engine.chain.is_final(block)
        self.disk.exchange.forget_reduced(before_round=state.oldest_needed_round())
        self.take(do.Applied(block, digest, checked))

    def _follow_head(self, block: str) -> None:
        self._adopted_at = self._clock.now()
        self.disk.follow(self.engine.chain, block)
        self._keep_for_audits()

    def _keep_for_audits(self) -> None:
        """Keep the openings and the states that the audits in the accounts at the head may ask for."""
        self.disk.state.keep_for_audits(self.auditing.oldest_state_needed())
        self.spawn(self.answering.keep_drawn())

    async def _reload_chain(self) -> None:
        await asyncio.sleep(0)  # the engine's step is over first
        self.take(do.ChainReloaded(self.disk.reload_chain()))

    # ------------------------------------------------------------ answers to others (serving.py)

    def head_notice(self) -> HeadNotice | None:
        """Return this peer's notice of its head, or None while it is still finding it."""
        return self.engine.head_notice(age_seconds=self._clock.now() - self._adopted_at)

    async def prove(self, spot: SpotCheck) -> bytes:
        """Answer a spot check: all chunks of each part are hashed for it.

        Raises:
            MessageError: that is not held here.
        """
        store = self.disk.exchange
        work = partial(store.prove, spot.roster, spot.segment, spot.chunk, spot.included)
        return await self._running.prove(work)


def _outdated(rule: str, round_number: int) -> OutdatedError:
    return OutdatedError(
        f"From round {round_number} on, this run goes by a rule that this build does not know: {rule}. "
        "By the old rules, this peer's work would count for nobody, so it stops.",
        remedy="Install a newer build of Manyhands and run the same command again: it goes on from what is "
        "on disk.",
    )
