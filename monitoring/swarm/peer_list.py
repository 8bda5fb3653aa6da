"""Who is here: the peers of a picture, from what the chain tells of each and from the notice board."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from monitoring.swarm.chain_history import Chronicle, Record
from monitoring.swarm.view import QUIET_ROUNDS, TRAINING_ROUNDS, PeerPicture, PeerState
from peers.credit.escrow import Account
from recipes.keys.keys import PeerId

_ORDER: dict[PeerState, int] = {"training": 0, "quiet": 1, "observing": 2, "gone": 3}


def roll_of(
    known: Chronicle,
    *,
    round_number: int,
    convicted: Collection[PeerId],
    board: Iterable[PeerId] | None,
) -> tuple[tuple[PeerPicture, ...], int | None]:
    """Return all peers, those who train first and of these whoever earned most, and how many only look on.

    Args:
        known: at the newest block.
        round_number: of that block.
        convicted: peers that contradicted themselves.
        board: who is on the notice board; None if that is not known.
    """
    accounts = known.accounts
    names = dict.fromkeys([*known.records, *accounts.peers])
    found = [
        _peer(
            peer,
            known.records.get(peer),
            accounts.peers.get(peer) or Account(),
            round_number=round_number,
            under_audit=peer in accounts.under_audit,
            convicted=peer in convicted,
        )
        for peer in names
    ]
    observing = None
    if board is not None:
        here = {peer.peer for peer in found if peer.state in ("training", "quiet")}
        lookers = [peer for peer in dict.fromkeys(board) if peer not in here]
        observing = len(lookers)
        found += [PeerPicture(peer, "observing") for peer in lookers if peer not in names]
    found.sort(key=lambda one: (_ORDER[one.state], -one.vested - one.pending, -one.tokens, one.peer))
    return tuple(found), observing


def _peer(
    peer: PeerId,
    record: Record | None,
    account: Account,
    *,
    round_number: int,
    under_audit: bool,
    convicted: bool,
) -> PeerPicture:
    owned = PeerPicture(
        peer,
        "gone",
        vested=account.vested,
        pending=account.in_escrow + account.uncalibrated,
        lost=sum(account.lost.values()),
        missed=account.missed,
        passes=account.passes,
        expelled_until=account.expelled_until,
        under_audit=under_audit,
        convicted=convicted,
    )
    if record is None:
        return owned
    made, tried = record.cuts(round_number)
    return replace(
        owned,
        state=_state(record, round_number),
        first_round=record.first_round,
        last_round=record.last_round,
        rounds=record.rounds,
        missed_rounds=record.missed_rounds,
        cuts_made=made,
        cuts_tried=tried,
        tokens=record.tokens,
        last_tokens=record.last_tokens,
        numeric_class=record.numeric_class,
        transfer_ms=record.transfer_ms,
    )


def _state(record: Record, round_number: int) -> PeerState:
    away = round_number - record.last_round
    if away < TRAINING_ROUNDS:
        return "training"
    return "quiet" if away < QUIET_ROUNDS else "gone"
