"""Keys for which anybody can sign: every encoding of a point of small order, derived here from the curve.

The curve is edwards25519 (RFC 8032, section 5.1): -x^2 + y^2 = 1 + d x^2 y^2 over the integers modulo P.
"""

from __future__ import annotations

import base58
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from recipes.keys.keys import PeerId, SigningKey, is_sound, public_key, verify, verify_note

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)

Point = tuple[int, int]
NEUTRAL: Point = (0, 1)

LISTED = {
    "0100000000000000000000000000000000000000000000000000000000000000",  # order 1
    "0100000000000000000000000000000000000000000000000000000000000080",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  # order 2
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "0000000000000000000000000000000000000000000000000000000000000000",  # order 4
    "0000000000000000000000000000000000000000000000000000000000000080",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",  # order 8
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
}
"""The eight points, and the six further ways to write them that an implementation might take."""


def add(one: Point, other: Point) -> Point:
    (x1, y1), (x2, y2) = one, other
    product = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P)
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, P)
    return x % P, y % P


def times(count: int, point: Point) -> Point:
    result = NEUTRAL
    for _ in range(count):
        result = add(result, point)
    return result


def square_root(value: int) -> int | None:
    root = pow(value, (P + 3) // 8, P)
    return next((r for r in (root, root * ROOT_OF_MINUS_ONE % P) if (r * r - value) % P == 0), None)


def x_of(y: int) -> int | None:
    """Return a coordinate x with which `y` is on the curve, if there is one."""
    return square_root((y * y - 1) * pow(D * y * y + 1, -1, P) % P)


def torsion() -> set[Point]:
    """The points P with 8P = 0: L times any point is one, with L the order of the base point."""
    order = 2**252 + 27742317777372353535851937790883648493
    found: set[Point] = set()
    for y in range(2, 50):
        x = x_of(y)
        if x is not None:
            point, result = (x, y), NEUTRAL
            for bit in bin(order)[2:]:
                result = add(result, result)
                result = add(result, point) if bit == "1" else result
            found |= {times(count, result) for count in range(8)}
    return found


def canonical(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def encodings(point: Point) -> set[bytes]:
    """All 32 bytes that decode to a point if y is taken modulo P and the sign of x = 0 is passed over."""
    signs = (0, 1) if point[0] == 0 else (point[0] & 1,)
    return {(y | sign << 255).to_bytes(32, "little") for y in range(point[1], 2**255, P) for sign in signs}


SMALL = torsion()
SMALL_ENCODINGS = sorted(encoding for point in SMALL for encoding in encodings(point))


def peer_of(public: bytes) -> PeerId:
    return PeerId(base58.b58encode(bytes.fromhex("002408011220") + public).decode())


def holds(public: bytes, signature: bytes, content: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, content)
    except InvalidSignature:
        return False
    return True


def forged(public: bytes) -> tuple[bytes, bytes]:
    """Return a message and a signature for it that no private key made: s = 0, and R of small order."""
    return next(
        (message, r + bytes(32))
        for message in (b"%d" % number for number in range(200))
        for r in map(canonical, sorted(SMALL))
        if holds(public, r + bytes(32), b"manyhands/1/claim\x00" + message)
    )


def test_there_are_eight_points_and_fourteen_ways_to_write_them() -> None:
    assert len(SMALL) == 8
    assert all(times(8, point) == NEUTRAL for point in SMALL)
    assert {encoding.hex() for encoding in SMALL_ENCODINGS} == LISTED
    assert len(SMALL_ENCODINGS) == len(LISTED) == 14


@pytest.mark.parametrize("public", SMALL_ENCODINGS, ids=bytes.hex)
def test_no_id_holds_a_key_for_which_anybody_can_sign(public: bytes) -> None:
    message, signature = forged(public)  # OpenSSL takes it
    assert public_key(peer_of(public)) is None
    assert not verify(peer_of(public), "claim", message, signature)


def test_no_note_holds_by_a_key_for_which_anybody_can_sign() -> None:
    neutral = canonical(NEUTRAL)
    assert holds(neutral, neutral + bytes(32), b"any text\n")
    assert not verify_note(neutral, b"any text\n", neutral + bytes(32))


def test_no_key_is_written_in_more_than_one_way() -> None:
    beyond = [number for number in range(P, 2**255) if x_of(number % P) is not None]
    assert len(beyond) > 2  # others than those of small order: y = 3 + P is one
    for y in beyond:
        for sign in (0, 1):
            assert not is_sound((y | sign << 255).to_bytes(32, "little"))
            if y % P > 1:
                assert is_sound((y % P | sign << 255).to_bytes(32, "little"))


def test_keys_that_are_made_are_sound() -> None:
    for seed in range(100):
        assert public_key(SigningKey(bytes([seed]) * 32).peer_id) is not None


@pytest.mark.parametrize("more", [" ", "\n", "\t \r\n", "\x00", "\u00a0"])
def test_an_id_is_written_in_one_way_only(more: str) -> None:
    key = SigningKey(bytes(32))
    signature = key.sign("claim", b"body")
    for peer in (key.peer_id + more, more + key.peer_id, "1" + key.peer_id):
        assert public_key(PeerId(peer)) is None
        assert not verify(PeerId(peer), "claim", b"body", signature)
