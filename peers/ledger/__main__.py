"""The ledger of a run: exported, verified, looked at, proven from, and paid out by.

    python -m peers.ledger export RUN --out FILE
    python -m peers.ledger verify FILE [--replay CLAIM]
    python -m peers.ledger show RUN
    python -m peers.ledger prove RUN NUMBER --out FILE
    python -m peers.ledger payout RUN --addresses FILE --out FOLDER
    python -m peers.ledger address RUN ADDRESS

The ledger follows from the chain, so whoever joined a run has it: these commands read the chain that the
peer keeps, and may do so while it is at work. An export needs no peer and no network to be verified.
"""

from __future__ import annotations

import tempfile
from collections import deque
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from peers.credit.entries import Entry
from peers.credit.tally import Totals
from peers.protocol.reasons import AUDIT_PENDING
from recipes.command import plain_errors
from recipes.formats.files import replacing, write_atomic

if TYPE_CHECKING:
    from peers.ledger.verify import Verified

app = typer.Typer(
    help="The ledger of a run: who did what work, what of it was audited, and what is vested. "
    "It follows from the chain: everybody who joined has the same one, and nobody runs it.",
    no_args_is_help=True,
    add_completion=False,
)

Run = Annotated[str, typer.Argument(help="Run id, or a published folder. The run was joined from here.")]
RunOrExport = Annotated[
    str, typer.Argument(help="Run id or published folder of a run that was joined from here; or an export.")
]
Home = Annotated[Path | None, typer.Option(help="Home folder. By default $MANYHANDS_HOME or ~/.manyhands.")]
Tip = Annotated[bool, typer.Option("--tip", help="Take in blocks that are not final yet, too.")]


@app.command()
def export(
    run: Run,
    out: Annotated[Path, typer.Option(help="File to write.")],
    every: Annotated[int, typer.Option(min=1, help="Sign a checkpoint after so many rounds.")] = 64,
    tip: Tip = False,
    home: Home = None,
) -> None:
    """Write the whole ledger, with the chain that it follows from, as one file of JSON lines.

    Anyone can check the file with `python -m peers.ledger verify`, without this machine and without a
    network. Its checkpoints are signed by this peer. By default it ends with the newest final block.
    """
    from peers.ledger.export import header_of, write_export
    from peers.ledger.source import branch_here, own_key

    with plain_errors():
        key = own_key(home)
        branch = branch_here(run, home=home, tip=tip)
        header = header_of(branch.signed, signer=key.peer_id)
        with replacing(out.expanduser()) as stream:
            done = write_export(stream, branch.settled(), header=header, key=key, every=every)
    print(f"Wrote {done.tally.entries:,} entries of {done.round:,} rounds to {out}.")
    print(f"Root {done.root.hex()}")


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="An export, or the proof of an entry.")],
    replay: Annotated[
        str | None,
        typer.Option(
            metavar="CLAIM",
            help="Of an export, re-execute this claim, too: its hash as `show` lists it, or how that begins.",
        ),
    ] = None,
    opening: Annotated[
        Path | None,
        typer.Option(help="What the claim's author opened. By default, such a file in the run folder."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="A run folder, or the folder that publishing made: it has text and states. By default, that "
            "of the run in the home folder.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Where to replay: cpu, cuda ... By default as the claim's author did, if it can."),
    ] = None,
    home: Home = None,
) -> None:
    """Check an export offline, or the proof of one entry. Exit code 0: all of it holds; 5: it does not.

    Of an export everything is done again: every signature, every block in its place, the counters, which
    claims are drawn for audits, what verdicts lead to, what vests, the Merkle tree, and the proofs between
    checkpoints. What does not hold is named with its line.

    That the export is the whole story it cannot say by itself: compare its last block and root with a peer's.

    With --replay, the local steps behind one claim are taken again, from the state of that round and the
    run's text, and compared with what its author opened, as an auditor does. It takes about as long as the
    window took, and room for the weights in $TMPDIR. Text, snapshots and reduced segments come from a run
    folder (a peer may be at work there); none of that, and no opening, is believed: everything has its hash
    in the chain or the claim. Exit code 0: the claim holds; 5: it does not; 14: that cannot be told here, and
    why. docs/ledger.md says more.
    """
    from peers.ledger.source import check_file

    if replay is None and (opening or run or device):
        raise typer.BadParameter("--opening, --run and --device go with --replay.")
    with plain_errors():
        path, start = file.expanduser(), _beginning_of(file)
        if b'"kind":"proof"' in start and not start.startswith(b'{"kind":"header"'):
            if replay is not None:
                raise typer.BadParameter("--replay takes an export, and this is the proof of an entry.")
            _tell_proof(start)
        elif replay is None:
            _tell_verified(check_file(path))
        else:
            from peers.replay.replay_command import Wishes, verify_and_replay

            wishes = Wishes(claim=replay, opening=opening, folder=run, device=device, home=home)
            verify_and_replay(path, wishes, tell_verified=_tell_verified)


