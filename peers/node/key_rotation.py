"""Going on under another key: the key files of a home folder, and the changes that wait to stand in a block.

A change waits in rotations.jsonl in its run's folder, one a line, as `KeyChange`. The new key is written
first, then the changes that it signs, and last it takes the old one's place; so whenever that is cut off, the
same command ends it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from peers.protocol.key_change import KeyChange, Recovery, Rotation
from peers.protocol.messages import Message, Signed, sign
from recipes.errors import IdentityError
from recipes.formats.files import PRIVATE, write_atomic
from recipes.home import IDENTITY_KEY, run_folder
from recipes.keys.key_backup import must_be_new, read_backup, write_backup
from recipes.keys.keys import PeerId, SigningKey, load_or_create_key
from recipes.publication import RECIPE_FILE

ROTATIONS_FILE = "rotations.jsonl"
_NEXT_KEY = "identity.next.key"
_MAX_FILE_BYTES = 1 << 20

Form = TypeVar("Form", bound=Message)


@dataclass(frozen=True)
class Changed:
    """A change of keys: from which id to which, and the runs whose ledgers are to hear of it."""

    old: PeerId
    new: PeerId
    runs: tuple[str, ...]


def present_key(home: Path) -> SigningKey:
    """Return the key of the peer at `home`.

    Raises:
        IdentityError: there is none, or it cannot be used.
    """
    path = home / IDENTITY_KEY
    if not path.exists():
        raise IdentityError(
            f"There is no {path}.", remedy="Join a run first, restore a backup, or name another home folder."
        )
    return load_or_create_key(path)


def runs_joined(home: Path) -> list[str]:
    """Return the ids of the runs that were joined from `home`."""
    return sorted(path.parent.name for path in (home / "runs").glob(f"*/{RECIPE_FILE}"))


def waiting_changes(folder: Path) -> list[KeyChange]:
    """Return the changes that were signed for the run in `folder`, oldest first.

    Raises:
        IdentityError: their file is damaged.
    """
    path = folder / ROTATIONS_FILE
    if not path.exists():
        return []
    with path.open("rb") as stream:
        return _parse_lines(path, stream.read(_MAX_FILE_BYTES + 1), KeyChange)


def back_up(home: Path, path: Path, passphrase: str, *, recovery: Path | None = None) -> PeerId:
    """Write this peer's key, encrypted; and to `recovery` another key that may rotate it, should it be lost.

    The other key is named for the runs joined so far, in a statement for each that follows it in its file.

    Raises:
        IdentityError: there is no key, no passphrase, or a file is there already.
        StorageError: the disk refuses.
    """
    key = present_key(home)
    if recovery is not None:
        must_be_new(recovery)  # before the first is written
    write_backup(path, key, passphrase)
    if recovery is not None:
        other = SigningKey.generate()
        named = [
            sign(key, Recovery(run=run, peer=key.peer_id, recovery=other.peer_id))
            for run in runs_joined(home)
        ]
        write_backup(recovery, other, passphrase, notes=_lines(named))
    return key.peer_id


def restore(home: Path, path: Path, passphrase: str, *, force: bool = False) -> tuple[PeerId, Path | None]:
    """Make the key in a backup this peer's, and return its id. With `force`, another key is kept beside it.

    The second value is where that other key lies now.

    Raises:
        IdentityError: the backup does not open, or another key is here.
        StorageError: the disk refuses.
    """
    key, _ = read_backup(path, passphrase)
    here = home / IDENTITY_KEY
    aside = None
    if here.exists():
        known = load_or_create_key(here)
        if known.peer_id == key.peer_id:
            return key.peer_id, None
        if not force:
            raise IdentityError(
                f"{here} is the key of another peer, {known.peer_id}.",
                remedy="With --force it is kept beside the one that is restored.",
            )
        aside = _keep_aside(home, known)
    write_atomic(here, key.file_bytes(), mode=PRIVATE)
    return key.peer_id, aside


def rotate(home: Path) -> Changed:
    """Give this peer a new key, and sign with both that the old one's accounts on all ledgers are its own.

    Raises:
        IdentityError: there is no key, or a file of changes is damaged.
        StorageError: the disk refuses.
    """
    old = present_key(home)
    runs = tuple(runs_joined(home))
    new = load_or_create_key(home / _NEXT_KEY)
    if new.peer_id == old.peer_id:  # the last change was cut off at its very end
        (home / _NEXT_KEY).unlink()
        new = load_or_create_key(home / _NEXT_KEY)
    for run in runs:
        _append(home, run, _change(old, new, run=run, old_id=old.peer_id))
    _keep_aside(home, old)
    write_atomic(home / IDENTITY_KEY, new.file_bytes(), mode=PRIVATE)
    (home / _NEXT_KEY).unlink()
    return Changed(old.peer_id, new.peer_id, runs)


def recover(home: Path, path: Path, passphrase: str) -> Changed:
    """Sign with a recovery key that a lost key's accounts on the runs' ledgers are those of this peer's key.

    Raises:
        IdentityError: the file does not open or names no run, or the key here is the one that it stands for.
        StorageError: the disk refuses.
    """
    recovery, notes = read_backup(path, passphrase)
    named = [one for one in _parse_lines(path, notes, Signed[Recovery]) if one.holds()]
    named = [one for one in named if one.body.recovery == recovery.peer_id]
    if not named:
        raise IdentityError(
            f"No peer has named {path} as its recovery key.",
            remedy="Name the file that `backup --recovery` wrote.",
        )
    new = load_or_create_key(home / IDENTITY_KEY)
    old = named[0].body.peer
    if new.peer_id == old:
        raise IdentityError(
            f"{home / IDENTITY_KEY} is the key that {path} stands in for: it is not lost.",
            remedy="Rotate it without --recovery, or move it away for a new one.",
        )
    for one in named:
        _append(home, one.body.run, _change(recovery, new, run=one.body.run, old_id=one.body.peer, named=one))
    return Changed(old, new.peer_id, tuple(one.body.run for one in named))


def _change(
    giver: SigningKey,
    new: SigningKey,
    *,
    run: str,
    old_id: PeerId,
    named: Signed[Recovery] | None = None,
) -> KeyChange:
    number = int(time.time())  # of two changes that wait, the later one counts
    given = Rotation(run=run, peer=giver.peer_id, old=old_id, new=new.peer_id, number=number)
    taken = given.model_copy(update={"peer": new.peer_id})
    return KeyChange(given=sign(giver, given), taken=sign(new, taken), recovery=named)


def _append(home: Path, run: str, change: KeyChange) -> None:
    """Let a change wait, unless one from the same id to the same id waits already."""
    waiting = waiting_changes(run_folder(home, run))
    body = change.given.body
    if any((one.given.body.old, one.given.body.new) == (body.old, body.new) for one in waiting):
        return
    write_atomic(run_folder(home, run) / ROTATIONS_FILE, _lines([*waiting, change]), mode=PRIVATE)


def _keep_aside(home: Path, key: SigningKey) -> Path:
    aside = home / f"identity-{key.peer_id}.key"
    write_atomic(aside, key.file_bytes(), mode=PRIVATE)
    return aside


def _lines(messages: Iterable[Message]) -> bytes:
    return b"".join(message.canonical() + b"\n" for message in messages)


def _parse_lines(path: Path, content: bytes, form: type[Form]) -> list[Form]:
    if len(content) > _MAX_FILE_BYTES:
        raise IdentityError(f"{path} is too long.", remedy="Move it away, or get it again.")
    try:
        return [form.model_validate_json(line) for line in content.splitlines()]
    except ValidationError as error:
        raise IdentityError(f"{path} is damaged.", remedy="Move it away, or get it again.") from error
