"""Checkpoints: what an owner may sign, what a volunteer takes in, and how one heals a torn swarm."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from machines import ROUNDS, Machine, in_lanes_of_their_own
from rounds import Swarm, keys_of
from tiny_run import publish_tiny
from typer import Typer
from typer.testing import CliRunner

from peers import checkpoint as command
from peers.chain.chain import Chain
from peers.chain.fork_choice import best_head
from peers.chain.link import Link
from peers.checkpoint import install_checkpoint, make_checkpoint
from peers.credit.rules import credit_rules
from peers.protocol.messages import Checkpoint, Vouched, sign, vouch
from peers.protocol.rules import Rules
from peers.simulation.simulator import World, WorldForm
from peers.state.block_store import CHAIN_FILE, ChainStore, load_chain
from peers.state.genesis import start_digest
from peers.sync.run_download import adopt_folder
from recipes.errors import DataError, HomeInUseError, IdentityError, RecipeError, StateError
from recipes.home import IDENTITY_KEY, OWNER_KEY, lock_home, run_folder
from recipes.keys.keys import load_or_create_key
from recipes.layout import layout_of
from recipes.publication import Publication


@pytest.fixture(scope="module")
def publication(tmp_path_factory: pytest.TempPathFactory) -> Publication:
    return publish_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def machine(publication: Publication, tmp_path: Path) -> Machine:
    """The owner's machine, on which nothing has happened yet."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    adopt_folder(publication.folder, run_folder(home, publication.run_id))
    owner = load_or_create_key(publication.folder.parent / "home" / OWNER_KEY)
    (home / OWNER_KEY).write_bytes(owner.file_bytes())
    (home / OWNER_KEY).chmod(0o600)
    recipe = publication.recipe
    rules = Rules.of(recipe, publication.run_id)
    swarm = Swarm(3, segments=rules.segments, genesis_digest=start_digest(recipe, rules, layout_of(recipe)))
    swarm.play_by(credit_rules(recipe, rules))
    publisher = load_or_create_key(publication.folder.parent / "home" / IDENTITY_KEY)
    swarm.keys = in_lanes_of_their_own([publisher, *keys_of(50)], swarm)[:3]
    swarm.by_id = {key.peer_id: key for key in swarm.keys}
    return Machine(home, publication, swarm, owner)


# ---------------------------------------------------------------- for an owner


def test_an_owner_signs_the_newest_final_block_with_the_digest_that_its_co_signers_agree_on(
    machine: Machine,
) -> None:
    links = machine.trunk()
    machine.keep(links, final=links[-2])
    made = make_checkpoint(machine.run, home=machine.home)
    body = made.checkpoint.body
    assert (body.round, body.block, body.peer) == (ROUNDS - 1, links[-2].hash, machine.owner.peer_id)
    assert body.digest == machine.swarm.digests[links[-2].hash]
    assert made.was_final
    assert made.checkpoint.holds()
    assert machine.kept() == made.checkpoint


def test_a_published_folder_names_its_run(machine: Machine) -> None:
    links = machine.trunk()
    machine.keep(links, final=links[-2])
    made = make_checkpoint(str(machine.publication.folder), home=machine.home)
    assert made.checkpoint.body.block == links[-2].hash


def test_of_two_branches_the_block_is_that_of_the_one_on_which_this_machine_stands(machine: Machine) -> None:
    links, swarm = machine.trunk(), machine.swarm
    tips = []
    for key in swarm.keys[:2]:
        middle = swarm.grow(links[-1], [key], cosigned=False)
        tips.append(swarm.add(swarm.block(middle, [key], cosigners=[key])))
        machine.keep([*links, middle, tips[-1]], final=links[-2])
    for number, tip in enumerate(tips):
        machine.stand_on(tip)
        if number:
            ChainStore(machine.folder / CHAIN_FILE)._write(
                "DELETE FROM memory WHERE name = ?", ("checkpoint",)
            )
        made = make_checkpoint(machine.run, home=machine.home, round_number=ROUNDS + 1)
        assert made.checkpoint.body.block == tip.parent
        assert not made.was_final


def test_only_rounds_of_which_this_machine_holds_the_words_can_be_vouched_for(machine: Machine) -> None:
    links = machine.trunk()
    machine.keep(links, final=links[-2])
    machine.stand_on(links[-1])
    for number, reason in ((ROUNDS, "no co-signature of the block"), (ROUNDS + 1, "no block of round 7")):
        with pytest.raises(StateError, match=reason):
            make_checkpoint(machine.run, home=machine.home, round_number=number)
    assert make_checkpoint(machine.run, home=machine.home, round_number=2).checkpoint.body.round == 2


def test_without_a_final_block_an_owner_names_the_round(machine: Machine) -> None:
    with pytest.raises(StateError, match="No block of this run is final"):
        make_checkpoint(machine.run, home=machine.home)


