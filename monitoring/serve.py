"""Watch a run, and show it: a page for people, a JSON API, and metrics for Prometheus.

    python -m monitoring.serve RUN [--peer MULTIADDR] [--port 8117]

RUN is a run id, the folder or recipe.toml that publishing made, or the folder of a run that a peer joined.
Where a peer of this machine has joined it, and no --peer is named, that peer's chain and state are read. Else
this joins the run as an observer: it fetches and checks blocks as any peer does, neither trains nor claims,
and no peer waits for it. Ctrl+C ends it; started again, it goes on from what is on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recipes.command import plain_errors
from recipes.errors import RecipeError
from recipes.home import home_folder, lock_home, run_folder

if TYPE_CHECKING:
    from socket import socket

    from monitoring.http.server import Server
    from monitoring.monitor import Station
    from monitoring.web.live import Live

DEFAULT_PORT = 8117
OBSERVER_FOLDER = "observer"  # below the home folder: an observer is another process than a volunteer
_RUN_DIGITS = 64


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What was asked for on the command line, as `--help` explains it."""

    run: str
    peers: tuple[str, ...]
    home: Path
    observer_home: Path
    host: str
    host_names: tuple[str, ...]
    port: int
    announce: str | None
    validate_every: int | None


@dataclass(frozen=True)
class Place:
    """A run's id, the folder where a peer of this machine keeps it, and the one that publishing made."""

    run_id: str
    joined: Path | None
    published: Path | None


def find_run(given: str, home: Path) -> Place:
    """Return the run that a word on the command line names.

    Raises:
        RecipeError: it is neither a run id nor a run's folder or recipe.
    """
    from peers.state.block_store import CHAIN_FILE
    from recipes.publication import RECIPE_FILE, load_signed_recipe

    if len(given) == _RUN_DIGITS and set(given) <= set("0123456789abcdef"):
        run_id, published = given, None
    else:
        path = Path(given).expanduser()
        folder = path.parent if path.name == RECIPE_FILE else path
        if not (folder / RECIPE_FILE).is_file():
            raise RecipeError(
                f"{given} is neither a run id nor the folder of a run.",
                remedy="Name a run id of 64 hex digits, a published run's folder, or a peer's run folder.",
            )
        run_id = load_signed_recipe(folder).run_id
        if (folder / CHAIN_FILE).exists():
            return Place(run_id, folder, None)
        published = folder
    joined = run_folder(home, run_id)
    return Place(run_id, joined if (joined / RECIPE_FILE).is_file() else None, published)


def watching(wishes: Wishes, place: Place) -> AbstractAsyncContextManager[Station]:
    """Return the station that watches the run: beside a peer, or in the swarm."""
    from monitoring.assembly import Choices, beside_a_peer, in_the_swarm

    choices = Choices(
        home=wishes.observer_home, validate_every=wishes.validate_every, announce=wishes.announce
    )
    if place.joined is not None and not wishes.peers:
        print(f"Watching the run by the folder of a peer on this machine, {place.joined}. It is only read.")
        return beside_a_peer(place.joined, choices)
    print(
        "Joining the run as an observer: it fetches and checks blocks as a peer does and keeps the model. It "
        "neither trains nor claims, so no peer waits for it."
    )
    return in_the_swarm(place.run_id, place.published, wishes.peers, choices, say=print)


async def serve(wishes: Wishes) -> None:
    """Watch and answer until SIGINT or SIGTERM.

    Raises:
        ManyhandsError: the run cannot be watched, or the port cannot be had.
    """
    from monitoring.http.hosts import Hosts
    from monitoring.http.server import Server, listening
    from monitoring.metrics.swarm_metrics import swarm_registry
    from monitoring.web.app import Site
    from monitoring.web.live import Live

    hosts = Hosts(wishes.host_names)
    place = find_run(wishes.run, wishes.home)
    with listening(wishes.host, wishes.port) as door:
        async with watching(wishes, place) as station:
            live = Live(station.picture())
            site = Site(
                live,
                station.watch.archive,
                swarm_registry(lambda: live.picture, version=own_version()),
                timed=station.watch.timed,
                downloads=station.downloads,
            )
            host, port = door.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            print(
                f"The page is at http://{shown}:{port}/ and the metrics are at http://{shown}:{port}/metrics"
            )
            print("Press Ctrl+C to stop watching.", flush=True)
            await _until_interrupted(Server(site.app(), hosts), door, station, live)
    print("The page is closed. Run the same command again to go on from here.")


async def _until_interrupted(server: Server, door: socket, station: Station, live: Live) -> None:
    """Serve the page and watch the run, until a signal comes or one of the two ends by itself."""

    def end() -> None:
        live.close()
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    work = asyncio.create_task(station.work(live))
    answering = asyncio.create_task(server.serve(sockets=[door]))
    await asyncio.wait([work, answering], return_when=asyncio.FIRST_COMPLETED)
    end()
    await answering
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work


def own_version() -> str:
    """Return the version of this program, or "unknown" where it is not installed."""
    try:
        return version("manyhands")
    except PackageNotFoundError:
        return "unknown"


def main(
    run: Annotated[
        str,
        typer.Argument(help="Run id, the folder or recipe.toml of a published run, or a peer's run folder."),
    ],
    peer: Annotated[
        list[str] | None, typer.Option("--peer", help="Address of a peer of the run. Repeat it for more.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="TCP port of the page; 0 for any free one.")
    ] = DEFAULT_PORT,
    host: Annotated[
        str,
        typer.Option(help="IP address of the page. Anybody may read it: 0.0.0.0 shows it to the network."),
    ] = "127.0.0.1",
    host_name: Annotated[
        list[str] | None,
        typer.Option(
            help="Name under which browsers or a reverse proxy ask for the page. Repeat it for more. Its IP "
            "address and localhost need none; any other name is refused."
        ),
    ] = None,
    validate_every: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Measure the model's loss every so many rounds; 0: never, and do not keep the model. "
            "By default as often as the recipe has snapshots.",
        ),
    ] = None,
    announce: Annotated[
        str | None, typer.Option(help="Peer's multiaddr for the line with which volunteers join.")
    ] = None,
    home: Annotated[
        Path | None, typer.Option(help="Home folder. By default $MANYHANDS_HOME or ~/.manyhands.")
    ] = None,
    observer_home: Annotated[
        Path | None, typer.Option(help=f"The observer's own. By default HOME/{OBSERVER_FOLDER}.")
    ] = None,
) -> None:
    """Watch a run, and show it: a page for people, a JSON API, and metrics for Prometheus."""
    with plain_errors():
        house = home_folder(home)
        wishes = Wishes(
            run=run,
            peers=tuple(peer or ()),
            home=house,
            observer_home=observer_home.expanduser() if observer_home else house / OBSERVER_FOLDER,
            host=host,
            host_names=tuple(host_name or ()),
            port=port,
            announce=announce,
            validate_every=validate_every,
        )
        with lock_home(wishes.observer_home):
            asyncio.run(serve(wishes))


if __name__ == "__main__":
    typer.run(main)
