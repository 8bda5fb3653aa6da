"""What earlier code wrote: messages, frames, a chain, a home folder, an export, traces of simulated worlds.

    PYTHONPATH=. python tests/support/goldens.py           writes all of them anew
    PYTHONPATH=. python tests/support/goldens.py traces    only the traces; likewise messages, frames, home
    PYTHONPATH=. python tests/support/goldens.py traces --out /tmp/goldens    elsewhere, to compare

Only where a format or a rule was meant to change. The files lie in tests/goldens/. Whatever reads or writes
them must go on doing so, byte for byte. The traces take six minutes of CPU time, on all cores. Each file is
replaced whole, or not at all.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from exchange import FORM
from one_of_each import one_of_each
from places import ROOT, TESTS
from rich.console import Console
from trained_run import TrainedRun

import peers
from peers.chain.finality import VoteLock
from peers.chain.rebuild import KeptFinal
from peers.codec.segment import SegmentFrame
from peers.consensus.effects import Effect, Send, Tell
from peers.ledger.catch_up import follow_branch
from peers.ledger.store import LEDGER_FILE, LedgerStore
from peers.protocol.messages import Signed
from peers.simulation.faults import Fault
from peers.simulation.scenario import Plan, prepare
from peers.simulation.virtual_peer import VirtualPeer
from peers.state.block_store import CHAIN_FILE, ChainStore
from recipes.formats.files import write_atomic
from recipes.home import run_folder
from recipes.schema.sections import Overlap

FOLDER = TESTS / "goldens"
MESSAGES, FRAMES, TRACES = FOLDER / "messages.json", FOLDER / "frames.json", FOLDER / "traces.json"
HOME, FACTS = FOLDER / "home.tar.xz", FOLDER / "home.json"
EXPORT = "export.jsonl"  # within the home
OLD_CHAIN = FOLDER / "chain_of_protocol_3.sqlite.xz"  # what version 3 wrote: never written anew
OVERLAPS: tuple[Overlap, ...] = ("none", "delayed", "eager")
SEEDS = range(1, 401)
_PEERS, _ROUNDS = 7, 5
_TRACED_SECONDS = 150.0  # of virtual time
_WORLDS_A_LINE = 50  # of progress


class Golden(str, Enum):
    """The kinds of golden files."""

    MESSAGES = "messages"
    FRAMES = "frames"
    TRACES = "traces"
    HOME = "home"


def frames() -> dict[str, str]:
    """Return segments as they go over the wire, hex, by name."""
    found = {}
    density = FORM.at(0)
    for name, codec in (("contribution", density.codec), ("reduced", density.reduced_codec)):
        values = np.random.default_rng(17).standard_normal((2, 4096)).astype(np.float32)
        found[name] = SegmentFrame.encode(values, codec=codec).to_bytes().hex()
    return found


def messages() -> dict[str, str]:
    """Return a message of each kind as it is sent, by kind."""
    return {kind: message.canonical().decode() for kind, message in one_of_each().items()}


def trace_of(seed: int, overlap: Overlap) -> str:
    """Return the hash of all effects of all steps of a simulated world with all faults."""
    plan = Plan(seed=seed, peers=_PEERS, rounds=_ROUNDS, faults=frozenset(Fault), overlap=overlap)
    world, trace = prepare(plan), hashlib.blake2b(digest_size=8)
    for peer in world.peers.values():
        _traced(peer, trace)
    world.run(until_round=10**9, at_most_seconds=_TRACED_SECONDS)
    return trace.hexdigest()


def _traced(peer: VirtualPeer, trace: hashlib.blake2b) -> None:
    """Let all that a peer's engine wants done go into the trace before it is carried out."""
    start = peer.start

    def started() -> None:
        start()
        engine = peer.running
        handle = engine.handle

        def handled(happened: object, now: float) -> list[Effect]:
            effects = handle(happened, now)  # type: ignore[arg-type]
            for effect in effects:
                trace.update(f"{now:.6f} {peer.name} {described(effect)}\n".encode())
            return effects

        engine.handle = handled  # type: ignore[method-assign]

    peer.start = started  # type: ignore[method-assign]