def test_peers_would_not_heed_an_older_checkpoint_so_none_is_made(machine: Machine) -> None:
    links = machine.trunk()
    machine.keep(links, final=links[-2])
    newest = make_checkpoint(machine.run, home=machine.home).checkpoint
    assert make_checkpoint(machine.run, home=machine.home).checkpoint == newest
    with pytest.raises(StateError, match="A checkpoint of round 5 is here already"):
        make_checkpoint(machine.run, home=machine.home, round_number=4)
    assert machine.kept() == newest


def test_only_an_owner_signs(machine: Machine) -> None:
    (machine.home / OWNER_KEY).unlink()
    with pytest.raises(IdentityError, match="only an owner"):
        make_checkpoint(machine.run, home=machine.home)
    load_or_create_key(machine.home / OWNER_KEY)
    with pytest.raises(IdentityError, match="this run's owners are"):
        make_checkpoint(machine.run, home=machine.home)


def test_a_run_that_was_never_joined_from_this_home_has_no_chain(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="never been joined"):
        make_checkpoint(machine.run, home=tmp_path / "elsewhere")


def test_neither_works_while_a_peer_works_in_the_home(machine: Machine, tmp_path: Path) -> None:
    with lock_home(machine.home):
        with pytest.raises(HomeInUseError):
            make_checkpoint(machine.run, home=machine.home)
        with pytest.raises(HomeInUseError):
            install_checkpoint(machine.run, tmp_path / "file", home=machine.home)


# ---------------------------------------------------------------- for a volunteer


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("rounds", [2, 5], ids=["older", "newer"])
def test_a_volunteer_goes_by_the_checkpoint_that_it_took(
    machine: Machine, tmp_path: Path, rounds: int, settled: bool
) -> None:
    """Its own branch, final there by words or by time alone, gives way to the owner's."""
    swarm = machine.swarm
    links = machine.trunk()
    lost = swarm.grow(links[-2], swarm.keys[:1], rounds, cosigned=False)
    won = swarm.grow(links[-1], swarm.keys, 2, cosigned=False)
    machine.keep([*links, *(swarm.chain.path(links[-1].hash, won.hash) or [])])
    machine.keep(swarm.chain.path(links[-2].hash, lost.hash) or [], final=lost, settled=settled)
    assert loaded(machine).final == lost.hash
    file = tmp_path / "checkpoint.json"
    file.write_bytes(checkpoint(machine, won).canonical() + b"\n")
    taken = install_checkpoint(machine.run, file, home=machine.home)
    assert machine.kept() == taken
    assert loaded(machine).final == won.hash
    assert best_head(loaded(machine), lost.hash) == won.hash


@pytest.mark.parametrize("damage", ["not there", "cut", "changed", "of another run", "of a stranger", "long"])
def test_a_file_that_no_owner_signed_for_this_run_is_refused(
    machine: Machine, tmp_path: Path, damage: str
) -> None:
    good = checkpoint(machine, machine.trunk(1)[-1])
    stranger = keys_of(1, seed="stranger")[0]
    contents = {
        "cut": good.canonical()[:-9],
        "changed": good.canonical().replace(b'"round":1', b'"round":2'),
        "of another run": sign(machine.owner, good.body.model_copy(update={"run": "ab" * 32})).canonical(),
        "of a stranger": sign(stranger, good.body.model_copy(update={"peer": stranger.peer_id})).canonical(),
        "long": good.canonical() + b" " * (12 << 10) + b"x",
    }
    file = tmp_path / "file"
    if damage in contents:
        file.write_bytes(contents[damage])
    with pytest.raises(DataError) as refused:
        install_checkpoint(machine.run, file, home=machine.home)
    assert str(file) in str(refused.value)
    assert refused.value.exit_code == 5
    assert machine.kept() is None


def test_an_older_checkpoint_than_the_one_that_is_here_is_not_taken(machine: Machine, tmp_path: Path) -> None:
    older, newer = (checkpoint(machine, link) for link in machine.trunk(2))
    for number, signed in enumerate((older, newer)):
        (tmp_path / str(number)).write_bytes(signed.canonical())
    install_checkpoint(machine.run, tmp_path / "1", home=machine.home)
    install_checkpoint(machine.run, tmp_path / "1", home=machine.home)
    with pytest.raises(StateError, match="A checkpoint of round 2 is here already"):
        install_checkpoint(machine.run, tmp_path / "0", home=machine.home)
    assert machine.kept() == newer


def checkpoint(machine: Machine, link: Link) -> Vouched:
    """What the owner would sign on another machine."""
    body = Checkpoint(
        run=machine.run,
        peer=machine.owner.peer_id,
        round=link.round,
        block=link.hash,
        digest=machine.swarm.digests[link.hash],
    )
    return vouch(machine.owner, body)


