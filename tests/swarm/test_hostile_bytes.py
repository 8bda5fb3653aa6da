"""Whatever bytes another peer sends: read and sent again the same way, or refused with the error foreseen.

`pytest -m slow` tries tens of thousands of spoilt samples for each parser, the same ones each time.
"""

from __future__ import annotations

import json
import random
import resource
import time
from collections.abc import Callable, Iterator

import pytest
from hostile import SUBJECTS
from hostile_subject import Subject, check
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from one_of_each import one_of_each
from rounds import RUN, Swarm
from spoiling import LONGEST, spoil

from peers.protocol.messages import KINDS, MAX_PEERS, MAX_RANGES, MAX_SEGMENTS, Block, Reduction, parse, sign
from peers.state.manifest import manifest_limit, parse_manifest
from recipes.errors import MessageError, Offence
from recipes.keys.keys import PeerId, public_key
from recipes.layout import lay_out

TRIES = 20_000  # of the long fuzz, for each parser
QUIET = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEN_SECONDS, QUARTER_GIBIBYTE = 10.0, 256 << 10  # the latter as getrusage counts: in KiB

_built: dict[str, Subject] = {}


@pytest.fixture
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    name: str = request.param
    if name not in _built:
        _built[name] = SUBJECTS[name](tmp_path_factory.mktemp("subject"))
    return _built[name]


EACH_SUBJECT = pytest.mark.parametrize("subject", SUBJECTS, indirect=True)


@EACH_SUBJECT
def test_what_honest_peers_send_is_read_and_sent_again_the_same(subject: Subject) -> None:
    for sample in subject.samples:
        again = subject.read(sample)
        assert subject.read(again) == again
        assert again == sample or not subject.exact


@EACH_SUBJECT
@given(content=st.binary(max_size=400))
@QUIET
def test_any_bytes_are_read_or_refused_as_foreseen(subject: Subject, content: bytes) -> None:
    check(subject, content)


@EACH_SUBJECT
@given(seed=st.integers(0, 2**64 - 1))
@QUIET
def test_spoilt_samples_are_read_or_refused_as_foreseen(subject: Subject, seed: int) -> None:
    check(subject, spoil(random.Random(seed), subject.samples))


