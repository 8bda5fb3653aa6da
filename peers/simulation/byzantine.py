"""Peers of a simulated world that depart from the protocol, each in one way.

A liar runs the production engine; what the engine wants done is altered before it is carried out. It signs
with its own key only, so nothing here forges a signature: that is what signatures are for.
"""

from __future__ import annotations

import contextlib
import random
from collections import deque
from enum import Enum

from peers.consensus import effects as do
from peers.protocol.messages import (
    KINDS,
    AnyMessage,
    Block,
    Claim,
    CoSignature,
    HeadNotice,
    Pace,
    Ready,
    Reduction,
    Roster,
    Signed,
    kind_of,
    parse,
    sign,
)
from peers.protocol.rules import MIXED_LEADERS
from peers.simulation.virtual_exchange import root_of
from peers.simulation.virtual_surroundings import Peer
from recipes.errors import MessageError
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId

_REMEMBERED = 300  # messages
_REPLAYED = 4  # at a time
_FLOOD = 12
_GARBLED = 4  # at a time


class Lie(str, Enum):
    """The ways to lie."""

    TWO_BLOCKS = "two-blocks"  # as leader, shows one block to one half and another to the rest
    TWO_ROSTERS = "two-rosters"  # as leader, shows one roster to one half and another to the rest
    LEAVES_OUT = "leaves-out"  # as reducer, leaves out a part for which it gave a receipt
    EMPTIES = "empties"  # as leader, leaves a segment empty that it could have
    ORDERS = "orders"  # as leader, lists claims in an order of its own
    GRINDS = "grinds"  # shows preimages, and anchors chains, of its own choice
    OMITS = "omits"  # as leader, leaves one other's claim out of each roster
    HOLDS_BACK = "holds-back"  # claims only where its claim will not be in the next beacon
    CONSPIRE = "conspire"  # with its like, shows each half of the world a block and co-signs both
    FALSE_DIGEST = "false-digest"  # co-signs a state that nobody has
    SILENT_REDUCER = "silent-reducer"  # never reduces
    WITHHOLD = "withhold"  # reduces, announces, and serves nothing
    MISCOMPUTE = "miscompute"  # reduces to something else than the average
    NO_SEGMENTS = "no-segments"  # claims, and sends nothing
    REPLAY = "replay"  # sends old messages again
    FLOOD = "flood"  # sends messages about blocks and rosters that do not exist
    GARBAGE = "garbage"  # sends what is left of messages when bytes are flipped, cut out and doubled
    BOAST = "boast"  # names heads that it cannot deliver
    ABSURD = "absurd"  # claims with numbers as large as can be written, and says that everything takes a day


