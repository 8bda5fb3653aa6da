"""Where the ledger's commands take a ledger from: the chain of a run that was joined here, or an export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, cast

from peers.chain.chain import Chain
from peers.chain.fork_choice import best_head
from peers.chain.link import genesis_hash
from peers.credit.accounts import Accounts
from peers.credit.rules import CreditRules
from peers.credit.tally import Tally
from peers.ledger.derive import Derivation, Ground, Settled, derive, ground_of
from peers.ledger.lines import MAX_HEADER_BYTES, Header, parse_line
from peers.ledger.verify import REFUSED, Verified, Watch, verify_export
from peers.protocol.messages import Block, Signed
from peers.state.block_store import ChainStore
from recipes.errors import DataError, IdentityError, StateError
from recipes.home import IDENTITY_KEY, home_folder
from recipes.keys.keys import SigningKey, load_or_create_key
from recipes.publication import SignedRecipe, load_signed_recipe


@dataclass(frozen=True)
class Branch:
    """A branch of a run's chain, from its first block on, and what the run stands on."""

    signed: SignedRecipe
    ground: Ground
    blocks: tuple[Signed[Block], ...]

    def settled(self) -> Iterator[Settled]:
        """Yield what each block adds to the ledger."""
        return derive(self.ground, self.blocks)


@dataclass(frozen=True)
class CreditReading:
    """A ledger after its last block, from any source."""

    run: str
    rules: CreditRules
    round: int
    block: str
    final_round: int
    root: bytes
    accounts: Accounts
    tally: Tally

    @property
    def audited(self) -> bool:
        """Whether any verdict is on the chain: without one, nobody's work was replayed."""
        return self.tally.kinds["verdict"] > 0


def branch_here(given: str, *, home: Path | None, tip: bool) -> Branch:
    """Read the chain of a run that was joined here, also while its peer is at work.

    Args:
        given: a run id, a published folder or its recipe.
        home: the home folder.
        tip: whether blocks that are not final yet belong to it.

    Raises:
        RecipeError: the run was never joined from there.
        ModelError: its model cannot be built.
        StateError: no block is final yet, or the first ones are not on this machine.
        StorageError: the chain cannot be read.
    """
    from peers.state.block_store import CHAIN_FILE, load_chain
    from recipes.locate import joined_folder

    folder = joined_folder(given, home_folder(home))
    signed = load_signed_recipe(folder)
    ground = ground_of(signed)
    if not (folder / CHAIN_FILE).exists():
        _explain_nothing(empty=True, known=False)  # joined, and stopped before the first block
    with closing(ChainStore(folder / CHAIN_FILE, read_only=True)) as store:
        chain = load_chain(store, ground.rules, genesis_digest=ground.genesis_digest)
        empty = not any(store.blocks(run=signed.run_id))
    head = best_head(chain, chain.final) if tip else chain.final
    blocks = _blocks_up_to(chain, head, run=signed.run_id)
    if not blocks:
        _explain_nothing(empty=empty, known=len(chain.links) > 1)
    return Branch(signed, ground, blocks)


def _blocks_up_to(chain: Chain, head: str, *, run: str) -> tuple[Signed[Block], ...]:
    links = chain.path(genesis_hash(run), head) or []
    return tuple(link.block for link in links if link.block is not None)


def _explain_nothing(*, empty: bool, known: bool) -> NoReturn:
    if empty or known:
        raise StateError(
            "No block of this run is final on this machine yet, so there is no ledger.",
            remedy="Join until one is; --tip takes in blocks that are not final yet, if there are any.",
        )
    raise StateError(
        "The first blocks of this run are not on this machine, so its ledger cannot be derived here.",
        remedy="Ask a peer that was there from the beginning for an export.",
    )


def is_export(given: str) -> bool:
    """Whether what was given to a command is an export, and not a run's id, folder or recipe."""
    path = Path(given).expanduser()
    return path.is_file() and path.suffix != ".toml"


def standing(given: str, *, home: Path | None, tip: bool) -> CreditReading:
    """Return what a ledger amounts to: of an export, once all of it is verified, or of a run joined here.

    Raises:
        DataError: the export cannot be read, or something in it is not as it must be.
        ManyhandsError: as `branch_here`.
    """
    if is_export(given):
        return _standing_of(check_file(Path(given).expanduser()))
    branch = branch_here(given, home=home, tip=tip)
    derivation, tally = Derivation(branch.ground), Tally()
    for block in branch.blocks:
        tally.add(derivation.follow(block).entries)
    last = branch.blocks[-1]
    return CreditReading(
        run=branch.signed.run_id,
        rules=branch.ground.rules,
        round=last.body.round,
        block=last.hash,
        final_round=derivation.final_round,
        root=bytes.fromhex(derivation.ledger.head.root),
        accounts=derivation.accounts,
        tally=tally,
    )


def _standing_of(verified: Verified) -> CreditReading:
    return CreditReading(
        run=verified.header.run,
        rules=verified.rules,
        round=verified.round,
        block=verified.block,
        final_round=verified.final_round,
        root=verified.root,
        accounts=verified.accounts,
        tally=verified.tally,
    )


def check_file(path: Path, *, watch: Watch | None = None) -> Verified:
    """Verify the export in a file; `watch` is told of each block.

    Raises:
        DataError: it cannot be read, or something in it is not as it must be.
        ModelError: the run's model cannot be built here.
    """
    try:
        with path.open("rb") as stream:
            return verify_export(stream, watch=watch)
    except OSError as error:
        raise DataError(
            f"Cannot read {path}: {error.strerror}.", remedy="Name an export of a ledger."
        ) from error


def run_of(path: Path) -> str:
    """Return the id of the run that an export says it is of. Nothing of it was verified.

    Raises:
        DataError: it cannot be read, or does not begin as an export does.
    """
    try:
        with path.open("rb") as stream:
            line = stream.readline(MAX_HEADER_BYTES + 1).removesuffix(b"\n")
    except OSError as error:
        raise DataError(
            f"Cannot read {path}: {error.strerror}.", remedy="Name an export of a ledger."
        ) from error
    try:
        return cast(Header, parse_line(line, Header)).run
    except DataError as error:
        raise DataError(f"Line 1: {error.args[0]}", remedy=REFUSED) from error


def own_key(home: Path | None) -> SigningKey:
    """Return this peer's key, which signs checkpoints and addresses.

    Raises:
        IdentityError: there is none, or it cannot be used.
    """
    path = home_folder(home) / IDENTITY_KEY
    if not path.exists():
        raise IdentityError(
            f"There is no {path}: a peer's key signs this.",
            remedy="Join a run first, or name another home folder with --home.",
        )
    return load_or_create_key(path)