@app.command()
def show(
    run: RunOrExport,
    entries: Annotated[int, typer.Option(min=0, help="Of a run, list so many of the newest entries.")] = 10,
    tip: Tip = False,
    home: Home = None,
) -> None:
    """Show what a ledger comes to, and its newest entries. An export is verified first.

    What single peers earned is shown by `python -m peers.credit show`.
    """
    from peers.ledger.source import branch_here, is_export, standing

    with plain_errors():
        found = standing(run, home=home, tip=tip)
        newest: deque[tuple[int, Entry]] = deque(maxlen=entries)
        if entries and not is_export(run):
            branch = branch_here(run, home=home, tip=tip)
            every = (entry for settled in branch.settled() for entry in settled.entries)
            newest.extend(enumerate(every))
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"run     {found.run}")
    console.print(f"ledger  {found.tally.entries:,} entries, root {found.root.hex()}")
    console.print(f"chain   {found.round:,} rounds, {found.final_round:,} of them final, head {found.block}")
    table = Table("kind of entry", "number", box=None)
    for kind, count in sorted(found.tally.kinds.items()):
        table.add_row(kind, f"{count:,}")
    console.print(table)
    _tell_totals(found.tally.totals())
    if not found.audited:
        console.print(AUDIT_PENDING)
    for number, entry in newest:
        console.print(f"{number:>8} {entry.canonical().decode()}", markup=False)


@app.command()
def prove(
    run: Run,
    number: Annotated[int, typer.Argument(min=0, help="The entry's number, from 0 on.")],
    out: Annotated[Path | None, typer.Option(help="Write the proof to this file, and not here.")] = None,
    tip: Tip = False,
    home: Home = None,
) -> None:
    """Prove that one entry is in the ledger, to somebody who has not all of it.

    The proof holds the entry, a checkpoint signed by this peer, and the hashes that lead from one to the
    other. `python -m peers.ledger verify` checks it.
    """
    from peers.ledger.derive import bring_up
    from peers.ledger.proof import prove as prove_entry
    from peers.ledger.source import branch_here, own_key
    from peers.ledger.store import LedgerStore

    with plain_errors(), tempfile.TemporaryDirectory() as folder:
        key = own_key(home)
        branch = branch_here(run, home=home, tip=tip)
        with closing(LedgerStore(Path(folder) / "ledger.sqlite")) as store:
            bring_up(store, branch.settled())
            proof = prove_entry(store, number, run=branch.signed.run_id, key=key)
        content = proof.canonical() + b"\n"
        if out is not None:
            write_atomic(out.expanduser(), content)
    if out is None:
        print(content.decode(), end="")


