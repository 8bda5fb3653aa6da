"""The arms of the convergence benchmark: each a way to train the same model on the same tokens.

An arm is a base and changes to it, such as `ours:reduced_keep=128,reduced_level_bits=2`. The fields of `Arm`
are what can be changed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from benchmarks.convergence.attack import Attack
from benchmarks.convergence.inner import InnerChoice, Kept, MuonKept
from recipes.errors import RecipeError

Method = Literal["data-parallel", "dense", "all-gather", "ours"]
Choose = Literal["chunk", "segment"]
Overlap = Literal["blocking", "naive", "eager", "own"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train.

    Attributes:
        name: as given.
        method: gradients averaged at every step; or local steps and then pseudo-gradients averaged in fp32,
            or sparse ones sent to everybody (nothing is compressed on the way back), or ours.
        inner: `adamw`, or `muon` for the matrices.
        rate: factor on the recipe's learning rate.
        ramp: local steps over which the learning rate rises in each window.
        steps: local steps of a window; 0 takes the benchmark's. The tokens stay the same, so there are more
            or fewer rounds.
        choose: the largest values of each chunk are kept, or the largest of a whole segment.
        early: density in the beginning: `4@0.1;2@0.3` keeps 4 times the values until a tenth of the rounds,
            then twice as many until three tenths.
        overlap: when a round's average reaches the weights that the next window starts from: `blocking`, at
            once; else one window later. With `naive` the start is the last known state; with `eager` it is
            that less the own newest share and the others' last known ones; with `own`, less the own
            contribution.
        attack: what the last `attackers` of the workers send in place of their work, `attack_scale` times as
            long; with `expelled`, only until audits have found them (benchmarks/convergence/attack.py).
    """

    name: str
    method: Method = "ours"
    inner: Literal["adamw", "muon"] = "adamw"
    adam_state: Kept = "restart"
    muon_state: MuonKept = "restart"
    rate: float = 1.0
    matrix_rate: float = 1.0
    momentum: float = 0.95
    momentum_from: float = 0.95
    beta1: float = 0.0
    correct_first: bool = False
    momentum_rank: int = 4
    seed_scale: float = 1.0
    ramp: int = 5
    steps: int = 0
    outer_rate: float = 1.0
    outer_momentum: float = 0.0
    nesterov: bool = False
    keep: int = 64
    level_bits: int = 1
    reduced_keep: int = 256
    reduced_level_bits: int = 3
    decay: float = 0.95
    return_dropped: bool = True
    choose: Choose = "chunk"
    choose_reduced: Choose = "chunk"
    early: str = ""
    overlap: Overlap = "blocking"
    attack: Attack = "none"
    attackers: int = 2
    attack_scale: float = 1.0
    expelled: bool = True

    @property
    def inner_choice(self) -> InnerChoice:
        """The inner optimizer of this arm."""
        return InnerChoice(
            muon=self.inner == "muon",
            adam_state=self.adam_state,
            muon_state=self.muon_state,
            matrix_rate=self.matrix_rate,
            momentum=self.momentum,
            momentum_from=self.momentum_from,
            beta1=self.beta1,
            correct_first=self.correct_first,
            momentum_rank=self.momentum_rank,
            seed_scale=self.seed_scale,
        )

    @property
    def label(self) -> str:
        """What is particular about this arm; `256@2` are the values kept on the way back, and their bits."""
        inner = "Muon" if self.inner == "muon" else "AdamW"
        rates = [f" rate {self.rate:g}"] * (self.rate != 1) + [f" x{self.matrix_rate:g}"] * (
            self.matrix_rate != 1
        )
        parts = [_METHODS[self.method], inner + "".join(rates)]
        if self.method != "data-parallel":
            parts += _carried(self)
            parts += [f"ramp {self.ramp}"] * (self.ramp > 0)
            parts += [f"outer {self.outer_rate:g}/{self.outer_momentum:g}"] * (self.outer_momentum > 0)
        if self.method in ("ours", "all-gather"):
            parts += [f"out {self.keep}@{self.level_bits}"] * ((self.keep, self.level_bits) != (64, 1))
        if self.method == "ours":
            parts += [f"{self.reduced_keep}@{self.reduced_level_bits}"]
        parts += ["early"] * bool(self.early) + [self.overlap] * (self.overlap != "blocking")
        parts += self._attack_words
        for name in ("steps", "decay", "momentum", "momentum_from", "beta1", "seed_scale"):
            value = getattr(self, name)
            parts += [f"{name.replace('_', ' ')} {value:g}"] * (value != _DEFAULTS[name])
        parts += ["dropped is lost"] * (not self.return_dropped) + ["by segment"] * (self.choose == "segment")
        return ", ".join(parts)

    @property
    def _attack_words(self) -> list[str]:
        if self.attack == "none":
            return []
        scale = f" x{self.attack_scale:g}" * (self.attack_scale != 1)
        return [f"{self.attackers} {self.attack}{scale}" + " for good" * (not self.expelled)]

    def density(self, progress: float) -> float:
        """Return the factor on the values kept after a share of the rounds."""
        for part in filter(None, self.early.split(";")):
            factor, _, until = part.partition("@")
            if progress < float(until):
                return float(factor)
        return 1.0