def described(effect: Effect) -> str:
    """Return an effect in words; signed messages by their hash, so that a step is a line and not a page."""
    kind = type(effect).__name__
    if isinstance(effect, Tell):
        return f"{kind} {effect.event!r}"
    if isinstance(effect, Send):
        return f"{kind} {effect.peers} {_named(effect.message)}"
    fields = (f"{name}={_named(value)}" for name, value in vars(effect).items())
    return f"{kind} {' '.join(fields)}"


def _named(value: object) -> str:
    return value.hash if isinstance(value, Signed) else repr(value)


def traces(overlap: Overlap, seeds: Iterable[int] = SEEDS) -> Iterator[str]:
    """Yield the traces of these worlds, in the order of their seeds, computed on all cores."""
    with ProcessPoolExecutor() as pool:
        yield from pool.map(partial(trace_of, overlap=overlap), seeds, chunksize=8)


def unpacked(folder: Path) -> Path:
    """Unpack the home folder that earlier code wrote, and return where it is."""
    with lzma.open(HOME) as packed, tarfile.open(fileobj=packed) as archive:
        archive.extractall(folder, filter="data")
    return folder / "home"


def unpacked_as_of_protocol_3(folder: Path) -> Path:
    """Unpack the home folder, with the chain of a run that version 3 of the protocol wrote in its place."""
    home = unpacked(folder)
    [chain] = home.glob(f"runs/*/{CHAIN_FILE}")
    chain.write_bytes(lzma.decompress(OLD_CHAIN.read_bytes()))
    return home


def _keep(run: TrainedRun) -> None:
    """Write a run's chain and ledger to disk, as a peer does block by block."""
    chain = run.swarm.chain
    store, ledger = ChainStore(run.folder / CHAIN_FILE), LedgerStore(run.folder / LEDGER_FILE)
    for link in chain.path(chain.root, run.head.hash) or []:
        if link.block is not None:
            store.save_block(link.block)
        store.save_vote_lock(VoteLock(link.round, link.finality.justified_round))
    for claim in run.members[0].claims:
        store.save_claim(claim)
    store.save_final(KeptFinal(chain.link(chain.final).round, chain.final, settled=False))
    store.follow(chain, run.head.hash)
    follow_branch(ledger, chain, run.head.hash)
    store.close()
    ledger.close()


def _all_traces(console: Console) -> dict[Overlap, list[str]]:
    """Return the traces of all worlds; progress goes line by line, so that it can be logged."""
    found: dict[Overlap, list[str]] = {}
    for overlap in OVERLAPS:
        found[overlap] = []
        for trace in traces(overlap):
            found[overlap].append(trace)
            if len(found[overlap]) % _WORLDS_A_LINE == 0:
                console.print(f"traces, overlap {overlap}: {len(found[overlap])} of {len(SEEDS)} worlds")
    return found


def _write_home(out: Path) -> None:
    """Write a home folder after six rounds, and the facts about it."""
    with tempfile.TemporaryDirectory() as folder:
        run = TrainedRun(Path(folder))
        run.train(6)
        _keep(run)
        run.export(run.home / EXPORT)
        facts = {
            "run": run.run,
            "digest": run.swarm.digests[run.head.hash],
            "head": run.head.hash,
            "ledger": run.head.ledger.head.root,
            "entries": run.head.ledger.head.size,
        }
        assert run_folder(run.home, run.run).is_dir()
        archive = io.BytesIO()
        with lzma.open(archive, "wb") as packed, tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(run.home, "home")
    write_atomic(out / HOME.name, archive.getvalue())
    write_atomic(out / FACTS.name, json.dumps(facts, indent=1).encode())


def write(
    which: Annotated[list[Golden] | None, typer.Argument(help="Which to write; all if none.")] = None,
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = FOLDER,
) -> None:
    """Write goldens anew."""
    code = Path(peers.__file__).parent.parent
    if code != ROOT:
        raise typer.BadParameter(f"this would be of the code in {code}; run it with PYTHONPATH={ROOT}")
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for golden in which or Golden:
        console.print(f"writing {golden.value} to {out}")
        if golden is Golden.MESSAGES:
            write_atomic(out / MESSAGES.name, json.dumps(messages(), indent=1).encode())
        elif golden is Golden.FRAMES:
            write_atomic(out / FRAMES.name, json.dumps(frames(), indent=1).encode())
        elif golden is Golden.TRACES:
            write_atomic(out / TRACES.name, json.dumps(_all_traces(console), indent=0).encode())
        else:
            _write_home(out)


if __name__ == "__main__":
    typer.run(write)
