"""What a peer earned, what of it is vested, and for all the rest the reason.

python -m peers.credit show RUN [--peer PEER]
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from peers.protocol.reasons import AUDIT_PENDING
from recipes.command import plain_errors

if TYPE_CHECKING:
    from peers.credit.statement import Unvested
    from peers.ledger.source import CreditReading

app = typer.Typer(
    help="Credit: what peers earned for their work, in FLOPs.", no_args_is_help=True, add_completion=False
)


@app.callback()
def commands() -> None:
    """Credit: what peers earned for their work, in FLOPs."""


@app.command()
def show(
    run: Annotated[
        str, typer.Argument(help="Run id or published folder of a run joined from here; or an export.")
    ],
    peer: Annotated[
        str | None, typer.Option(help="One peer in full. By default this machine's, if it took part.")
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", help="A table of all peers.")] = False,
    tip: Annotated[bool, typer.Option("--tip", help="Take in blocks that are not final yet, too.")] = False,
    home: Annotated[
        Path | None, typer.Option(help="Home folder. By default $MANYHANDS_HOME or ~/.manyhands.")
    ] = None,
) -> None:
    """Show what a peer earned, what is vested, and for each amount that is not, why in plain words.

    Work is counted in FLOPs: slots used x tokens a slot x FLOPs a token, as the recipe fixes it. It is
    pending when a block counts it, and vested when the escrow is over and audits found nothing. All of this
    follows from the chain: every peer shows the same.
    """
    from peers.ledger.source import own_key, standing
    from recipes.errors import IdentityError

    with plain_errors():
        found = standing(run, home=home, tip=tip)
        if peer is None and not everybody:
            try:
                peer = own_key(home).peer_id
            except IdentityError:
                everybody = True
            everybody = everybody or peer not in found.accounts.peers
    console = Console(highlight=False)
    if everybody:
        console.print(_table(found))
    elif peer is not None:
        _tell(console, found, peer)
    if not found.audited:
        console.print(AUDIT_PENDING)


def _table(found: CreditReading) -> Table:
    table = Table(title=f"Credit after round {found.round:,}, FLOPs", box=None)
    table.add_column("peer", overflow="fold")
    for column in ("earned", "vested", "pending", "lost", "audits passed"):
        table.add_column(column, justify="right")
    for peer, account in sorted(found.accounts.peers.items()):
        pending = account.in_escrow + account.uncalibrated
        lost = sum(account.lost.values())
        table.add_row(
            peer,
            f"{account.earned:,}",
            f"{account.vested:,}",
            f"{pending:,}",
            f"{lost:,}",
            str(account.passes),
        )
    return table


def _tell(console: Console, found: CreditReading, name: str) -> None:
    from peers.credit.statement import unvested
    from recipes.keys.keys import PeerId

    peer = PeerId(name)
    account = found.accounts.peers.get(peer)
    if (gone := found.accounts.retired.get(peer)) is not None:
        console.print(f"The account of {name} moved to another key in round {gone.round:,}.", soft_wrap=True)
        console.print(f"It is {gone.successor} now.", soft_wrap=True)
        return
    if account is None:
        console.print(f"{name} was not counted in any block up to round {found.round:,}.")
        return
    console.print(f"{name}, after round {found.round:,}", soft_wrap=True)
    console.print(f"earned  {account.earned:,} FLOPs")
    console.print(f"vested  {account.vested:,}")
    console.print(f"audits  {account.passes:,} passed")
    if account.expelled_until > found.round:
        until = f"until round {account.expelled_until:,}"
        console.print(f"Expelled {until}: an audit failed, or it contradicted itself; no claim is taken.")
    rows: dict[str, list[Unvested]] = defaultdict(list)
    for one in unvested(found.accounts, peer, found.rules):
        rows[one.reason].append(one)
    if not rows:
        return
    table = Table("FLOPs not vested", "reason", "in words", box=None)
    table.columns[0].justify = "right"
    for reason, parts in rows.items():
        first, last = parts[0], parts[-1]
        words = last.explanation
        if reason == "in escrow" and first.vests_after != last.vests_after:
            words = f"Part by part, from after round {first.vests_after:,} on; the last: {words}"
        table.add_row(f"{sum(one.amount for one in parts):,}", reason, words)
    console.print(table)


if __name__ == "__main__":
    app()
