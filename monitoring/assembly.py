"""Putting an observer together: beside a peer whose folder is here, or in the swarm over the network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, replace
from pathlib import Path

from monitoring.evaluation.evaluating import Evaluator
from monitoring.evaluation.model import NewestModel
from monitoring.evaluation.validating import OwnState, Validation
from monitoring.monitor import Station
from monitoring.run_info import WatchedRun, begin_watch, join_command, open_run
from monitoring.sources.folder_source import PeersFolder
from monitoring.sources.network_source import Observer
from monitoring.sources.state_follower import StateKeeper
from monitoring.swarm.watch import SwarmWatch
from monitoring.web.downloads import Downloads
from peers.network.discovery import Crowd, remembered_peers
from peers.network.p2pd.transport import P2pdTransport
from peers.network.transport import Transport
from peers.protocol.events import Event, Notice
from peers.state.block_store import ChainStore
from peers.sync.run_download import adopt_folder, fetch_run
from recipes.corpus import PartName
from recipes.errors import NetworkError, UnreachableError
from recipes.home import IDENTITY_KEY, run_folder
from recipes.keys.keys import load_or_create_key
from recipes.layout import layout_of

_NO_TRAINING: tuple[PartName, ...] = ("validation",)  # of the data, an observer needs no more

Say = Callable[[str], None]
"""Told what happens, in a sentence."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What may be chosen about an observer.

    Attributes:
        home: the observer's own folder.
        validate_every: rounds between two measurements of the model; None: as often as snapshots; 0: never,
            and then the model is not kept either.
        announce: a peer's address to tell to volunteers; None for one that is known here.
    """

    home: Path
    validate_every: int | None = None
    announce: str | None = None


@asynccontextmanager
async def beside_a_peer(folder: Path, choices: Choices) -> AsyncIterator[Station]:
    """Watch the run that a peer of this machine keeps in `folder`, which is only read.

    Raises:
        ManyhandsError: the run's files are not whole, or the disk refuses.
    """
    run = await asyncio.to_thread(open_run, folder, choices.home)
    join = join_command(run, (choices.announce,) if choices.announce else ())
    watch = await asyncio.to_thread(begin_watch, run, join=join)
    source = PeersFolder(watch, run.chain_file, run=run.signed.run_id)
    async with _station(run, watch, source, choices, state=None) as station:
        yield station


@dataclass(frozen=True)
class _NoticesSaid:
    """A listener that says each notice, and nothing else that happens."""

    say: Say

    def tell(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.say(event.text)


@dataclass(frozen=True)
class _StateOfHead:
    """The state that an observer in the swarm keeps; it is brought up once the head is known."""

    keeper: StateKeeper
    source: Observer
    watch: SwarmWatch

    async def bring_to(self, block: str) -> None:
        if self.source.fetching:
            raise UnreachableError("Blocks still come: the head is not known yet.")
        await self.keeper.bring_to(block, self.watch.chain)


@asynccontextmanager
async def in_the_swarm(
    run_id: str, published_in: Path | None, peers: Sequence[str], choices: Choices, *, say: Say
) -> AsyncIterator[Station]:
    """Join a run as an observer.

    Raises:
        UnreachableError: none of the peers named or met before answers.
        ManyhandsError: the run cannot be had, or the disk refuses.
    """
    folder, listener = run_folder(choices.home, run_id), _NoticesSaid(say)
    if published_in is not None:
        await asyncio.to_thread(adopt_folder, published_in, folder)
    async with AsyncExitStack() as stack:
        transport = await stack.enter_async_context(
            await P2pdTransport.open(
                key_path=choices.home / IDENTITY_KEY,
                run_id=run_id,
                bootstrap=_known_peers(folder, peers),
                listener=listener,
            )
        )
        crowd = Crowd(transport, run_id, folder=folder)
        fetched = await fetch_run(
            run_id, folder, transport=transport, crowd=crowd, listener=listener, parts=_NO_TRAINING
        )
        run = await asyncio.to_thread(open_run, folder, choices.home)
        addresses = (choices.announce,) if choices.announce else tuple(peers)
        watch = await asyncio.to_thread(begin_watch, run, join=join_command(run, addresses))
        source = Observer(
            watch,
            stack.enter_context(closing(ChainStore(run.chain_file))),
            transport,
            crowd,
            run=run_id,
            window_seconds=run.signed.recipe.round.window_seconds,
            listener=listener,
        )
        state: _StateOfHead | None = None
        if choices.validate_every != 0:
            layout = await asyncio.to_thread(layout_of, run.signed.recipe)
            keeper = StateKeeper(fetched, layout, transport, crowd, listener=listener)
            state = _StateOfHead(keeper, source, watch)
        station = await stack.enter_async_context(_station(run, watch, source, choices, state=state))
        yield replace(station, traffic=transport.traffic, extra=(_watch_daemon(transport),))


def _known_peers(folder: Path, named: Sequence[str]) -> list[str]:
    """Return the addresses of the peers that were named, and of those met in earlier lives.

    Raises:
        UnreachableError: there are none.
    """
    met = [address for addresses in remembered_peers(folder).values() for address in addresses]
    if not named and not met:
        raise UnreachableError(
            "No peer of this run is known here.",
            remedy="Name one with --peer. Or, where a peer of this machine has joined the run, name its run "
            "folder.",
        )
    return [*named, *met]


@asynccontextmanager
async def _station(
    run: WatchedRun,
    watch: SwarmWatch,
    source: Observer | PeersFolder,
    choices: Choices,
    *,
    state: OwnState | None,
) -> AsyncIterator[Station]:
    model = validation = None
    evaluator = Evaluator(run.folder)
    every = choices.validate_every
    every = run.signed.recipe.round.snapshot_interval if every is None else every
    if every:
        model = NewestModel(run.folder, run.signed, run.out)
        validation = Validation(watch, model, evaluator, every=every, state=state)
    downloads = Downloads(
        watch=watch,
        chain_file=run.chain_file,
        signed=run.signed,
        ground=run.ground,
        key=load_or_create_key(choices.home / IDENTITY_KEY),
        out=run.out,
        model=model,
    )
    try:
        yield Station(watch, source, validation, downloads)
    finally:
        await evaluator.close()
        watch.archive.close()


async def _watch_daemon(transport: Transport) -> None:
    await transport.died.wait()
    raise NetworkError(
        f"The network daemon p2pd ended by itself again and again. It last said:\n{transport.last_words()}",
        remedy="Run the same command again: it goes on from what is on disk.",
    )
