"""Trusted checkpoints: the owner names the run's block, for volunteers that trained apart for too long.

    python -m peers.checkpoint RUN [--round N] [--out FILE]
    python -m peers.checkpoint RUN --sign FILE
    python -m peers.checkpoint RUN --take FILE

The first is for an owner: it signs a checkpoint for a block of the chain on this machine, and keeps it in the
home folder. From there it goes to everybody when this peer next runs (`python -m trainer.join RUN`). Where
the recipe asks for several owners, the others add their word to the first one's file with the second. The
third is for a volunteer whose branch was ruled out: it takes in the file that an owner sent by other means,
and the next `trainer.join` goes by it. RUN is a run id, or the published folder. Both work only while no peer
works in the home folder: stop that first.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from peers.chain.fork_choice import best_head
from peers.protocol.messages import (
    KINDS,
    MAX_OWNERS,
    Checkpoint,
    Signed,
    Vouched,
    parse,
    sign,
    vouch,
    vouchers,
)
from peers.state.block_store import ChainStore
from recipes.command import plain_errors
from recipes.errors import DataError, IdentityError, MessageError, StateError
from recipes.formats.files import write_atomic
from recipes.home import OWNER_KEY, home_folder, lock_home
from recipes.keys.keys import SigningKey, load_or_create_key
from recipes.locate import joined_folder
from recipes.publication import SignedRecipe, load_signed_recipe

if TYPE_CHECKING:
    from peers.chain.chain import Chain
    from peers.chain.link import Link
    from recipes.layout import Layout

_KIND = "checkpoint"
_LIMIT_BYTES = KINDS[_KIND][1]


@dataclass(frozen=True)
class Made:
    """A checkpoint, whether its block was final here before, and how many owners' signatures it lacks."""

    checkpoint: Vouched
    was_final: bool
    lacking: int


def make_checkpoint(given: str, *, home: Path, round_number: int | None = None) -> Made:
    """Sign a checkpoint for a block of the chain on this machine, and keep it there.

    Args:
        given: a run id, a published folder or its recipe.
        home: the home folder, with the owner's key and the run's chain.
        round_number: the block's round. If None, that of the newest final block.

    Raises:
        HomeInUseError: a peer works in the home folder.
        RecipeError: the run was never joined from there.
        IdentityError: there is no owner's key, or it is not that of an owner of this run.
        StateError: no block can be vouched for, or a checkpoint that is not older is here.
        StorageError: the disk refuses.
    """
    from recipes.layout import layout_of

    folder = joined_folder(given, home)
    with lock_home(home):
        signed = load_signed_recipe(folder)
        key = _owner_key(home, signed)
        store = _open_store(folder)
        try:
            layout = layout_of(signed.recipe)
            chain = _chain_of(store, signed, layout)
            number = chain.link(chain.final).round if round_number is None else round_number
            head = chain.final
            if number > chain.link(chain.final).round:
                head = _standing(folder, signed, layout, chain)
            link = _block_of(chain, head, number)
            digest = chain.digest_after(link.hash)
            if digest is None:
                raise StateError(
                    f"This machine has no co-signature of the block of round {link.round}.",
                    remedy="Name an earlier round with --round: a block carries its parent's co-signatures.",
                )
            body = Checkpoint(
                run=signed.run_id, peer=key.peer_id, round=link.round, block=link.hash, digest=digest
            )
            checkpoint = vouch(key, body)
            lacking = _lacking(checkpoint, signed)
            _keep(store, checkpoint, lacking=lacking)
            return Made(checkpoint, was_final=chain.is_final(link.hash), lacking=lacking)
        finally:
            store.close()


def add_word(given: str, file: Path, *, home: Path) -> Made:
    """Add the word of the owner at `home` to a checkpoint that another one made; keep it once it is whole.

    Args:
        given: a run id, a published folder or its recipe.
        file: as `make_checkpoint`'s result was written.
        home: the home folder, with the owner's key and the run's chain.

    Raises:
        HomeInUseError: a peer works in the home folder.
        RecipeError: the run was never joined from there.
        IdentityError: there is no owner's key, or it is not that of an owner of this run.
        DataError: the file is no checkpoint of this run that an owner signed, or is full.
        StateError: its block is not on this machine, or a checkpoint that is not older is.
        StorageError: the disk refuses.
    """
    from recipes.layout import layout_of

    folder = joined_folder(given, home)
    with lock_home(home):
        signed = load_signed_recipe(folder)
        key = _owner_key(home, signed)
        made = _read(file, signed, partly=True)
        store = _open_store(folder)
        try:
            chain = _chain_of(store, signed, layout_of(signed.recipe))
            body = made.body
            if body.block not in chain or chain.digest_after(body.block) != body.digest:
                raise StateError(
                    f"Block {body.block[:8]} of round {body.round}, or its state, is another here.",
                    remedy="Sign it where you can see that it is the run's: join until it is here.",
                )
            if key.peer_id not in vouchers(made):
                if len(made.words) >= MAX_OWNERS:
                    raise DataError(
                        f"{file} holds more signatures than a run may have owners.",
                        remedy="Make the checkpoint again with `python -m peers.checkpoint RUN --out FILE`.",
                    )
                word = sign(key, body.model_copy(update={"peer": key.peer_id}))
                made = Vouched(body=body, signature=made.signature, words=(*made.words, word))
            lacking = _lacking(made, signed)
            _keep(store, made, lacking=lacking)
            return Made(made, was_final=chain.is_final(body.block), lacking=lacking)
        finally:
            store.close()


