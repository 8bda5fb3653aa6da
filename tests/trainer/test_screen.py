"""What volunteers and the demo's audience read."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import pytest
from rich.console import Console

from peers.consensus.engine import RoundEngine
from peers.consensus.round_state import Phase
from peers.network.traffic import TrafficMeter
from peers.protocol.events import (
    Banned,
    BlockAdopted,
    Claimed,
    Diverged,
    Event,
    Fetching,
    Notice,
    Refused,
    Rewound,
    Validated,
    Waiting,
    WindowFinished,
    WindowSpoilt,
    WindowStarted,
)
from peers.protocol.round_reasons import WAIT_SENTENCES, WaitReason
from recipes.errors import RecipeError, StorageError
from recipes.keys.keys import PeerId
from trainer.demo.peer import DemoPeer
from trainer.demo.report import Figures, all_reduce_bytes, as_json, curve_of, live_view, summary
from trainer.join import identify_run
from trainer.screen import Screen

PEER = PeerId("12D3KooWCQ3hPXK6YR9pXuqGv5536geuXU1kndtmf2XLbCetXM2K")


def adopted(round_number: int, *, counted: int) -> BlockAdopted:
    return BlockAdopted(
        round=round_number,
        attempt=0,
        block="b" * 64,
        digest="d" * 64,
        leader=PEER,
        claims=4,
        counted_segments=counted,
        empty_segments=0,
        tokens=123_456,
        phases={"train": 10.0, "roster": 0.2, "exchange": 0.8, "block": 0.2},
    )


def test_a_round_is_told_in_a_sentence_and_work_is_thanked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen() as screen:
        screen.tell(WindowFinished(7, 12, 4096, 2.5, 10.0))
        screen.tell(adopted(7, counted=8))
        screen.tell(adopted(8, counted=0))
        screen.tell(Waiting(9, "leaving"))
        screen.tell(Refused(PEER, "claim", "slots beyond its quota"))
        screen.tell(Banned(PEER, 240.0, {"malformed": 7, "forged signature": 1}))
        screen.tell(Validated(8, 2.25))
    said = capsys.readouterr().out
    assert "Round 7 is done: 4 contributions, your work counted, 123,456 tokens so far, train 10.0 s" in said
    assert "Round 8 is done: 4 contributions, your work did not count" in said
    assert "This peer does not train in round 9. You asked to leave." in said
    assert f"Refused a claim from peer {PEER[-8:]}: slots beyond its quota." in said
    sent = "malformed (7 times), forged signature (1 time)"
    assert f"Peer {PEER[-8:]} is left alone for 4 minutes, because of what it sent: {sent}." in said
    assert "The validation loss after round 8 is 2.2500 nats a token." in said
    assert "You contributed to 1 round, with 4,096 tokens." in said


def test_what_peers_say_is_printed_as_it_is_and_never_taken_for_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = "cannot be had: all dials failed * [/ip4/127.0.0.1/tcp/33735] [bold]dial[/bold] :smile:"
    with Screen() as screen:
        screen.tell(Notice(said))
    assert said in capsys.readouterr().out


def test_events_are_logged_a_json_object_a_line(tmp_path: Path) -> None:
    log = tmp_path / "new" / "events.jsonl"
    with Screen(events=log) as screen:
        screen.tell(Claimed(3, 26_000))
        screen.tell(WindowFinished(3, 2, 64, float("nan"), 1.0))
    first, second = [json.loads(line) for line in log.read_text().splitlines()]
    assert (first["event"], first["round"], first["contribution_bytes"]) == ("Claimed", 3, 26_000)
    assert second["seconds"] == 1.0
    assert second["at_seconds"] >= first["at_seconds"]


def test_a_log_that_cannot_be_written_is_a_plain_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="--events"):
        Screen(events=tmp_path / "file" / "events.jsonl")


def test_a_log_whose_disk_is_full_is_a_plain_error() -> None:
    with (
        pytest.raises(StorageError, match=r"events to /dev/full: No space left.*\n.*--events"),
        Screen(events=Path("/dev/full")) as screen,
    ):
        screen.tell(Claimed(3, 26_000))


def test_what_is_no_run_is_refused_with_what_would_be(tmp_path: Path) -> None:
    assert identify_run("ab" * 32) == ("ab" * 32, None)
    with pytest.raises(RecipeError, match="64 hex digits"):
        identify_run("AB" * 32)
    template = tmp_path / "mine.toml"
    template.write_text("version = 1")
    with pytest.raises(RecipeError, match=r"recipes\.publish"):
        identify_run(str(template))


def test_the_curve_falls_from_the_upper_left_to_the_lower_right() -> None:
    lines = curve_of({0: 5.0, 1: 4.0, 2: 3.0}, until=2).splitlines()
    columns = [line.index("●") for line in lines if "●" in line]
    assert columns == sorted(columns)
    assert len(columns) == 3
    assert lines[0].strip().startswith("5.000")
    assert max(len(line) for line in curve_of(dict.fromkeys(range(1000), 1.0), until=999).splitlines()) > 0


def peer_with_story(folder: Path) -> DemoPeer:
    """Return a peer whose process wrote an event log, without a process."""
    peer = DemoPeer("volunteer-1", folder, run="0" * 64, port=1, address=None)
    events: list[dict[str, Any]] = [
        {"event": "Connected", "peer": peer.peer_id, "addresses": ["/ip4/127.0.0.1/tcp/1"]},
        {
            "event": "WindowFinished",
            "round": 1,
            "steps": 10,
            "tokens": 1000,
            "loss": 3.0,
            "seconds": 3.0,
            "waited": 1.0,
        },
        {"event": "Claimed", "round": 1, "contribution_bytes": 500},
        {"event": "Validated", "round": 1, "loss": 2.9},
        {
            "event": "BlockAdopted",
            "round": 1,
            "digest": "d" * 64,
            "phases": {"train": 4.0, "exchange": 1.0},
            "counted_segments": 8,
        },
    ]
    lines = [
        json.dumps({**event, "sent": {"segments": 700}, "received": {"segments": 900}}) for event in events
    ]
    (folder / "volunteer-1" / "events.jsonl").write_text("\n".join(lines) + "\n{torn")
    peer.look()
    return peer


def test_the_demo_reads_a_peers_story_from_its_log_and_not_a_torn_line(tmp_path: Path) -> None:
    tally = peer_with_story(tmp_path).tally
    assert tally.connected
    assert (tally.round, tally.tokens, tally.steps, tally.loss) == (1, 1000, 10, 3.0)
    assert tally.counted_rounds == {1}
    assert tally.validation == {1: 2.9}


def test_the_demos_result_names_each_peer_and_its_bytes(tmp_path: Path) -> None:
    peer = peer_with_story(tmp_path)
    figures = Figures(
        rounds=1,
        parameters=10_000,
        validation={0: 5.0, 1: 2.9},
        bigram=3.1,
        agreed=True,
        export=tmp_path / "model",
        sample="def f():\n\x1b[2J",  # what a model writes may steer a terminal
        plot=tmp_path / "loss.png",
    )
    result = as_json([peer], figures)
    assert result["states_agree"] is True
    assert result["validation_loss"] == {"0": 5.0, "1": 2.9}
    assert result["utilisation"] == 0.75
    bits = {"contribution": 0.4, "upload": 0.56, "download": 0.72}
    assert result["bits_per_parameter_per_round"] == pytest.approx(bits)
    assert result["peers"][peer.peer_id]["sent_bytes"] == 700
    assert result["peers"][peer.peer_id]["state_digest"] == "d" * 64
    text = io.StringIO()
    console = Console(file=text, width=80)
    console.print(live_view([peer], rounds=1, headline="Training."), summary([peer], figures))
    assert "It ends below that of a bigram model" in text.getvalue()
    assert "It writes:\ndef f():\n\\x1b[2J" in text.getvalue()
    assert "All survivors hold the same state after round 1, bit for bit." in " ".join(
        text.getvalue().split()
    )


def test_an_all_reduce_at_each_step_moves_twice_the_model_less_a_share(tmp_path: Path) -> None:
    peer = peer_with_story(tmp_path)
    assert all_reduce_bytes(peer, 4, 10_000) == 10 * 2 * 3 // 4 * 10_000 * 2


def test_a_round_without_the_others_of_before_is_told_as_what_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Screen() as screen:
        for number in (7, 8):
            screen.tell(WindowFinished(number, 12, 1000, 2.5, 10.0))
            screen.tell(replace(adopted(number, counted=8), claims=1, gone=4 * (number - 7)))
    said = capsys.readouterr().out
    assert "Round 7 is done: 1 contribution, your work counted" in said
    assert "Round 8 is done: 1 contribution, yours alone, without the 4 others of before" in said
    assert "You contributed to 2 rounds, with 2,000 tokens. In 1 round you were alone: it counts" in said


def test_rounds_that_are_undone_are_not_thanked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen() as screen:
        for number in (7, 8, 9):
            screen.tell(WindowFinished(number, 12, 1000, 2.5, 10.0))
            screen.tell(adopted(number, counted=8))
        screen.tell(Rewound(9, 7, "more_electors"))
    said = capsys.readouterr().out
    assert "This peer goes back from round 9 to round 7. More electors stand on the other branch." in said
    assert " 2 rounds of yours there do not count." in said
    assert "You contributed to 1 round, with 1,000 tokens. Thank you." in said


def said_of(*events: Event, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines that a screen prints of some events."""
    with Screen() as screen:
        for event in events:
            screen.tell(event)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("reason", get_args(WaitReason))
