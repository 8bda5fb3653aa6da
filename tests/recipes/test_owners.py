"""A recipe may ask for several of its owners: for itself, and for each checkpoint."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from bench import Bench, acquainted, of
from machines import Machine, in_lanes_of_their_own
from rounds import Swarm, fork, keys_of
from texts import TINY, write_texts
from typer import Typer
from typer.testing import CliRunner

from peers.checkpoint import add_word, install_checkpoint, make_checkpoint
from peers.consensus.effects import SaveCheckpoint
from peers.credit.rules import credit_rules
from peers.ledger.export import header_of
from peers.ledger.lines import Header, parse_line
from peers.ledger.verify import grounds_of_recipe
from peers.protocol.messages import Checkpoint, Signed, Vouched, parse, sign, vouch, vouchers
from peers.protocol.rules import Rules
from peers.state.genesis import start_digest
from peers.sync.run_download import adopt_folder
from recipes import sign as command
from recipes.errors import DataError, IdentityError, MessageError, RecipeError, StateError
from recipes.formats.files import write_atomic
from recipes.home import IDENTITY_KEY, OWNER_KEY, run_folder
from recipes.keys.keys import SigningKey, load_or_create_key
from recipes.layout import layout_of
from recipes.publication import Publication, load_publication, load_signed_recipe
from recipes.publish import publish
from recipes.schema.recipe import parse_recipe
from recipes.sign import sign_published
from recipes.signature import add_signature, sign_recipe

OWNERS = keys_of(3, seed="owner")
STRANGER = keys_of(1, seed="stranger")[0]


def home_of(folder: Path, key: SigningKey) -> Path:
    """A home folder with an owner's key."""
    home = folder / f"home of {key.peer_id}"
    write_atomic(home / OWNER_KEY, key.file_bytes(), mode=0o600)
    return home


def template(owners: int = 3, threshold: int = 2) -> bytes:
    names = ", ".join(f'"{key.peer_id}"' for key in OWNERS[:owners])
    asked = f"[run]\nowners = [{names}]\nowner_threshold = {threshold}\n"
    return TINY.read_bytes().replace(b"[run]\n", asked.encode())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Publication:
    """What the first of three owners, of whom it takes two, has published."""
    folder = tmp_path_factory.mktemp("prepared")
    write_texts(folder / "texts")
    (folder / "recipe.toml").write_bytes(template())
    home = home_of(folder, OWNERS[0])
    return publish(folder / "recipe.toml", [str(folder / "texts")], folder / "out", home=home, tell=print)


@pytest.fixture
def folder(prepared: Publication, tmp_path: Path) -> Path:
    shutil.copytree(prepared.folder, tmp_path / "run")
    return tmp_path / "run"


# ---------------------------------------------------------------- the recipe


def test_a_run_that_too_few_owners_signed_is_nobodys_to_join(folder: Path) -> None:
    with pytest.raises(RecipeError, match="needs the signatures of 2 of its owners; it has 1"):
        load_publication(folder)


def test_another_owner_adds_its_signature(folder: Path, tmp_path: Path) -> None:
    added = sign_published(folder, home=home_of(tmp_path, OWNERS[2]))
    assert added.lacking == 0
    assert load_publication(folder).signed.signers == (OWNERS[0].peer_id, OWNERS[2].peer_id)


def test_one_owner_counts_once_however_often_it_signs(folder: Path, tmp_path: Path) -> None:
    for _ in range(2):
        added = sign_published(folder, home=home_of(tmp_path, OWNERS[0]))
        assert added.lacking == 1
    with pytest.raises(RecipeError, match="signatures of 2 of"):
        load_signed_recipe(folder)


def test_a_strangers_signature_counts_for_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="the owners are"):
        sign_published(folder, home=home_of(tmp_path, STRANGER))
    with pytest.raises(IdentityError, match="only an owner"):
        sign_published(folder, home=tmp_path / "empty")
    content, path = (folder / "recipe.toml").read_bytes(), folder / "recipe.sig"
    path.write_bytes(add_signature(content, path.read_bytes(), STRANGER))
    with pytest.raises(RecipeError, match="signatures of 2 of"):
        load_signed_recipe(folder)


