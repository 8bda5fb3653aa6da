"""How a swarm and each peer are, in plain sentences: what a person reads before any number."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from monitoring.swarm.view import PeerPicture, Picture, Validation
from monitoring.web.formatting import duration, many, percent
from peers.chain.finality import MANY_ELECTORS

Mood = Literal["good", "waiting", "bad"]
"""Whether a person should look closer: it colours the sentence, and never says more than the words do."""

STALLED_ROUNDS = 4.0  # a block that takes so many times as long as rounds do is late
STALLED_SECONDS = 60.0  # and at least so long
_TREND = 4  # measurements that a trend is told from, on each side
_FLAT = 0.002  # of the loss: what changes less is level
_SLOW = 2.0  # times the median of all, from which on a transfer is slow
_SLOW_MS = 1000


@dataclass(frozen=True)
class Said:
    """Some sentences, and how serious they are."""

    mood: Mood
    text: str


def of_swarm(picture: Picture) -> Said:
    """Return how the swarm is."""
    if picture.trouble:
        return Said("bad", f"Not watching. {picture.trouble}")
    if not picture.round:
        return Said("waiting", "No round yet. The first block is still to come.")
    late = lateness(picture)
    training = picture.peers_in("training")
    loss = _loss_words(picture.validations)
    if late is not None:
        return Said(
            "bad", f"Stalled. No block for {duration(late)} after round {picture.round:,}. {loss}".strip()
        )
    computing = picture.watched.compute_ratio
    parts = [many(training, "peer"), f"round {picture.round:,}"]
    if computing is not None:
        parts.append(f"{percent(computing)} of time computing")
    words = [f"Training. {', '.join(parts)}.", loss, *_worries(picture)]
    bad = "diverged" in loss or "no number" in loss or len(words) > 2 + (training < MANY_ELECTORS)
    mood: Mood = "bad" if bad else "waiting" if training < MANY_ELECTORS else "good"
    return Said(mood, " ".join(word for word in words if word))


def lateness(picture: Picture) -> float | None:
    """Return for how many seconds a block is missing, or None if none is late, or nobody watched one come."""
    at = picture.last_block_at
    if at is None:
        return None
    usual = picture.watched.round_seconds or picture.run.window_seconds
    age = picture.now - at
    return age if age > max(STALLED_SECONDS, STALLED_ROUNDS * usual) else None


def trend(validations: Sequence[Validation]) -> Literal["falling", "level", "rising", "unknown"]:
    """Return where the loss goes: the newest measurements against those before them."""
    losses = [one.loss for one in validations if math.isfinite(one.loss)]
    if len(losses) < 2:
        return "unknown"
    half = min(_TREND, len(losses) // 2)
    newest, before = statistics.fmean(losses[-half:]), statistics.fmean(losses[-2 * half : -half])
    if abs(newest - before) <= _FLAT * abs(before):
        return "level"
    return "falling" if newest < before else "rising"


def _loss_words(validations: Sequence[Validation]) -> str:
    if not validations:
        return ""
    newest = validations[-1]
    if not math.isfinite(newest.loss):
        return "The loss is no number: the model has diverged."
    words = {"falling": ", falling", "level": ", level", "rising": ", rising", "unknown": ""}
    return f"Loss {newest.loss:.2f}{words[trend(validations)]}."


def _worries(picture: Picture) -> list[str]:
    """Return what an owner should know, the worst first."""
    found = []
    newest = picture.rounds[:32]
    disagreeing = sum(one.disagreeing for one in newest)
    if disagreeing:
        found.append(
            f"{many(disagreeing, 'co-signature')} of the last {len(newest)} rounds named another state."
        )
    short = sum(one.result == "empty" for one in newest)
    if short:
        found.append(f"{many(short, 'round')} of the last {len(newest)} moved nothing.")
    training = picture.peers_in("training")
    if training < MANY_ELECTORS:
        found.append(f"Few disks hold the state: {MANY_ELECTORS} peers would be safer.")
    return found


def of_peer(peer: PeerPicture, picture: Picture, *, you: bool = False) -> Said:
    """Return how a peer is, to itself if `you`, or else to others."""
    who = "you " if you else ""
    if peer.convicted:
        return Said(
            "bad", f"Contradicted itself: two signatures where an honest peer gives one.{_gone(peer)}"
        )
    if peer.expelled_until > picture.round:
        return Said(
            "bad", f"Expelled up to round {peer.expelled_until:,}: the audit of one of its claims failed."
        )
    if peer.state == "observing":
        return Said(
            "waiting", "On the notice board, and not in the average: fetching the state, or looking on."
        )
    if peer.state == "gone":
        return Said("waiting", f"Gone since round {peer.last_round:,}." if peer.rounds else "Never counted.")
    if peer.state == "quiet":
        away = picture.round - peer.last_round
        return Said("waiting", f"Quiet: in none of the last {away} rounds, since round {peer.last_round:,}.")
    if peer.rounds < 4:
        rounds = many(peer.rounds, "round")
        return Said("good", f"New here: counted in {rounds} so far.")
    return _of_training(peer, picture, who=who)


def _of_training(peer: PeerPicture, picture: Picture, *, who: str) -> Said:
    share = peer.cuts_made / max(1, peer.cuts_tried)
    how_much = "all" if peer.cuts_made == peer.cuts_tried else percent(share)
    made = f"{who}made {how_much} of the last {peer.cuts_tried} cuts"
    audit = f" An audit{' of you' if who else ''} is open." if peer.under_audit else ""
    slow = _is_slow(peer, picture)
    if share < 0.5:
        cause = "Slow uplink: " if slow else ""
        return Said("bad", f"Struggling. {_capital(cause + made)}.{audit}")
    if slow and share < 1:
        return Said("good", f"Healthy. Slow uplink: {made}.{audit}")
    return Said("good", f"Healthy. {_capital(made)}.{audit}")


def _is_slow(peer: PeerPicture, picture: Picture) -> bool:
    """Say whether a peer's transfers take much longer than those of most who train."""
    usual = picture.usual_transfer_ms
    if peer.transfer_ms is None or usual is None:
        return False
    return peer.transfer_ms > max(_SLOW_MS, _SLOW * usual)


def _gone(peer: PeerPicture) -> str:
    return f" Last counted in round {peer.last_round:,}." if peer.last_round else ""


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
