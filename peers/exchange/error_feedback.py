"""Error feedback E: the values that a peer's contributions have left out so far, kept to be sent later.

In each round in which the peer contributes,

    E = decay x (E + returned) + pseudo-gradient - contribution

where the contribution is what the codec keeps of the first two terms, and `returned` are the values of
earlier contributions that the chain did not include (Seide et al. 2014, Karimireddy et al. 2019; with decay
as in SparseLoCo, Sarfi et al. 2025). E is kept as bfloat16 in a file, rounded to nearest even; the arithmetic
is float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from peers.codec.interface import Codec, EncodedChunks, Selector
from peers.codec.segment import SegmentFrame
from peers.exchange.error_feedback_copies import LEAF_BYTES, FeedbackCopies, leaves_of
from peers.state.memmap import MappedArray
from recipes.formats import blake3_tree
from recipes.layout import CHUNK_VALUES, Layout

FEEDBACK_FILE = "feedback.bf16"

_BATCH_VALUES = 128 * CHUNK_VALUES  # bounds the working memory, and stays in the cache
_LARGEST_DELTA = np.float32(2.0**64)  # leaves room for every later sum

# Values below 2**-64, which no codec needs to keep, become zero: they would decay for ever.
_SMALLEST_KEY = np.uint32((127 - 64) << 23)


@dataclass(frozen=True, eq=False)
class Returned:
    """Values of an earlier contribution's segment that return to the error feedback.

    Attributes:
        positions: int64, strictly ascending: their indices within the segment.
        values: float32, same shape.
    """

    positions: NDArray[np.int64]
    values: NDArray[np.float32]


class ErrorFeedback:
    """One peer's error feedback, in `feedback.bf16` in `folder`.

    The file is copied (peers/exchange/error_feedback_copies.py) and then changed in place. The caller keeps
    `root` and passes it as `expected_root` at the next start. A file torn by a crash then has another root:
    it is replaced by the copy with the expected one, or by zeros.

    Attributes:
        file: path of the file.
        reset: whether E is zero because no whole file was found on disk. False after the next contribution.
    """

    def __init__(
        self,
        folder: Path,
        *,
        layout: Layout,
        decay: float,
        expected_root: bytes | None,
    ) -> None:
        """Open the file in `folder`, or make it.

        Args:
            folder: the file's folder.
            layout: of the model's parameters.
            decay: the factor on E in each round.
            expected_root: `root` when the file was last used; None to start with zeros.

        Raises:
            StorageError: the disk is full, or refuses.
        """
        self._layout = layout
        self._decay = np.float32(decay)
        self.file = folder / FEEDBACK_FILE
        self._stored: MappedArray[np.uint16] = MappedArray(
            self.file, dtype=np.dtype("<u2"), count=layout.padded
        )
        self._leaves = self._hash(slice(0, layout.padded))
        self._copies = FeedbackCopies(folder)
        self.reset = False
        if expected_root is None:
            self.start_again()
        elif self.root() != expected_root:
            self.go_back(expected_root)
        self._stored.release()

    def start_again(self) -> None:
        """Set E to zero, as if nothing had been left out so far."""
        self._stored.array[:] = 0
        self._leaves = [blake3_tree.leaf_hash(bytes(LEAF_BYTES))] * self._layout.chunks
        self._stored.release()
        self.reset = True

    def go_back(self, root: bytes) -> None:
        """Set E to the copy that has this root; to zero if there is no whole one."""
        copy = self._copies.find(root.hex())
        leaves = leaves_of(copy) if copy is not None else []
        if copy is None or blake3_tree.root(leaves) != root:
            self.start_again()
            return
        for start in range(0, self._layout.padded, _BATCH_VALUES):
            place = slice(start, min(start + _BATCH_VALUES, self._layout.padded))
            with copy.open("rb") as stream:
                stream.seek(2 * start)
                self._stored.array[place] = np.frombuffer(stream.read(2 * (place.stop - start)), dtype="<u2")
        self._leaves = leaves
        self._stored.release()
        self.reset = False

    def find(self, root: str) -> Path | None:
        """Return the file that holds E with this root, hex, the current one or a copy; None without one."""
        return self.file if self.root().hex() == root else self._copies.find(root)

    def root(self) -> bytes:
        """Return the Merkle root over E's chunks, 8192 bytes of bfloat16 each."""
        return blake3_tree.root(self._leaves)

    def values(self, segment: int) -> NDArray[np.float32]:
        """Return a copy of E in one segment, float32, shape (values,)."""
        return from_bfloat16(self._stored.array[self._layout.segment_slice(segment)])

    def compress(
        self,
        delta: NDArray[np.float32],
        *,
        codec: Codec,
        returned: Mapping[int, Iterable[Returned]],
        select: Selector | None = None,
    ) -> list[SegmentFrame]:
        """Compress a round's pseudo-gradient together with E, and keep in E what is left out.

        Args:
            delta: the pseudo-gradient, float32, shape (padded,).
            codec: codec of this contribution.
            returned: by segment, the values that return. Each is iterated over once, when its segment's turn
                comes, so that it can be a generator.
            select: passed to `codec.encode`.

        Returns:
            The contribution: a frame for each segment.

        Raises:
            ValueError: `delta` has another shape or type, or a value that is not a number or larger than
                2**64. Nothing was changed.
            StorageError: the disk has no room for a copy of E. Nothing was changed.
        """
        if delta.dtype != np.float32 or delta.shape != (self._layout.padded,):
            raise ValueError(
                f"expected float32 of shape ({self._layout.padded},), not {delta.dtype} {delta.shape}"
            )
        places = [self._layout.segment_slice(segment) for segment in range(self._layout.segments)]
        # Written so that it is also true for NaN.
        if not (delta.max() < _LARGEST_DELTA and delta.min() > -_LARGEST_DELTA):
            raise ValueError("the pseudo-gradient has values that are not numbers, or out of all proportion")
        self._copies.keep(self.file, root=self.root())
        frames = [
            self._compress(place, delta[place], list(returned.get(segment, ())), codec, select)
            for segment, place in enumerate(places)
        ]
        self.reset = False
        return frames

    def _compress(
        self,
        place: slice,
        delta: NDArray[np.float32],
        returned: Sequence[Returned],
        codec: Codec,
        select: Selector | None,
    ) -> SegmentFrame:
        """Compress one segment, a batch of chunks at a time, and keep in E what is left out."""
        parts = []
        for start in range(0, delta.size, _BATCH_VALUES):
            batch = slice(start, min(start + _BATCH_VALUES, delta.size))
            stored = slice(place.start + batch.start, place.start + batch.stop)
            wanted = from_bfloat16(self._stored.array[stored])
            for part in returned:
                inside = slice(*np.searchsorted(part.positions, (batch.start, batch.stop)))
                wanted[part.positions[inside] - batch.start] += part.values[inside]
            wanted *= self._decay
            wanted += delta[batch]
            encoded, self._stored.array[stored] = take_out(wanted, codec=codec, select=select)
            self._leaves[stored.start // CHUNK_VALUES : stored.stop // CHUNK_VALUES] = self._hash(stored)
            self._stored.release()
            parts.append(encoded)
        return SegmentFrame(codec=codec, encoded=EncodedChunks.join(parts))

    def _hash(self, place: slice) -> list[bytes]:
        starts = range(2 * place.start, 2 * place.stop, LEAF_BYTES)
        return [
            blake3_tree.leaf_hash(self._stored.bytes_between(start, start + LEAF_BYTES)) for start in starts
        ]


def take_out(
    wanted: NDArray[np.float32], *, codec: Codec, select: Selector | None = None
) -> tuple[EncodedChunks, NDArray[np.uint16]]:
    """Subtract from `wanted`, in place, what the codec keeps of it.

    Args:
        wanted: float32, shape (values,), whole chunks.
        codec: codec of the contribution.
        select: passed to `codec.encode`.

    Returns:
        The chunks to send, and the remainder as bits of bfloat16: the new E.

    Raises:
        ValueError: as `Codec.encode`.
    """
    encoded = codec.encode(wanted.reshape(-1, CHUNK_VALUES), select=select)
    sent = codec.decode(encoded)
    wanted[sent.positions] -= sent.values
    return encoded, to_bfloat16(wanted)


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round finite float32 to the bits of the nearest bfloat16, ties to even; below 2**-64, to zero."""
    bits = values.view(np.uint32)
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += bits
    rounded += np.uint32(0x7FFF)
    rounded >>= np.uint32(16)
    np.copyto(rounded, np.uint32(0), where=(bits & np.uint32(0x7FFFFFFF)) < _SMALLEST_KEY)
    return rounded.astype(np.uint16)


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the float32 values of the bits of bfloat16, exactly."""
    widened = bits.astype(np.uint32)
    widened <<= np.uint32(16)
    return widened.view(np.float32)
