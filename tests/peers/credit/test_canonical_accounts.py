"""The accounts as bytes: the same from every derivation, others after any change, and read with distrust."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
import rfc8785
from adventures import SEEDS, adventure
from credit_rounds import PEERS, RULES, Book
from hypothesis import given, settings
from rounds import Swarm

from peers.chain.link import Link
from peers.credit import canonical_accounts as forms
from peers.credit.accounts import Accounts, close_round
from peers.credit.canonical_accounts import canonical_accounts, leaves_of, parse_accounts, pieces_of
from peers.credit.escrow import Account, Pending
from peers.credit.ledger import Ledger
from peers.protocol.key_change import Moved
from recipes.errors import MessageError
from recipes.formats.blake3_tree import digest, leaf_hash, root
from recipes.keys.keys import PeerId, SigningKey
from recipes.layout import PIECE_BYTES

MOVED = SigningKey(digest(b"another key")).peer_id


def eventful(seed: int = 1) -> Book:
    """A history with all that accounts can hold: audits, penalties, expulsions, a retired key."""
    book = adventure(seed)
    book.play(*PEERS, rotations=[Moved("ab" * 32, PEERS[2], MOVED, 1, recovered=False)])
    return book


def full_accounts() -> Accounts:
    """Accounts in which no part is empty."""
    accounts = eventful().accounts
    assert all(getattr(accounts, field.name) for field in fields(Accounts))
    assert any(account.expelled for account in accounts.peers.values())
    assert any(audit.penalties for audit in accounts.audits)
    return accounts


@settings(max_examples=30)
@given(seed=SEEDS)
def test_accounts_survive_the_way_there_and_back(seed: int) -> None:
    accounts = eventful(seed).accounts
    content = canonical_accounts(accounts)
    assert content == rfc8785.dumps(json.loads(content))
    assert parse_accounts(content) == accounts


@settings(max_examples=20)
@given(seed=SEEDS)
def test_accounts_that_were_read_go_on_as_those_that_were_derived(seed: int) -> None:
    book = adventure(seed)
    read = parse_accounts(canonical_accounts(book.accounts))
    for _ in range(12):
        before = len(book.facts)
        book.play(*PEERS[:5])
        read, _ = close_round(read, book.facts[before], book.rules)
    assert canonical_accounts(read) == canonical_accounts(book.accounts)


@settings(max_examples=10)
@given(seed=SEEDS)
def test_texts_that_were_kept_from_block_to_block_are_those_of_a_fresh_derivation(seed: int) -> None:
    book = adventure(seed, rounds=25)
    accounts, written = Accounts(), []
    for facts in book.facts:
        accounts, _ = close_round(accounts, facts, book.rules)
        written.append(canonical_accounts(accounts))
    again = Accounts()
    for number, facts in enumerate(book.facts):
        again, _ = close_round(again, facts, book.rules)
        if number % 5 == 4:
            assert canonical_accounts(again) == written[number]
    assert canonical_accounts(parse_accounts(written[-1])) == written[-1]


def test_accounts_without_anything_are_an_empty_object() -> None:
    assert canonical_accounts(Accounts()) == b"{}"
    assert parse_accounts(b"{}") == Accounts()


def test_a_part_that_names_peers_in_another_order_has_the_same_bytes() -> None:
    accounts = full_accounts()
    turned = replace(
        accounts,
        peers=dict(sorted(accounts.peers.items(), reverse=True)),
        retired=dict(sorted(accounts.retired.items(), reverse=True)),
    )
    assert canonical_accounts(turned) == canonical_accounts(accounts)


# ------------------------------------------------------------ other accounts have other bytes


def leaves_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Each string and each truth in parsed JSON, with the way there."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves_in(inner, (*path, key))
    else:
        yield path, value


def another(value: Any) -> Any:
    """A value that may stand in a place, and does not."""
    if isinstance(value, bool):
        return not value
    if value is None or value.isdigit():
        return str(int(value or 0) + 1)
    return "expelled otherwise" if value not in PEERS else str(MOVED)


def test_each_number_and_each_truth_counts() -> None:
    """Whatever is changed in what was written, what is read is other accounts, or nothing is."""
    content = canonical_accounts(full_accounts())
    checked = 0
    for path, value in list(leaves_in(json.loads(content))):
        parsed = json.loads(content)
        place = parsed
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = another(value)
        changed = rfc8785.dumps(parsed)
        assert changed != content
        try:
            read = parse_accounts(changed)
        except MessageError:  # a word that may not stand there
            continue
        checked += 1
        assert canonical_accounts(read) == changed
        assert root(leaves_of(changed)) != root(leaves_of(content))
    assert checked > 200


def test_each_field_of_the_accounts_and_of_an_account_counts() -> None:
    """Also those that are added later: a field that is left out of the text would be no part of consensus."""
    accounts = full_accounts()
    for field in fields(Accounts):
        default = getattr(Accounts(), field.name)
        assert canonical_accounts(replace(accounts, **{field.name: default})) != canonical_accounts(accounts)
    others: dict[str, Any] = {"joined": 5, "pending": (Pending(1, 2),), "lost": {"audit failed": 1}}
    others["expelled"] = {"ab" * 32: 3}
    for field in fields(Account):
        account = Account(**{field.name: others.get(field.name, 1)})
        content = canonical_accounts(Accounts(peers={PEERS[0]: account}))
        assert content != canonical_accounts(Accounts(peers={PEERS[0]: Account()}))
        assert parse_accounts(content).peers == {PEERS[0]: account}


def test_an_account_that_waits_without_a_passed_audit_is_not_made_anew_in_each_block() -> None:
    """What is due and may not vest becomes one amount, once: idle accounts are not written each time."""
    book = Book(RULES)
    book.play(PEERS[0])
    book.play(PEERS[0])
    book.idle(3 * RULES.escrow_rounds)
    before = book.of(PEERS[0])
    assert len(before.pending) == 1
    book.idle(1)
    assert book.of(PEERS[0]) is before


# ------------------------------------------------------------ in real chains


def test_two_chains_that_hold_the_same_blocks_have_the_same_hash() -> None:
    swarm = Swarm(3)
    other = swarm.fresh_chain()
    link: Link = swarm.genesis
    hashes = {link.ledger.accounts_hash}
    for _ in range(6):
        link = swarm.grow(link, swarm.keys)
        assert link.block is not None
        there = other.add(link.block)
        assert there.ledger.accounts_hash == link.ledger.accounts_hash
        assert there.ledger.accounts_hash == root(leaves_of(canonical_accounts(link.accounts))).hex()
        hashes.add(link.ledger.accounts_hash)
    assert len(hashes) == 7


def test_the_hash_of_no_accounts_stands_at_genesis() -> None:
    assert Ledger().accounts_hash == leaf_hash(b"{}").hex()
    assert Swarm(1).genesis.ledger.accounts_hash == leaf_hash(b"{}").hex()


# ------------------------------------------------------------ pieces, and what is refused


def test_pieces_are_the_bytes_and_the_last_one_may_be_short() -> None:
    content = bytes(range(256)) * (PIECE_BYTES // 256) * 2 + b"rest"
    assert [len(piece) for piece in pieces_of(content)] == [PIECE_BYTES, PIECE_BYTES, 4]
    assert b"".join(pieces_of(content)) == content
    assert leaves_of(content)[2] == leaf_hash(b"rest")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"round":1}',
        b'{"round":"0"}',  # the default is left out
        b'{"round":"1","round":"1"}',
        b'{ "round":"1"}',
        b'{"rounds":"1"}',
        b'{"peers":{"somebody":{}}}',
        b'{"peers":{"' + PEERS[0].encode() + b'":{"joined":"-1"}}}',
        b'{"peers":{"' + PEERS[0].encode() + b'":{"lost":{"no reason":"1"}}}}',
        b'{"peers":{"' + PEERS[0].encode() + b'":{"vested":"1' + b"0" * 39 + b'"}}}',
        b'{"peers":' + b"[" * 100_000,
    ],
)
def test_malformed_accounts_are_refused(content: bytes) -> None:
    with pytest.raises(MessageError, match="Malformed accounts"):
        parse_accounts(content)


def test_accounts_that_are_too_long_are_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "MOST_ACCOUNTS_PIECES", 1)
    with pytest.raises(MessageError, match="at most"):
        parse_accounts(b"{" + b" " * PIECE_BYTES)


def test_accounts_cut_short_anywhere_are_refused() -> None:
    content = canonical_accounts(full_accounts())
    for end in range(1, len(content), 211):
        with pytest.raises(MessageError):
            parse_accounts(content[:end])


@pytest.mark.parametrize("name", [PEERS[0][:-1], PEERS[0] + " ", "", "\U0001f333"])
def test_what_is_no_peers_name_has_no_account(name: str) -> None:
    content = canonical_accounts(Accounts(peers={PeerId(name): Account()}))
    with pytest.raises(MessageError, match="none of the strings"):
        parse_accounts(content)
