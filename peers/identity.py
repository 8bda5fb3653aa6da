"""This peer's identity: looked at, backed up, restored, and moved to another key with all that it has earned.

    python -m peers.identity show
    python -m peers.identity backup FILE [--recovery OTHER_FILE]
    python -m peers.identity restore FILE
    python -m peers.identity rotate [--recovery OTHER_FILE]

The identity is the key in identity.key in the home folder; whoever holds the file is the peer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recipes.command import plain_errors
from recipes.errors import IdentityError
from recipes.home import IDENTITY_KEY, home_folder, lock_home, run_folder

if TYPE_CHECKING:
    from peers.node.key_rotation import Changed

_LONGEST_PASSPHRASE = 4096

app = typer.Typer(
    help="This peer's identity: its key, and what becomes of its credit when the key changes.",
    no_args_is_help=True,
    add_completion=False,
)

Home = Annotated[Path | None, typer.Option(help="Home folder. By default $MANYHANDS_HOME or ~/.manyhands.")]
PassphraseFile = Annotated[
    Path | None, typer.Option(help="Read the passphrase from this file's first line. By default it is asked.")
]


@app.command()
def show(home: Home = None) -> None:
    """Show this peer's id, its key file, the runs joined from here, and changes of keys that wait."""
    from peers.node.key_rotation import present_key, runs_joined, waiting_changes

    with plain_errors():
        folder = home_folder(home)
        print(f"peer  {present_key(folder).peer_id}")
        print(f"key   {folder / IDENTITY_KEY}")
        for run in runs_joined(folder):
            print(f"run   {run}")
            for change in waiting_changes(run_folder(folder, run)):
                print(f"      signed here: {change.given.body.old} goes on as {change.given.body.new}")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="File to write. It must not be there yet.")],
    recovery: Annotated[
        Path | None, typer.Option(help="Write a recovery key, too; keep it in another place.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
) -> None:
    """Write this peer's key to a file that only the passphrase opens.

    A recovery key is another key, which may only do one thing: move what this peer has earned on the runs
    joined so far to a new key, should this one and its backup be lost (`rotate --recovery`). Whoever gets
    hold of it and the passphrase can do that, too. The same passphrase opens both.
    """
    from peers.node.key_rotation import back_up

    with plain_errors():
        passphrase = _passphrase(passphrase_file, confirm=True)
        other = recovery.expanduser() if recovery is not None else None
        peer = back_up(home_folder(home), file.expanduser(), passphrase, recovery=other)
    print(f"Wrote the key of {peer} to {file}.")
    if recovery is not None:
        print(f"Wrote its recovery key to {recovery}.")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="File that `backup` wrote.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also if another key is here: that is kept beside it.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
) -> None:
    """Make the key in a backup this machine's identity.

    Never run two machines under one identity: they sign two claims for one round, which forfeits what the
    peer has pending.
    """
    from peers.node.key_rotation import restore as restore_key

    with plain_errors():
        folder = home_folder(home)
        passphrase = _passphrase(passphrase_file, confirm=False)
        with lock_home(folder):
            peer, aside = restore_key(folder, file.expanduser(), passphrase, force=force)
    print(f"{folder / IDENTITY_KEY} is the key of {peer}.")
    if aside is not None:
        print(f"The key that was there is {aside} now.")


@app.command()
def rotate(
    recovery: Annotated[
        Path | None,
        typer.Option(help="The old key is lost: sign with the recovery key that `backup --recovery` wrote."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
) -> None:
    """Give this peer a new key, and move what the old one has earned to it.

    Both keys sign that, for each run joined from here; the ledger follows it once it stands in a block. The
    new id must not have been counted before that: do not train under it until then. The old id earns
    nothing from then on. Stop trainer.join first.
    """
    from peers.node.key_rotation import recover
    from peers.node.key_rotation import rotate as rotate_key

    with plain_errors():
        folder = home_folder(home)
        passphrase = _passphrase(passphrase_file, confirm=False) if recovery is not None else ""
        with lock_home(folder):
            if recovery is not None:
                changed = recover(folder, recovery.expanduser(), passphrase)
            else:
                changed = rotate_key(folder)
    _tell(changed)


def _tell(changed: Changed) -> None:
    print(f"{changed.old} goes on as {changed.new}.")
    for run in changed.runs:
        print(f"Signed for run {run}.")
    print("Back up the new key with `python -m peers.identity backup FILE`: older backups are worth nothing.")


def _passphrase(file: Path | None, *, confirm: bool) -> str:
    """Return the passphrase, from a file or from the user."""
    if file is None:
        asked: str = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm)
        return asked
    try:
        with file.expanduser().open() as stream:
            return stream.readline(_LONGEST_PASSPHRASE).rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise IdentityError(f"Cannot read a passphrase from {file}.", remedy="Name a text file.") from error


if __name__ == "__main__":
    app()
