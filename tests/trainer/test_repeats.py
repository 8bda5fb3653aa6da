"""One line where there would be thousands."""

from __future__ import annotations

from peers.protocol.events import Event, Notice, Refused, Validated
from recipes.keys.keys import PeerId
from trainer.repeats import SHOWN, SPELL_SECONDS, Repeats


def test_of_thousands_that_say_the_same_a_few_are_shown_and_the_rest_is_counted() -> None:
    repeats, shown = Repeats(), []
    for number in range(6584):
        shown += repeats.pass_on(Notice("x"), f"No snapshot of round {number}.", now=number / 100)
    assert shown[:SHOWN] == [f"No snapshot of round {number}." for number in range(SHOWN)]
    assert len(shown) == 2 * SHOWN + 1
    assert shown[SHOWN] == "(5997 more like this within 60 s, the last: No snapshot of round 5999.)"
    assert repeats.rest() == ["(581 more like this within 60 s, the last: No snapshot of round 6583.)"]
    assert repeats.rest() == []


def test_different_sentences_and_figures_are_all_shown() -> None:
    repeats = Repeats()
    peers = [PeerId(f"12D3KooW{number}") for number in range(3)]
    events: list[Event] = [Refused(peer, "claim", "late") for peer in peers]
    events += [Notice("one"), Notice("two"), *(Validated(number, 2.0) for number in range(9))]
    sentences = [
        f"sentence of {type(event).__name__} {word}"
        for event, word in zip(events, "abcdefghijklmn", strict=True)
    ]
    shown = [
        line
        for event, text in zip(events, sentences, strict=True)
        for line in repeats.pass_on(event, text, now=0.0)
    ]
    assert shown == sentences


def test_a_new_spell_begins_when_one_is_over() -> None:
    repeats = Repeats()
    for _ in range(SHOWN):
        assert repeats.pass_on(Notice("x"), "again", now=0.0) == ["again"]
    assert repeats.pass_on(Notice("x"), "again", now=1.0) == []
    assert repeats.pass_on(Notice("x"), "", now=SPELL_SECONDS) == [
        "(1 more like this within 60 s, the last: again)"
    ]
    assert repeats.pass_on(Notice("x"), "again", now=SPELL_SECONDS) == ["again"]
