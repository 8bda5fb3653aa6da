"""Where a peer trains and in which arithmetic: found by trying, once, when it starts.

Faster arithmetic is taken only where it is measurably faster: bf16 is emulated on many CPUs, and the fused
attention that wins in fp32 can lose in bf16. What was chosen is the peer's numeric class, which its claims
name, because a replay in other arithmetic gives slightly other losses.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from peers.training.interface import Precision
from recipes.errors import ModelError, PlatformError
from recipes.model import build_model
from recipes.schema.recipe import Recipe
from trainer.objective import next_token_loss

if TYPE_CHECKING:
    import torch

Attention = Literal["sdpa", "eager"]

BF16_MINIMUM_GAIN = 1.15
"""How many times as fast as fp32 bf16 must be before its coarser rounding is worth it."""

_PROBE_TOKENS = 1024
_PROBE_PASSES = 5
_PROBE_SECONDS = 3.0


@dataclass(frozen=True)
class Device:
    """One place to train. `name` is torch's, such as "cpu" or "cuda:0"; `attention` is transformers' word."""

    name: str
    precision: Precision = "fp32"
    attention: Attention = "sdpa"

    @property
    def numeric_class(self) -> str:
        """Kind of processor and precision, such as "cpu-fp32" or "cuda-bf16"."""
        return f"{self.name.partition(':')[0]}-{self.precision}"

    def autocast(self) -> torch.autocast:
        """Return the context in which the model's forward pass runs."""
        import torch

        kind = self.name.partition(":")[0]
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self.precision == "bf16")


def choose_device(recipe: Recipe, *, wanted: str = "auto") -> Device:
    """Return the device on which the recipe's model trains fastest, after a short measurement.

    Args:
        recipe: its model is built once on the device, with random weights, and let go.
        wanted: "auto" (a GPU if there is one), or torch's name of a device: "cpu", "cuda", "cuda:1".

    Raises:
        PlatformError: `wanted` is not a device of this machine.
        ModelError: the model cannot be built, or its weights do not fit the device.
    """
    name = find_device(wanted)
    candidates = _candidates(name)
    seconds = _measure(recipe, candidates) if len(candidates) > 1 else {}
    return fastest(seconds) if seconds else candidates[0]


def fastest(seconds: Mapping[Device, float]) -> Device:
    """Return the device with the shortest of the times measured; bf16 must lead by `BF16_MINIMUM_GAIN`.

    Args:
        seconds: how long the same work took on each that could do it; not empty.
    """
    full, half = (
        [device for device in seconds if device.precision == precision] for precision in ("fp32", "bf16")
    )
    if not full or not half:
        return min(full or half, key=seconds.__getitem__)
    best_full, best_half = min(full, key=seconds.__getitem__), min(half, key=seconds.__getitem__)
    gain = seconds[best_full] / seconds[best_half]
    return best_half if gain >= BF16_MINIMUM_GAIN else best_full


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether `error` means that memory ran out, on a GPU or in the machine itself."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # torch's allocator for CPUs raises a plain RuntimeError: "DefaultCPUAllocator: can't allocate memory".
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        sign in text for sign in ("out of memory", "can't allocate memory", "not enough memory")
    )


@contextmanager
def memory_needed_for(what: str, device: Device) -> Iterator[None]:
    """Turn running out of memory in the block into a `ModelError` that says what did not fit.

    Raises:
        ModelError: memory ran out. Other errors pass as they are.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"The memory of {device.name} is too small for {what}.",
            remedy="Close what else uses this memory, or join from a machine with more of it.",
        ) from error


def find_device(wanted: str) -> str:
    """Return torch's full name of the device that `wanted` means: "cpu", "cuda:0" ...

    Raises:
        PlatformError: it is not a device of this machine.
    """
    import torch

    if wanted == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if wanted == "cpu":
        return wanted
    kind, _, number = wanted.partition(":")
    count = torch.cuda.device_count()
    if kind == "cuda" and (number or "0").isdecimal() and int(number or "0") < count:
        return f"cuda:{int(number or '0')}"
    have = ", ".join(["cpu", *(f"cuda:{index}" for index in range(count))])
    raise PlatformError(
        f"This machine has no device {wanted!r} that torch can use. It has: {have}.",
        remedy="Name one of those, or leave the choice to Manyhands with `auto`. A GPU needs its driver, and "
        "torch with CUDA.",
    )


def computes_bf16(name: str) -> bool:
    """Say whether a device, by torch's name, has bf16 arithmetic that is not hopelessly slow."""
    import torch

    return name == "cpu" or torch.cuda.get_device_properties(name).major >= 8  # earlier ones have no units


def _candidates(name: str) -> list[Device]:
    if name != "cpu":
        return [Device(name), *([Device(name, "bf16")] if computes_bf16(name) else [])]
    return [Device(name), Device(name, "bf16"), Device(name, "bf16", "eager")]


def _measure(recipe: Recipe, candidates: Sequence[Device]) -> dict[Device, float]:
    """Return the seconds of one forward and backward pass for each candidate that fits into memory.

    The candidates take turns, so that a busy moment of the machine hits all of them, and each one's best
    pass counts.
    """
    import torch

    name = candidates[0].name
    with memory_needed_for("the model's weights", candidates[0]):
        model = build_model(recipe, device=name)
    length = min(recipe.data.sequence_length, _PROBE_TOKENS)
    slots = max(1, min(recipe.inner.batch_slots, _PROBE_TOKENS // length))
    generator = torch.Generator().manual_seed(0)
    shape = (slots, length + 1)
    tokens = torch.randint(recipe.tokenizer.vocab_size, shape, generator=generator).to(name)
    passes: dict[Device, list[float]] = {device: [] for device in candidates}
    started = time.monotonic()
    for _ in range(_PROBE_PASSES):
        for device, took in passes.items():
            took.append(_time_pass(model, tokens, device))
        if time.monotonic() - started > _PROBE_SECONDS:
            break
    # The first pass also pays for set-up, so it counts only where there was no time for another.
    best = {device: min(took[1:] or took) for device, took in passes.items()}
    return {device: seconds for device, seconds in best.items() if math.isfinite(seconds)}


def _time_pass(model: Any, tokens: torch.Tensor, device: Device) -> float:
    """Return the seconds of one pass, or infinity if memory ran out."""
    import torch

    model.set_attn_implementation(device.attention)
    started = time.perf_counter()
    try:
        with device.autocast():
            loss = next_token_loss(model, tokens)
        loss.backward()  # type: ignore[no-untyped-call]
        if tokens.is_cuda:
            torch.cuda.synchronize(tokens.device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return math.inf
    finally:
        model.zero_grad(set_to_none=True)
    return time.perf_counter() - started
