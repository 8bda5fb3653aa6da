"""The gain of cheats in a real swarm, when they are found, and the loss of honest peers by them.

    python -m benchmarks.red_team [--cheat NAME]... [--rounds 30] [--out results/red_team.json]

Real processes on loopback train a small model and audit each other: four honest ones, and up to three that
cheat (cheats.py), each with its own key. All that is told comes from the chain as the publisher
holds it. Audits are as frequent as it takes to see them at work in few rounds: half of a newcomer's claims,
and credit is in escrow for 10 rounds; benchmarks/audits says what the recipe's default rates come to.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.churn.swarm import RECIPE, TEXT_BYTES
from benchmarks.red_team.cheats import ACCOMPLICE, PLACES
from peers.credit.entries import ClaimCounted, Decided, Entry, Forfeit, Lapsed, Restored, VerdictCounted, Vest
from peers.ledger.derive import derive, ground_of
from peers.state.block_store import CHAIN_FILE, ChainStore
from recipes.command import plain_errors
from recipes.errors import DataError, NetworkError
from recipes.formats.files import write_atomic
from recipes.home import run_folder
from recipes.keys.keys import PeerId
from recipes.publication import Publication
from recipes.publish import publish
from trainer.demo.peer import DemoPeer, Process, free_port, launch

HONEST = 4
START_SECONDS = 180.0
STALLED_SECONDS = 120.0
GROUPS: Sequence[tuple[str, ...]] = (
    ("SendsZeros", "SendsNoise", "SendsAnOldContribution"),
    ("CopiesItsNeighbours", "TrainsOnOtherData", "RepeatsOneBatch"),
    ("TrainsOnHalfTheBatch", "DoesHalfTheSteps", "DoesNineTenthsOfTheSteps"),
    ("StartsFromStaleWeights", "DoublesItsUpdate", "FlipsItsSign"),
    ("ClaimsMoreThanAssigned", "Equivocates", "FloodsAudits"),
    ("AccusesFalsely", "SendsZeros", "CoversItsAccomplice"),
)
"""Which cheat together: one runs beside no more than two others. The last two are a pair."""

_TABLES = """
[verification]
newcomer_audit_rate = 0.5
trusted_passes = 10
least_audit_rate = 0.4
audit_rounds = 3
retention_rounds = 6
dispute_rounds = 6

[verification.thresholds.cpu-fp32]
loss_mean = [0.00057, 0.0015]
loss_worst = [0.0041, 0.0094]
dropped = [0.066, 0.12]
direction = [0.0021, 0.0038]
length = [0.0033, 0.015]

[verification.thresholds.cpu-bf16]
loss_mean = [0.0036, 0.0063]
loss_worst = [0.047, 0.083]
dropped = [0.16, 0.22]
direction = [0.018, 0.050]
length = [0.023, 0.040]

