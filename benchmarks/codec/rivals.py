"""The codecs that benchmarks/codec/__main__.py compares, each from float32 chunks to bytes and back.

Ours is the production code. hivemind's are its own functions on its own messages. SparseLoCo's packing (Sarfi
et al. 2025) is written down here after its description: 64 of 4096 values by magnitude, indices of 12 bits,
and values quantised uniformly over six standard deviations, as hivemind's 8-bit codec does, with bins' means.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from peers.codec.bit_packing import pack_fields, read_fields, words_of
from peers.codec.interface import Selector
from peers.codec.segment import SegmentFrame
from peers.codec.selection import select_largest
from peers.codec.sparse_codec import SparseCodec
from peers.network.framing import request_head_bytes
from peers.protocol.length_prefixed import join_parts
from recipes.formats.blake3_tree import HASH_BYTES, path
from recipes.layout import CHUNK_VALUES

Values = NDArray[np.float32]
_HIVEMIND_PART = 2**18  # values a message: what its averager puts into one part of 512 KiB in fp16
_HIVEMIND_KINDS = {
    "hivemind, fp16": "FLOAT16",
    "hivemind, 8 bits uniform": "UNIFORM_8BIT",
    "hivemind, 8 bits by quantiles": "QUANTILE_8BIT",
    "hivemind, 8 bits blockwise": "BLOCKWISE_8BIT",
}


class MeasuredCodec(Protocol):
    """One way to put values into bytes. Decoded values are dense, or positions and values."""

    @property
    def name(self) -> str: ...
    @property
    def keep(self) -> int | None: ...
    def encode(self, values: Values, /) -> list[bytes]: ...
    def decode(self, parts: list[bytes], chunks: int, /) -> Any: ...
    def dense(self, decoded: Any, chunks: int, /) -> Values: ...
    def header_bytes(self, segments: int, /) -> int: ...


@dataclass(frozen=True)
class Ours:
    """The project's codec; its `header_bytes` are what surrounds one segment on its way to a reducer."""

    codec: SparseCodec
    select: Selector = select_largest
    where: str = ""

    @property
    def name(self) -> str:
        """As it stands in the table."""
        return f"ours, {self.codec.keep} at {1 << self.codec.level_bits} levels{self.where}"

    @property
    def keep(self) -> int:
        """Values kept of each chunk."""
        return self.codec.keep

    def encode(self, values: Values) -> list[bytes]:
        """Encode one segment."""
        return [self.codec.encode(values, select=self.select).data]

    def decode(self, parts: list[bytes], chunks: int) -> Any:
        """Check and decode one segment."""
        return self.codec.decode(self.codec.split(parts[0], chunks=chunks))

    def dense(self, decoded: Any, _chunks: int) -> Values:
        """Return all values of what `decode` returned."""
        values: Values = decoded.dense()
        return values

    def header_bytes(self, segments: int) -> int:
        """Bytes beside a segment's chunks: request, roster, place, path to the claim's root, frame header."""
        empty = SegmentFrame.encode(np.zeros((0, CHUNK_VALUES), dtype=np.float32), codec=self.codec)
        longest = len(path([bytes(HASH_BYTES)] * segments, 0))
        content = join_parts([bytes(HASH_BYTES), bytes(4), bytes(HASH_BYTES * longest), empty.to_bytes()])
        return request_head_bytes("segment") + len(content)


@dataclass(frozen=True)
class Hivemind:
    """One of hivemind's codecs; a message's bytes are those of its protobuf form."""

    name: str
    compression: int
    keep: None = None

    def encode(self, values: Values) -> list[bytes]:
        """Serialize the values in parts, as its averager would."""
        import torch
        from hivemind.compression import serialize_torch_tensor

        parts = torch.split(torch.from_numpy(values.reshape(-1)), _HIVEMIND_PART)
        return [serialize_torch_tensor(part, self.compression).SerializeToString() for part in parts]

    def decode(self, parts: list[bytes], _chunks: int) -> Any:
        """Deserialize the parts."""
        from hivemind.compression import deserialize_torch_tensor
        from hivemind.proto import runtime_pb2

        return [deserialize_torch_tensor(runtime_pb2.Tensor.FromString(part)) for part in parts]

    def dense(self, decoded: Any, chunks: int) -> Values:
        """Return all values of what `decode` returned."""
        values: Values = np.concatenate([part.float().numpy() for part in decoded])
        return values.reshape(chunks, CHUNK_VALUES)

    def header_bytes(self, _segments: int) -> int:
        """Its messages' own headers are counted with them."""
        return 0


