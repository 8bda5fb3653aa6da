"""Getting everything that a recipe names: from a folder at hand, or from the swarm, checked by hash.

The run id vouches for the recipe's bytes, the recipe for its owner's signature, its tokenizer and its
manifest, and the manifest for each piece of data. What is in the run's folder already is not fetched again.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from peers.network.discovery import SourceFinder
from peers.network.transport import RemoteError, Request, Transport
from peers.protocol.events import Listener, Notice, Refused
from peers.protocol.length_prefixed import split_parts
from peers.protocol.requests import Span, encode_data
from peers.protocol.round_reasons import RefusedKind
from peers.sync.piece_download import PieceDownload, Wanted
from recipes.corpus import MAXIMUM_MANIFEST_BYTES, CorpusManifest, PartName, parse_manifest
from recipes.errors import (
    DataError,
    ManyhandsError,
    MessageError,
    Offence,
    RecipeError,
    StorageError,
    UnreachableError,
)
from recipes.formats.blake3_tree import digest
from recipes.formats.files import write_atomic
from recipes.genesis import GENESIS_WEIGHTS
from recipes.keys.keys import PeerId
from recipes.publication import (
    DATA_FOLDER,
    MANIFEST_FILE,
    RECIPE_FILE,
    SIGNATURE_FILE,
    TOKENIZER_FILE,
    SignedRecipe,
    check_signed,
    damaged_pieces,
    load_manifest,
    load_signed_recipe,
)
from recipes.schema.recipe import MAXIMUM_RECIPE_BYTES, published, run_id
from recipes.signature import MAXIMUM_SIGNATURE_BYTES
from recipes.tokenizer import MAXIMUM_TOKENIZER_BYTES, load_tokenizer

_STALL_SECONDS = 30.0  # without a byte of an answer
_CALL_SECONDS = 600.0  # for one that comes slowly
_ROUNDS_OF_ASKING = 5  # looking around in between: peers may take a moment to be found
_PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class Run:
    """A run whose recipe, manifest, tokenizer and data are in `folder`, every one of them checked."""

    folder: Path
    signed: SignedRecipe
    manifest: CorpusManifest

    @property
    def data(self) -> Path:
        """The folder of the pieces of tokens."""
        return self.folder / DATA_FOLDER


def adopt_folder(source: Path, folder: Path) -> None:
    """Take what a publication's folder holds into the run's folder, by link where the disk can.

    Raises:
        StorageError: the disk refuses.
    """
    files = [RECIPE_FILE, SIGNATURE_FILE, TOKENIZER_FILE, MANIFEST_FILE, str(GENESIS_WEIGHTS)]
    files += [f"{DATA_FOLDER}/{piece.name}" for piece in (source / DATA_FOLDER).glob("*")]
    for name in files:
        origin, target = source / name, folder / name
        if not origin.exists() or target.exists():
            continue
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.hardlink_to(origin)
            except OSError:  # another file system
                torn = target.with_name(f".{target.name}.copying")
                shutil.copyfile(origin, torn)
                torn.replace(target)
        except OSError as error:
            raise StorageError(
                f"Cannot copy {origin} to {target}: {error.strerror}.",
                remedy="Free some space, or choose another home with $MANYHANDS_HOME or --home.",
            ) from error


async def fetch_run(
    wanted_id: str,
    folder: Path,
    *,
    transport: Transport,
    crowd: SourceFinder,
    listener: Listener,
    parts: Collection[PartName] = ("train", "validation"),
) -> Run:
    """Have everything about the run in `folder`, fetching from the swarm what is missing there.

    Of the data, only `parts` are fetched: a peer that does not train needs no text to train on.

    Raises:
        UnreachableError: no peer that answers has it.
        RecipeError: the recipe's signature does not hold.
        StorageError: the disk refuses.
    """
    asker = _Asker(transport, crowd, listener)
    signed = await _recipe(wanted_id, folder, asker)
    genesis = published(signed.recipe)
    listener.tell(Notice(f"The recipe {signed.recipe.run.name} is signed by {', '.join(signed.signers)}."))
    await _tokenizer(folder, bytes.fromhex(genesis.tokenizer), asker)
    manifest = await _manifest(folder, signed, bytes.fromhex(genesis.manifest), asker)
    await _data(folder, manifest, asker, parts)
    return Run(folder, signed, manifest)


class _Asker:
    """Asks one peer after the other for something small, until one gives what passes the check."""

    def __init__(self, transport: Transport, crowd: SourceFinder, listener: Listener) -> None:
        self.transport, self.crowd, self.listener = transport, crowd, listener

    async def ask(self, kind: str, *, limit: int, check: Callable[[bytes], None]) -> None:
        reasons: dict[PeerId, str] = {}
        for attempt in range(_ROUNDS_OF_ASKING):
            if attempt:
                await asyncio.sleep(_PAUSE_SECONDS)
            await self.crowd.look_around()
            for peer in self.crowd.peers():
                try:
                    content = await self.transport.call(
                        peer,
                        Request(
                            kind,
                            b"",
                            limit=limit,
                            timeout=_CALL_SECONDS,
                            stall=_STALL_SECONDS,
                            purpose="data",
                        ),
                    )
                    check(content)
                except (RecipeError, DataError, MessageError) as error:
                    self.listener.tell(Refused(peer, "recipe", str(error), which=kind))
                    self.transport.blame(peer, _as_lie(error))
                    reasons[peer] = f"sent what it must not: {error}"
                except (UnreachableError, RemoteError) as error:
                    reasons[peer] = str(error)
                else:
                    return
        tried = (
            "".join(f"\n  {peer}: {reason}" for peer, reason in reasons.items())
            or " Nobody was found to ask."
        )
        raise UnreachableError(
            f"No peer could give the run's {kind}.{tried}",
            remedy="Check the run id, and that one of the peers named with --peer takes part in this run.",
        )


def _as_lie(error: ManyhandsError) -> MessageError:
    """Return the offence of a peer whose answer a reader of files refused: it is not what was named."""
    return error if isinstance(error, MessageError) else MessageError(str(error), offence=Offence.FALSE)


async def _recipe(wanted_id: str, folder: Path, asker: _Asker) -> SignedRecipe:
    try:
        signed = load_signed_recipe(folder)
        if signed.run_id == wanted_id:
            return signed
    except RecipeError:
        pass  # not here, or damaged

    def check(content: bytes) -> None:
        parts = split_parts(content, most=2)
        if len(parts) != 2 or run_id(parts[0]) != wanted_id:
            raise MessageError("another recipe than the run id names", offence=Offence.FALSE)
        check_signed(parts[0], parts[1], name="the recipe")
        write_atomic(folder / SIGNATURE_FILE, parts[1])
        write_atomic(folder / RECIPE_FILE, parts[0])

    await asker.ask("recipe", limit=MAXIMUM_RECIPE_BYTES + MAXIMUM_SIGNATURE_BYTES + 8, check=check)
    return load_signed_recipe(folder)


async def _tokenizer(folder: Path, expected: bytes, asker: _Asker) -> None:
    path = folder / TOKENIZER_FILE
    try:
        load_tokenizer(path, expected=expected)
        return
    except DataError:
        pass

    def check(content: bytes) -> None:
        if digest(content) != expected:
            raise MessageError("another tokenizer than the recipe names", offence=Offence.FALSE)
        write_atomic(path, content)

    await asker.ask("tokenizer", limit=MAXIMUM_TOKENIZER_BYTES, check=check)
    load_tokenizer(path, expected=expected)


async def _manifest(folder: Path, signed: SignedRecipe, expected: bytes, asker: _Asker) -> CorpusManifest:
    try:
        return load_manifest(folder, signed.recipe)
    except DataError:
        pass

    def check(content: bytes) -> None:
        parse_manifest(content, expected=expected)
        write_atomic(folder / MANIFEST_FILE, content)

    await asker.ask("manifest", limit=MAXIMUM_MANIFEST_BYTES, check=check)
    return load_manifest(folder, signed.recipe)


@dataclass(frozen=True)
class _DataPieces:
    """The pieces of tokens in a run's folder: a `PieceStore`."""

    folder: Path
    damaged: frozenset[str]  # pieces that are missing or not intact, by name
    what: str = "data"
    refused_as: RefusedKind = "data"

    def has(self, piece: Wanted) -> bool:
        return piece.name not in self.damaged

    def request(self, piece: Wanted, part: Span, *, timeout: float) -> Request:
        body = encode_data(piece.hash, part)
        return Request("data", body, limit=part.length, timeout=timeout, purpose="data")

    def keep(self, piece: Wanted, content: bytes) -> None:
        write_atomic(self.folder / DATA_FOLDER / piece.name, content)


async def _data(folder: Path, manifest: CorpusManifest, asker: _Asker, parts: Collection[PartName]) -> None:
    damaged = frozenset(await asyncio.to_thread(damaged_pieces, folder, manifest, parts))
    if not damaged:
        return
    pieces = {piece.hash: piece for name in parts for piece in manifest.part(name).pieces}
    wanted = [Wanted(name=name, hash=bytes.fromhex(name), size=piece.bytes) for name, piece in pieces.items()]
    await asker.crowd.look_around()
    download = PieceDownload(asker.transport, asker.crowd, asker.listener)
    await download.fetch(wanted, _DataPieces(folder, damaged))
