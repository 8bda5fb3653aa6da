"""What a peer signs to go on under another key: the word of both keys, or of the new and a recovery key."""

from __future__ import annotations

from dataclasses import dataclass

from peers.protocol.signed import Body, Closed, Count, PeerName, Signed
from recipes.keys.keys import PeerId


@dataclass(frozen=True)
class Moved:
    """An account that its peer wants to have under another name from now on.

    `name` is the hash of what was signed; `number` tells which of several by one peer counts.
    """

    name: str
    old: PeerId
    new: PeerId
    number: int
    recovered: bool


class Rotation(Body):
    """What `old` has on this run's ledger is to be `new`'s. `peer` is who signs this."""

    purpose = "rotation"
    old: PeerName
    new: PeerName
    number: Count  # of several by one peer in one block, the highest counts


class Recovery(Body):
    """Whoever holds the `recovery` key may sign a rotation in this peer's place, should its own be lost."""

    purpose = "recovery"
    recovery: PeerName


class KeyChange(Closed):
    """A rotation, signed on both sides: nobody moves another's account, or moves one onto another's name.

    `given` is signed by the old key, or by the recovery key that `recovery` names.
    """

    given: Signed[Rotation]
    taken: Signed[Rotation]
    recovery: Signed[Recovery] | None = None

    def moved(self) -> Moved | None:
        """Return what this asks for, or None if its parts do not belong together.

        That each signature holds is checked where the change is parsed, as of all that peers send.
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
        """Return everything in it that is signed."""
        return [self.given, self.taken, *([] if self.recovery is None else [self.recovery])]
