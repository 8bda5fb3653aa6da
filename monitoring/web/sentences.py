"""How a swarm and each peer are, in plain sentences: what a person reads before any number."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from monitoring.swarm.peer_picture import PeerPicture
from monitoring.swarm.view import Picture, Validation
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
    loss = _loss_words(picture.validations)
    if late is not None:
        return Said(
            "bad", f"Stalled. No block for {duration(late)} after round {picture.round:,}. {loss}".strip()
        )
    training = picture.peers_in("training")
    computing = picture.watched.compute_ratio
    parts = [many(training, "peer"), f"round {picture.round:,}"]
    if computing is not None:
        parts.append(f"{percent(computing)} of time computing")
    faults, few = _faults(picture), training < MANY_ELECTORS
    words = [f"Training. {', '.join(parts)}.", loss, *faults]
    if few:
        words.append(f"Few disks hold the state: {MANY_ELECTORS} peers would be safer.")
    bad = bool(faults) or _has_diverged(picture.validations)
    return Said("bad" if bad else "waiting" if few else "good", " ".join(word for word in words if word))


def lateness(picture: Picture) -> float | None:
    """Return for how many seconds a block is overdue; None if none is, or no block was watched as it came."""
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


def _has_diverged(validations: Sequence[Validation]) -> bool:
    return bool(validations) and not math.isfinite(validations[-1].loss)


def _loss_words(validations: Sequence[Validation]) -> str:
    if not validations:
        return ""
    if _has_diverged(validations):
        return "The loss is no number: the model has diverged."
    words = {"falling": ", falling", "level": ", level", "rising": ", rising", "unknown": ""}
    return f"Loss {validations[-1].loss:.2f}{words[trend(validations)]}."


def _faults(picture: Picture) -> list[str]:
    """Return what went wrong in the newest rounds, the worst first."""
    found = []
    newest = picture.rounds[:32]
    last = "the last round" if len(newest) == 1 else f"the last {len(newest)} rounds"
    disagreeing = sum(one.disagreeing for one in newest)
    if disagreeing:
        found.append(f"{many(disagreeing, 'co-signature')} of {last} named another state.")
    empty = sum(one.result == "empty" for one in newest)
    if empty:
        of = f"{many(empty, 'round')} of the last {len(newest)}" if len(newest) > 1 else "The last round"
        found.append(f"{of} moved nothing.")
    return found


def of_peer(peer: PeerPicture, picture: Picture, *, you: bool = False) -> Said:
    """Return how a peer is, to itself if `you`, or else to others."""
    record, expelled_until = peer.record, peer.account.expelled_until
    if peer.convicted:
        last = f" Last counted in round {record.last_round:,}." if record.last_round else ""
        return Said("bad", f"Contradicted itself: two signatures where an honest peer gives one.{last}")
    if expelled_until > picture.round:
        return Said(
            "bad",
            f"Expelled up to round {expelled_until:,}: an audit of it failed, or it contradicted itself.",
        )
    if peer.state == "observing":
        return Said(
            "waiting", "On the notice board, and not in the average: fetching the state, or looking on."
        )
    if peer.state == "gone":
        return Said(
            "waiting", f"Gone since round {record.last_round:,}." if record.rounds else "Never counted."
        )
    if peer.state == "quiet":
        away = picture.round - record.last_round
        return Said(
            "waiting", f"Quiet: in none of the last {away} rounds, since round {record.last_round:,}."
        )
    if record.rounds < 4:
        return Said("good", f"New here: counted in {many(record.rounds, 'round')} so far.")
    return _of_training(peer, picture, who="you " if you else "")


def _of_training(peer: PeerPicture, picture: Picture, *, who: str) -> Said:
    share = peer.cuts.made / max(1, peer.cuts.tried)
    how_much = "all" if peer.cuts.made == peer.cuts.tried else percent(share)
    cuts = "the last cut" if peer.cuts.tried == 1 else f"the last {peer.cuts.tried} cuts"
    made = f"{who}made {how_much} of {cuts}"
    audit = f" An audit{' of you' if who else ''} is open." if peer.under_audit else ""
    slow = _is_slow(peer, picture)
    if share < 0.5:
        cause = "Slow uplink: " if slow else ""
        return Said("bad", f"Struggling. {_capital(cause + made)}.{audit}")
    if slow and share < 1:
        return Said("good", f"Healthy. Slow uplink: {made}.{audit}")
    return Said("good", f"Healthy. {_capital(made)}.{audit}")


def _is_slow(peer: PeerPicture, picture: Picture) -> bool:
    """Whether a peer's transfers take much longer than those of most peers that train."""
    usual = picture.usual_transfer_ms
    if peer.record.transfer_ms is None or usual is None:
        return False
    return peer.record.transfer_ms > max(_SLOW_MS, _SLOW * usual)


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
