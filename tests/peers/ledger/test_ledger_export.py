"""Exports of a ledger: what is written is verified, and nothing else is."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
from ledgers import blocks_of, export, ground, header, verified
from rounds import GENESIS_DIGEST, Swarm, fork, name

from peers.chain.link import genesis_hash
from peers.credit.rfc9162_tree import consistent
from peers.credit.tally import Totals, totals_of
from peers.ledger.derive import Derivation, Ground, bring_up, derive
from peers.ledger.export import write_export
from peers.ledger.lines import MAX_HEADER_BYTES, Header, block_line, entry_line, parse_line
from peers.ledger.note import TreeHead, key_of, origin_of, parse_note, parse_tree_head, sign_note
from peers.ledger.store import LedgerStore
from peers.protocol.messages import Block, Signed, sign
from peers.simulation.simulator import World
from peers.simulation.virtual_disk import RUN
from recipes.errors import DataError, OutdatedError
from recipes.formats.canonical import canonical_json
from recipes.schema.recipe import MAXIMUM_RECIPE_BYTES


@lru_cache
def made(rounds: int = 9, peers: int = 3) -> tuple[Swarm, Ground, tuple[Signed[Block], ...], bytes]:
    """A swarm's chain of some rounds, and its export."""
    swarm = Swarm(peers, segments=1)
    on = ground(swarm)
    head = swarm.grow(swarm.genesis, swarm.keys, rounds)
    blocks = tuple(blocks_of(swarm, head))
    return swarm, on, blocks, export(swarm, blocks, on)


def test_an_export_is_verified_and_says_what_the_chain_amounts_to() -> None:
    _, on, blocks, content = made()
    found = verified(content, on)
    assert (found.round, found.block) == (9, blocks[-1].hash)
    *_, last = derive(on, blocks)
    assert found.accounts == last.accounts
    assert found.totals == totals_of(last.accounts)
    assert found.tally.kinds["claim"] == 27
    assert found.tally.kinds["join"] == 3
    assert found.checkpoints == 5
    assert found.final_round > 0


def test_a_chain_that_a_simulated_swarm_made_is_exported_and_verified() -> None:
    world = World(seed=3, peers=3)
    for peer_name in world.peers:
        world.start(peer_name, at=0.0)
    world.run(until_round=4)
    peer = next(iter(world.peers.values()))
    blocks: list[Signed[Block]] = []
    parent = genesis_hash(RUN)
    for signed in sorted(peer.disk.blocks, key=lambda signed: signed.body.round):
        if signed.body.parent == parent:
            blocks.append(signed)
            parent = signed.hash
    assert len(blocks) >= 4
    swarm = Swarm(1)
    on = Ground(world.credit, GENESIS_DIGEST)
    found = verified(export(swarm, blocks, on), on)
    assert found.totals.earned == found.totals.pending > 0
    assert found.claims.linked > 0
    assert found.claims.elsewhere == 0


def test_a_chain_without_a_block_has_an_export_too() -> None:
    swarm, on, _, _ = made()
    found = verified(export(swarm, [], on), on)
    assert (found.round, found.tally.entries) == (0, 0)
    assert found.totals == Totals(0, 0, 0, 0)


def test_long_chains_are_followed_with_few_blocks_in_memory() -> None:
    swarm = Swarm(2, segments=1)
    blocks = blocks_of(swarm, swarm.grow(swarm.genesis, swarm.keys, 300))
    on = ground(swarm)
    derivation = Derivation(on)
    for signed in blocks:
        derivation.follow(signed)
        assert len(derivation._chain.links) <= 130
    assert derivation.final_round >= 297
    assert derivation.accounts.round == 300


def test_checkpoints_are_notes_whose_proofs_lead_from_one_to_the_next() -> None:
    swarm, _, _, content = made()
    found = [json.loads(line) for line in content.splitlines()]
    notes = [line for line in found if line["kind"] == "checkpoint"]
    heads = []
    for line in notes:
        note = parse_note(line["note"].encode())
        assert note.verify([key_of(swarm.keys[0].peer_id)])
        heads.append(parse_tree_head(note.text))
    assert len(heads) == 5
    for before, after, line in zip(heads, heads[1:], notes[1:], strict=False):
        proof = [bytes.fromhex(node) for node in line["proof"]]
        assert consistent(before.size, before.root, after.size, after.root, proof)


# ---------------------------------------------------------------- tampering


def test_any_byte_that_is_changed_is_found_in_its_line() -> None:
    _, on, _, content = made(4, 2)
    places = range(0, len(content), 211)
    assert len(places) > 80
    for turn, place in enumerate(places):
        changed = bytearray(content)
        changed[place] ^= (0x01, 0x20, 0x80, 0x55)[turn % 4]
        line = content.count(b"\n", 0, place) + 1
        with pytest.raises(DataError, match=rf"^Line {line}: "):
            verified(bytes(changed), on)


