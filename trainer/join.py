"""Join a run as a volunteer: one file, read from top to bottom, is a volunteer's whole life.

    python -m trainer.join RUN --peer MULTIADDR

RUN is a run id, or the folder or recipe.toml that publishing made. Everything else comes from the swarm,
each piece checked by a hash or a signature. Ctrl+C once: finish the round, then leave. Twice, or before the
first round: leave now. Started again after any kind of death, it goes on from what is on disk.

The life itself is `volunteer`. `main`, at the end, takes the lock on the home folder and calls it. It is long
by its options alone.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monitoring.metrics.endpoint import DEFAULT_PORT, LOOPBACK, metrics_served
from monitoring.metrics.volunteer_listener import VolunteerMetrics
from peers.network.bandwidth import BandwidthLimits, read_limit
from peers.protocol.events import Listener, Listeners
from recipes.command import plain_errors
from recipes.errors import RecipeError, UnreachableError
from recipes.home import IDENTITY_KEY, home_folder, lock_home, run_folder
from recipes.keys.keys import load_or_create_key
from trainer.screen import Screen

if TYPE_CHECKING:
    from peers.network.discovery import Crowd
    from peers.network.p2pd.transport import P2pdTransport
    from peers.node.node import Node
    from peers.sync.run_download import Run
    from recipes.keys.keys import SigningKey
    from trainer.deferred import DeferredTrainer
    from trainer.local import LocalTrainer

LEFT_AT_ONCE = 130  # exit code after a second Ctrl+C
ONE_SIGNAL_SECONDS = 0.5  # supervisors signal a process and its group: that counts once


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the volunteer asked for on the command line, as `--help` explains it."""

    run: str
    peers: tuple[str, ...]
    home: Path
    host: str
    port: int
    announce: str | None
    bandwidth: BandwidthLimits
    device: str
    threads: int
    validate_every: int
    audits: bool
    events: Path | None
    metrics_port: int | None


async def volunteer(wishes: Wishes, screen: Screen, metrics: VolunteerMetrics) -> bool:
    """Live a volunteer's life, from identity to farewell; return whether its last round was finished.

    What happens is told to `screen` and to `metrics`.
    """
    # Imported here, because these take seconds to load and --help should not.
    from peers.network.discovery import Crowd
    from peers.node.bandwidth_plan import plan
    from peers.node.serving import serve_node, serve_publication
    from peers.sync.run_download import adopt_folder, fetch_run
    from recipes.layout import published_layout
    from trainer.deferred import DeferredTrainer, import_early

    listener = Listeners(screen.tell, metrics.tell)

    # 1. Identity: an Ed25519 key made on first use. The peer id contains its public half.
    key = load_or_create_key(wishes.home / IDENTITY_KEY)
    run_id, published_in = identify_run(wishes.run)
    folder = run_folder(wishes.home, run_id)
    if published_in is not None:
        adopt_folder(published_in, folder)

    # 2. The network: a daemon of our own, joined to the peers that were named or met in an earlier life.
    #    What the model of step 4 takes is imported meanwhile.
    imports = import_early()
    async with await enter_network(wishes, run_id, folder, screen, listener) as transport:
        screen.connected(key.peer_id, run_id, await transport.addresses(), transport.traffic)
        metrics.count_traffic(transport.traffic)
        crowd = Crowd(transport, run_id, folder=folder)

        # 3. Recipe, tokenizer and data: what is not on disk comes from the swarm, checked piece by piece.
        run = await fetch_run(run_id, folder, transport=transport, crowd=crowd, listener=listener)
        recipe, layout = run.signed.recipe, published_layout(run.signed.recipe)
        metrics.follow_recipe(segments=recipe.round.segments, window_seconds=recipe.round.window_seconds)
        serve_publication(transport, run)  # from here on, others may have from us what we have
        for sentence in plan(wishes.bandwidth, recipe, parameters=layout.size, peers=len(crowd.peers()) + 1):
            screen.say(sentence)

        # 4. The model, on the device where it trains fastest. Making it takes seconds, in which a peer that
        #    was started again already catches up.
        trainer = DeferredTrainer(partial(make_trainer, run, device=wishes.device), after=imports)

        # 5. State, and 6. rounds: see `make_node`.
        node = await make_node(run, wishes, key, transport, crowd, trainer, listener)
        metrics.follow_credit(run, layout=layout, peer=key.peer_id)
        serve_node(node)
        screen.watch(node.engine)

        # 7. Leaving: after the round that runs, or at once. The swarm goes on either way.
        heed_interrupts(node, screen)
        return await node.live()


