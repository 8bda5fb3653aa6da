"""Every peer of a picture: those on the chain and in the ledger, and those on the notice board."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from monitoring.swarm.chain_history import Chronicle
from monitoring.swarm.peer_picture import PeerPicture, PeerState, Record
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
    """Return all peers, those that train first and of these whichever earned most, and how many only look on.

    Args:
        known: at the newest block.
        round_number: of that block.
        convicted: peers that contradicted themselves.
        board: the peers on the notice board; None if that is not known.
    """
    accounts = known.accounts
    names = dict.fromkeys([*known.records, *accounts.peers])
    found = []
    for peer in names:
        record = known.records.get(peer, Record())
        found.append(
            PeerPicture(
                peer,
                record.state(round_number),
                record=record,
                account=accounts.peers.get(peer, Account()),
                cuts=record.cuts(round_number),
                under_audit=peer in accounts.under_audit,
                convicted=peer in convicted,
            )
        )
    observing = None
    if board is not None:
        here = {peer.peer for peer in found if peer.state in ("training", "quiet")}
        lookers = [peer for peer in dict.fromkeys(board) if peer not in here]
        observing = len(lookers)
        found += [PeerPicture(peer, "observing") for peer in lookers if peer not in names]
    found.sort(
        key=lambda one: (
            _ORDER[one.state],
            -one.account.vested - one.pending,
            -one.record.tokens,
            one.peer,
        )
    )
    return tuple(found), observing