@dataclass(frozen=True)
class SparseLoCo:
    """SparseLoCo's packing: fixed-width indices and 2-bit values, of 64 of 4096."""

    index_bits: int
    value_bits: int = 2
    keep: int = 64

    @property
    def name(self) -> str:
        """As it stands in the table."""
        return f"SparseLoCo, {self.index_bits}-bit indices"

    def encode(self, values: Values) -> list[bytes]:
        """Encode one tensor: the bins' means, then an index and a bin for each value kept."""
        # As ours, to take no more memory.
        batches = [values[start : start + 128] for start in range(0, len(values), 128)]
        found = [select_largest(batch, self.keep) for batch in batches]
        positions = np.concatenate([part + 128 * CHUNK_VALUES * at for at, part in enumerate(found)])
        kept = values.reshape(-1)[positions]
        bins = 1 << self.value_bits
        centred = kept - kept.mean()
        scale = 6 * np.linalg.norm(centred) / math.sqrt(kept.size - 1) / bins
        chosen = np.clip(np.rint(centred / scale + bins // 2), 0, bins - 1).astype(np.int64)
        sums = np.bincount(chosen, weights=kept, minlength=bins)
        means = (sums / np.maximum(np.bincount(chosen, minlength=bins), 1)).astype(np.float32)
        width = self.index_bits + self.value_bits
        content = ((positions & (CHUNK_VALUES - 1)) << self.value_bits) | chosen
        # A field of 18 bits is more than `pack_fields` takes; its highest four would be zero.
        packed = pack_fields(np.arange(content.size) * width, content, size=(content.size * width + 7) // 8)
        return [means.tobytes() + packed.tobytes()]

    def decode(self, parts: list[bytes], chunks: int) -> Any:
        """Decode one tensor."""
        bins = 1 << self.value_bits
        means = np.frombuffer(parts[0], dtype=np.float32, count=bins)
        width, stored = self.index_bits + self.value_bits, 12 + self.value_bits
        content = read_fields(words_of(parts[0][4 * bins :]), np.arange(chunks * self.keep) * width, stored)
        positions = (content >> self.value_bits) + np.repeat(np.arange(chunks) * CHUNK_VALUES, self.keep)
        return positions, means[content & (bins - 1)]

    def dense(self, decoded: Any, chunks: int) -> Values:
        """Return all values of what `decode` returned."""
        values = np.zeros(chunks * CHUNK_VALUES, dtype=np.float32)
        values[decoded[0]] = decoded[1]
        return values.reshape(chunks, CHUNK_VALUES)

    def header_bytes(self, _segments: int) -> int:
        """None beside the bins' means: it goes through an object store."""
        return 0


def hivemind_codecs(only: str, note: Callable[[str], None]) -> list[MeasuredCodec]:
    """Return those of hivemind's codecs whose names contain `only` and that work on this machine.

    `note` hears of those that do not work.
    """
    wanted = {name: kind for name, kind in _HIVEMIND_KINDS.items() if only in name}
    if not wanted:
        return []
    try:
        from hivemind.proto.runtime_pb2 import CompressionType
    except ImportError:
        note("hivemind is not installed here: its codecs are left out.")
        return []
    warnings.filterwarnings("ignore", message="torch.quantize_per_tensor", category=UserWarning)
    found: list[MeasuredCodec] = []
    for name, kind in wanted.items():
        codec = Hivemind(name, CompressionType.Value(kind))
        try:
            codec.decode(codec.encode(np.ones((1, CHUNK_VALUES), dtype=np.float32)), 1)
        except (ImportError, RuntimeError, TypeError, AttributeError, ValueError) as error:
            note(f"{name} does not work here and is left out: {error}")
        else:
            found.append(codec)
    return found