def make_trainer(run: Run, *, device: str) -> LocalTrainer:
    """Return the trainer of the run's model, with its data.

    Raises:
        PlatformError: `device` is not here.
        ModelError: the model cannot be built, or does not fit the device.
    """
    from recipes.corpus import TokenArray
    from recipes.layout import layout_of
    from trainer.device import choose_device
    from trainer.local import LocalTrainer

    recipe, run_id = run.signed.recipe, run.signed.run_id
    tokens, validation = (TokenArray(run.data, run.manifest, part) for part in ("train", "validation"))
    layout, chosen = layout_of(recipe), choose_device(recipe, wanted=device)
    return LocalTrainer(recipe, layout, tokens, run_id, device=chosen, validation=validation)


async def make_node(
    run: Run,
    wishes: Wishes,
    key: SigningKey,
    transport: P2pdTransport,
    crowd: Crowd,
    trainer: DeferredTrainer,
    listener: Listener,
) -> Node:
    """Return the node: it holds the state, and lives through rounds."""
    from peers.node.assembly import assemble_node
    from peers.node.serving import serve_state
    from peers.state.genesis import open_state
    from peers.training.window_tasks import NodeSettings
    from recipes.layout import published_layout

    # 5. State: the canonical weights, and the chain that they follow from, as far as they are on disk.
    #    The rest is fetched (StateSync.bring_to) once the round engine has heard where the swarm is.
    #    A newcomer waits for its trainer first: the model may not fit this machine at all.
    layout = published_layout(run.signed.recipe)
    state = await asyncio.to_thread(open_state, run.folder, run.signed, layout)
    if state.round == 0:
        await asyncio.to_thread(trainer.ready)
    serve_state(transport, state)

    # 6. Rounds. The round engine (peers/consensus/engine.py) decides what is next, and the node
    #    (peers/node/node.py) does it:
    #      train     the window's slots, with the trainer of step 4        trainer/local.py
    #      claim     compress, commit and sign, before anyone sees it      peers/exchange/contributor.py
    #      exchange  segments to their reducers, reduced segments back     peers/consensus/allreduce.py
    #      check     recompute random chunks of what reducers made         peers/exchange/segment_store.py
    #      agree     the leader's block, and co-signatures under it        peers/consensus/leader.py
    #      apply     the same step on the same bits, everywhere            peers/sync/state_sync.py
    #      audit     replay what the chain draws of others' work           peers/audit/auditor.py
    return assemble_node(
        run,
        key=key,
        state=state,
        transport=transport,
        crowd=crowd,
        trainer=trainer,
        settings=NodeSettings(validate_every=wishes.validate_every, audits=wishes.audits),
        listener=listener,
    )


def identify_run(given: str) -> tuple[str, Path | None]:
    """Return the run id that `given` stands for, and the publication's folder if it is on this machine.

    Raises:
        RecipeError: it is neither a run id nor a published recipe.
    """
    from recipes.publication import RECIPE_FILE, load_signed_recipe

    if len(given) == 64 and set(given) <= set("0123456789abcdef"):
        return given, None
    path = Path(given).expanduser()
    if not path.exists():
        raise RecipeError(
            f"{given} is neither a run id nor a file or folder here.",
            remedy="A run id has 64 hex digits; publishing printed it. Or name the published folder.",
        )
    folder = path if path.is_dir() else path.parent
    if path.is_file() and path.name != RECIPE_FILE:
        raise RecipeError(
            f"{given} is not a published recipe.",
            remedy="Publish it with `python -m recipes.publish`, then join the folder that this makes.",
        )
    return load_signed_recipe(folder).run_id, folder


async def enter_network(
    wishes: Wishes, run_id: str, folder: Path, screen: Screen, listener: Listener
) -> P2pdTransport:
    """Open the transport, joined to whoever answers of the peers named and of those met before.

    Raises:
        UnreachableError: peers were named, and nobody answers. Without --peer, this one waits for others.
    """
    from peers.network.addresses import listen_address
    from peers.network.discovery import remembered_peers
    from peers.network.p2pd.transport import P2pdTransport, TransportSettings

    met = [address for addresses in remembered_peers(folder).values() for address in addresses]

    async def enter(bootstrap: Sequence[str]) -> P2pdTransport:
        return await P2pdTransport.open(
            key_path=wishes.home / IDENTITY_KEY,
            run_id=run_id,
            listen=[listen_address(wishes.host, wishes.port)],
            announce=[wishes.announce] if wishes.announce else [],
            bootstrap=bootstrap,
            settings=TransportSettings(bandwidth=wishes.bandwidth),
            listener=listener,
        )

    if not wishes.peers and not met:
        screen.say("No other peer is known: this one begins alone. To join others, name one with --peer.")
    try:
        return await enter([*wishes.peers, *met])
    except UnreachableError:
        if wishes.peers:
            raise
        screen.say("None of the peers met before answers. Going on alone; they are tried again now and then.")
        return await enter([])


