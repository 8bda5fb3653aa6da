"""Getting all that a recipe names: from a folder at hand, or from peers of whom some lie."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from rounds import keys_of
from tiny_run import RECIPE

import peers.sync.run_download
from peers.network.loopback import LoopbackNetwork, LoopbackTransport
from peers.network.transport import Handler
from peers.node.serving import serve_publication
from peers.protocol.events import Event, Fetching, Listeners, Refused
from peers.protocol.length_prefixed import join_parts, split_parts
from peers.protocol.requests import decode_data
from peers.sync.run_download import Run, adopt_folder, fetch_run
from recipes.errors import StorageError, UnreachableError
from recipes.keys.keys import PeerId
from recipes.publication import Publication, load_publication
from recipes.publish import publish

Alter = Callable[[bytes], bytes]
HONEST, LIAR, EMPTY, GONE, NEWCOMER = (key.peer_id for key in keys_of(5))


@pytest.fixture(scope="module")
def publication(tmp_path_factory: pytest.TempPathFactory) -> Publication:
    """A run with several pieces of data."""
    folder = tmp_path_factory.mktemp("publication")
    text = folder / "text"
    text.mkdir()
    for number in range(8):
        (text / f"{number}.txt").write_text("".join(f"{number} x {n} = {number * n}\n" for n in range(5_500)))
    (folder / "recipe.toml").write_text(RECIPE)
    published = publish(
        folder / "recipe.toml", [str(text)], folder / "run", home=folder / "home", tell=lambda _: None
    )
    assert len(published.manifest.train.pieces) > 1
    return published


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask again at once."""
    monkeypatch.setattr(peers.sync.run_download, "_PAUSE_SECONDS", 0.0)


class Neighbours:
    """The peers about a newcomer, on one neighbours; what they were asked, and the lies that some tell."""

    def __init__(self, *about: PeerId) -> None:
        self.about = list(about)
        self.asked: list[tuple[PeerId, str]] = []
        self.pieces_asked: set[str] = set()
        self.looks = 0
        self.events: list[Event] = []
        self._network = LoopbackNetwork()
        self._newcomer = self._network.join(NEWCOMER)
        for peer in about:
            if peer != GONE:
                self._network.join(peer)

    def hold(self, peer: PeerId, publication: Publication, **lies: Alter) -> None:
        """Let a peer serve a publication, with some kinds of answers altered."""
        holder = Holder(self, self._network.join(peer), lies)
        serve_publication(holder, Run(publication.folder, publication.signed, publication.manifest))  # type: ignore[arg-type]

    def offences(self) -> int:
        """What the newcomer holds against the others, in all."""
        return sum(self._newcomer.conduct().offences.values())

    def peers(self) -> list[PeerId]:
        return self.about

    async def look_around(self) -> tuple[PeerId, ...]:
        self.looks += 1
        return tuple(self.about)

    async def fetch(self, publication: Publication, folder: Path) -> Run:
        return await fetch_run(
            publication.run_id,
            folder,
            transport=self._newcomer,
            crowd=self,
            listener=Listeners(self.events.append),
        )


@dataclass
class Holder:
    """A peer that holds a publication: its transport, on which what it is asked is noted, and it may lie."""

    neighbours: Neighbours
    transport: LoopbackTransport
    lies: dict[str, Alter]

    def serve(self, kind: str, handler: Handler, *, limit: int, purpose: str | None = None) -> None:
        async def answer(asker: PeerId, body: bytes) -> bytes:
            self.neighbours.asked.append((self.transport.peer_id, kind))
            if kind == "data":
                self.neighbours.pieces_asked.add(decode_data(body)[0])
            content = await handler(asker, body)
            return self.lies[kind](content) if kind in self.lies else content

        self.transport.serve(kind, answer, limit=limit, purpose=purpose)


def files(folder: Path) -> dict[str, bytes]:
    names = ("recipe.toml", "recipe.sig", "tokenizer.json", "manifest.json")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in [*(folder / name for name in names), *(folder / "data").iterdir()]
    }