def test_a_signature_over_something_else_counts_for_nothing(folder: Path) -> None:
    path = folder / "recipe.sig"
    forged = add_signature(b"something else", path.read_bytes(), OWNERS[1])
    path.write_bytes(forged)
    with pytest.raises(RecipeError, match="signatures of 2 of"):
        load_signed_recipe(folder)


def test_nobody_signs_what_is_damaged(folder: Path, tmp_path: Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError):
        sign_published(folder, home=home_of(tmp_path, OWNERS[1]))


def test_more_owners_than_there_are_cannot_be_asked_for() -> None:
    with pytest.raises(RecipeError, match="not be more than there are owners"):
        parse_recipe(template(owners=2, threshold=3), name="it")
    recipe = parse_recipe(template(owners=2, threshold=2), name="it")
    assert recipe.run.owner_threshold == 2


def test_a_signature_of_before_is_enough_where_one_is_asked_for(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts")
    home = home_of(tmp_path, OWNERS[0])
    made = publish(TINY, [str(tmp_path / "texts")], tmp_path / "out", home=home, tell=print)
    assert made.recipe.run.owner_threshold == 1
    assert (made.folder / "recipe.sig").read_bytes() == sign_recipe(made.signed.content, OWNERS[0])
    assert load_publication(made.folder).signed.signers == (OWNERS[0].peer_id,)


def test_the_command_says_how_many_are_lacking(folder: Path, tmp_path: Path) -> None:
    app = Typer()
    app.command()(command.main)
    for key, words in ((OWNERS[0], "It takes 1 more"), (OWNERS[1], "That is enough")):
        result = CliRunner().invoke(app, [str(folder), "--home", str(home_of(tmp_path, key))])
        assert result.exit_code == 0
        assert words in result.output


def test_an_export_carries_as_many_signatures_as_the_recipe_asks_for(folder: Path, tmp_path: Path) -> None:
    sign_published(folder, home=home_of(tmp_path, OWNERS[1]))
    header = header_of(load_signed_recipe(folder), signer=OWNERS[0].peer_id)
    assert [one.peer for one in header.more] == [OWNERS[1].peer_id]
    assert parse_line(header.canonical(), Header) == header
    assert grounds_of_recipe(header).run == header.run
    alone = header.model_copy(update={"more": ()})
    assert b'"more"' not in alone.canonical()
    with pytest.raises(RecipeError, match="signatures of 2 of"):
        grounds_of_recipe(alone)


# ---------------------------------------------------------------- checkpoints


def checkpoint(*keys: SigningKey, **other: object) -> Vouched:
    """The words of some owners for one block; the last one's says `other`."""
    swarm = Swarm(1)
    link = swarm.grow(swarm.genesis, swarm.keys)
    body = Checkpoint(
        run=swarm.rules.run,
        peer=keys[0].peer_id,
        round=link.round,
        block=link.hash,
        digest=swarm.digests[link.hash],
    )
    return vouch(
        keys[0], body, tuple(word(key, body, **(other if key is keys[-1] else {})) for key in keys[1:])
    )


def word(key: SigningKey, body: Checkpoint, **other: object) -> Signed[Checkpoint]:
    return sign(key, body.model_copy(update={"peer": key.peer_id, **other}))


def test_owners_vouch_for_what_they_say_alike() -> None:
    assert vouchers(checkpoint(*OWNERS)) == {key.peer_id for key in OWNERS}
    assert vouchers(checkpoint(*OWNERS, round=7)) == {key.peer_id for key in OWNERS[:2]}
    assert vouchers(checkpoint(OWNERS[0], OWNERS[0])) == {OWNERS[0].peer_id}


def test_every_word_in_a_checkpoint_is_checked_on_arrival() -> None:
    good = checkpoint(*OWNERS)
    assert parse("checkpoint", good.canonical(), run=good.body.run) == good
    forged = good.words[0].model_copy(update={"signature": "0" * 128})
    bad = good.model_copy(update={"words": (forged, *good.words[1:])})
    with pytest.raises(MessageError, match="does not hold"):
        parse("checkpoint", bad.canonical(), run=good.body.run)


def test_a_peer_follows_a_checkpoint_once_enough_owners_signed_it() -> None:
    bench = Bench(elected=True)
    acquainted(bench)
    owners = tuple(key.peer_id for key in OWNERS)
    bench.engine.context.rules = replace(bench.engine.rules, owners=owners, owner_threshold=2)
    first = bench.swarm.checkpoint(fork(bench.swarm, bench.head, bench.others)[0], key=OWNERS[0])
    strangers = vouch(OWNERS[0], first.body, (word(STRANGER, first.body),))
    otherwise = vouch(OWNERS[0], first.body, (word(OWNERS[1], first.body, round=1),))
    for signed in (first, strangers, otherwise):
        assert not of(bench.receive(bench.others[0], signed), SaveCheckpoint)
    whole = vouch(OWNERS[0], first.body, (word(OWNERS[1], first.body),))
    assert of(bench.receive(bench.others[0], whole), SaveCheckpoint) == [SaveCheckpoint(whole)]


@pytest.fixture
def machines(prepared: Publication, folder: Path, tmp_path: Path) -> list[Machine]:
    """Two owners' machines with the same chain, which it takes both of them to vouch for."""
    sign_published(folder, home=home_of(tmp_path, OWNERS[1]))
    publication = load_publication(folder)
    recipe, run = publication.recipe, publication.run_id
    rules = Rules.of(recipe, run)
    swarm = Swarm(3, segments=rules.segments, genesis_digest=start_digest(recipe, rules, layout_of(recipe)))
    swarm.play_by(credit_rules(recipe, rules))
    publisher = load_or_create_key(home_of(prepared.folder.parent, OWNERS[0]) / IDENTITY_KEY)
    swarm.keys = in_lanes_of_their_own([publisher, *keys_of(50)], swarm)[:3]
    swarm.by_id = {key.peer_id: key for key in swarm.keys}
    found = [Machine(home_of(tmp_path, key), publication, swarm, key) for key in OWNERS[:2]]
    links = found[0].trunk()
    for machine in found:
        adopt_folder(folder, run_folder(machine.home, run))
        machine.keep(links, final=links[-2])
    return found


def test_a_checkpoint_is_kept_by_the_machine_on_which_it_becomes_whole(
    machines: list[Machine], tmp_path: Path
) -> None:
    one, other = machines
    file = tmp_path / "checkpoint.json"
    made = make_checkpoint(one.run, home=one.home)
    assert (made.lacking, one.kept()) == (1, None)
    file.write_bytes(made.checkpoint.canonical())
    with pytest.raises(DataError, match="it lacks 1 more"):
        install_checkpoint(other.run, file, home=other.home)
    again = add_word(one.run, file, home=one.home)  # its own word is there already
    assert (again.lacking, again.checkpoint) == (1, made.checkpoint)
    whole = add_word(other.run, file, home=other.home)
    assert whole.lacking == 0
    assert vouchers(whole.checkpoint) == {one.owner.peer_id, other.owner.peer_id}
    assert other.kept() == whole.checkpoint
    file.write_bytes(whole.checkpoint.canonical())
    assert install_checkpoint(one.run, file, home=one.home) == one.kept() == whole.checkpoint


def test_an_owner_adds_its_word_only_to_what_its_own_machine_holds(
    machines: list[Machine], tmp_path: Path
) -> None:
    one, other = machines
    body = make_checkpoint(one.run, home=one.home).checkpoint.body
    file = tmp_path / "checkpoint.json"
    for changed in ({"block": "ab" * 32}, {"digest": "ab" * 32}):
        file.write_bytes(vouch(one.owner, body.model_copy(update=changed)).canonical())
        with pytest.raises(StateError, match="is another here"):
            add_word(other.run, file, home=other.home)