def test_an_export_cut_at_any_line_is_refused() -> None:
    _, on, _, content = made(4, 2)
    lines = content.splitlines(keepends=True)
    for count in range(len(lines)):
        with pytest.raises(DataError, match=rf"^Line {count + 1}: "):
            verified(b"".join(lines[:count]), on)
    with pytest.raises(DataError, match="after the last line"):
        verified(content + b"\n", on)


def drop(kind: str, which: int = 0) -> Callable[[list[bytes]], list[bytes]]:
    def change(lines: list[bytes]) -> list[bytes]:
        numbers = [n for n, line in enumerate(lines) if b'"kind":"%b"' % kind.encode() in line[-2000:]]
        return [line for n, line in enumerate(lines) if n != numbers[which]]

    return change


def swap(kind: str) -> Callable[[list[bytes]], list[bytes]]:
    def change(lines: list[bytes]) -> list[bytes]:
        one, other = [n for n, line in enumerate(lines) if line.startswith(kind.encode())][1:3]
        lines[one], lines[other] = lines[other], lines[one]
        return lines

    return change


def without_a_round(lines: list[bytes]) -> list[bytes]:
    """Leave out the block of the second round, and what it adds."""
    blocks = [n for n, line in enumerate(lines) if line.startswith(b'{"block"')]
    return lines[: blocks[1]] + lines[blocks[2] :]


def richer(lines: list[bytes]) -> list[bytes]:
    """Give the first claim a hundred times what it is worth."""
    place = next(n for n, line in enumerate(lines) if b'"kind":"claim"' in line)
    lines[place] = lines[place].replace(b'"amount":"', b'"amount":"9')
    return lines


def richer_end(lines: list[bytes]) -> list[bytes]:
    lines[-1] = lines[-1].replace(b'"earned":"', b'"earned":"9')
    return lines


def another_signer(lines: list[bytes]) -> list[bytes]:
    other = Swarm(2).keys[1].peer_id.encode()
    lines[0] = lines[0].replace(Swarm(1).keys[0].peer_id.encode(), other)
    return lines


def without_last_checkpoint(lines: list[bytes]) -> list[bytes]:
    return [*lines[:-2], lines[-1]]


def respelled(old: bytes, new: bytes) -> Callable[[list[bytes]], list[bytes]]:
    """Write something that means the same in another way."""

    def change(lines: list[bytes]) -> list[bytes]:
        place = next(n for n, line in enumerate(lines) if old in line)
        lines[place] = lines[place].replace(old, new, 1)
        return lines

    return change


def another_proof(lines: list[bytes]) -> list[bytes]:
    place = [n for n, line in enumerate(lines) if b'"kind":"checkpoint"' in line][1]
    start = lines[place].index(b'"proof":["') + len(b'"proof":["')
    lines[place] = lines[place][:start] + b"0" * 64 + lines[place][start + 64 :]
    return lines


def signed_for(*, origin: str = origin_of(RUN), size: int = 5) -> Callable[[list[bytes]], list[bytes]]:
    """Have the signer sign another tree than that of the lines before its first checkpoint."""

    def change(lines: list[bytes]) -> list[bytes]:
        place = next(n for n, line in enumerate(lines) if b'"kind":"checkpoint"' in line)
        stated = json.loads(lines[place])
        text = TreeHead(origin, size, bytes(32)).text()
        lines[place] = canonical_json({**stated, "note": sign_note(text, Swarm(1).keys).format()})
        return lines

    return change


TAMPERED: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "malformed block: it is not in canonical form": respelled(b'"norms":[1]', b'"norms":[1.0]'),
    "malformed block: it is not in canonical form ": respelled(b'{"block":{"body":', b'{"block":{"body": '),
    "Not in canonical form": respelled(b'{"kind":"checkpoint",', b'{"kind": "checkpoint",'),
    "Not in canonical form ": respelled(b'{"kind":"header",', b'{ "kind":"header",'),
    "A proof that does not lead": another_proof,
    "A checkpoint of 5 entries that is not": signed_for(),
    "A checkpoint of another ledger": signed_for(origin="manyhands/another"),
    "does not stand on the one before": without_a_round,
    "not the entry that the block": drop("entry", 3),
    "in canonical form|does not lead": drop("checkpoint"),
    "from column": swap('{"entry"'),
    "not the entry that the block of round 1": richer,
    "The last line is wrong in its totals": richer_end,
    "nobody whose key is known": another_signer,
    "No checkpoint was signed": without_last_checkpoint,
    "where a block, checkpoint or end may be": lambda lines: [*lines[:-1], b"{}", lines[-1]],
    "of kind 'header'": lambda lines: [*lines[:-1], lines[0], lines[-1]],
    "Malformed: version": lambda lines: [lines[0].replace(b'"version":3', b'"version":0'), *lines[1:]],
    "No owner of this recipe": lambda lines: [lines[0].replace(b"simulated", b"Simulated"), *lines[1:]],
}