_METHODS = {
    "data-parallel": "data parallel",
    "dense": "fp32 DiLoCo",
    "all-gather": "all-gather",
    "ours": "ours",
}
_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Arm)}


def _carried(arm: Arm) -> list[str]:
    """Return what of the inner optimizer's state outlives a window, if anything does."""
    muon = arm.inner == "muon" and arm.muon_state != "restart"
    found = {arm.adam_state, arm.muon_state} if muon else {arm.adam_state}
    if found == {"kept"}:
        return ["kept"]
    words = [] if arm.adam_state == "restart" else [f"{arm.adam_state} moments"]
    if arm.muon_state == "lowrank" and muon:
        return [*words, f"rank {arm.momentum_rank}"]
    return [*words, f"{arm.muon_state} momentum"] if muon else words


_KEPT = {"adam_state": "kept", "muon_state": "kept", "ramp": 0}
BASES: dict[str, dict[str, object]] = {
    "adamw-dp": {"method": "data-parallel", **_KEPT},
    "muon-dp": {"method": "data-parallel", "inner": "muon", **_KEPT},
    "diloco": {"method": "dense", "outer_rate": 0.8, "outer_momentum": 0.5, "nesterov": True, **_KEPT},
    "all-gather": {"method": "all-gather", **_KEPT},  # SparseLoCo: AdamW kept, no outer momentum
    "all-gather-muon": {"method": "all-gather", "inner": "muon"},
    "ours-adamw": {},
    "ours": {"inner": "muon"},
}


def parse_arm(text: str) -> Arm:
    """Return the arm that `text` means: a base, and changes to it after a colon.

    Raises:
        RecipeError: there is no such base or field, or a value is not one of that field's.
    """
    base, _, changes = text.partition(":")
    if base not in BASES:
        raise RecipeError(f"There is no arm {base!r}.", remedy=f"The bases are {', '.join(BASES)}.")
    given: dict[str, object] = {}
    kinds = get_type_hints(Arm)
    for change in filter(None, changes.split(",")):
        key, _, value = change.partition("=")
        if key == "name" or key not in kinds:
            names = ", ".join(field.name for field in fields(Arm) if field.name != "name")
            raise RecipeError(f"An arm has no field {key!r}.", remedy=f"Its fields are {names}.")
        given[key] = _value(key, value, kinds[key])
    arm = Arm(name=text)
    return replace(arm, **{**BASES[base], **given})  # type: ignore[arg-type]


def _value(key: str, text: str, kind: Any) -> object:
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise RecipeError(f"{key} is one of {', '.join(get_args(kind))}, not {text!r}.")
        return text
    try:
        return {"1": True, "0": False, "true": True, "false": False}[text] if kind is bool else kind(text)
    except (ValueError, KeyError) as error:
        raise RecipeError(f"{key} cannot be {text!r}.", remedy="Give a number, or true or false.") from error
