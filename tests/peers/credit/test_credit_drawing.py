"""Who is audited and by whom each elector draws for itself: the same everywhere, and nobody's choice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from itertools import pairwise

import pytest
from credit_rounds import PEERS, RULES, UNAUDITED, Book
from hypothesis import given
from hypothesis import strategies as st
from rounds import RUN, keys_of, name

from peers.credit.accounts import Accounts
from peers.credit.accounts_draft import Page
from peers.credit.audit import Audit, Drawing, Work
from peers.credit.audit_transitions import draw_audits
from peers.credit.entries import MOST_AUDITORS
from peers.credit.escrow import Account
from peers.credit.rotation import Retired
from peers.credit.rules import MILLION
from peers.credit.sampling import DRAWN_AFTER, Lottery, steps_to_replay
from recipes.keys.keys import PeerId

SEED = bytes.fromhex(name("seed"))
RATES = [(0, 0.0), (50_000, 0.05), (250_000, 0.25), (MILLION, 1.0)]
WEIGHTS = st.lists(st.integers(1, 10**6), min_size=1, max_size=40).map(
    lambda weights: {PeerId(f"peer {number}"): weight for number, weight in enumerate(weights)}
)


def lottery(weights: Mapping[PeerId, int], round_number: int | str = 0, author: str = "author") -> Lottery:
    """The draw of one claim of a round."""
    return Lottery(
        run=RUN,
        beacon=name(f"beacon {round_number}"),
        author=PeerId(author),
        shown={peer: name(f"shown/{peer}/{round_number}") for peer in weights},
        weights=weights,
    )


def lotteries(weights: Mapping[PeerId, int], count: int) -> Iterable[Lottery]:
    """The draws of claims of many rounds, a hundred authors each."""
    return (lottery(weights, number // 100, f"author {number % 100}") for number in range(count))


def alike(count: int) -> dict[PeerId, int]:
    return {PeerId(f"peer {number}"): 1 for number in range(count)}


# ------------------------------------------------------------ one claim's draw


@pytest.mark.parametrize(("rate", "share"), RATES)
@pytest.mark.parametrize("weights", [alike(1), alike(30), {**alike(3), PeerId("heavy"): 50}], ids=len)
def test_the_share_of_claims_that_is_drawn_is_the_rate_however_many_draw(
    weights: dict[PeerId, int], rate: int, share: float
) -> None:
    drawn = sum(one.is_drawn(rate) for one in lotteries(weights, 4000))
    assert drawn / 4000 == pytest.approx(share, abs=0.02 if 0 < share < 1 else 0)


@pytest.mark.parametrize("rate", [250_000, MILLION])
def test_auditors_come_first_in_proportion_to_their_weight_among_the_claims_that_are_drawn(rate: int) -> None:
    weights = {**alike(6), PeerId("heavy"): 2}
    drawn = [one for one in lotteries(weights, 4000) if one.is_drawn(rate)]
    firsts = Counter(one.order()[0] for one in drawn)
    for peer, weight in weights.items():
        assert firsts[peer] / len(drawn) == pytest.approx(weight / 8, abs=0.045)


def test_one_auditor_in_a_draw_is_no_likelier_first_in_the_next() -> None:
    orders = [one.order() for one in lotteries(alike(8), 2000)]
    again = sum(one[0] == other[0] for one, other in pairwise(orders))
    assert again / 2000 == pytest.approx(1 / 8, abs=0.03)


@given(weights=WEIGHTS, number=st.integers(0, 10**6))
def test_the_order_names_everybody_once_up_to_a_bound(weights: dict[PeerId, int], number: int) -> None:
    auditors = lottery(weights, number).order()
    assert len(set(auditors)) == len(auditors) == min(MOST_AUDITORS, len(weights))
    assert set(auditors) <= set(weights)


@given(weights=WEIGHTS, order=st.randoms(use_true_random=False))
def test_the_draw_does_not_depend_on_the_order_of_a_dictionary(
    weights: dict[PeerId, int], order: random.Random
) -> None:
    shuffled = list(weights.items())
    order.shuffle(shuffled)
    one, other = lottery(weights), lottery(dict(shuffled))
    assert one.order() == other.order()
    assert one.is_drawn(250_000) == other.is_drawn(250_000)


@pytest.mark.parametrize(
    "other",
    [
        {"run": name("another run")},
        {"beacon": name("another beacon")},
        {"author": PeerId("another author")},
        {"shown": {peer: name(f"another of {peer}") for peer in alike(20)}},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_run_beacon_author_or_chain_draws_other_auditors(other: dict[str, object]) -> None:
    one = lottery(alike(20))
    assert replace(one, **other).order() != one.order()  # type: ignore[arg-type]


def test_what_one_elector_shows_moves_its_own_turn_alone() -> None:
    one = lottery(alike(9))
    mover = one.order()[4]
    other = replace(one, shown={**one.shown, mover: name("another preimage")})
    rest = [[peer for peer in draw.order() if peer != mover] for draw in (one, other)]
    assert rest[0] == rest[1]
    assert one.order() != other.order()


@pytest.mark.parametrize(("place", "changes"), [(0, True), (1, True), (2, False)])
def test_what_is_replayed_takes_a_number_of_the_first_auditor_and_of_the_second(
    place: int, changes: bool
) -> None:
    one = lottery(alike(5))
    auditors = one.order()
    other = replace(one, shown={**one.shown, auditors[place]: name("another preimage")})
    seeds = [draw.seed(name("claim"), auditors) for draw in (one, other)]
    assert (seeds[0] != seeds[1]) == changes


def test_what_is_replayed_depends_on_the_claim_the_round_and_the_run() -> None:
    one = lottery(alike(5))
    auditors = one.order()
    draws = [one, replace(one, beacon=name("another")), replace(one, run=name("another"))]
    seeds = {draw.seed(name("claim"), auditors) for draw in draws} | {one.seed(name("other"), auditors)}
    assert len(seeds) == 4


# ------------------------------------------------------------ a block's draws


def work(author: PeerId, claim: str = "claim") -> Work:
    return replace(Book().work(PEERS[0], 1), claim=name(f"{claim} of {author}"), peer=author, signer=author)


WORKS = [work(key.peer_id) for key in keys_of(3000, seed="author")]


def draw(
    works: Iterable[Work],
    *,
    auditors: Collection[PeerId] = PEERS,
    shown: Collection[PeerId] = PEERS,
    rate: int = MILLION,
    vested: Mapping[PeerId, int] | None = None,
    expelled: Collection[PeerId] = (),
    retired: Collection[PeerId] = (),
) -> list[Audit]:
    """What the block of round 3 draws of claims of round 1."""
    accounts = {peer: Account(vested=amount) for peer, amount in (vested or {}).items()}
    accounts |= {peer: Account(expelled={name("cause"): 10}) for peer in expelled}
    page = Page(
        1 + DRAWN_AFTER,
        replace(RULES, newcomer_rate=rate, least_rate=rate),
        accounts,
        retired={peer: Retired(PeerId("successor"), 1) for peer in retired},
    )
    return draw_audits(
        page,
        works,
        Drawing(1, name("beacon"), tuple(sorted(auditors))),
        {peer: name(f"shown by {peer}") for peer in shown},
        accounts,
        mean_claim=100,
    )


def firsts(audits: Iterable[Audit]) -> Counter[PeerId]:
    return Counter(audit.auditors[0] for audit in audits)


@pytest.mark.parametrize("showing", [1, 3, 8])
def test_who_shows_nothing_does_not_draw_and_the_chance_in_all_stays_the_rate(showing: int) -> None:
    audits = draw(WORKS, shown=PEERS[:showing], rate=250_000)
    assert firsts(audits).keys() == set(PEERS[:showing])
    assert len(audits) / len(WORKS) == pytest.approx(0.25, abs=0.03)


def test_who_was_no_elector_in_the_claims_roster_does_not_draw_whatever_it_shows_later() -> None:
    audits = draw(WORKS[:300], auditors=PEERS[:3])
    assert firsts(audits).keys() == set(PEERS[:3])
    assert draw(WORKS[:300], auditors=()) == []


def test_an_author_never_audits_itself_and_its_chance_stays_the_rate() -> None:
    claims = [work(PEERS[number % 8]) for number in range(8)]
    assert all(set(audit.auditors) == {*PEERS} - {audit.work.peer} for audit in draw(claims))
    alone = draw([work(PEERS[0]), work(PEERS[1])], auditors=PEERS[:1])
    assert [audit.work.peer for audit in alone] == [PEERS[1]]
    drawn = 0
    for number in range(1000):
        book = Book(replace(RULES, newcomer_rate=250_000, least_rate=250_000))
        book.accounts = Accounts(round=number)
        book.play(PEERS[0])
        book.idle(DRAWN_AFTER)
        drawn += len(book.entries_of("audit"))
    assert drawn / 1000 == pytest.approx(0.25, abs=0.04)


def test_whoever_is_expelled_or_retired_draws_nothing() -> None:
    audits = draw(WORKS[:300], expelled=PEERS[:2], retired=PEERS[2:4])
    assert firsts(audits).keys() == set(PEERS[4:])
    assert all(set(audit.auditors) == set(PEERS[4:]) for audit in audits)


def test_auditors_weigh_by_vested_credit_and_all_without_any_draw_a_tenth() -> None:
    audits = draw(WORKS, vested={PEERS[0]: 100, PEERS[1]: 300})
    share = {peer: count / len(audits) for peer, count in firsts(audits).items()}
    assert share[PEERS[0]] == pytest.approx(0.9 * 2 / 6, abs=0.03)
    assert share[PEERS[1]] == pytest.approx(0.9 * 4 / 6, abs=0.03)
    assert sum(share[peer] for peer in PEERS[2:]) == pytest.approx(0.1, abs=0.03)


def test_an_author_cannot_choose_its_auditors_by_what_it_claims() -> None:
    drawn = draw([work(PEERS[0], f"claim {number}") for number in range(20)])
    assert len({audit.auditors for audit in drawn}) == 1
    assert len({audit.seed for audit in drawn}) == 20


def test_an_audit_says_who_audits_it_and_by_what_seed() -> None:
    book = Book()
    book.play(PEERS[1])
    book.idle(DRAWN_AFTER)
    [entry] = book.entries_of("audit")
    audit = book.audit
    assert (entry.auditors, entry.seed, entry.steps) == (audit.auditors, audit.seed, audit.steps)
    assert audit.drawn == entry.round == 1 + DRAWN_AFTER


def test_the_rate_at_which_a_claim_is_drawn_follows_its_authors_passes_before_the_draw() -> None:
    book = Book(replace(RULES, newcomer_rate=MILLION, least_rate=0), passes=10**9)
    book.play(PEERS[1])
    book.idle(DRAWN_AFTER)
    assert book.entries_of("audit") == []


def _expel(book: Book) -> None:
    account = Account(expelled={name("cause"): 10})
    book.accounts = replace(book.accounts, peers={**book.accounts.peers, PEERS[2]: account})


def _retire(book: Book) -> None:
    book.accounts = replace(book.accounts, retired={PEERS[2]: Retired(PeerId("successor"), 2)})


@pytest.mark.parametrize("happens", [_expel, _retire])
def test_an_elector_that_goes_between_a_claim_and_its_draw_does_not_draw_it(
    happens: Callable[[Book], None],
) -> None:
    book = Book()
    book.play(PEERS[1])
    book.play()
    happens(book)
    book.play()
    assert set(book.audit.auditors) == {*PEERS} - {PEERS[1], PEERS[2]}


def test_each_rounds_claims_are_drawn_once_and_by_their_own_rounds_beacon_and_auditors() -> None:
    book = Book()
    book.play(PEERS[1], electors=frozenset(PEERS[:2]))
    book.play(PEERS[1], electors=frozenset(PEERS[1:3]))
    book.idle(4)
    assert [(entry.round, entry.auditors) for entry in book.entries_of("audit")] == [
        (3, (PEERS[0],)),
        (4, (PEERS[2],)),
    ]
    assert book.accounts.counted == ()
    assert [one.round for one in book.accounts.drawings] == [5, 6]


def test_no_audits_are_drawn_at_a_rate_of_nothing() -> None:
    book = Book(UNAUDITED)
    for _ in range(10):
        book.play(*PEERS)
    assert book.entries_of("audit") == []


# ------------------------------------------------------------ how much is replayed


def test_audits_replay_whole_windows_unless_the_recipe_says_otherwise() -> None:
    rules = RULES.__class__(protocol=RULES.protocol, batch_slots=4, flops_per_token=1)
    assert {steps_to_replay(SEED, name(str(number)), 10, rules) for number in range(1000)} == {10}


def test_where_a_fifth_of_audits_replays_all_the_others_replay_any_prefix() -> None:
    rules = RULES.__class__(
        protocol=RULES.protocol, batch_slots=4, flops_per_token=1, full_replay_rate=200_000
    )
    counts = Counter(steps_to_replay(SEED, name(str(number)), 10, rules) for number in range(5000))
    assert set(counts) == set(range(1, 11))
    assert counts[10] / 5000 == pytest.approx(0.2 + 0.8 / 10, abs=0.03)
    assert counts[1] / 5000 == pytest.approx(0.8 / 10, abs=0.02)


def test_the_audit_rate_falls_with_passes_to_a_floor_and_starts_again_at_none() -> None:
    rules = RULES.__class__(
        protocol=RULES.protocol, batch_slots=4, flops_per_token=1, calibrated=frozenset({"cpu-fp32"})
    )
    rates = [rules.audit_rate(passes=n, numeric_class="cpu-fp32") for n in (0, 9, 10, 20, 30, 10**6)]
    assert rates == [150_000, 150_000, 150_000, 75_000, 50_000, 35_000]
    assert rules.audit_rate(passes=0, numeric_class="cuda-bf16") == 35_000