# ---------------------------------------------------------------- a folder at hand


def test_a_folder_is_adopted_with_all_that_it_holds(publication: Publication, tmp_path: Path) -> None:
    adopt_folder(publication.folder, tmp_path / "run")
    assert load_publication(tmp_path / "run").run_id == publication.run_id
    adopt_folder(publication.folder, tmp_path / "run")  # once more does no harm


def test_a_folder_on_another_file_system_is_copied(
    publication: Publication, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    adopt_folder(publication.folder, tmp_path / "run")
    assert load_publication(tmp_path / "run").run_id == publication.run_id
    assert not (tmp_path / "run" / "recipe.toml").samefile(publication.folder / "recipe.toml")


def test_a_copy_that_is_cut_short_leaves_nothing_that_looks_whole(
    publication: Publication, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tear(origin: Path, target: Path) -> None:
        target.write_bytes(origin.read_bytes()[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "another file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "hardlink_to", refuse)
        patch.setattr("shutil.copyfile", tear)
        with pytest.raises(StorageError, match="No space left"):
            adopt_folder(publication.folder, tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.toml").exists()
    adopt_folder(publication.folder, tmp_path / "run")
    assert load_publication(tmp_path / "run").run_id == publication.run_id


async def test_what_a_folder_at_hand_lacks_is_fetched(publication: Publication, tmp_path: Path) -> None:
    adopt_folder(publication.folder, tmp_path / "run")
    (tmp_path / "run" / "tokenizer.json").unlink()
    neighbours = Neighbours(HONEST)
    neighbours.hold(HONEST, publication)
    await neighbours.fetch(publication, tmp_path / "run")
    assert neighbours.asked == [(HONEST, "tokenizer")]
    assert files(tmp_path / "run") == files(publication.folder)


async def test_with_everything_at_hand_nobody_is_asked(publication: Publication, tmp_path: Path) -> None:
    adopt_folder(publication.folder, tmp_path / "run")
    neighbours = Neighbours()
    run = await neighbours.fetch(publication, tmp_path / "run")
    assert (neighbours.asked, neighbours.looks) == ([], 0)
    assert run.manifest == publication.manifest


# ---------------------------------------------------------------- from the swarm


async def test_everything_is_fetched_from_a_peer_that_has_it(
    publication: Publication, tmp_path: Path
) -> None:
    neighbours = Neighbours(GONE, EMPTY, HONEST)
    neighbours.hold(HONEST, publication)
    run = await neighbours.fetch(publication, tmp_path / "run")
    assert files(run.folder) == files(publication.folder)
    assert run.signed == publication.signed
    pieces = len(list((publication.folder / "data").iterdir()))
    progress = [event for event in neighbours.events if isinstance(event, Fetching)]
    assert progress[-1] == Fetching("data", pieces, pieces)


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def signed_by_somebody_else(content: bytes) -> bytes:
    recipe, signature = split_parts(content, most=2)
    document = json.loads(signature)
    document["signatures"][0]["peer"] = LIAR
    return join_parts([recipe, json.dumps(document).encode()])


def another_recipe(content: bytes) -> bytes:
    recipe, signature = split_parts(content, most=2)
    return join_parts([recipe.replace(b"learning_rate", b"learning_rate "), signature])


LIES: list[tuple[str, Alter]] = [
    ("recipe", flipped),
    ("recipe", another_recipe),
    ("recipe", signed_by_somebody_else),
    ("recipe", lambda _: b""),
    ("recipe", lambda _: b"\xff" * 100),
    ("tokenizer", flipped),
    ("tokenizer", lambda _: b"{}"),
    ("manifest", flipped),
    ("manifest", lambda _: b"[]"),
    ("data", flipped),
    ("data", lambda content: content[:-1]),
    ("data", lambda _: b""),
]


@pytest.mark.parametrize(("kind", "lie"), LIES)
async def test_a_liar_is_named_and_passed_over(
    publication: Publication, tmp_path: Path, kind: str, lie: Alter
) -> None:
    neighbours = Neighbours(LIAR, HONEST)
    neighbours.hold(HONEST, publication)
    neighbours.hold(LIAR, publication, **{kind: lie})
    run = await neighbours.fetch(publication, tmp_path / "run")
    assert files(run.folder) == files(publication.folder)
    refused = [event for event in neighbours.events if isinstance(event, Refused)]
    assert {(event.peer, event.which or event.kind) for event in refused} == {(LIAR, kind)}
    assert neighbours.offences()


async def test_an_interrupted_fetch_goes_on_where_it_stopped(
    publication: Publication, tmp_path: Path
) -> None:
    neighbours = Neighbours(LIAR)
    data = tmp_path / "run" / "data"

    def dries_up(content: bytes) -> bytes:
        return content if not data.exists() or not list(data.iterdir()) else b""

    neighbours.hold(LIAR, publication, data=dries_up)
    with pytest.raises(UnreachableError):
        await neighbours.fetch(publication, tmp_path / "run")
    have = {path.name for path in data.iterdir()}
    assert have
    again = Neighbours(HONEST)
    again.hold(HONEST, publication)
    await again.fetch(publication, tmp_path / "run")
    assert files(tmp_path / "run") == files(publication.folder)
    pieces = {path.name for path in (publication.folder / "data").iterdir()}
    assert again.pieces_asked == pieces - have
    assert {kind for _, kind in again.asked} == {"data"}


@pytest.mark.parametrize("name", ["recipe.toml", "recipe.sig", "tokenizer.json", "manifest.json", "data"])
async def test_what_the_disk_damaged_is_fetched_again(
    publication: Publication, tmp_path: Path, name: str
) -> None:
    neighbours = Neighbours(HONEST)
    neighbours.hold(HONEST, publication)
    await neighbours.fetch(publication, tmp_path / "run")
    path = tmp_path / "run" / name
    path = next(path.iterdir()) if path.is_dir() else path
    path.write_bytes(flipped(path.read_bytes()))
    neighbours.asked.clear()
    neighbours.pieces_asked.clear()
    await neighbours.fetch(publication, tmp_path / "run")
    assert files(tmp_path / "run") == files(publication.folder)
    assert len({kind for _, kind in neighbours.asked}) == 1
    assert len(neighbours.pieces_asked) == (name == "data")


async def test_if_nobody_has_it_each_one_tried_is_named_with_the_reason(
    publication: Publication, tmp_path: Path
) -> None:
    neighbours = Neighbours(GONE, EMPTY, LIAR)  # only the last does what no honest peer does
    neighbours.hold(LIAR, publication, recipe=another_recipe)
    with pytest.raises(UnreachableError) as raised:
        await neighbours.fetch(publication, tmp_path / "run")
    text = str(raised.value)
    assert f"{GONE}: Cannot reach {GONE}" in text
    assert f"{EMPTY}: Nobody here serves 'recipe'" in text
    assert f"{LIAR}: sent what it must not" in text
    assert "--peer" in raised.value.remedy
    assert neighbours.offences()


async def test_if_nobody_is_about_it_says_so(publication: Publication, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="Nobody was found to ask"):
        await Neighbours().fetch(publication, tmp_path / "run")


async def test_a_peer_that_turns_up_a_moment_later_is_asked(publication: Publication, tmp_path: Path) -> None:
    class Slow(Neighbours):
        async def look_around(self) -> tuple[PeerId, ...]:
            self.about = [HONEST] if self.looks >= 2 else []
            return await super().look_around()

    neighbours = Slow()
    neighbours.hold(HONEST, publication)
    run = await neighbours.fetch(publication, tmp_path / "run")
    assert files(run.folder) == files(publication.folder)


async def test_a_full_disk_ends_the_fetch_instead_of_blaming_peers(
    publication: Publication, tmp_path: Path
) -> None:
    (tmp_path / "run").write_text("in the way")
    neighbours = Neighbours(HONEST)
    neighbours.hold(HONEST, publication)
    with pytest.raises(StorageError):
        await neighbours.fetch(publication, tmp_path / "run")
