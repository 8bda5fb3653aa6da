"""A swarm in parts: the heavier one's rounds stand when they meet; of two that time settled, the owner's."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from rounds import keys_of
from typer import Typer
from typer.testing import CliRunner

from peers import simulate
from peers.chain.chain import trunk_below
from peers.consensus.engine import RoundEngine
from peers.protocol.events import Rewound
from peers.protocol.messages import Block, Checkpoint, Signed, Vouched, vouch
from peers.simulation.partition import Healing, Split, cut_apart, meet
from peers.simulation.simulator import World, WorldForm
from peers.simulation.virtual_disk import DiskAfter
from recipes.keys.keys import SigningKey

OWNERS = keys_of(2, seed="owner")
ROUNDS = 10


@dataclass(frozen=True)
class Story:
    split: Split
    healing: Healing

    @property
    def world(self) -> World:
        return self.split.world


# ---------------------------------------------------------------- five and three, for ten rounds


@pytest.fixture(scope="module")
def story() -> Story:
    world = World(seed=1, peers=8)
    split = cut_apart(world, (5, 3))
    world.run(until_round=split.after_round + ROUNDS)
    return Story(split, meet(split))


def test_five_and_three_peers_apart_for_ten_rounds_heal_into_one_chain_and_one_state(story: Story) -> None:
    world, healing = story.world, story.healing
    assert min(healing.reached) >= story.split.after_round + ROUNDS
    assert healing.seconds is not None
    assert healing.seconds < 3 * world.rules.window_seconds
    newest = min(world.round_of(name) for name in world.peers)
    for number in range(story.split.after_round, newest + 1):
        assert len({world.block_at(name, number) for name in world.peers}) == 1
    head = world.block_at("p0", newest)
    assert len({peer.disk.digests[head] for peer in world.peers.values()}) == 1
    finals = {peer.running.chain.link(peer.running.chain.final).round for peer in world.peers.values()}
    assert min(finals) > max(healing.reached)


def test_while_they_are_apart_nothing_that_either_makes_is_final(story: Story) -> None:
    assert story.healing.final_apart == frozenset()


def test_only_the_three_go_back_and_their_rounds_are_gone_from_the_chain(story: Story) -> None:
    heavier, lighter = story.split.parts
    assert set(story.healing.undone) == set(lighter)
    assert min(story.healing.undone.values()) >= ROUNDS
    assert len(story.healing.lost) >= ROUNDS
    for peer in story.world.peers.values():
        assert not {signed.hash for signed in blocks_below(peer.running)} & story.healing.lost
    assert not any(
        isinstance(event, Rewound)
        for at, name, event in story.world.events
        if name in heavier and at > story.split.cut_at
    )


def test_all_that_the_three_sent_in_the_lost_rounds_returns_to_their_error_feedback(story: Story) -> None:
    claims = {
        claim.hash
        for name in story.split.parts[1]
        for signed in story.world.peers[name].disk.blocks
        if signed.hash in story.healing.lost
        for claim in signed.body.roster.body.claims
    }
    assert len(claims) >= 2 * ROUNDS
    assert story.healing.returned == dict.fromkeys(claims, story.world.rules.segments)


def blocks_below(engine: RoundEngine) -> list[Signed[Block]]:
    links = trunk_below(engine.chain, engine.head).values()
    return [link.block for link in links if link.block is not None]


# ---------------------------------------------------------------- two halves, both settled by time

HALVES = (("p0", "p1"), ("p2", "p3"))


@pytest.fixture
def settled() -> World:
    """Two halves that each took its own branch for final, and that have met again since: to no avail."""
    world = World(
        seed=2,
        peers=4,
        form=WorldForm(window_seconds=5.0, owners=tuple(key.peer_id for key in OWNERS)),
    )
    split = cut_apart(world, (2, 2))
    assert split.parts == HALVES
    world.run(until_round=split.after_round + world.rules.settled_depth + 2)
    assert meet(split).seconds is None
    for names in HALVES:
        for name in names:
            chain = world.peers[name].running.chain
            assert chain.link(chain.final).round > split.after_round
            assert world.peers[name].disk.settled is not None
    return world


def word_for(world: World, name: str, *, below: int = 1, owner: SigningKey = OWNERS[0]) -> Vouched:
    """What an owner signs for a peer's branch, some rounds below its head."""
    chain = world.peers[name].running.chain
    link = chain.link(world.block_at(name, world.round_of(name) - below))
    digest = chain.digest_after(link.hash)
    assert digest is not None
    body = Checkpoint(
        run=world.rules.run, peer=owner.peer_id, round=link.round, block=link.hash, digest=digest
    )
    return vouch(owner, body)


