"""What each page shows: a picture in, HTML out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monitoring.swarm.peer_picture import PeerPicture
from monitoring.swarm.view import ContributionPicture, Picture, RoundPicture
from monitoring.web import api, sentences
from monitoring.web.api_schema import FORMS, Curve, Form
from monitoring.web.formatting import duration, many, measure, percent, short
from monitoring.web.page import drawing
from monitoring.web.page.render import render
from monitoring.web.sentences import Said
from peers.protocol.reasons import AUDIT_PENDING, sentence

SHOWN_ROUNDS = 12
SHOWN_PEERS = 16
PAGE_PEERS = 1000
SHOWN_LEADERS = 8


@dataclass(frozen=True)
class Figure:
    """A number with its name, and a few words that put it into place."""

    name: str
    value: str
    unit: str
    note: str


@dataclass(frozen=True)
class Files:
    """What may be downloaded."""

    ledger: bool
    model_round: int | None


def headline(picture: Picture) -> Said:
    """Return how the swarm is."""
    return sentences.of_swarm(picture)


def overview(picture: Picture, curve: Curve, files: Files) -> str:
    """Return the first page."""
    present = [peer for peer in picture.peers if peer.state != "gone"]
    return _page(
        "overview.html",
        picture,
        title=picture.run.name,
        figures=_figures(picture),
        loss=drawing.line(curve.loss_rounds, curve.losses),
        tokens=drawing.line(curve.rounds, curve.tokens, from_zero=True),
        curve=curve,
        rounds=picture.rounds[:SHOWN_ROUNDS],
        bars={one.round: drawing.phase_bar(one.timing) for one in picture.rounds[:SHOWN_ROUNDS]},
        peers=[(peer, sentences.of_peer(peer, picture)) for peer in present[:SHOWN_PEERS]],
        more_peers=max(0, len(picture.peers) - SHOWN_PEERS),
        leaders=_leaders(picture),
        files=files,
    )


def peers(picture: Picture, start: int = 0) -> str:
    """Return a page of everybody, from the peer in that place on."""
    shown = picture.peers[start : start + PAGE_PEERS]
    more = start + PAGE_PEERS < len(picture.peers)
    return _page(
        "peers.html",
        picture,
        title="Peers",
        peers=[(peer, sentences.of_peer(peer, picture)) for peer in shown],
        after=start + PAGE_PEERS if more else None,
    )


def peer(picture: Picture, found: PeerPicture, contributions: Sequence[ContributionPicture]) -> str:
    """Return one volunteer's page."""
    full = len(contributions) == api.PAGE_CONTRIBUTIONS
    return _page(
        "peer.html",
        picture,
        title=f"Peer {found.peer[-8:]}",
        peer=found,
        peer_said=sentences.of_peer(found, picture, you=True),
        contributions=[(one, api.reason_of(one, picture)) for one in contributions],
        audit_pending="" if picture.audited else AUDIT_PENDING,
        before=contributions[-1].round if full else None,
    )


def rounds(picture: Picture, found: Sequence[RoundPicture]) -> str:
    """Return a page of blocks."""
    return _page(
        "rounds.html",
        picture,
        title="Rounds",
        rounds=found,
        bars={one.round: drawing.phase_bar(one.timing) for one in found},
        before=found[-1].round if len(found) == api.PAGE_ROUNDS and found[-1].round > 1 else None,
    )


def round_page(picture: Picture, found: RoundPicture, contributions: Sequence[ContributionPicture]) -> str:
    """Return the page of one block."""
    by_peer = {one.peer: one for one in contributions}
    return _page(
        "round.html",
        picture,
        title=f"Round {found.round:,}",
        one=found,
        bar=drawing.phase_bar(found.timing),
        contributions=[by_peer[name] for name in found.roster if name in by_peer],
        is_newest=found.round == picture.round,
    )


def recipe(picture: Picture) -> str:
    """Return the recipe in plain words."""
    return _page("recipe.html", picture, title="Recipe")