[credit]
escrow_rounds = 10
"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of one peer. Amounts are shares of what an honest peer earned on average in the same run.

    Attributes:
        claimed: credit for its counted claims, and pay for its audits.
        vested: the part of that which it may keep.
        taken: forfeited or lapsed, and not restored.
        audits: of its claims that were decided, and
        failed: how many of them against it.
        claims_before: its claims counted when something was first taken from it; None if nothing was.
        verdicts: that it gave as an auditor.
        reasons: of auditors' verdicts on its claims, and how often; and how these were decided.
    """

    name: str
    cheats: bool
    claimed: float
    vested: float
    taken: float
    audits: int
    failed: int
    claims_before: int | None
    verdicts: int
    reasons: dict[str, int]


def red_launch(cheat: str, accomplice: str, arguments: Sequence[str], log: Path) -> Process:
    """Start a volunteer that cheats."""
    os.environ[ACCOMPLICE] = accomplice
    return launch(arguments, log, program=("-m", "benchmarks.red_team.cheats", cheat))


def run_group(
    cheats: Sequence[str], folder: Path, *, rounds: int, tell: Callable[[str], None]
) -> list[Outcome]:
    """Let a swarm with some cheats train, and return the outcome of every peer.

    Raises:
        NetworkError: no round was completed for too long.
    """
    publication = _publish(folder)
    port = free_port()
    observer = DemoPeer("publisher", folder, run=str(publication.folder), port=port, address=None)
    others = [f"honest-{number}" for number in range(1, HONEST)]
    volunteer = partial(DemoPeer, folder=folder, run=publication.run_id, address=observer.address)
    peers = {name: volunteer(name, port=free_port()) for name in others}
    accomplice = ""
    for cheat in cheats:
        peers[cheat] = volunteer(cheat, port=free_port(), launched_by=partial(red_launch, cheat, accomplice))
        accomplice = peers[cheat].peer_id
    everybody = [observer, *peers.values()]
    try:
        observer.start(validate=True)
        _until(lambda: observer.tally.connected, [observer], START_SECONDS)
        for peer in peers.values():
            peer.start(validate=False)
        newest, since = 0, time.monotonic() + START_SECONDS
        while observer.tally.round < rounds:
            time.sleep(0.2)
            for peer in everybody:
                peer.look()
            if observer.tally.round > newest:
                newest, since = observer.tally.round, max(since, time.monotonic())
                tell(f"  round {newest}, loss {_newest_loss(observer):.3f}")
            if time.monotonic() - since > STALLED_SECONDS:
                raise NetworkError(
                    f"No round was completed for {STALLED_SECONDS:.0f} s after round {newest}.",
                    remedy=f"Each peer's log.txt and events.jsonl are below {folder}.",
                )
    finally:
        for peer in everybody:
            peer.kill()
    names = {peer.peer_id: peer.name for peer in everybody}
    return outcomes(_entries(publication, observer), names, cheats)


def outcomes(entries: Sequence[Entry], names: dict[PeerId, str], cheats: Sequence[str]) -> list[Outcome]:
    """Return the outcome of each peer by the entries of a ledger, cheats first."""
    earned = dict.fromkeys(names, 0)
    for entry in entries:
        if isinstance(entry, ClaimCounted):
            earned[entry.peer] += int(entry.amount)
        elif isinstance(entry, VerdictCounted):
            earned[entry.auditor] += int(entry.amount)
    honest = [amount for peer, amount in earned.items() if names[peer] not in cheats]
    unit = max(1.0, sum(honest) / len(honest))
    found = []
    for peer, name in names.items():
        mine = [entry for entry in entries if getattr(entry, "peer", None) == peer]
        decided = [entry for entry in mine if isinstance(entry, Decided)]
        against = [entry for entry in decided if entry.decision in ("fail", "unreachable")]
        taken = sum(int(entry.amount) for entry in mine if isinstance(entry, Forfeit | Lapsed))
        taken -= sum(int(entry.amount) for entry in mine if isinstance(entry, Restored))
        first = next((e.round for e in mine if isinstance(e, Forfeit | Lapsed)), None)
        claims = [entry.round for entry in mine if isinstance(entry, ClaimCounted) and entry.amount]
        found.append(
            Outcome(
                name=name,
                cheats=name in cheats,
                claimed=earned[peer] / unit,
                vested=sum(int(entry.amount) for entry in mine if isinstance(entry, Vest)) / unit,
                taken=taken / unit,
                audits=len(decided),
                failed=len(against),
                claims_before=None if first is None else sum(number <= first for number in claims),
                verdicts=sum(isinstance(e, VerdictCounted) and e.auditor == peer for e in entries),
                reasons=dict(
                    Counter(
                        [entry.reason for entry in mine if isinstance(entry, VerdictCounted)]
                        + [f"decided: {entry.decision}" for entry in decided]
                    )
                ),
            )
        )
    return sorted(found, key=lambda one: not one.cheats)


def table(groups: Sequence[Sequence[Outcome]]) -> Table:
    """Return a row for each cheat, and one for the honest peers of its swarm together."""
    made = Table(title="Shares are of what an honest peer of the same swarm earned")
    for title in ("who", "earned", "taken", "vested", "audits", "failed", "claims until found", "verdicts"):
        made.add_column(title, justify="left" if title == "who" else "right")
    for group in groups:
        for one in group:
            if one.cheats:
                before = "" if one.claims_before is None else str(one.claims_before)
                made.add_row(
                    one.name, *_shares([one]), str(one.audits), str(one.failed), before, str(one.verdicts)
                )
        honest = [one for one in group if not one.cheats]
        sums = (sum(o.audits for o in honest), sum(o.failed for o in honest), sum(o.verdicts for o in honest))
        made.add_row(
            f"{len(honest)} honest peers", *_shares(honest), str(sums[0]), str(sums[1]), "", str(sums[2])
        )
        made.add_section()
    return made


def _shares(several: Sequence[Outcome]) -> list[str]:
    count = len(several)
    return [
        f"{sum(values) / count:.0%}"
        for values in (
            [one.claimed for one in several],
            [one.taken for one in several],
            [one.vested for one in several],
        )
    ]


def _entries(publication: Publication, observer: DemoPeer) -> list[Entry]:
    """Return the ledger's entries by the publisher's chain."""
    store = ChainStore(run_folder(observer.home, publication.run_id) / CHAIN_FILE)
    with closing(store):
        blocks = {block.hash: block for block in store.blocks(run=publication.run_id)}
    adopted = [event["block"] for event in observer.reported if event["event"] == "BlockAdopted"]
    branch = [blocks[adopted[-1]]]
    while branch[-1].body.parent in blocks:
        branch.append(blocks[branch[-1].body.parent])
    settled = derive(ground_of(publication.signed), reversed(branch))
    return [entry for one in settled for entry in one.entries]


def _until(reached: Callable[[], bool], peers: Sequence[DemoPeer], patience: float) -> None:
    began = time.monotonic()
    while not reached():
        time.sleep(0.1)
        for peer in peers:
            peer.look()
        if time.monotonic() - began > patience:
            raise NetworkError("A peer did not come up.", remedy=peers[0].log.read_text()[-1000:])


def _newest_loss(observer: DemoPeer) -> float:
    losses = observer.tally.validation
    return losses[max(losses)] if losses else float("nan")


def _publish(folder: Path) -> Publication:
    folder.mkdir(parents=True)
    text = folder / "text.py"
    files = sorted(Path(json.__file__).parents[1].glob("*.py"))
    text.write_bytes(b"\n".join(file.read_bytes() for file in files)[:TEXT_BYTES])
    template = folder / "recipe.toml"
    recipe = RECIPE.replace("{seed}", "1").replace('name = "churn"', 'name = "red-team"')
    template.write_text(recipe + _TABLES)
    return publish(template, [str(text)], folder / "run", home=folder / "publisher", tell=lambda _: None)


def main(
    cheat: Annotated[list[str], typer.Option(help="Run these alone, one in each swarm.")] = [],  # noqa: B006
    rounds: Annotated[int, typer.Option(min=8, help="Rounds of each swarm.")] = 30,
    out: Annotated[Path, typer.Option(help="JSON; a swarm that is in it is not run again.")] = Path(
        "results/red_team.json"
    ),
) -> None:
    """Run the red team."""
    console = Console(highlight=False, width=120)
    with plain_errors():
        if unknown := set(cheat) - PLACES.keys():
            raise DataError(f"No cheat is called {unknown.pop()}.", remedy=f"There are: {', '.join(PLACES)}.")
        groups = [(one,) for one in cheat] or GROUPS
        known = json.loads(out.read_bytes()) if out.exists() else {}
        found: list[list[Outcome]] = []
        for group in groups:
            name = f"{', '.join(group)}; {rounds} rounds"
            if name not in known:
                console.print(name)
                folder = Path(tempfile.mkdtemp(prefix="manyhands-red-"))
                results = run_group(group, folder / "swarm", rounds=rounds, tell=console.print)
                known[name] = [asdict(one) for one in results]
                write_atomic(out, json.dumps(known, indent=1).encode())
                shutil.rmtree(folder, ignore_errors=True)
            found.append([Outcome(**one) for one in known[name]])
        console.print(table(found))
        console.print(f"Wrote {out}.")
    sys.exit(0 if all(one.failed == 0 for group in found for one in group if not one.cheats) else 1)


if __name__ == "__main__":
    typer.run(main)