def hand_over(world: World, name: str, checkpoint: Vouched) -> None:
    """As `python -m peers.checkpoint` does: the peer is stopped, and finds the file when it starts again."""
    world.crash(name, at=world.now)
    world.at(world.now + 0.1, lambda: setattr(world.peers[name].disk, "checkpoint", checkpoint))
    world.start(name, at=world.now + 0.2)


def require_one_chain_by(world: World, checkpoint: Vouched, *, before: int) -> None:
    """All stand on the owner's block, and newer ones than those of round `before` are final on top of it."""
    newest = min(world.round_of(name) for name in world.peers)
    assert len({world.block_at(name, newest) for name in world.peers}) == 1
    for peer in world.peers.values():
        chain, engine = peer.disk.chain(world.credit), peer.running  # as it would be after a restart
        assert chain.is_final(checkpoint.body.block)
        assert chain.final == engine.chain.final
        assert chain.link(chain.final).round > before
        assert engine.chain.stands_on(engine.head, chain.final)
        assert peer.disk.checkpoint == checkpoint


@pytest.mark.parametrize(
    ("taker", "newest_final"),
    [("p1", False), ("p3", True)],
    ids=["a late block, handed to its own half", "the final block, handed to the other half"],
)
def test_a_checkpoint_handed_to_one_peer_brings_both_halves_onto_one_chain(
    settled: World, taker: str, newest_final: bool
) -> None:
    world, before = settled, max(map(settled.round_of, settled.peers))
    chain = world.peers["p0"].running.chain
    below = world.round_of("p0") - chain.link(chain.final).round if newest_final else 1
    checkpoint = word_for(world, "p0", below=below)
    hand_over(world, taker, checkpoint)
    world.run(until_round=before + 12, at_most_seconds=world.now + 240)
    require_one_chain_by(world, checkpoint, before=before)


@pytest.mark.parametrize(
    "disk",
    [
        DiskAfter.KEPT,
        pytest.param(DiskAfter.TORN, marks=pytest.mark.slow),
        pytest.param(DiskAfter.LOST, marks=pytest.mark.slow),
    ],
)
def test_who_is_killed_between_the_word_and_its_block_ends_on_the_same_chain(
    settled: World, disk: DiskAfter
) -> None:
    world, before = settled, max(map(settled.round_of, settled.peers))
    checkpoint = word_for(world, "p0")
    world.partition(set(HALVES[0]), at=world.now, until=world.now + 40)  # nobody can give its block
    hand_over(world, "p3", checkpoint)
    world.run(until_round=10**6, at_most_seconds=world.now + 15)
    for name in HALVES[1]:
        assert world.peers[name].running.chain.awaits_decreed
        world.crash(name, at=world.now, disk=disk if name == "p2" else DiskAfter.KEPT)
        world.start(name, at=world.now + 1)
    world.run(until_round=before + 12, at_most_seconds=world.now + 240)
    require_one_chain_by(world, checkpoint, before=before)


def test_of_two_owners_words_for_two_branches_the_newer_wins_with_everybody(settled: World) -> None:
    """The machine of the second owner was off meanwhile: it holds the state of the branch that it means."""
    world, before = settled, max(map(settled.round_of, settled.peers))
    number = min(map(world.round_of, world.peers)) - 2
    older = word_for(world, "p0", below=world.round_of("p0") - number + 4)
    newer = word_for(world, "p2", below=world.round_of("p2") - number, owner=OWNERS[1])
    assert older.body.round < newer.body.round
    world.crash("p2", at=world.now)
    hand_over(world, "p1", older)
    world.run(until_round=10**6, at_most_seconds=world.now + 20)
    assert {world.peers[name].disk.checkpoint for name in ("p0", "p1", "p3")} == {older}
    hand_over(world, "p2", newer)
    world.run(until_round=before + 12, at_most_seconds=world.now + 400)
    require_one_chain_by(world, newer, before=before)


# ---------------------------------------------------------------- the command

app = Typer()
app.command()(simulate.main)


def test_the_command_tells_how_a_split_heals() -> None:
    told = CliRunner().invoke(app, ["--seed", "3", "--split", "3,1", "--rounds", "2"])
    assert told.exit_code == 0, told.output
    assert "p0 p1 p2 and p3 are cut off from each other" in told.output
    assert "p0 p1 p2: " in told.output
    assert "All on one chain, in one state" in told.output


@pytest.mark.parametrize("sizes", ["5", "5,0", "a,b", "5,"])
def test_parts_that_are_none_are_refused(sizes: str) -> None:
    refused = CliRunner().invoke(app, ["--split", sizes])
    assert refused.exit_code == 2
    assert "no list of sizes" in refused.output
