"""Hostile bytes: good samples of all that other peers send, ways to spoil them, and who reads them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from exchange import FORM, Exchange, contribution
from pydantic import ValidationError
from rounds import RUN, keys_of, one_of_each
from tiny_run import RECIPE

from peers.codec.segment import ChunkProof, SegmentFrame
from peers.exchange.segment_store import read_push
from peers.network import framing
from peers.network.addresses import by_usefulness, is_loopback, pin_ports, split_peer
from peers.network.discovery import PEERS_FILE, remembered_peers
from peers.network.framing import RemoteError, Status
from peers.network.p2pd import client
from peers.network.presence import Presence, read_presence, sign_presence
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
from recipes.errors import DataError, MessageError, NetworkError, RecipeError
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import SigningKey
from recipes.layout import PIECE_BYTES, lay_out
from recipes.schema.recipe import parse_recipe
from recipes.signature import SignatureFile, check_recipe_signatures, sign_recipe
from recipes.tokenizer import parse_tokenizer, train_tokenizer

HUGE = 2**53 - 1

KEY = SigningKey(bytes(32))
LAYOUT = lay_out([("weights", (300_000,))], segments=2)
LONGEST = 1 << 16  # bytes of a spoilt sample


@dataclass(frozen=True)
class Subject:
    """A parser, good samples of what it reads, and the only errors that it may raise.

    `read` returns what was read as it would be sent again. If `exact`, those are the same bytes; if not,
    they are its one canonical form, which reads as itself.
    """

    samples: Sequence[bytes]
    read: Callable[[bytes], bytes]
    errors: tuple[type[BaseException], ...] = (MessageError,)
    exact: bool = True
    slowness: int = 1  # the long fuzz tries so many times fewer


# ---------------------------------------------------------------- spoiling

NUMBERS = (
    *(b"0", b"-0", b"-0.0", b"-1", b"0.1", b"1.0", b"1e0", b"1E+2", b"01", b"+1", b".5", b"0x10"),
    *(b"1e308", b"1.7976931348623157e308", b"1e309", b"1e400", b"-1e400", b"5e-324", b"1e-400"),
    *(b"9007199254740991", b"9007199254740992", b"18446744073709551615", b"1" * 400, b"0." + b"3" * 400),
    *(b"NaN", b"Infinity", b"-Infinity", b"true", b"null", b'"1"', b"[]", b"{}"),
)
SNIPPETS = (
    *(
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"\\u0000"',
        b"\xed\xa0\x80",
        b"\xff\xfe",
        b"\xc0\x80",
        b"\xef\xbb\xbf",
    ),
    *(b"[" * 300, b'{"a":' * 300, b"]" * 300, b'"', b"\\", b"\x00", b",", b":", b"\n", b"/*", b"\x1b[2J"),
    *(bytes(4), b"\xff" * 4, b"\xff" * 8, b"\x80" * 10, struct.pack("<I", 2**31), struct.pack(">I", 2**31)),
    *("\u2028".encode(), "\U0001f600".encode(), "é".encode(), "e\u0301".encode()),
)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_PAIR = re.compile(rb'"[a-z_]+":[^,{}\[\]]+,')


def flip(chance: random.Random, content: bytes) -> bytes:
    spoilt = bytearray(content or b"\0")
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
    return bytes(spoilt)


def cut(chance: random.Random, content: bytes) -> bytes:
    start, end = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    return chance.choice((content[:start], content[start:], content[:start] + content[end:]))


def repeat(chance: random.Random, content: bytes) -> bytes:
    start = chance.randrange(len(content) + 1)
    piece = content[start : start + chance.choice((1, 2, 4, 8, 40, 300))]
    times = chance.choice((2, 3, 17, LONGEST // (len(piece) + 1)))
    return content[:start] + piece * times + content[start + len(piece) :]


def insert(chance: random.Random, content: bytes) -> bytes:
    start = chance.randrange(len(content) + 1)
    what = chance.choice((*SNIPPETS, chance.randbytes(chance.randrange(1, 40))))
    return content[:start] + what + content[start + chance.choice((0, 0, 1, len(what))) :]


def renumber(chance: random.Random, content: bytes) -> bytes:
    found = list(_NUMBER.finditer(content))
    if not found:
        return insert(chance, content)
    number = chance.choice(found)
    return content[: number.start()] + chance.choice(NUMBERS) + content[number.end() :]


def duplicate(chance: random.Random, content: bytes) -> bytes:
    """Repeat a key, its second value another one."""
    found = list(_PAIR.finditer(content))
    if not found:
        return repeat(chance, content)
    pair = chance.choice(found)
    again = renumber(chance, pair.group()) if chance.random() < 0.5 else pair.group()
    return content[: pair.start()] + again + content[pair.start() :]


_WAYS = (flip, cut, repeat, insert, renumber, duplicate)


def spoil(chance: random.Random, samples: Sequence[bytes]) -> bytes:
    """A good sample that was spoilt in one to three ways, or bytes that were never good."""
    if chance.random() < 0.02:
        return chance.randbytes(chance.choice((0, 1, 2, 5, 40, 400)))
    content = chance.choice(samples)
    if chance.random() < 0.15:
        other = chance.choice(samples)
        content = content[: chance.randrange(len(content) + 1)] + other[chance.randrange(len(other) + 1) :]
    for _ in range(chance.choice((1, 1, 2, 3))):
        content = chance.choice(_WAYS)(chance, content)[:LONGEST]
    return content


def check(subject: Subject, content: bytes) -> None:
    """Whatever the bytes: they are read as what is sent again the same way, or refused as foreseen."""
    try:
        again = subject.read(content)
    except subject.errors:
        return
    if subject.exact:
        assert again == content
    else:
        assert subject.read(again) == again


# ---------------------------------------------------------------- subjects


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


def _head_of_request(_: Path) -> Subject:
    async def read(content: bytes) -> bytes:
        reader = asyncio.StreamReader()
        reader.feed_data(content)
        reader.feed_eof()
        kind, length = await framing.read_request_head(reader)
        assert re.fullmatch(r"[a-z][a-z0-9-]{0,31}", kind)
        return bytes([len(kind)]) + kind.encode() + struct.pack(">I", length) + await reader.read()

    samples = [b"\x05block\x00\x00\x10\x00", b"\x05pieceAAAA" + b"x" * 9]
    return Subject(samples, lambda content: asyncio.run(read(content)), (MessageError, EOFError), slowness=4)


def _response(_: Path) -> Subject:
    async def read(content: bytes) -> bytes:
        reader = asyncio.StreamReader()
        reader.feed_data(content)
        reader.feed_eof()
        try:
            body = await framing.read_response(reader, limit=100, count=lambda _: None)
        except RemoteError:
            return content
        return struct.pack(">BI", Status.OK, len(body)) + body + await reader.read()

    samples = [struct.pack(">BI", status, 5) + b"hello" for status in Status]
    return Subject(samples, lambda content: asyncio.run(read(content)), (MessageError, EOFError), slowness=4)


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


def _presence(_: Path) -> Subject:
    samples = []
    for addresses in ((), (f"/ip4/203.0.113.5/tcp/31330/p2p/{KEY.peer_id}", "/dns4/example.org/udp/1")):
        presence = Presence(run=RUN, peer=KEY.peer_id, addresses=addresses, round=7, time=1_800_000_000)
        samples.append(sign_presence(presence, KEY))
    return Subject(samples, lambda content: sign_presence(read_presence(content), KEY))


def _presence_unsigned(_: Path) -> Subject:
    """What a liar can sign."""

    def read(content: bytes) -> bytes:
        presence = Presence.model_validate_json(content)
        by_usefulness(presence.addresses)
        pin_ports(["/ip4/0.0.0.0/tcp/0"], presence.addresses)
        for address in presence.addresses:
            is_loopback(address)
            with contextlib.suppress(NetworkError):
                split_peer(address)
            with contextlib.suppress(NetworkError):
                client.check_address(address)
        return json.dumps(presence.model_dump(mode="json")).encode()

    addresses = (
        f"/ip6/2001:db8::1/tcp/1/p2p/{KEY.peer_id}",
        "/ip4/1.2.3.4/udp/9/quic",
        "/dns4/example.org/tcp/1",
    )
    presence = Presence(run=RUN, peer=KEY.peer_id, addresses=addresses, round=7, time=1)
    return Subject([presence.model_dump_json().encode()], read, (ValidationError,), exact=False)


def _dht_record(_: Path) -> Subject:
    """A byte string in MessagePack: `bin 8` or `bin 16`, whichever is the shortest that holds it."""

    def pack(content: bytes) -> bytes:
        head = (
            b"\xc4" + bytes([len(content)]) if len(content) < 256 else struct.pack(">BH", 0xC5, len(content))
        )
        return head + content

    return Subject(
        [pack(bytes(300)), pack(b"notice"), pack(b"")], lambda content: pack(client._unpack(content))
    )


def _addresses(_: Path) -> Subject:
    """As text, from a command line, a file or a notice."""

    def read(content: bytes) -> bytes:
        text = content.decode()
        is_loopback(text)
        place, peer = split_peer(text)
        client.check_address(text)
        return f"{place}/p2p/{peer}".encode()

    samples = [f"/ip4/203.0.113.5/tcp/31330/p2p/{KEY.peer_id}", f"/ip6/::1/udp/0/quic/p2p/{KEY.peer_id}"]
    return Subject([s.encode() for s in samples], read, (NetworkError, UnicodeDecodeError))


def _peers_file(folder: Path) -> Subject:
    """On our own disk, but written down from notices, and disks rot."""

    def read(content: bytes) -> bytes:
        (folder / PEERS_FILE).write_bytes(content)
        return json.dumps(remembered_peers(folder)).encode()

    samples = [json.dumps({key.peer_id: ["/ip4/1.2.3.4/tcp/1"] for key in keys_of(3)}).encode(), b"{}"]
    return Subject(samples, read, (), exact=False, slowness=20)


def _snapshot_manifest(_: Path) -> Subject:
    leaves = tuple(f"{number:064x}" for number in range(piece_count(LAYOUT)))
    manifest = SnapshotManifest(round=8, block=RUN, weights=leaves, momentum=leaves, counters=RUN)

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
    **{kind: _message(kind) for kind in KINDS},
    **{f"{kind} by a liar": _unsigned(kind) for kind in KINDS},
    "head of a request": _head_of_request,
    "response": _response,
    "parts": _parts,
    "blocks": _blocks,
    "frame": _frame,
    "segment push": _push,
    "chunk proof": _proof,
    "answer to a spot check": _spot_answer,
    "spot check": _spot_request,
    "small requests": _requests,
    "presence": _presence,
    "presence by a liar": _presence_unsigned,
    "record in the DHT": _dht_record,
    "addresses": _addresses,
    "peers.json": _peers_file,
    "snapshot manifest": _snapshot_manifest,
    "corpus manifest": _corpus_manifest,
    "recipe": _recipe,
    "recipe signature": _recipe_signature,
    "tokenizer": _tokenizer,
}