def test_a_round_without_this_peer_is_told_with_its_reason(
    reason: WaitReason, capsys: pytest.CaptureFixture[str]
) -> None:
    [line] = said_of(Waiting(9, reason, until=119), capsys=capsys)
    assert line == f"This peer does not train in round 9. {WAIT_SENTENCES[reason].format(until=119)}"


def test_a_window_without_numbers_is_told_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    [line] = said_of(WindowSpoilt(9, "no_finite_step", 2, 3), capsys=capsys)
    assert line == (
        "The window of round 9 gave no numbers, and nothing is claimed for it. No step had a finite loss and "
        "gradient. After 3 such windows in a row this peer stops; this is number 2. If it happens again, try "
        "`--device cpu`."
    )


def test_one_of_anything_is_never_called_many(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said_of(
        Diverged(7, 1),
        Fetching("data", 1, 1),
        Banned(PEER, 60.0, {"malformed": 1}),
        replace(adopted(7, counted=0), claims=1),
        capsys=capsys,
    )
    text = " ".join(lines)
    for words in ("1 piece of it again", "Fetched data: 1 piece,", "for 1 minute,", "1 contribution,"):
        assert words in text


class AtWork:
    """An engine as the line of state sees it."""

    def __init__(self, phase: Phase, *, ahead: str | None = None) -> None:
        self.phase, self.ahead, self.head = phase, ahead, "head"
        self.acquaintances = {"peer": 1}
        self.chain = SimpleNamespace(link=lambda _: SimpleNamespace(round=7))


def line_of(engine: AtWork, *events: Event) -> str:
    screen = Screen()
    screen.watch(cast(RoundEngine, engine))
    for event in events:
        screen.tell(event)
    return screen._state_of_affairs()


def test_the_line_of_state_says_what_comes_next() -> None:
    window = WindowStarted(8, 60.0, 4)
    assert re.match(
        r"Round 8: training, (59|60) s left, then claim \| 0 rounds, 0 tokens \| 2 peers",
        line_of(AtWork(Phase.TRAINING), window),
    )
    assert line_of(AtWork(Phase.TRAINING)).startswith("Round 8: waiting |")
    assert line_of(AtWork(Phase.TRAINING), window, Waiting(8, "no_step")).startswith("Round 8: waiting |")
    assert line_of(AtWork(Phase.CLAIMED)).startswith("Round 8: claimed, then the roster |")
    assert "exchanging, then the block, while the next window runs" in line_of(
        AtWork(Phase.EXCHANGING, ahead="claim")
    )


def test_the_event_log_says_when_a_peer_is_on_the_network(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    with Screen(events=log) as screen:
        screen.connected(PEER, "ab" * 32, ["/ip4/127.0.0.1/tcp/1"], TrafficMeter())
    event = json.loads(log.read_text())
    assert (event["event"], event["peer"]) == ("Connected", PEER)
    assert event["addresses"] == ["/ip4/127.0.0.1/tcp/1"]
