"""Holding offences against other peers, and banning those that go on."""

from __future__ import annotations

from collections.abc import Callable

from peers.network.peer_scores import OF_A_LATER_BUILD, Conduct, ConductStatistics
from peers.protocol.events import Banned, Listener
from recipes.errors import MessageError, Offence, UnreachableError
from recipes.keys.keys import PeerId


class Discipline:
    """A transport's judgement of the other peers, by a clock that runs.

    Args:
        conduct: keeps the score, and decides which peer is banned for how long.
        listener: is told of each ban.
        clock: gives the seconds of any steady clock.
    """

    def __init__(self, conduct: Conduct, listener: Listener, clock: Callable[[], float]) -> None:
        self._conduct = conduct
        self._listener = listener
        self._clock = clock

    def statistics(self) -> ConductStatistics:
        """Return how other peers behaved so far."""
        return self._conduct.statistics(self._clock())

    def strike(self, peer: PeerId, offence: Offence) -> None:
        """Count an offence of a peer."""
        if seconds := self._conduct.strike(peer, offence, self._clock()):
            self._listener.tell(Banned(peer, seconds, self._conduct.offences(peer)))

    def blame(self, peer: PeerId, error: MessageError) -> None:
        """Hold what `error` says against the peer that sent it, if it is an offence, and only once."""
        offence, error.offence = error.offence, None
        if offence is not None:
            self.strike(peer, offence)

    def turns_away(self, peer: PeerId) -> bool:
        """Return whether a request of this peer is not even looked at, and count it if so."""
        return self._conduct.turns_away(peer, self._clock())

    def admits(self, peer: PeerId, kind: str, length: int) -> bool:
        """Return whether a request with a body of `length` bytes is within the peer's rates, and count it."""
        return self._conduct.admits(peer, kind, length, self._clock())

    def unknown_kind(self, peer: PeerId, kind: str) -> Offence | None:
        """Return the offence that it is to ask for a kind that is not served here, if it is one.

        A peer of a later build may ask for a few kinds that this build does not know; one that goes on is to
        blame.
        """
        if self._conduct.knows(kind) or self.admits(peer, OF_A_LATER_BUILD, 0):
            return None
        return Offence.UNKNOWN_KIND

    def check_not_banned(self, peer: PeerId) -> None:
        """Check that this peer may be asked.

        Raises:
            UnreachableError: it is banned.
        """
        if seconds := self._conduct.banned_seconds(peer, self._clock()):
            raise UnreachableError(
                f"{peer} is banned for {seconds:.0f} s: it sent what no honest peer sends."
            )