@pytest.mark.slow
@pytest.mark.timeout(600)
@EACH_SUBJECT
def test_many_thousand_spoilt_samples_are_read_or_refused_as_foreseen(
    subject: Subject, request: pytest.FixtureRequest
) -> None:
    chance = random.Random(f"1 {request.node.name}")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(TRIES // subject.slowness):
        content = spoil(chance, subject.samples)
        began = time.process_time()
        try:
            check(subject, content)
        except Exception as error:
            raise AssertionError(f"sample {number}, {content[:2000]!r}, gave {error!r}") from error
        assert time.process_time() - began < TEN_SECONDS, f"sample {number}: {content[:2000]!r}"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < QUARTER_GIBIBYTE


# ---------------------------------------------------------------- size, time, memory


class Cost:
    """How much time and memory was spent since."""

    def __init__(self) -> None:
        self._seconds = time.process_time()
        self._memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def assert_small(self) -> None:
        assert time.process_time() - self._seconds < TEN_SECONDS
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self._memory < QUARTER_GIBIBYTE


def _repeated(item: bytes) -> Callable[[bytes, int], bytes]:
    """Put as many of `item` as fit into the first list of a block."""

    def fill(sample: bytes, limit: int) -> bytes:
        document = json.loads(sample)
        document["body"]["reductions"] = "here"
        frame = json.dumps(document).encode()
        count = (limit - len(frame)) // (len(item) + 1)
        return frame.replace(b'"here"', b"[" + b",".join([item] * count) + b"]")

    return fill


def _unknown_keys(sample: bytes, limit: int) -> bytes:
    keys = b"".join(b',"%d":1' % number for number in range((limit - len(sample)) // 11))
    return sample[:-1] + keys + b"}"


GIANTS: dict[str, Callable[[bytes, int], bytes]] = {
    "empty objects": _repeated(b"{}"),
    "numbers": _repeated(b"1"),
    "lists": _repeated(b"[1]"),
    "nothings": _repeated(b"null"),
    "unknown keys": _unknown_keys,
    "nested lists": lambda _, limit: b"[" * limit,
    "nested objects": lambda _, limit: b'{"body":' * (limit // 8),
    "one number": lambda _, limit: b"1" * limit,
    "one text": lambda _, limit: b'"' + b"\\u00e9" * ((limit - 2) // 6) + b'"',
    "one text without end": lambda _, limit: b'"' + b"\\" * (limit - 1),
    "blanks": lambda _, limit: b" " * limit,
}


@pytest.mark.parametrize("giant", GIANTS)
def test_the_longest_message_of_any_shape_costs_little(giant: str) -> None:
    """One of 4 MB whose every value was wrong used to take 12 s and 2.5 GB, on the event loop."""
    content = GIANTS[giant](one_of_each()["block"].canonical(), KINDS["block"][1])
    assert KINDS["block"][1] // 2 < len(content) <= KINDS["block"][1]
    cost = Cost()
    with pytest.raises(MessageError, match="malformed") as caught:
        parse("block", content, run=RUN)
    cost.assert_small()
    assert caught.value.offence is Offence.MALFORMED
    assert len(str(caught.value)) < 300


def test_the_largest_block_that_honest_peers_make_is_read() -> None:
    """64 claims of 64 ranges and 1024 norms, 1024 reductions of all parts, co-signed by all."""
    swarm = Swarm(MAX_PEERS, segments=MAX_SEGMENTS)
    ranges = tuple((2**52 + 2 * place, 1) for place in range(MAX_RANGES))
    norms = (0.12345678901234567,) * MAX_SEGMENTS
    claims = [
        sign(key, swarm.claim(key, swarm.genesis, norms=norms).body.model_copy(update={"slots": ranges}))
        for key in swarm.keys
    ]
    author, everybody = swarm.keys[0], tuple(range(MAX_PEERS))
    roster = sign(
        author, swarm.roster(claims, swarm.genesis).body.model_copy(update={"peer": author.peer_id})
    )
    reductions = tuple(
        sign(
            author,
            Reduction(
                run=RUN,
                peer=author.peer_id,
                roster=roster.hash,
                segment=segment,
                root=RUN,
                bytes=2**52,
                included=everybody,
            ),
        )
        for segment in range(MAX_SEGMENTS)
    )
    cosignatures = tuple(swarm.cosign(key, swarm.genesis) for key in swarm.keys)
    block = Block(
        run=RUN,
        peer=author.peer_id,
        round=1,
        attempt=0,
        parent=RUN,
        roster=roster,
        reductions=reductions,
        digest_before=RUN,
        cosignatures=cosignatures * 2,
        ledger=swarm.genesis.ledger.head,
        accounts=swarm.genesis.ledger.accounts_hash,
    )
    content = sign(author, block).canonical()
    assert content.count(b",") > 130_000
    assert len(content) < KINDS["block"][1]
    assert parse("block", content, run=RUN).canonical() == content
    assert parse("roster", roster.canonical(), run=RUN) == roster


@pytest.mark.parametrize("item", [b"1", b"[]", b"{}", b'""', b"null"])
def test_the_longest_snapshot_manifest_of_any_shape_costs_little(item: bytes) -> None:
    layout = lay_out([("weights", (10**9,))], segments=16)
    content = b'{"momentum":[' + b",".join([item] * (manifest_limit(layout) // (len(item) + 1) - 9)) + b"]}"
    cost = Cost()
    with pytest.raises(MessageError):
        parse_manifest(content, layout=layout, has_momentum=True)
    cost.assert_small()


def test_a_peer_id_of_any_length_costs_little() -> None:
    cost = Cost()
    assert public_key(PeerId("z" * LONGEST)) is None
    cost.assert_small()


# ---------------------------------------------------------------- two byte strings, one message


def same_claims() -> Iterator[bytes]:
    """The same claim, written in other ways."""
    claim = one_of_each()["claim"].canonical()
    document = json.loads(claim)
    yield json.dumps(document, indent=1).encode()
    yield json.dumps(dict(reversed(document.items()))).encode()
    yield claim.replace(b'"norms":[1,', b'"norms":[1.0,')
    yield claim.replace(b'"norms":[1,', b'"norms":[10e-1,')
    yield claim[:-1] + b"," + claim[1:]  # every key twice
    yield claim.replace(b'"steps":', b'"steps":7,"steps":')  # the last one counts
    yield claim.replace(b'"run"', b'"\\u0072un"')


@pytest.mark.parametrize("content", list(same_claims()))
def test_a_message_written_in_another_way_is_refused(content: bytes) -> None:
    """One message has one text: what is signed, hashed and passed on are the bytes in which it came."""
    assert content != one_of_each()["claim"].canonical()
    with pytest.raises(MessageError, match="canonical form") as refused:
        parse("claim", content, run=RUN)
    assert refused.value.offence is Offence.MALFORMED


def test_each_way_to_be_wrong_is_named() -> None:
    claim = one_of_each()["claim"].canonical()
    wrong = {
        Offence.MALFORMED: claim[:-1],
        Offence.OVERSIZED: claim + b" " * KINDS["claim"][1],
        Offence.FORGED: claim.replace(b'"steps":', b'"steps":1'),
        Offence.OTHER_RUN: claim.replace(RUN.encode(), b"0" * 64),
    }
    for offence, content in wrong.items():
        with pytest.raises(MessageError) as caught:
            parse("claim", content, run=RUN)
        assert caught.value.offence is offence