def loaded(machine: Machine) -> Chain:
    """The chain with which a peer would start here."""
    store = ChainStore(machine.folder / CHAIN_FILE)
    try:
        return load_chain(store, machine.swarm.credit, genesis_digest=machine.swarm.genesis_digest)
    finally:
        store.close()


# ---------------------------------------------------------------- the command

app = Typer()
app.command()(command.main)


def test_what_one_command_writes_the_other_takes(machine: Machine, tmp_path: Path) -> None:
    links = machine.trunk()
    machine.keep(links, final=links[-2])
    file, volunteer = tmp_path / "checkpoint.json", tmp_path / "volunteer"
    adopt_folder(machine.publication.folder, run_folder(volunteer, machine.run))
    made = CliRunner().invoke(app, [machine.run, "--home", str(machine.home), "--out", str(file)])
    assert made.exit_code == 0, made.output
    assert json.loads(file.read_text()) == json.loads(made.stdout)
    assert "round 5 is final here" in made.stderr
    taken = CliRunner().invoke(app, [machine.run, "--home", str(volunteer), "--take", str(file)])
    assert taken.exit_code == 0, taken.output
    assert "Took the checkpoint of round 5" in taken.output
    assert replace(machine, home=volunteer).kept() == machine.kept()


def test_an_error_is_a_sentence_and_an_exit_code(machine: Machine) -> None:
    failed = CliRunner().invoke(app, [machine.run, "--home", str(machine.home)])
    assert failed.exit_code == StateError.exit_code
    assert failed.stderr.startswith("Error: No block of this run is final on this machine yet.\n")
    both = CliRunner().invoke(app, [machine.run, "--take", "file", "--round", "3"])
    assert both.exit_code == 2


# ---------------------------------------------------------------- a torn swarm

OWNER = keys_of(1, seed="owner")[0]
HALF = ("p0", "p1", "p2", "p3")
TORN_AT = 7  # before anything vests, so both halves weigh the same


def torn_world() -> World:
    """Two halves, cut off from each other for far more rounds than a peer goes back, a minute after that."""
    world = World(seed=3, peers=8, form=WorldForm(window_seconds=5.0, owners=(OWNER.peer_id,)))
    for name in world.peers:
        world.start(name)
    world.run(until_round=TORN_AT)
    apart_until = world.now + 240
    world.partition(set(HALF), at=world.now, until=apart_until)
    world.run(until_round=10**6, at_most_seconds=apart_until + 60)
    chains = [peer.running.chain for peer in world.peers.values()]
    assert all(len({*chain.link(chain.final).say.weights.values()}) == 1 for chain in chains)
    return world


def branches(world: World) -> set[str]:
    """The blocks that all peers hold of the newest round that all have."""
    newest = min(world.round_of(name) for name in world.peers)
    return {world.block_at(name, newest) for name in world.peers}


def signed_for(world: World, name: str) -> Vouched:
    """What an owner signs for the branch of a peer: not its head, of which not everybody's word is known."""
    chain = world.peers[name].running.chain
    link = chain.link(chain.link(world.peers[name].running.head).parent)
    digest = chain.digest_after(link.hash)
    assert digest is not None
    body = Checkpoint(
        run=world.rules.run, peer=OWNER.peer_id, round=link.round, block=link.hash, digest=digest
    )
    return vouch(OWNER, body)


@pytest.mark.parametrize("taker", ["p1", "p6"])
def test_one_peer_that_is_handed_a_checkpoint_heals_a_swarm_in_two_branches(taker: str) -> None:
    """`taker` is of the half whose branch the owner chose, or of the other."""
    world = torn_world()
    assert len(branches(world)) == 2
    apart = min(world.round_of(name) for name in world.peers)
    finals = [peer.running.chain for peer in world.peers.values()]
    assert max(chain.link(chain.final).round for chain in finals) < apart - world.rules.rewind_depth
    checkpoint = signed_for(world, "p0")
    assert checkpoint.body.round > TORN_AT + world.rules.rewind_depth
    world.crash(taker, at=world.now)
    world.at(world.now + 0.1, lambda: setattr(world.peers[taker].disk, "checkpoint", checkpoint))
    world.start(taker, at=world.now + 0.2)
    world.run(until_round=10**6, at_most_seconds=world.now + 90)
    assert len(branches(world)) == 1
    assert min(world.round_of(name) for name in world.peers) > apart + 2
    for name, peer in world.peers.items():
        chain = peer.running.chain
        assert world.block_at(name, checkpoint.body.round) == checkpoint.body.block
        assert chain.link(chain.final).round > checkpoint.body.round
        assert peer.disk.checkpoint == checkpoint
