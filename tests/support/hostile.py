"""Hostile bytes: good samples of all that other peers send, and the parsers that read them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from exchange import FORM, Exchange, contribution
from hostile_network import NETWORK_SUBJECTS
from hostile_subject import KEY, Subject
from one_of_each import one_of_each
from pydantic import ValidationError
from rounds import RUN
from tiny_run import RECIPE

from peers.codec.segment import ChunkProof, SegmentFrame
from peers.exchange.segment_store import read_push
from peers.protocol.length_prefixed import join_parts, split_parts
from peers.protocol.messages import KINDS, Signed, parse
from peers.protocol.requests import (
    DATA_REQUEST_BYTES,
    Span,
    SpotCheck,
    StatePiece,
    decode_data,
    decode_hash,
    decode_piece,
    decode_round,
    decode_spot_check,
    encode_data,
    encode_piece,
    encode_round,
    encode_spot_check,
)
from peers.state.manifest import SnapshotManifest, parse_manifest, piece_count
from recipes import corpus
from recipes.errors import DataError, MessageError, RecipeError
from recipes.formats.blake3_tree import digest
from recipes.layout import PIECE_BYTES, lay_out
from recipes.schema.recipe import parse_recipe
from recipes.signature import SignatureFile, check_recipe_signatures, sign_recipe
from recipes.tokenizer import parse_tokenizer, train_tokenizer

HUGE = 2**53 - 1

LAYOUT = lay_out([("weights", (300_000,))], segments=2)


def _message(kind: str) -> Callable[[Path], Subject]:
    def build(_: Path) -> Subject:
        samples = [one_of_each()[kind].canonical()]
        return Subject(samples, lambda content: parse(kind, content, run=RUN).canonical(), exact=False)

    return build


def _unsigned(kind: str) -> Callable[[Path], Subject]:
    """The same, but by a liar who signs whatever has the right shape: then it is hashed, and kept."""

    def read(content: bytes) -> bytes:
        message = KINDS[kind][0].model_validate_json(content)
        assert not isinstance(message, Signed) or len(message.hash) == 64
        return message.canonical()

    def build(_: Path) -> Subject:
        return Subject([one_of_each()[kind].canonical()], read, (ValidationError,), exact=False)

    return build


def _parts(_: Path) -> Subject:
    samples = [join_parts([b"one", b"", b"three" * 9]), join_parts([b"x"] * 64), b""]
    return Subject(samples, lambda content: join_parts(split_parts(content, most=64)))


def _blocks(_: Path) -> Subject:
    block = one_of_each()["block"].canonical()

    def read(content: bytes) -> bytes:
        return join_parts(parse("block", part, run=RUN).canonical() for part in split_parts(content, most=16))

    return Subject([join_parts([block] * 2)], read, exact=False, slowness=2)


def _frame(_: Path) -> Subject:
    frames = contribution(1)
    empty = SegmentFrame.encode(np.zeros((FORM.chunks_per_segment, 4096), np.float32), codec=FORM.at(0).codec)

    def read(content: bytes) -> bytes:
        frame = SegmentFrame.parse(content, codec=FORM.at(0).codec, chunks=FORM.chunks_per_segment)
        assert np.isfinite(frame.decode().values).all()
        assert frame.norm() >= 0
        return frame.to_bytes()

    return Subject([*(frame.to_bytes() for frame in frames), empty.to_bytes()], read)


def _push(folder: Path) -> Subject:
    exchange = Exchange(folder)
    samples = [
        exchange.stores[0].push_content(exchange.claim(0), segment, exchange.roster.hash)
        for segment in range(FORM.segments)
    ]

    def read(content: bytes) -> bytes:
        roster, segment, proof, data = read_push(content)
        with contextlib.suppress(MessageError):
            taken = exchange.stores[3].take_push(exchange.keys[0].peer_id, content)
            assert taken == (roster, segment)
            exchange.stores[3]._received[roster].frames.clear()  # let the next one be looked at, too
        return join_parts([bytes.fromhex(roster), segment.to_bytes(4, "little"), b"".join(proof), data])

    return Subject(samples, read)


def _proof(folder: Path) -> Subject:
    exchange = Exchange(folder)
    reduction = exchange.reduce(1, by=1)
    answer = exchange.stores[1].prove(exchange.roster.hash, 1, 0, reduction.included)

    def read(content: bytes) -> bytes:
        proof = ChunkProof.parse(content, codec=FORM.at(0).codec)
        proof.root(chunk=0, chunks=FORM.chunks_per_segment, segment=1, segments=FORM.segments)
        return proof.to_bytes()

    return Subject(split_parts(answer, most=9), read)


def _spot_answer(folder: Path) -> Subject:
    exchange = Exchange(folder)
    reduction = exchange.reduce(1, by=1)
    answer = exchange.stores[1].prove(exchange.roster.hash, 1, 0, reduction.included)

    def read(content: bytes) -> bytes:
        exchange.stores[1].check_spot(exchange.roster.body, reduction, 0, content, tokens=0)
        return answer  # nothing else convinces

    return Subject([answer], read, slowness=2)


def _spot_request(folder: Path) -> Subject:
    exchange = Exchange(folder)
    exchange.reduce(1, by=1)
    spots = [
        SpotCheck(exchange.roster.hash, 1, 2, (0, 1, 2, 3)),
        SpotCheck(exchange.roster.hash, 2**32 - 1, 0, tuple(range(64))),
    ]

    def read(content: bytes) -> bytes:
        spot = decode_spot_check(content)
        with contextlib.suppress(MessageError):
            exchange.stores[1].prove(spot.roster, spot.segment, spot.chunk, spot.included)
        return encode_spot_check(spot)

    return Subject([encode_spot_check(spot) for spot in spots], read)


def _requests(_: Path) -> Subject:
    """The small ones, told apart by their length."""

    def read(content: bytes) -> bytes:
        if len(content) == 8:
            return encode_round(decode_round(content))
        if len(content) == 32:
            return bytes.fromhex(decode_hash(content))
        if len(content) == DATA_REQUEST_BYTES:
            name, span = decode_data(content)
            return encode_data(bytes.fromhex(name), span)
        return encode_piece(*decode_piece(content))

    span = Span(1 << 16, 1 << 15)
    pieces = [
        encode_piece(7, StatePiece("momentum", 3), span),
        encode_piece(2**53 - 1, StatePiece("counters", 0), span),
    ]
    return Subject([encode_round(7), bytes(range(32)), encode_data(bytes(32), span), *pieces], read)


def _snapshot_manifest(_: Path) -> Subject:
    leaves = tuple(f"{number:064x}" for number in range(piece_count(LAYOUT)))
    manifest = SnapshotManifest(
        round=8, block=RUN, weights=leaves, momentum=leaves, counters=RUN, accounts=(RUN, RUN)
    )

    def read(content: bytes) -> bytes:
        found = parse_manifest(content, layout=LAYOUT, has_momentum=True)
        assert len(found.digest()) == 32
        return found.to_bytes()

    return Subject([manifest.to_bytes()], read, exact=False)


def _corpus_manifest(_: Path) -> Subject:
    part = corpus.Part(
        tokens=PIECE_BYTES // 2 + 50,
        pieces=[
            corpus.CorpusPiece(hash="a" * 64, bytes=PIECE_BYTES),
            corpus.CorpusPiece(hash="b" * 64, bytes=100),
        ],
    )
    manifest = corpus.CorpusManifest(
        dtype="uint16", sequence_length=32, tokenizer=RUN, train=part, validation=part
    )

    def read(content: bytes) -> bytes:
        return corpus.parse_manifest(content, expected=digest(content)).content()

    return Subject([manifest.content()], read, (DataError,), exact=False)


def _recipe(_: Path) -> Subject:
    def read(content: bytes) -> bytes:
        parse_recipe(content, name="it")
        return content

    return Subject([RECIPE.encode()], read, (RecipeError,), slowness=10)


def _recipe_signature(_: Path) -> Subject:
    content = RECIPE.encode()

    def read(signature: bytes) -> bytes:
        assert check_recipe_signatures(content, signature, [KEY.peer_id]) == (KEY.peer_id,)
        return SignatureFile.model_validate_json(signature).model_dump_json().encode()

    return Subject([sign_recipe(content, KEY)], read, (RecipeError,), exact=False)


def _tokenizer(_: Path) -> Subject:
    def read(content: bytes) -> bytes:
        parse_tokenizer(content)
        return content

    return Subject([train_tokenizer(["ab ab abc"], vocab_size=260)], read, (DataError,), slowness=8)


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    **NETWORK_SUBJECTS,
    **{kind: _message(kind) for kind in KINDS},
    **{f"{kind} by a liar": _unsigned(kind) for kind in KINDS},
    "parts": _parts,
    "blocks": _blocks,
    "frame": _frame,
    "segment push": _push,
    "chunk proof": _proof,
    "answer to a spot check": _spot_answer,
    "spot check": _spot_request,
    "small requests": _requests,
    "snapshot manifest": _snapshot_manifest,
    "corpus manifest": _corpus_manifest,
    "recipe": _recipe,
    "recipe signature": _recipe_signature,
    "tokenizer": _tokenizer,
}
