"""From a picture and the archive to the API's answers. Nothing here knows of HTTP."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from monitoring.swarm.archive import Archive
from monitoring.swarm.peer_picture import PeerPicture
from monitoring.swarm.view import ContributionPicture, Picture, RoundPicture
from monitoring.web import api_schema as forms
from monitoring.web import sentences
from monitoring.web.sentences import Said
from peers.protocol.reasons import sentence
from recipes.keys.keys import PeerId

PAGE_ROUNDS = 64  # of one answer
PAGE_CONTRIBUTIONS = 200
CURVE_POINTS = 600


@dataclass(frozen=True)
class _Described:
    """A peer, and how it is: what a `forms.Peer` is made from."""

    shown: PeerPicture
    said: Said


@dataclass(frozen=True)
class _Explained:
    """A contribution, and where its credit is: what a `forms.Contribution` is made from."""

    shown: ContributionPicture
    sentence: str


def swarm(picture: Picture) -> forms.Swarm:
    """Return how the swarm is."""
    said = sentences.of_swarm(picture)
    run, totals, watched = picture.run, picture.totals, picture.watched
    return forms.Swarm(
        run=run.run,
        name=run.name,
        said=said.text,
        mood=said.mood,
        now=picture.now,
        heard_at=picture.heard_at,
        round=picture.round,
        final_round=picture.final_round,
        last_block_at=picture.last_block_at,
        digest=picture.digest,
        peers=forms.PeersByState(
            training=picture.peers_in("training"),
            quiet=picture.peers_in("quiet"),
            gone=picture.peers_in("gone"),
            observing=picture.observing,
        ),
        tokens=totals.tokens,
        goal_tokens=run.goal_tokens,
        goal_at=picture.goal_at,
        tokens_per_second=watched.tokens_per_second,
        round_seconds=watched.round_seconds,
        compute_ratio=watched.compute_ratio,
        loss=forms.Loss.model_validate(picture.validations[-1]) if picture.validations else None,
        claimed_flops=str(totals.claimed),
        credited_flops=str(totals.credited),
        vested_flops=str(totals.vested),
        state_disagreements=totals.disagreements,
    )


def peers(picture: Picture) -> forms.Peers:
    """Return everybody."""
    return forms.Peers(round=picture.round, peers=tuple(_peer(peer, picture) for peer in picture.peers))


def peer_page(picture: Picture, archive: Archive, peer: PeerPicture, before: int | None) -> forms.PeerPage:
    """Return a peer with its contributions to rounds below `before`, or its newest."""
    found = archive.contributions_of(peer.peer, before=before, limit=PAGE_CONTRIBUTIONS)
    return forms.PeerPage(
        peer=_peer(peer, picture),
        contributions=tuple(_contribution(one, picture) for one in found),
        before=found[-1].round if len(found) == PAGE_CONTRIBUTIONS else None,
    )


def rounds(found: Sequence[RoundPicture]) -> forms.Rounds:
    """Return rounds, newest first."""
    before = found[-1].round if len(found) == PAGE_ROUNDS else None
    return forms.Rounds(rounds=tuple(map(forms.Round.model_validate, found)), before=before)


def round_page(
    picture: Picture, found: RoundPicture, contributions: Sequence[ContributionPicture]
) -> forms.RoundPage:
    """Return a round with the contributions to it."""
    return forms.RoundPage(
        round=forms.Round.model_validate(found),
        contributions=tuple(_contribution(one, picture) for one in contributions),
    )


def curve(picture: Picture, archive: Archive) -> forms.Curve:
    """Return what the charts draw."""
    points = archive.curve(points=CURVE_POINTS)
    validations = picture.validations[:: max(1, len(picture.validations) // CURVE_POINTS)]
    if picture.validations and validations[-1] is not picture.validations[-1]:
        validations = (*validations, picture.validations[-1])
    return forms.Curve(
        rounds=tuple(number for number, _ in points),
        tokens=tuple(tokens for _, tokens in points),
        loss_rounds=tuple(one.round for one in validations),
        losses=tuple(_finite(one.loss) for one in validations),
    )


def recipe(picture: Picture) -> forms.Recipe:
    """Return the recipe in plain words."""
    run = picture.run
    return forms.Recipe(
        run=run.run,
        name=run.name,
        description=run.description,
        parameters=run.parameters,
        join=run.join,
        facts=tuple(forms.Fact(topic=topic, words=words) for topic, words in run.facts),
    )


def find_peer(picture: Picture, archive: Archive, name: str) -> PeerPicture | None:
    """Return the peer of that id, if it is known."""
    known = picture.peer(name)
    if known is None and archive.contributions_of(PeerId(name), limit=1):
        return PeerPicture(PeerId(name), "gone")  # claimed, and was never counted
    return known


def reason_of(one: ContributionPicture, picture: Picture) -> str:
    """Return where the credit of a contribution is and why, as a sentence."""
    peer = picture.peer(one.peer)
    if one.reason == "in escrow" and peer is not None and picture.round >= one.vests_after:
        if one.decision == "fail":
            return sentence("audit failed")
        if peer.under_audit:
            return sentence("audit pending")
        return "Vested." if peer.account.passes else sentence("no audit passed yet")
    return sentence(one.reason, round_number=one.vests_after)


def _peer(peer: PeerPicture, picture: Picture) -> forms.Peer:
    return forms.Peer.model_validate(_Described(peer, sentences.of_peer(peer, picture)))


def _contribution(one: ContributionPicture, picture: Picture) -> forms.Contribution:
    return forms.Contribution.model_validate(_Explained(one, reason_of(one, picture)))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