class Liar:
    """One liar's manner, and what it remembers for it."""

    def __init__(self, lie: Lie, seed: int) -> None:
        self.lie = lie
        self._chance = random.Random(seed)
        self._told: dict[str, Signed[Claim]] = {}
        self._heard: deque[AnyMessage] = deque(maxlen=_REMEMBERED)

    @property
    def withholds(self) -> bool:
        return self.lie in (Lie.WITHHOLD, Lie.BOAST)

    @property
    def miscomputes(self) -> bool:
        return self.lie is Lie.MISCOMPUTE

    def alter(self, peer: Peer, effect: do.Effect) -> list[do.Effect]:
        """Return what is done in place of `effect`."""
        match self.lie:
            case Lie.NO_SEGMENTS if isinstance(effect, do.PushSegment):
                return []
            case Lie.SILENT_REDUCER if isinstance(effect, do.Reduce):
                return []
            case Lie.REPLAY if isinstance(effect, do.Send):
                return [effect, *self._replay(peer, effect)]
            case Lie.FLOOD if isinstance(effect, do.Send):
                return [effect, *self._flood(peer)]
            case Lie.GARBAGE if isinstance(effect, do.Send):
                return [effect, *self._garbage(peer, effect)]
            case Lie.ABSURD if isinstance(effect, do.Send):
                return [self._absurd(peer, effect)]
            case Lie.FALSE_DIGEST if isinstance(effect, do.Send):
                return [self._with_false_digest(peer, effect)]
            case Lie.TWO_BLOCKS if isinstance(effect, do.Send):
                return self._two_blocks(peer, effect)
            case Lie.TWO_ROSTERS if isinstance(effect, do.Send):
                return self._two_rosters(peer, effect)
            case Lie.LEAVES_OUT if isinstance(effect, do.Send):
                return [self._leave_out(peer, effect)]
            case Lie.EMPTIES if isinstance(effect, do.Send):
                return [self._empty(peer, effect)]
            case Lie.ORDERS | Lie.OMITS if isinstance(effect, do.Send):
                return [self._with_own_roster(peer, effect)]
            case Lie.GRINDS if isinstance(effect, do.Send):
                return [self._with_ground_preimage(peer, effect)]
            case Lie.HOLDS_BACK if isinstance(effect, do.Send):
                return self._held_back(peer, effect)
            case Lie.CONSPIRE:
                return self._conspire(peer, effect)
        return [effect]

    def boast(self, notice: HeadNotice | None) -> HeadNotice | None:
        """Return what is said in place of where it stands."""
        if self.lie is not Lie.BOAST:
            return notice
        far = (notice.round if notice is not None else 0) + self._chance.choice([1, 2, 30, 2**40])
        return HeadNotice(round=far, block=digest(self._chance.randbytes(32)).hex(), age_seconds=1.0)

    def deliver(self, me: PeerId, blocks: tuple[Signed[Block], ...]) -> do.BlocksFetched | None:
        """Return the answer to a peer that asks for blocks; None is no answer."""
        if self.lie is not Lie.BOAST:
            return do.BlocksFetched(me, blocks)
        match self._chance.randrange(4):
            case 0:
                return None
            case 1:
                return do.BlocksFetched(me, ())
            case 2:
                return do.BlocksFetched(me, blocks[1:])
            case _:
                return do.BlocksFetched(me, blocks)

    def _replay(self, peer: Peer, effect: do.Send) -> list[do.Effect]:
        self._heard.append(effect.message)
        # Blocks carry what others said: their rosters and co-signatures are replayed too.
        for signed in peer.disk.blocks[-1:]:
            self._heard += [signed, signed.body.roster, *signed.body.cosignatures]
        others = peer.world.ids_alive(besides=peer)
        return [do.Send(others, self._chance.choice(self._heard)) for _ in range(_REPLAYED)]

    def _flood(self, peer: Peer) -> list[do.Effect]:
        others = peer.world.ids_alive(besides=peer)
        round_number = peer.running.round.parent.round
        sent: list[do.Effect] = []
        for _ in range(_FLOOD):
            nowhere = digest(self._chance.randbytes(32)).hex()
            far = round_number + self._chance.choice([0, 1, 2, 1000, 2**40])
            word = CoSignature(
                run=peer.world.rules.run, peer=peer.id, round=far, block=nowhere, digest=nowhere
            )
            messages: list[AnyMessage] = [
                Ready(round=far, parent=nowhere),
                HeadNotice(round=far, block=nowhere, age_seconds=self._chance.uniform(0, 1e6)),
                sign(peer.key, word),
            ]
            own = peer.running.own_claim
            if own is not None:
                messages.append(sign(peer.key, own.body.model_copy(update={"parent": nowhere, "round": far})))
            sent.append(do.Send(others, self._chance.choice(messages)))
        return sent

    def _garbage(self, peer: Peer, effect: do.Send) -> list[do.Effect]:
        """Damage a message's bytes; what the parser lets through all the same is sent."""
        sent: list[do.Effect] = []
        for _ in range(_GARBLED):
            content = bytearray(effect.message.canonical())
            for _ in range(self._chance.randint(1, 3)):
                at, length = self._chance.randrange(len(content)), self._chance.randint(1, 40)
                part = self._chance.choice([self._chance.randbytes(length), b"", bytes(content[:length])])
                content[at : at + self._chance.randint(0, length)] = part
            kind = self._chance.choice([kind_of(effect.message), *KINDS])
            with contextlib.suppress(MessageError):  # anything else that a parser raises breaks the world
                sent.append(do.Send(effect.peers, parse(kind, bytes(content), run=peer.world.rules.run)))
        return sent

    def _absurd(self, peer: Peer, effect: do.Send) -> do.Send:
        message = effect.message
        if not isinstance(message, Signed) or not isinstance(message.body, Claim):
            return effect
        day = 86_400_000
        numbers = {
            "norms": (1e308,) * len(message.body.norms),
            "contribution_bytes": 2**53 - 1,
            "steps": 2**53 - 1,
            "pace": Pace(claims_late_ms=day, transfer_ms=day, reply_ms=day, exchange_ms=day, compute_ms=day),
        }
        if self._chance.random() < 0.5:
            numbers["slots"] = ((0, 2**53 - 1),)
        if (told := self._told.get(message.hash)) is None:  # the same to everybody
            told = self._told[message.hash] = sign(peer.key, message.body.model_copy(update=numbers))
        return do.Send(effect.peers, told)

    def _with_false_digest(self, peer: Peer, effect: do.Send) -> do.Send:
        if not isinstance(effect.message, Signed) or not isinstance(effect.message.body, CoSignature):
            return effect
        if effect.message.body.peer != peer.id:
            return effect  # somebody else's, handed on
        false = effect.message.body.model_copy(update={"digest": digest(b"a state that nobody has").hex()})
        return do.Send(effect.peers, sign(peer.key, false))

    def _two_blocks(self, peer: Peer, effect: do.Send) -> list[do.Effect]:
        message = effect.message
        if not isinstance(message, Signed) or not isinstance(message.body, Block) or len(effect.peers) < 2:
            return [effect]
        if message.body.peer != peer.id:
            return [effect]  # somebody else's, handed on
        return _shown_to_halves(effect, message, sign(peer.key, _another(message.body)))

    def _two_rosters(self, peer: Peer, effect: do.Send) -> list[do.Effect]:
        message = effect.message
        if not isinstance(message, Signed) or not isinstance(message.body, Roster) or len(effect.peers) < 2:
            return [effect]
        if message.body.peer != peer.id or len(message.body.claims) < 2:
            return [effect]
        fewer = message.body.model_copy(update={"claims": message.body.claims[:-1]})
        return _shown_to_halves(effect, message, sign(peer.key, fewer))

    def _with_own_roster(self, peer: Peer, effect: do.Send) -> do.Send:
        """Show the same roster to everybody: in another order, or without one other's claim."""
        message = effect.message
        if not isinstance(message, Signed) or not isinstance(message.body, Roster):
            return effect
        claims = message.body.claims
        others = [claim for claim in claims if claim.body.peer != peer.id]
        if message.body.peer != peer.id or len(claims) < 2 or not others:
            return effect
        chosen = claims[::-1]
        if self.lie is Lie.OMITS:
            chosen = tuple(claim for claim in claims if claim is not others[0])
        return do.Send(effect.peers, sign(peer.key, message.body.model_copy(update={"claims": chosen})))

    def _with_ground_preimage(self, peer: Peer, effect: do.Send) -> do.Send:
        """Claim with what suits it in place of what its hash chain has."""
        message = effect.message
        if not isinstance(message, Signed) or not isinstance(message.body, Claim):
            return effect
        if message.body.peer != peer.id or message.body.preimage is None:
            return effect
        ground = {"preimage": digest(self._chance.randbytes(32)).hex()}
        if (told := self._told.get(message.hash)) is None:  # the same to everybody
            told = self._told[message.hash] = sign(peer.key, message.body.model_copy(update=ground))
        return do.Send(effect.peers, told)

    def _held_back(self, peer: Peer, effect: do.Send) -> list[do.Effect]:
        message = effect.message
        own = isinstance(message, Signed) and isinstance(message.body, Claim) and message.body.peer == peer.id
        mixed = peer.id in peer.running.round.parent.leaders[:MIXED_LEADERS]
        return [] if own and mixed else [effect]

    def _leave_out(self, peer: Peer, effect: do.Send) -> do.Send:
        """Announce an average without one other claimant, and serve just that."""
        message = effect.message
        roster = peer.running.roster
        if not isinstance(message, Signed) or not isinstance(message.body, Reduction) or roster is None:
            return effect
        body = message.body
        others = [place for place in body.included if roster.body.claims[place].body.peer != peer.id]
        if body.peer != peer.id or body.roster != roster.hash or not others or len(body.included) < 2:
            return effect
        fewer = tuple(place for place in body.included if place != others[0])
        root = root_of(peer, body.roster, body.segment, fewer)
        peer.disk.reduced[root] = roster.body.round
        return do.Send(
            effect.peers, sign(peer.key, body.model_copy(update={"included": fewer, "root": root}))
        )

    def _empty(self, peer: Peer, effect: do.Send) -> do.Send:
        """Leave a segment empty without anybody's word that it cannot be had."""
        message = effect.message
        if not isinstance(message, Signed) or not isinstance(message.body, Block):
            return effect
        body = message.body
        if body.peer != peer.id:
            return effect  # somebody else's, handed on
        emptied = {"reductions": (None, *body.reductions[1:]), "missing": ()}
        return do.Send(effect.peers, sign(peer.key, body.model_copy(update=emptied)))

    def _conspire(self, peer: Peer, effect: do.Effect) -> list[do.Effect]:
        """Give each half of the world a block and a majority of its own, and let neither see the other's."""
        if isinstance(effect, do.SaveBlock):
            return [effect, self._cosignature_for(peer, effect.block)]
        if not isinstance(effect, do.Send) or not isinstance(effect.message, Signed):
            return [effect]
        body = effect.message.body
        if isinstance(body, CoSignature):
            return []
        if not isinstance(body, Block) or body.peer != peer.id:
            return [effect]
        one, other = sign(peer.key, body), sign(peer.key, _another(body))
        if _upper(one) == _upper(other):
            return [effect]
        return [
            do.Send(_half(peer, upper=_upper(one)), one),
            do.Send(_half(peer, upper=_upper(other)), other),
            self._cosignature_for(peer, other),
        ]

    def _cosignature_for(self, peer: Peer, block: Signed[Block]) -> do.Send:
        """Co-sign a block, whatever else was co-signed, and let only its half of the world know."""
        word = CoSignature(
            run=peer.world.rules.run,
            peer=peer.id,
            round=block.body.round,
            block=block.hash,
            digest=peer.running.digest,
        )
        return do.Send(_half(peer, upper=_upper(block)), sign(peer.key, word))


