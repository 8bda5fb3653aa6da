"""Key changes: a peer's account moves to a new key, signed by both, or by the new and a recovery key."""

from __future__ import annotations

from dataclasses import dataclass

from peers.protocol.signed import Body, Closed, Count, PeerName, Signed
from recipes.keys.keys import PeerId


@dataclass(frozen=True)
class Moved:
    """An account that its peer wants to move from one id to another.

    `name` is the hash of the signed rotation; of several by one peer, the highest `number` counts.
    """

    name: str
    old: PeerId
    new: PeerId
    number: int
    recovered: bool


class Rotation(Body):
    """The account of `old` on this run's ledger is to be `new`'s. `peer` is the signer."""

    purpose = "rotation"
    old: PeerName
    new: PeerName
    number: Count  # of several by one peer in one block, the highest counts


class Recovery(Body):
    """A peer's permission for the `recovery` key to sign a rotation in its place, should its own be lost."""

    purpose = "recovery"
    recovery: PeerName


class KeyChange(Closed):
    """A rotation, signed on both sides: no peer can move another's account, or move one to another's id.

    `given` is signed by the old key, or by the recovery key that `recovery` names.
    """

    given: Signed[Rotation]
    taken: Signed[Rotation]
    recovery: Signed[Recovery] | None = None

    def moved(self) -> Moved | None:
        """Return the move that this asks for, or None if its parts do not belong together.

        The signatures are checked where the change is parsed, as in all messages.
        """
        given, taken, recovery = self.given.body, self.taken.body, self.recovery
        giver = given.old if recovery is None else recovery.body.recovery
        fits = (
            given.peer == giver
            and taken.peer == given.new != given.old
            and taken == given.model_copy(update={"peer": taken.peer})
            and (recovery is None or (recovery.body.peer, recovery.body.run) == (given.old, given.run))
        )
        if not fits:
            return None
        return Moved(self.given.hash, given.old, given.new, given.number, recovery is not None)

    def parts(self) -> list[Signed[Rotation] | Signed[Recovery]]:
        """Return its signed bodies."""
        return [self.given, self.taken, *([] if self.recovery is None else [self.recovery])]
