"""Our swarm in benchmarks.join: three peers that train, and two newcomers, one after the other."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from benchmarks.harness.bad_links import BadLinks
from benchmarks.harness.shaped_swarm import peers_at, places_on
from benchmarks.join.figures import Course, our_stages, period
from benchmarks.join.settings import VETERANS, JoinSettings
from benchmarks.join.watch import SEED, Tell, killed_after, lines_of, tell_course, wait, watch
from recipes.home import run_folder
from recipes.publication import Publication
from trainer.demo.peer import DemoPeer


def measure_ours(
    publication: Publication, folder: Path, settings: JoinSettings, *, congestion: str, tell: Tell
) -> list[Course]:
    """Return the course of a newcomer with nothing, and of one that has the data beforehand.

    Raises:
        NetworkError: the veterans do not get to train, or a process ended.
    """
    with BadLinks(lines_of(settings, newcomers=2), seed=SEED, congestion=congestion) as links:
        peers = peers_at(places_on(links.hosts), publication, folder, supplied=VETERANS)
        veterans, (bare, supplied) = peers[:VETERANS], peers[VETERANS:]
        with killed_after(peers):
            _settle(veterans, publication, settings, tell)
            courses = [_course("ours", bare, veterans, links, VETERANS, settings)]
            tell_course(courses[0], tell)
            _supply(supplied, publication)
            courses.append(_course("ours, data there", supplied, veterans, links, VETERANS + 1, settings))
            tell_course(courses[1], tell)
            return courses


def _course(
    name: str,
    newcomer: DemoPeer,
    veterans: list[DemoPeer],
    links: BadLinks,
    host: int,
    settings: JoinSettings,
) -> Course:
    """Start a newcomer, and return how it went; it is gone afterwards."""
    began = time.monotonic()
    newcomer.start(validate=False)
    seen = watch(
        newcomer,
        others=veterans,
        links=links,
        host=host,
        began=began,
        limit_seconds=settings.limit_seconds,
        stages_of=our_stages,
    )
    newcomer.kill()
    fetched = {event["what"] for _, event in seen if event["event"] == "Fetching"} - {"data"}
    return Course(
        name=name,
        stages=our_stages(seen),
        period_seconds=period(veterans[0].reported, "BlockAdopted"),
        loads=len(fetched),
        limit_seconds=settings.limit_seconds,
    )


def _settle(veterans: list[DemoPeer], publication: Publication, settings: JoinSettings, tell: Tell) -> None:
    """Start the veterans, and wait until all are counted and blocks came after a snapshot."""
    first, *rest = veterans
    first.start(validate=False)
    wait(lambda: first.tally.state == "training", veterans[:1], settings, "the publisher does not train")
    for peer in rest:
        peer.start(validate=False)
    after = publication.recipe.round.snapshot_interval + 1

    def settled() -> bool:
        everyone = set.intersection(*(peer.tally.counted_rounds for peer in veterans))
        return bool(everyone) and min(peer.tally.round for peer in veterans) >= after

    wait(settled, veterans, settings, "no round counted all veterans")
    tell(f"  ours: the veterans stand at round {first.tally.round}; the newcomer starts")


def _supply(newcomer: DemoPeer, publication: Publication) -> None:
    """Give a peer recipe, tokenizer, manifest and data, but no weights."""
    shutil.copytree(
        publication.folder,
        run_folder(newcomer.home, publication.run_id),
        ignore=shutil.ignore_patterns("snapshots"),
        dirs_exist_ok=True,
    )