def _shown_to_halves(effect: do.Send, one: AnyMessage, other: AnyMessage) -> list[do.Effect]:
    half = len(effect.peers) // 2
    return [do.Send(effect.peers[:half], one), do.Send(effect.peers[half:], other)]


def _another(block: Block) -> Block:
    """Return a valid block of the same attempt: with its co-signatures in another order, if it has two.

    Of the orders, one whose block is for the other half of the world is taken, if there is one.
    """
    signed = block.cosignatures
    if len(signed) < 2:
        return block.model_copy(update={"reductions": (None, *block.reductions[1:])})
    turned = [
        block.model_copy(update={"cosignatures": (*signed[turn:], *signed[:turn])})
        for turn in range(1, len(signed))
    ]
    upper = _is_upper(digest(block.canonical()))
    return next((one for one in turned if _is_upper(digest(one.canonical())) != upper), turned[0])


def _upper(block: Signed[Block]) -> bool:
    """Whether conspirators show a block to the upper half of the world."""
    return _is_upper(bytes.fromhex(block.hash))


def _is_upper(name: bytes) -> bool:
    return name[0] % 2 == 1


def _half(peer: Peer, *, upper: bool) -> tuple[PeerId, ...]:
    """Return the peers of one half of the world, as all conspirators divide it."""
    everybody = [other.id for other in peer.world.peers.values()]
    middle = len(everybody) // 2
    return tuple(other for other in (everybody[middle:] if upper else everybody[:middle]) if other != peer.id)