def explain_api(picture: Picture) -> str:
    """Return the API, explained."""
    return _page("api.html", picture, title="API", forms=[_explained(form) for form in FORMS])


def problem(picture: Picture, status: int, words: str) -> str:
    """Return a page that says why there is no other."""
    return _page("problem.html", picture, title=f"{status}", words=words)


def _page(template: str, picture: Picture, **values: object) -> str:
    return render(
        template, picture=picture, run=picture.run, now=picture.now, said=headline(picture), **values
    )


def _figures(picture: Picture) -> list[Figure]:
    """Return the numbers below the first sentence."""
    run, totals, watched = picture.run, picture.totals, picture.watched
    newest = picture.validations[-1] if picture.validations else None
    found = []
    if newest is not None:
        age = duration(max(0.0, picture.now - newest.measured_at))
        where = "untrained" if newest.round == 0 else f"after round {newest.round:,}"
        found.append(Figure("Loss", f"{newest.loss:.3f}", "nats a token", f"{where}, measured {age} ago"))
    others = [f"{picture.peers_in('quiet'):,} quiet"]
    if picture.observing is not None:
        others.append(f"{picture.observing:,} looking on")
    found.append(Figure("Peers", f"{picture.peers_in('training'):,}", "training", ", ".join(others)))
    found.append(Figure("Round", f"{picture.round:,}", "", f"final up to {picture.final_round:,}"))
    if watched.tokens_per_second is not None and watched.round_seconds is not None:
        note = f"a round in {watched.round_seconds:.3g} s"
        value, _, unit = measure(watched.tokens_per_second, " tokens/s").partition(" ")
        found.append(Figure("Speed", value, unit.strip(), note))
    if watched.compute_ratio is not None:
        note = f"of the time of the last {many(min(32, watched.rounds), 'round')}"
        found.append(Figure("Computing", percent(watched.compute_ratio), "", note))
    share = totals.tokens / run.goal_tokens if run.goal_tokens else 0.0
    left = f", about {duration(picture.goal_at - picture.now)} left" if picture.goal_at else ""
    found.append(Figure("Goal", percent(min(1.0, share)), "", f"of {short(run.goal_tokens)} tokens{left}"))
    if picture.rounds:
        one = picture.rounds[0]
        note = f"{measure(one.contribution_bytes, 'B')} a contribution"
        found.append(Figure("Exchange", f"{one.bits_per_parameter:.3f}", "bits/parameter", note))
    claimed = f"of {measure(totals.claimed, 'FLOPs')} claimed, {measure(totals.vested, 'FLOPs')} vested"
    value, _, unit = measure(totals.credited, "FLOPs").partition(" ")
    found.append(Figure("Credited", value, unit, claimed))
    return found


def _leaders(picture: Picture) -> dict[str, object]:
    """Return the peers that have vested most or, as long as nothing vests, that have most pending."""
    vested = any(peer.account.vested for peer in picture.peers)
    ranked = sorted(picture.peers, key=lambda one: (-one.account.vested, -one.pending, one.peer))
    ranked = [one for one in ranked if one.account.vested or one.pending][:SHOWN_LEADERS]
    most = max((one.account.vested if vested else one.pending for one in ranked), default=1) or 1
    return {
        "vested": vested,
        "why": "" if vested else _why_nothing_vests(picture),
        "peers": [(one, 100 * (one.account.vested if vested else one.pending) / most) for one in ranked],
    }


def _why_nothing_vests(picture: Picture) -> str:
    if not picture.audited:
        return AUDIT_PENDING
    return f"Nothing has vested yet. {sentence('no audit passed yet')}"


def _explained(form: type[Form]) -> dict[str, object]:
    return {
        "name": form.__name__,
        "doc": (form.__doc__ or "").strip(),
        "fields": [(name, field.description or "") for name, field in form.model_fields.items()],
    }