def install_checkpoint(given: str, file: Path, *, home: Path) -> Signed[Checkpoint]:
    """Check a checkpoint that an owner made elsewhere, and keep it for the next start of this peer.

    Args:
        given: a run id, a published folder or its recipe.
        file: as `make_checkpoint`'s result was written.
        home: the home folder, from which the run was joined.

    Raises:
        HomeInUseError: a peer works in the home folder.
        RecipeError: the run was never joined from there.
        DataError: the file is no checkpoint of this run that one of its owners signed.
        StateError: a checkpoint that is not older is here.
        StorageError: the disk refuses.
    """
    folder = joined_folder(given, home)
    with lock_home(home):
        signed = load_signed_recipe(folder)
        checkpoint = _read(file, signed)
        store = _open_store(folder)
        try:
            _keep(store, checkpoint, lacking=0)
        finally:
            store.close()
    return checkpoint


def _owner_key(home: Path, signed: SignedRecipe) -> SigningKey:
    path = home / OWNER_KEY
    if not path.exists():
        raise IdentityError(
            f"There is no {path}: only an owner of the run signs checkpoints.",
            remedy="Put the key that signed the recipe there, or take an owner's checkpoint with --take.",
        )
    key = load_or_create_key(path)
    owners = signed.recipe.run.owners
    if key.peer_id not in owners:
        raise IdentityError(
            f"{path} is the key of {key.peer_id}; this run's owners are {', '.join(owners)}.",
            remedy="Name the home folder that holds an owner's key with --home.",
        )
    return key


def _open_store(folder: Path) -> ChainStore:
    from peers.state.block_store import CHAIN_FILE

    store = ChainStore(folder / CHAIN_FILE)
    if store.moved_aside is not None:
        print(f"The chain on disk was damaged; it was moved to {store.moved_aside}.", file=sys.stderr)
    return store


def _chain_of(store: ChainStore, signed: SignedRecipe, layout: Layout) -> Chain:
    from peers.credit.rules import credit_rules
    from peers.protocol.rules import Rules
    from peers.state.block_store import load_chain
    from peers.state.genesis import start_digest

    rules = Rules.of(signed.recipe, signed.run_id)
    genesis = start_digest(signed.recipe, rules, layout)
    return load_chain(store, credit_rules(signed.recipe, rules), genesis_digest=genesis)


def _standing(folder: Path, signed: SignedRecipe, layout: Layout, chain: Chain) -> str:
    """Return the block that the state on this machine stands on; without one, the head of the best branch."""
    from peers.state.canonical_state import CanonicalState

    state = CanonicalState(folder, layout=layout, outer=signed.recipe.outer)
    return state.block if state.block in chain else best_head(chain, chain.final)


def _block_of(chain: Chain, head: str, number: int) -> Link:
    """Return the block of a round on the branch that ends in `head`."""
    link = chain.link(head)
    newest = link.round
    while link.round > number and link.parent in chain:
        link = chain.link(link.parent)
    if link.block is not None and link.round == number:
        return link
    if newest == number == 0:
        raise StateError(
            "No block of this run is final on this machine yet.",
            remedy="Join until one is, or name a round with --round: the checkpoint makes its block final.",
        )
    raise StateError(
        f"There is no block of round {number} on this machine; its chain ends with round {newest}.",
        remedy="Name a round that it has with --round.",
    )


def _lacking(checkpoint: Vouched, signed: SignedRecipe) -> int:
    """Return how many more owners have to sign a checkpoint before anybody heeds it."""
    run = signed.recipe.run
    return max(0, run.owner_threshold - len(vouchers(checkpoint).intersection(run.owners)))


