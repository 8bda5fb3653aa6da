"""The host of a node's parts, and their view of the round engine.

The parts move segments (transfers.py), train windows (peers/training/window_tasks.py), audit and answer
auditors (peers/audit/). Each is handed one host, and reads the round engine through `EngineView`. The node
(peers/node/node.py) is the host of a real peer; tests/support/hosts.py has one for tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from peers.chain.chain import Chain
from peers.consensus.effects import Input
from peers.network.transport import Request
from peers.protocol.assignment import Assignment
from peers.protocol.events import Event
from peers.protocol.messages import Claim, Reduction, Roster, Signed
from peers.protocol.rules import Rules
from peers.protocol.timeouts import Deadlines
from recipes.errors import MessageError
from recipes.keys.keys import PeerId, SigningKey

Result = TypeVar("Result")


class Host(Protocol):
    """Runs the parts of a node: carries their inputs to the engine, their events, requests and arithmetic."""

    def take(self, happened: Input) -> None:
        """Hand the round engine an input, and carry out the effects that it answers with."""

    def tell(self, event: Event) -> None:
        """Tell the listeners of an event. No work follows from it."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` beside everything else.

        A failure of a peer ends the task alone; a failure of this machine's disk, or of ours, ends the node.
        """

    async def compute(self, work: Callable[[], Result]) -> Result:
        """Run heavy arithmetic off the event loop, one piece at a time, and return its result."""

    async def call(self, peer: PeerId, request: Request) -> bytes:
        """Send a request to another peer and return its response.

        Raises:
            UnreachableError: the peer cannot be reached, hung up, or took too long.
            RemoteError: it refused.
            MessageError: its response is malformed or longer than the request's limit.
        """

    def blame(self, peer: PeerId, error: MessageError) -> None:
        """Count an error against the peer that caused it, if it is an offence."""


class EngineView(Protocol):
    """The read-only face of the round engine (peers/consensus/engine.py)."""

    @property
    def key(self) -> SigningKey:
        """The key that this peer signs with."""

    @property
    def me(self) -> PeerId:
        """This peer's id."""

    @property
    def rules(self) -> Rules:
        """The rules of the run."""

    @property
    def chain(self) -> Chain:
        """The chain, as far as it is known."""

    @property
    def head(self) -> str:
        """The block after which this peer works, hex."""

    @property
    def digest(self) -> str:
        """The digest of the canonical state after the head, hex."""

    @property
    def deadlines(self) -> Deadlines:
        """How long this round waits for things."""

    @property
    def roster(self) -> Signed[Roster] | None:
        """The roster that this peer exchanges by; None before it accepted one."""

    @property
    def own_claim(self) -> Signed[Claim] | None:
        """The own claim in the round at hand; None before it was made."""

    @property
    def own_claims(self) -> Mapping[str, Signed[Claim]]:
        """The newest own claims, by the block on top of which each counts."""

    @property
    def assignments(self) -> Sequence[Assignment]:
        """The reducer of each segment of the accepted roster; empty without one."""

    def reductions_of(self, segment: int) -> Sequence[Signed[Reduction]]:
        """Return the reductions of a segment that came in the round at hand."""