def heed_interrupts(node: Node, screen: Screen) -> None:
    """Let the first Ctrl+C (or SIGTERM) finish the round, and the second leave now."""
    loop = asyncio.get_running_loop()
    asked_at: float | None = None

    def interrupted() -> None:
        nonlocal asked_at
        if asked_at is None:
            asked_at = loop.time()
            screen.say("Finishing the round, then leaving. Ctrl+C again leaves now.")
            node.leave()
        elif loop.time() - asked_at > ONE_SIGNAL_SECONDS:
            screen.say("Leaving now. The round goes on without this peer.")
            node.leave_now()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted)


def bits_per_second(text: str) -> float:
    """Read an option in Mbit/s; typer would say of a ValueError only that there was one."""
    try:
        return read_limit(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def main(
    run: Annotated[str, typer.Argument(help="Run id, or the folder or recipe.toml that publishing made.")],
    peer: Annotated[
        list[str] | None, typer.Option("--peer", help="Address of a peer of the run. Repeat it for more.")
    ] = None,
    home: Annotated[
        Path | None, typer.Option(help="Home folder. By default $MANYHANDS_HOME or ~/.manyhands.")
    ] = None,
    host: Annotated[str, typer.Option(help="IP address to listen on; 0.0.0.0 is all of them.")] = "0.0.0.0",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="TCP port to listen on; 0 for any free one.")
    ] = 0,
    announce: Annotated[
        str | None, typer.Option(help="Multiaddr at which others reach this machine, if it is not its own.")
    ] = None,
    upload_limit: Annotated[
        float | None,
        typer.Option(
            parser=bits_per_second,
            metavar="MBIT/S",
            help="Send no more than so many megabits a second, such as 2. By default, as fast as it goes. "
            "What surrounds the transfers is not counted: leave a tenth of your line for that.",
        ),
    ] = None,
    download_limit: Annotated[
        float | None,
        typer.Option(
            parser=bits_per_second,
            metavar="MBIT/S",
            help="Receive no more than so many, likewise, such as 10.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where to train: auto, cpu, cuda, cuda:1 ...")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads for training; 0: what torch chooses.")] = 0,
    validate_every: Annotated[
        int, typer.Option(min=0, help="Measure the validation loss every so many rounds; 0: never.")
    ] = 0,
    no_audits: Annotated[
        bool,
        typer.Option(
            "--no-audits",
            help="Replay no claims of others. By default the chain may ask this machine to, now and then: "
            "that takes time from its next window, and earns as much. Declining earns nothing, and costs "
            "nothing.",
        ),
    ] = False,
    events: Annotated[
        Path | None, typer.Option(help="Append what happens to this file, a JSON object a line.")
    ] = None,
    serve_metrics: Annotated[
        bool,
        typer.Option("--metrics/--no-metrics", help=f"Serve metrics for Prometheus on {LOOPBACK}, or not."),
    ] = True,
    metrics_port: Annotated[
        int,
        typer.Option(
            min=0,
            max=65535,
            help="TCP port for them; 0 for any free one, which is also taken if it is in use.",
        ),
    ] = DEFAULT_PORT,
) -> None:
    """Join a run as a volunteer, and train until you press Ctrl+C."""
    with plain_errors():
        wishes = Wishes(
            run=run,
            peers=tuple(peer or ()),
            home=home_folder(home),
            host=host,
            port=port,
            announce=announce,
            bandwidth=BandwidthLimits(
                upload_bits_per_second=upload_limit, download_bits_per_second=download_limit
            ),
            device=device,
            threads=threads,
            validate_every=validate_every,
            audits=not no_audits,
            events=events,
            metrics_port=metrics_port if serve_metrics else None,
        )
        with (
            lock_home(wishes.home),
            Screen(events=wishes.events) as screen,
            volunteer_metrics(wishes, screen) as metrics,
        ):
            limit_threads(wishes.threads)
            try:
                finished = asyncio.run(volunteer(wishes, screen, metrics))
            except (KeyboardInterrupt, asyncio.CancelledError):
                finished = False
        sys.exit(0 if finished else LEFT_AT_ONCE)


@contextmanager
def volunteer_metrics(wishes: Wishes, screen: Screen) -> Iterator[VolunteerMetrics]:
    """Keep this volunteer's metrics and, unless they are not wanted, serve them."""
    metrics = VolunteerMetrics()
    if wishes.metrics_port is None:
        yield metrics
        return
    with metrics_served(metrics.registry, port=wishes.metrics_port, say=screen.say):
        yield metrics


def limit_threads(threads: int) -> None:
    """Let torch's arithmetic use so many CPU threads; 0 leaves the choice to it."""
    if threads:
        import torch

        torch.set_num_threads(threads)


if __name__ == "__main__":
    typer.run(main)
