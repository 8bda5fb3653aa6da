"""The red team: volunteers that cheat, each a small subclass of a part of an honest one.

    python -m benchmarks.red_team.cheats NAME [arguments of trainer.join]

`python -m benchmarks.red_team` starts them in real swarms, one process each. What they claim in place of work
is that of peers/calibration/cheats.py, by which thresholds are calibrated too. In all else, auditing
included, they do what an honest volunteer does.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import typer
from numpy.typing import NDArray

from peers.audit.auditor import Auditing, _Done
from peers.calibration.cheats import CHEATS, Task, Tools, Work, forward_recipe, half_batch_recipe
from peers.consensus import effects as do
from peers.consensus.effects import WindowEnded
from peers.exchange.contributor import Contributor, Window
from peers.exchange.loss_trace import LossTrace
from peers.network.transport import Request
from peers.node.correspondence import MESSAGE_TIMEOUT
from peers.node.node import Node
from peers.protocol.audit_request import AuditRequest
from peers.protocol.messages import Claim, Signed, sign
from peers.protocol.reasons import VerdictReason
from peers.training.interface import TrainOrder
from recipes.errors import ManyhandsError
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId
from recipes.slots import Range
from trainer.local import LocalTrainer, WindowResult

ACCOMPLICE = "MANYHANDS_RED_TEAM_ACCOMPLICE"  # environment: id of the peer that a colluding auditor covers
OTHER_DATA = 1 << 24  # how far away the slots lie that no peer was given
FLOOD_PER_SECOND = 50


class CheatingTrainer(LocalTrainer):
    """Trains a part of the window, and claims something else for it."""

    cheat: ClassVar[str]
    honest_share: ClassVar[float] = 1.0  # of the window; the rest is for the cheat's own computing

    def __init__(self, recipe: Any, *args: Any, **options: Any) -> None:
        super().__init__(recipe, *args, **options)
        variants = (recipe, half_batch_recipe(recipe), forward_recipe(recipe))
        self._auditor, self._half, self._forward = (
            LocalTrainer(variant, *args, **options) for variant in variants
        )
        self._before: NDArray[np.float32] | None = None
        self._earlier: Work | None = None

    def train(self, order: TrainOrder, **options: Any) -> WindowResult:
        """Train honestly for a while, then claim the cheat's version of it for these slots."""
        first, count = order.slots[0]
        batch = self._recipe.inner.batch_slots
        whole = ((first, count - count % batch),) if count >= batch else order.slots
        part = replace(order, slots=whole, seconds=order.seconds * self.honest_share)
        honest = super().train(part, **options)
        start = np.array(order.weights.array)
        window = Work(honest.losses, honest.delta)
        work = window
        if count >= batch and honest.slots_used:
            work = self._claimed(start, honest.slots_used[0], order.tokens_before, window)
        self._before, self._earlier = start, window
        losses = (*work.losses, *honest.losses[len(work.losses) :])[: len(honest.losses)]
        return replace(honest, delta=work.delta, losses=losses)

    def _claimed(self, start: NDArray[np.float32], slots: Range, tokens_before: int, honest: Work) -> Work:
        nothing = Work(honest.losses, np.zeros_like(honest.delta))
        before = start if self._before is None else self._before
        task = Task(
            weights=start,
            stale_weights=before,
            slots=slots,
            other_slots=(slots[0] + OTHER_DATA, slots[1]),
            tokens_before=tokens_before,
            batch_slots=self._recipe.inner.batch_slots,
            earlier=self._earlier or nothing,
        )
        tools = Tools(full=self._auditor, half_batch=self._half, forward=self._forward)
        return self.claimed(task, tools, honest)

    def claimed(self, task: Task, tools: Tools, honest: Work) -> Work:
        """Return the work that is claimed for a task."""
        return CHEATS[self.cheat](task, tools, honest)


class SendsZeros(CheatingTrainer):
    """Sends nothing, with the losses of an earlier window."""

    cheat = "zeros, an old trace"


class SendsNoise(CheatingTrainer):
    """Sends noise of the usual size, with the losses of an earlier window."""

    cheat = "noise, an old trace"


class SendsAnOldContribution(CheatingTrainer):
    """Sends the window before once more; its losses are right, from forward passes."""

    cheat = "old work, forward passes"
    honest_share = 0.6


class CopiesItsNeighbours(CheatingTrainer):
    """Gives out what the swarm's last average did to the weights, blurred, as its own work."""

    cheat = "neighbours' work, blurred"

    def claimed(self, task: Task, _tools: Tools, honest: Work) -> Work:
        copied = task.stale_weights - task.weights
        spread = np.float32(0.1 * np.sqrt(np.mean(np.square(copied))))
        blur = np.random.default_rng(task.slots[0]).standard_normal(copied.size, dtype=np.float32)
        return Work(honest.losses, copied + spread * blur)


class TrainsOnOtherData(CheatingTrainer):
    """Trains on data of its own choice."""

    cheat = "other data"
    honest_share = 0.4


class RepeatsOneBatch(CheatingTrainer):
    """Trains on its first batch, again and again."""

    cheat = "one batch repeated"
    honest_share = 0.4


class TrainsOnHalfTheBatch(CheatingTrainer):
    """Leaves out every second sequence."""

    cheat = "half the batch"
    honest_share = 0.5