def _keep(store: ChainStore, checkpoint: Vouched, *, lacking: int) -> None:
    """Keep a whole checkpoint, unless a peer that holds the one that is here would not heed it."""
    body = checkpoint.body
    known = store.checkpoint(run=body.run)
    if known is not None and known.hash != checkpoint.hash and known.body.round >= body.round:
        raise StateError(
            f"A checkpoint of round {known.body.round} is here already; this one is of round {body.round}.",
            remedy="Peers follow only a checkpoint of a later round: have one made with a later --round.",
        )
    if not lacking:
        store.save_checkpoint(checkpoint)


def _read(file: Path, signed: SignedRecipe, *, partly: bool = False) -> Vouched:
    """Read a checkpoint by one owner or more; unless `partly`, by as many as the recipe asks for."""
    try:
        with file.open("rb") as stream:
            content = stream.read(_LIMIT_BYTES + 1)
    except OSError as error:
        raise DataError(
            f"Cannot read {file}: {error.strerror}.", remedy="Name the file that an owner of the run sent."
        ) from error
    again = "Ask an owner of the run for the file again, unchanged."
    try:
        checkpoint: Vouched = parse(_KIND, content.strip(b"\r\n"), run=signed.run_id)  # type: ignore[assignment]
    except MessageError as error:
        raise DataError(f"{file} holds no checkpoint of this run: {error}.", remedy=again) from error
    owners = signed.recipe.run.owners
    if not vouchers(checkpoint).intersection(owners):
        raise DataError(
            f"{file} is signed by {checkpoint.body.peer}; this run's owners are {', '.join(owners)}.",
            remedy=again,
        )
    if not partly and (lacking := _lacking(checkpoint, signed)):
        raise DataError(
            f"{file} is not signed by enough of this run's owners: it lacks {lacking} more.",
            remedy="Another owner signs it with `python -m peers.checkpoint RUN --sign FILE`.",
        )
    return checkpoint


def _tell(made: Made) -> None:
    """Print, beside the checkpoint itself, what it does."""
    body = made.checkpoint.body
    if made.lacking:
        print(
            f"Signed: block {body.block[:8]} of round {body.round}. Nobody heeds it before "
            f"{made.lacking} more owners have: send them the file, for --sign.",
            file=sys.stderr,
        )
        return
    what = "is final here" if made.was_final else "becomes final by it, and no other block of that round can"
    print(f"Signed: block {body.block[:8]} of round {body.round} {what}.", file=sys.stderr)
    print("Start `python -m trainer.join` again: it gives the checkpoint to everybody.", file=sys.stderr)


def main(
    run: Annotated[str, typer.Argument(help="Run id, or a published folder.")],
    round_number: Annotated[
        int | None,
        typer.Option("--round", min=1, help="Round of the block. By default the newest final one."),
    ] = None,
    take: Annotated[
        Path | None, typer.Option(help="For a volunteer: take in the checkpoint in this file.")
    ] = None,
    sign_file: Annotated[
        Path | None,
        typer.Option("--sign", help="For another owner: add your word to the checkpoint in this file."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the checkpoint to this file, too.")] = None,
    home: Annotated[
        Path | None, typer.Option(help="Home folder. By default $MANYHANDS_HOME or ~/.manyhands.")
    ] = None,
) -> None:
    """Sign, as a run's owner, which block is the run's; or take in what an owner signed.

    Parts of a swarm that were cut off from each other for long may each go on with a branch of their own. An
    owner's checkpoint decides: whoever holds it takes its block for final, whatever else was built beside it.
    To choose a branch, name a round after the fork with --round: the block is that of this machine's branch.

    A peer that holds a checkpoint gives it to everybody it meets (`python -m trainer.join`). To bring it to
    somebody by other means, send the file that --out writes; there, --take takes it in. Peers heed only a
    checkpoint of a later round than the last.

    No peer may work in the home folder meanwhile: stop trainer.join first, and start it again afterwards.
    """
    with plain_errors():
        folder = home_folder(home)
        if take is not None:
            if round_number is not None or out is not None or sign_file is not None:
                raise typer.BadParameter("--take goes with none of --round, --sign and --out.")
            body = install_checkpoint(run, take.expanduser(), home=folder).body
            print(f"Took the checkpoint of round {body.round}, block {body.block[:8]}, by owner {body.peer}.")
            print("From the next `python -m trainer.join` on, this peer goes by it and gives it to others.")
            return
        if sign_file is not None:
            if round_number is not None:
                raise typer.BadParameter("--sign does not go with --round: the file names the block.")
            made = add_word(run, sign_file.expanduser(), home=folder)
        else:
            made = make_checkpoint(run, home=folder, round_number=round_number)
        content = made.checkpoint.canonical() + b"\n"
        if out is not None:
            write_atomic(out, content)
        print(content.decode(), end="")
        _tell(made)


if __name__ == "__main__":
    typer.run(main)