@pytest.mark.parametrize("reason", TAMPERED)
def test_a_tampered_export_is_refused_with_the_reason(reason: str) -> None:
    _, on, _, content = made(4, 2)
    lines = TAMPERED[reason](content.splitlines())
    with pytest.raises(DataError, match=rf"(?s)^Line \d+: .*({reason.rstrip()})"):
        verified(b"\n".join(lines) + b"\n", on)


@pytest.mark.parametrize(
    ("version", "remedy"), [(2, "the build that wrote it"), (4, "Install a newer build")]
)
def test_an_export_of_another_version_is_not_called_tampered_with(version: int, remedy: str) -> None:
    _, on, _, content = made(4, 2)
    with pytest.raises(OutdatedError, match=rf"of version {version}, .*reads version 3\.\n.*{remedy}"):
        verified(content.replace(b'"version":3', b'"version":%d' % version, 1), on)


def test_a_block_that_the_rules_do_not_allow_is_refused_though_it_is_signed() -> None:
    swarm, on, blocks, content = made(4, 2)
    last = blocks[-1].body
    parent = swarm.chain.link(last.parent)
    honest = swarm.claim(swarm.keys[1], parent).body
    greedy = sign(swarm.keys[1], honest.model_copy(update={"slots": ((0, 10**6),)}))
    forged = swarm.block(parent, (), roster=swarm.roster([greedy], parent), cosignatures=last.cosignatures)
    lines = content.splitlines()
    place = next(n for n, line in enumerate(lines) if line == block_line(blocks[-1]))
    lines[place] = block_line(forged)
    with pytest.raises(DataError, match=rf"^Line {place + 1}: The block is not valid in its place: .*slots"):
        verified(b"\n".join(lines) + b"\n", on)


def test_a_block_with_a_forged_signature_inside_is_refused() -> None:
    _, on, blocks, content = made(4, 2)
    block = blocks[2]
    cosignature = block.body.cosignatures[0]
    forged = cosignature.model_copy(update={"signature": "0" * 128})
    body = block.body.model_copy(update={"cosignatures": (forged, *block.body.cosignatures[1:])})
    changed = block.model_copy(update={"body": body})
    lines = content.replace(block_line(block), block_line(changed))
    with pytest.raises(DataError, match=r"signature of .* does not hold"):
        verified(lines, on)


def test_a_line_that_never_ends_is_refused_without_being_read(monkeypatch: pytest.MonkeyPatch) -> None:
    _, on, _, content = made(4, 2)
    monkeypatch.setattr("peers.ledger.verify.MAX_LINE_BYTES", 40_000)
    first, rest = content.split(b"\n", 1)
    with pytest.raises(DataError, match="Line 2: a line that is too long"):
        verified(first + b"\n" + b"x" * 50_000 + rest, on)


@pytest.mark.parametrize("line", [0, 1])
def test_a_long_line_that_is_no_blocks_is_refused_without_being_parsed(line: int) -> None:
    _, on, _, content = made(4, 2)
    lines = content.splitlines(keepends=True)
    lines[line] = b'{"kind":"end","x":"%b"}\n' % (b"x" * MAX_HEADER_BYTES)
    with pytest.raises(DataError, match=rf"^Line {line + 1}: (Malformed: 54\d+ bytes|A line of kind '')"):
        verified(b"".join(lines), on)


def test_the_longest_recipe_fits_into_a_header() -> None:
    longest = header(made()[0]).model_copy(update={"recipe": '"\n' * (MAXIMUM_RECIPE_BYTES // 2)})
    assert parse_line(longest.canonical(), Header) == longest


# ---------------------------------------------------------------- the ledger on disk


def test_a_ledger_on_disk_follows_the_chain_to_another_branch(tmp_path: Path) -> None:
    swarm = Swarm(4, segments=1)
    on = ground(swarm)
    trunk = swarm.grow(swarm.genesis, swarm.keys, 6)
    order = [swarm.by_id[peer] for peer in swarm.order(trunk)]
    one, other = fork(swarm, trunk, order, order[1:])
    store = LedgerStore(tmp_path / "ledger.sqlite")
    for head in (trunk, one, other, trunk):
        bring_up(store, derive(on, blocks_of(swarm, head)))
        out = io.BytesIO()
        written = write_export(
            out, derive(on, blocks_of(swarm, head)), header=header(swarm), key=swarm.keys[0]
        )
        known = store.head()
        assert known is not None
        assert (known.round, known.block, known.root) == (head.round, head.hash, written.root)
        stated = [line for line in out.getvalue().splitlines() if line.startswith(b'{"entry"')]
        kept = store.entries(0, store.size)
        assert stated == [entry_line(number, entry) for number, entry in enumerate(kept)]
    store.close()


def test_the_run_of_these_tests_is_that_of_the_recipe_in_their_exports() -> None:
    assert header(made()[0]).run == RUN != name("another")
