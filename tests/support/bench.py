"""One round engine on a bench: its inputs by hand, its effects looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from rounds import Swarm, keys_of, name

from peers.chain.acts import Acts
from peers.chain.finality import VoteLock
from peers.chain.link import Link
from peers.consensus.effects import Acquainted, Applied, Effect, Received, Send, Tell, Tick, WindowEnded
from peers.consensus.engine import RoundEngine
from peers.consensus.host import Remembered
from peers.consensus.operation_pool import Operation
from peers.consensus.round_state import Phase
from peers.credit.rules import MILLION
from peers.protocol.key_change import KeyChange
from peers.protocol.messages import AnyMessage, Claim, Roster, Signed
from peers.protocol.rules import ELECTOR_MINIMUM
from recipes.keys.keys import SigningKey
from recipes.schema.sections import Overlap
from recipes.slots import take

Wanted = TypeVar("Wanted")


class Bench:
    """One engine on top of a chain of a few rounds, and the keys of everybody else.

    With `elected`, all are electors in two terms; with `audited`, each claim is drawn for an audit, too. With
    `forgot`, the engine has lost its memory, and holds the state after `state_round`.
    """

    def __init__(
        self,
        *,
        peers: int = 4,
        strangers: int = 3,
        me: int = 1,
        elected: bool = False,
        forgot: bool = False,
        state_round: int = 0,
        overlap: Overlap = "none",
        audited: bool = False,
    ) -> None:
        self.swarm = Swarm(peers, overlap=overlap)
        swarm = self.swarm
        if audited:
            every = replace(swarm.credit, newcomer_rate=MILLION, least_rate=MILLION)
            swarm.play_by(replace(every, repeat_rate=0, audit_rounds=2))
            elected = True  # for only electors audit
        self.head = swarm.elect() if elected else swarm.grow(swarm.genesis, swarm.keys, ELECTOR_MINIMUM)
        self.strangers = keys_of(strangers, seed="stranger")
        self.swarm.by_id.update({key.peer_id: key for key in self.strangers})
        self.key = self.swarm.keys[me]
        self.others = [key for key in self.swarm.keys if key is not self.key]
        self.start(forgot=forgot, state_round=state_round)

    def start(
        self,
        *,
        own_operations: Sequence[Operation] = (),
        own_changes: Sequence[KeyChange] = (),
        forgot: bool = False,
        state_round: int = 0,
        vote_lock: VoteLock | None = None,
        acts: Mapping[str, Acts] | None = None,
        own_claims: Sequence[Signed[Claim]] = (),
    ) -> None:
        """Start the engine, or start it again, on top of the head; `first` is what it does then."""
        self.now = 0.0
        kept = VoteLock(self.head.round, self.head.finality.justified_round)
        self.engine = RoundEngine(
            key=self.key,
            chain=self.swarm.chain,
            head=self.head.hash,
            state_digest=self.swarm.digests[self.head.hash],
            remembered=Remembered(
                state_round=state_round,
                vote_lock=vote_lock or (None if forgot else kept),
                own_operations=own_operations,
                own_changes=own_changes,
                acts=acts or {},
                own_claims=own_claims,
            ),
            now=0.0,
        )
        self.first = self.tick()

    def stand_on(self, link: Link) -> list[Effect]:
        """Let a block that is in the chain become the head."""
        self.head = link
        self.take(Acquainted(tuple(key.peer_id for key in self.others)))
        adopted = Applied(link.hash, self.swarm.digests[link.hash], checked=True)
        return self.take(adopted) + self.tick(after=self.engine.deadlines.leader)

    def take(self, happened: Any, *, after: float = 0.01) -> list[Effect]:
        self.now += after
        return self.engine.handle(happened, self.now)

    def tick(self, *, after: float = 0.0) -> list[Effect]:
        return self.take(Tick(), after=after)

    def receive(self, key: SigningKey, message: AnyMessage) -> list[Effect]:
        return self.take(Received(key.peer_id, message))

    def finish_window(self) -> list[Effect]:
        """End the own window: a claim goes out."""
        return self.take(self.work(self.head), after=self.swarm.rules.window_seconds)

    def work(self, parent: Link) -> WindowEnded:
        """What a window on top of `parent` came to."""
        slots = parent.counters.slots_for(self.key.peer_id, self.swarm.rules)
        return WindowEnded(
            parent=parent.hash,
            start_digest=self.engine.digest,
            slots=take(slots, 4)[0],
            steps=3,
            numeric_class="cpu-fp32",
            contribution=name("own"),
            contribution_bytes=1000,
            norms=(1.0,) * self.swarm.rules.segments,
            feedback=name("feedback"),
            feedback_reset=False,
            loss_commitment=name("losses"),
            compute_seconds=2.5,
        )

    def roster(self) -> Signed[Roster]:
        """The roster that the round's first leader would draw up, the own claim in it if there is one."""
        claims = [self.swarm.claim(key, self.head) for key in self.others]
        if self.engine.own_claim is not None:
            claims.append(self.engine.own_claim)
        return self.swarm.roster(claims, self.head, key=self.swarm.by_id[self.swarm.order(self.head)[0]])

    def exchange(self) -> Signed[Roster]:
        """Bring the engine into the exchange of a roster."""
        self.finish_window()
        roster = self.roster()
        self.receive(self.swarm.by_id[roster.body.peer], roster)
        assert self.engine.phase is Phase.EXCHANGING
        return roster


def sent(effects: list[Effect], kind: type[Any]) -> list[Send]:
    """What goes out of messages, or of signed bodies, of one kind."""
    found = [effect for effect in effects if isinstance(effect, Send)]
    return [
        s for s in found if isinstance(s.message.body if isinstance(s.message, Signed) else s.message, kind)
    ]


def told(effects: list[Effect], kind: type[Any]) -> list[Any]:
    return [effect.event for effect in effects if isinstance(effect, Tell) and isinstance(effect.event, kind)]


def of(effects: list[Effect], kind: type[Wanted]) -> list[Wanted]:
    """The effects of one kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


def acquainted(bench: Bench) -> None:
    bench.take(Acquainted(tuple(key.peer_id for key in bench.others)))


def led_by_another(**form: Any) -> Bench:
    """A bench whose engine is not the first leader of the round at hand."""
    bench = Bench(**form)
    if bench.swarm.order(bench.head)[0] == bench.key.peer_id:
        return Bench(**form, me=2)
    return bench


def bench_ranked(rank: int, **form: Any) -> Bench:
    """A bench whose engine leads the round at hand at a rank."""
    for me in range(form.get("peers", 4)):
        bench = Bench(**form, me=me)
        if bench.swarm.order(bench.head).index(bench.key.peer_id) == rank:
            acquainted(bench)
            return bench
    raise LookupError(rank)


def draw_up(bench: Bench) -> list[Effect]:
    """Let everybody claim, so that the engine, which leads, draws up the roster."""
    for key in bench.others:
        bench.receive(key, bench.swarm.claim(key, bench.head))
    return bench.finish_window() + bench.tick(after=bench.engine.deadlines.grace)


def bodies(effects: list[Effect], kind: type[Any]) -> list[Any]:
    """The bodies of one kind that go out, each once."""
    found: dict[str, Any] = {}
    for send in sent(effects, kind):
        assert isinstance(send.message, Signed)
        found[send.message.hash] = send.message.body
    return list(found.values())
