"""The requests that a peer answers: messages, segments, reduced segments, blocks, recipe, data, state.

    kind             request                          answer
    ready .. evidence  a message (messages.py)        empty
    head             empty                            HeadNotice, or empty while syncing
    blocks           round (8 bytes)                  blocks of later rounds, joined
    accepted         roster (32 bytes)                that roster, if it is in use
    segment          a push (segment_store.py)       empty
    reduced          root (32 bytes)                  the reduced segment's frame
    check            roster, segment, chunk, parts    a proof a part, joined
    audit            an auditor's (audit_request.py)  the opening of an own claim (opening.py)
    recipe           empty                            recipe.toml, recipe.sig, joined
    tokenizer        empty                            tokenizer.json
    manifest         empty                            manifest.json
    data             hash, part (32, 8)               a part of a piece of tokens
    snapshots        empty                            the rounds of the snapshots held, 8 bytes each
    snapshot         round (8 bytes)                  that snapshot's manifest
    piece            round, kind, index, part         a part of a piece of that snapshot
                     (8, 1, 4, 8)

A part is its first byte and its length, 4 bytes each. Integers are little-endian. Every request's length is
bounded before it is read.
"""

from __future__ import annotations

from peers.network.transport import Handler, Transport
from peers.node.node import Node
from peers.protocol.audit_request import REQUEST_BYTES
from peers.protocol.length_prefixed import join_parts
from peers.protocol.messages import KINDS
from peers.protocol.requests import (
    DATA_REQUEST_BYTES,
    HASH_BYTES,
    PIECE_REQUEST_BYTES,
    ROUND_BYTES,
    SPOT_REQUEST_BYTES,
    decode_data,
    decode_hash,
    decode_piece,
    decode_round,
    decode_spot_check,
    encode_round,
)
from peers.state.canonical_state import CanonicalState
from peers.sync.run_download import Run
from recipes.errors import MessageError
from recipes.keys.keys import PeerId
from recipes.publication import DATA_FOLDER, MANIFEST_FILE, RECIPE_FILE, SIGNATURE_FILE, TOKENIZER_FILE

ANSWER_BYTES = 256 << 10  # of one answer with blocks: so much holds up a thin line for two seconds


def serve_node(node: Node) -> None:
    """Answer the requests of rounds: messages, segments, spot checks, heads and blocks."""
    transport, exchange, chain_store = node.transport, node.disk.exchange, node.disk.chain.store

    def taker(kind: str) -> Handler:
        async def take(sender: PeerId, content: bytes) -> bytes:
            node.correspondence.receive(sender, kind, content)
            return b""

        return take

    for kind, (_, limit) in KINDS.items():
        if kind != "head":
            transport.serve(kind, taker(kind), limit=limit)

    async def accepted(_: PeerId, content: bytes) -> bytes:
        roster = node.engine.roster
        if roster is None or roster.hash != content.hex():
            raise MessageError("that roster is not in use here")
        return roster.canonical()

    async def head(_: PeerId, __: bytes) -> bytes:
        notice = node.head_notice()
        return notice.canonical() if notice is not None else b""

    async def blocks(_: PeerId, content: bytes) -> bytes:
        return join_parts(chain_store.contents(after_round=decode_round(content), most_bytes=ANSWER_BYTES))

    async def segment(sender: PeerId, content: bytes) -> bytes:
        await node.transfers.accept(sender, content)
        return b""

    async def reduced(_: PeerId, content: bytes) -> bytes:
        return exchange.reduced_bytes(decode_hash(content))

    async def check(_: PeerId, content: bytes) -> bytes:
        return await node.prove(decode_spot_check(content))

    transport.serve("head", head, limit=0)
    transport.serve("audit", node.answering.answer, limit=REQUEST_BYTES, purpose="audits")
    transport.serve("accepted", accepted, limit=32, purpose="roster")
    transport.serve("blocks", blocks, limit=ROUND_BYTES)
    transport.serve("segment", segment, limit=exchange.form.push_limit, purpose="segments")
    transport.serve("reduced", reduced, limit=HASH_BYTES, purpose="segments")
    transport.serve("check", check, limit=SPOT_REQUEST_BYTES, purpose="spot checks")


def serve_publication(transport: Transport, run: Run) -> None:
    """Answer with the recipe, its signature, the tokenizer, the manifest and the data in a run's folder."""
    folder = run.folder
    parts = (run.manifest.train, run.manifest.validation)
    pieces = frozenset(piece.hash for part in parts for piece in part.pieces)

    async def recipe(_: PeerId, __: bytes) -> bytes:
        return join_parts([(folder / RECIPE_FILE).read_bytes(), (folder / SIGNATURE_FILE).read_bytes()])

    async def tokenizer(_: PeerId, __: bytes) -> bytes:
        return (folder / TOKENIZER_FILE).read_bytes()

    async def manifest(_: PeerId, __: bytes) -> bytes:
        return (folder / MANIFEST_FILE).read_bytes()

    async def data(_: PeerId, content: bytes) -> bytes:
        name, span = decode_data(content)
        if name not in pieces:
            raise MessageError("no such piece belongs to this run")
        try:
            return span.of((folder / DATA_FOLDER / name).read_bytes())
        except FileNotFoundError as error:
            raise MessageError("that piece is not here yet") from error

    transport.serve("recipe", recipe, limit=0)
    transport.serve("tokenizer", tokenizer, limit=0, purpose="data")
    transport.serve("manifest", manifest, limit=0, purpose="data")
    transport.serve("data", data, limit=DATA_REQUEST_BYTES)


def serve_state(transport: Transport, state: CanonicalState) -> None:
    """Answer with snapshots of the canonical state."""

    async def snapshots(_: PeerId, __: bytes) -> bytes:
        return b"".join(encode_round(round_number) for round_number in state.snapshots.rounds())

    async def snapshot(_: PeerId, content: bytes) -> bytes:
        manifest = state.snapshots.manifest(decode_round(content))
        if manifest is None:
            raise MessageError("no such snapshot is held here")
        return manifest.to_bytes()

    async def piece(_: PeerId, content: bytes) -> bytes:
        round_number, wanted, span = decode_piece(content)
        found = state.snapshots.serve_piece(round_number, wanted)
        if found is None:
            raise MessageError("that piece is not here")
        return span.of(found)

    transport.serve("snapshots", snapshots, limit=0, purpose="snapshot")
    transport.serve("snapshot", snapshot, limit=ROUND_BYTES)
    transport.serve("piece", piece, limit=PIECE_REQUEST_BYTES, purpose="snapshot")