@app.command()
def payout(
    run: RunOrExport,
    out: Annotated[Path, typer.Option(help="Folder for payout.csv, payout.json, tree.json, proofs.json.")],
    addresses: Annotated[
        Path | None, typer.Option(help="Addresses as peers signed them (`address`), one a line.")
    ] = None,
    home: Home = None,
) -> None:
    """Write what each peer has vested in all, and the Merkle root by which a contract may pay it.

    Amounts are FLOPs, cumulative: a contract pays what it has not paid yet. tree.json is in the format of
    OpenZeppelin's StandardMerkleTree ("standard-v1"), leaves (address, uint256). Pending credit is never
    in it. No payment is made here.
    """
    from peers.ledger.payout import make_payout, read_bindings, write_payout
    from peers.ledger.source import is_export, standing

    with plain_errors():
        found = standing(run, home=home, tip=False)
        bindings = read_bindings(addresses.expanduser(), run=found.run) if addresses is not None else {}
        made = make_payout(
            found.accounts.peers,
            run=found.run,
            round_number=found.round,
            root=found.root,
            bindings=bindings,
        )
        files = write_payout(made, out.expanduser())
    total = sum(made.vested.values())
    print(f"{len(made.vested):,} peers have vested {total:,} FLOPs by round {found.round:,}.")
    if is_export(run):
        _tell_finality(found.final_round, found.round)
    if not found.audited:
        print(AUDIT_PENDING)
    without = len(made.vested) - len(made.addresses)
    if without:
        print(f"{without:,} of them named no address: what they vested waits for them.")
    if made.tree is not None:
        print(f"Merkle root {made.tree.root}")
    print("Wrote", ", ".join(str(path) for path in files))


@app.command()
def address(
    run: Run,
    to: Annotated[str, typer.Argument(metavar="ADDRESS", help="0x and 40 hex digits.")],
    number: Annotated[int, typer.Option(min=0, help="Higher than that of an address named before.")] = 0,
    home: Home = None,
) -> None:
    """Sign, as this peer, the address at which it is to be paid. Send the line to who makes the payout."""
    from peers.ledger.openzeppelin_tree import plain_address
    from peers.ledger.payout import AddressBinding
    from peers.ledger.source import own_key
    from peers.protocol.messages import sign
    from recipes.home import home_folder
    from recipes.locate import joined_folder

    with plain_errors():
        key = own_key(home)
        name = joined_folder(run, home_folder(home)).name
        body = AddressBinding(run=name, peer=key.peer_id, address=plain_address(to), number=number)
    print(sign(key, body).canonical().decode())


def _tell_verified(found: Verified) -> None:
    print(f"Verified: run {found.header.run}")
    print(f"{found.round:,} rounds, the last one's block is {found.block}")
    print(f"{found.tally.entries:,} entries, root {found.root.hex()}")
    print(f"{found.checkpoints:,} checkpoints signed by {found.header.signer}")
    _tell_finality(found.final_round, found.round)
    claims = found.claims
    print(
        f"{found.tally.kinds['claim']:,} claims: {claims.linked:,} follow the same peer's last one, "
        f"{claims.first:,} are its first, {claims.elsewhere:,} name none or one that is not on this chain"
    )
    _tell_totals(found.totals)
    if not found.tally.kinds["verdict"]:
        print(AUDIT_PENDING)


def _beginning_of(file: Path) -> bytes:
    """Return the whole content of a proof, or the beginning of an export."""
    from peers.ledger.proof import MAX_PROOF_BYTES
    from recipes.errors import DataError

    try:
        with file.expanduser().open("rb") as stream:
            return stream.read(MAX_PROOF_BYTES + 1)
    except OSError as error:
        raise DataError(f"Cannot read {file}: {error.strerror}.", remedy="Name an export.") from error


def _tell_proof(content: bytes) -> None:
    from peers.ledger.proof import check_proof

    proof, head = check_proof(content)
    print(f"Verified: entry {proof.number:,} of the ledger of run {proof.run}")
    print(proof.entry.canonical().decode())
    print(f"It is one of {head.size:,} with root {head.root.hex()}, signed by {proof.signer}")


def _tell_finality(final_round: int, last_round: int) -> None:
    if final_round < last_round:
        print(f"By this file alone, rounds after {final_round:,} could still be undone.")


def _tell_totals(totals: Totals) -> None:
    print(
        f"FLOPs earned {totals.earned:,}: vested {totals.vested:,}, pending {totals.pending:,}, "
        f"lost {totals.lost:,}"
    )


if __name__ == "__main__":
    app()