class DoesHalfTheSteps(CheatingTrainer):
    """Trains for half of the steps; the other losses come from forward passes."""

    cheat = "half the steps"
    honest_share = 0.4


class DoesNineTenthsOfTheSteps(CheatingTrainer):
    """Leaves out the last tenth of the steps, likewise."""

    cheat = "nine tenths of the steps"
    honest_share = 0.4


class StartsFromStaleWeights(CheatingTrainer):
    """Starts from the weights of the window before."""

    cheat = "stale weights"
    honest_share = 0.4


class DoublesItsUpdate(CheatingTrainer):
    """Trains honestly, and sends twice the update."""

    cheat = "update doubled"


class FlipsItsSign(CheatingTrainer):
    """Trains honestly, and sends the opposite."""

    cheat = "sign flipped"


class ClaimsMoreThanAssigned(Contributor):
    """Claims twice the slots that it was given."""

    def contribute(self, window: Window, **options: Any) -> WindowEnded:
        """Contribute, and say that it was twice as much."""
        ended = super().contribute(window, **options)
        first, count = ended.slots[0]
        return replace(ended, slots=((first, 2 * count),), steps=2 * ended.steps)


class Equivocates(Node):
    """Sends half of the leaders another claim for the same round."""

    def _carry_out(self, effect: do.Effect) -> None:
        match effect:
            case do.Send(peers, message) if isinstance(message, Signed) and isinstance(message.body, Claim):
                other = sign(self.engine.key, message.body.model_copy(update={"loss_commitment": "00" * 32}))
                for number, peer in enumerate(peers):
                    super()._carry_out(do.Send((peer,), other if number % 2 else message))
                    super()._carry_out(do.Send((peer,), other))
            case _:
                super()._carry_out(effect)


class FloodsAudits(Node):
    """Asks everybody to open claims that it was never asked to audit, again and again."""

    async def live(self) -> bool:
        """Take part, and flood."""
        flood = asyncio.create_task(self._flood())
        try:
            return await super().live()
        finally:
            flood.cancel()

    async def _flood(self) -> None:
        number = 0
        while True:
            await asyncio.sleep(1 / FLOOD_PER_SECOND)
            link = self.engine.chain.link(self.engine.head)
            if link.block is None:
                continue
            for claim in link.block.body.roster.body.claims:
                if claim.body.peer != self.engine.me:
                    number += 1
                    asked = AuditRequest(
                        run=self.engine.rules.run,
                        peer=self.engine.me,
                        claim=claim.hash,
                        trace=digest(str(number).encode()).hex(),
                    )
                    self.spawn(self._ask_for(claim.body.peer, sign(self.engine.key, asked).canonical()))

    async def _ask_for(self, peer: PeerId, body: bytes) -> None:
        with contextlib.suppress(ManyhandsError):  # refused, as it has to be
            await self.transport.call(peer, Request("audit", body, limit=4 << 20, timeout=MESSAGE_TIMEOUT))


class AccusesFalsely(Auditing):
    """Finds that the losses differ, whatever claim it is asked to audit."""

    async def _audit(self, task: Any) -> None:
        self._lie(task, "loss trace differs")

    def _lie(self, task: Any, reason: VerdictReason) -> None:
        made_up = LossTrace(digest(task.audit.work.claim.encode()), bytes(4 * task.audit.steps))
        super()._say(task, reason, done=_Done(made_up, None), loss_error=0.5)


class CoversItsAccomplice(AccusesFalsely):
    """Passes its accomplice without a replay, and audits all others honestly."""

    async def _audit(self, task: Any) -> None:
        if task.audit.work.peer == os.environ.get(ACCOMPLICE):
            self._lie(task, "agrees")
        else:
            await Auditing._audit(self, task)


TRAINERS: Sequence[type[CheatingTrainer]] = (
    SendsZeros,
    SendsNoise,
    SendsAnOldContribution,
    CopiesItsNeighbours,
    TrainsOnOtherData,
    RepeatsOneBatch,
    TrainsOnHalfTheBatch,
    DoesHalfTheSteps,
    DoesNineTenthsOfTheSteps,
    StartsFromStaleWeights,
    DoublesItsUpdate,
    FlipsItsSign,
)
PLACES: Mapping[str, tuple[str, str, type]] = {
    **{one.__name__: ("trainer.local", "LocalTrainer", one) for one in TRAINERS},
    "ClaimsMoreThanAssigned": ("peers.node.assembly", "Contributor", ClaimsMoreThanAssigned),
    "Equivocates": ("peers.node.assembly", "Node", Equivocates),
    "FloodsAudits": ("peers.node.assembly", "Node", FloodsAudits),
    "AccusesFalsely": ("peers.node.node", "Auditing", AccusesFalsely),
    "CoversItsAccomplice": ("peers.node.node", "Auditing", CoversItsAccomplice),
}
"""Every cheat by name: the module and the name in it in whose place it stands."""


def put_in_place(cheat: str) -> None:
    """Let this process run a cheat in place of a part of an honest volunteer.

    Raises:
        KeyError: there is no such cheat.
    """
    module, name, kind = PLACES[cheat]
    setattr(importlib.import_module(module), name, kind)


if __name__ == "__main__":
    from trainer.join import main

    put_in_place(sys.argv.pop(1))
    typer.run(main)
