"""Ways to spoil good bytes: bits flipped, parts cut out or repeated, numbers and keys changed."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Sequence

LONGEST = 1 << 16  # bytes of a spoilt sample

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
