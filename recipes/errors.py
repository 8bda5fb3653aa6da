"""Every error that Manyhands raises on purpose: one tree, drawn below.

    ManyhandsError                      exit code
    ├── PlatformError        3          this machine cannot run Manyhands
    ├── RecipeError          4          a recipe is malformed, unsigned, or not the one asked for
    ├── DataError            5          a corpus, manifest or piece is missing or damaged
    ├── ModelError           6          the model cannot be built, or does not fit this device
    ├── IdentityError        7          a key file is unreadable or open to others
    ├── HomeInUseError       8          another process already works in this home folder
    ├── NetworkError         9          the network daemon cannot start or died
    │   └── UnreachableError 10         no peer answered
    ├── StateError           11         the state on disk cannot be made to agree with the swarm
    ├── StorageError         12         the disk refused: full, read-only, or failing
    ├── TrainingError        13         training on this machine gives no numbers
    ├── ReplayError          14         a claim can be neither confirmed nor refuted here
    ├── OutdatedError        15         the run goes by rules that this build does not know, or knows no more
    └── MessageError         -          a peer sent something that it must not: it is dropped, never fatal

Each message says what happened and why; `remedy` says what to do. Commands print both and exit with
the code above; docs/errors.md explains each.
"""

from __future__ import annotations

from enum import Enum


class ManyhandsError(Exception):
    """Base of all errors that a user may see. `remedy` is one sentence: what to do about it."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\n{self.remedy}" if self.remedy else message


class PlatformError(ManyhandsError):
    """This machine lacks something that Manyhands needs."""

    exit_code = 3


class RecipeError(ManyhandsError):
    """A recipe is malformed, its signature does not hold, or it is not the one asked for."""

    exit_code = 4


class DataError(ManyhandsError):
    """A corpus, a manifest or a piece is missing, empty or damaged."""

    exit_code = 5


class ModelError(ManyhandsError):
    """The model cannot be built from its configuration, or does not fit this device."""

    exit_code = 6


class IdentityError(ManyhandsError):
    """A key file is unreadable, malformed, or readable by others."""

    exit_code = 7


class HomeInUseError(ManyhandsError):
    """Another process already works in this home folder."""

    exit_code = 8


class NetworkError(ManyhandsError):
    """The network daemon cannot start, or died."""

    exit_code = 9


class UnreachableError(NetworkError):
    """No peer answered at the addresses tried."""

    exit_code = 10


class StateError(ManyhandsError):
    """The state on disk cannot be brought to agree with the swarm."""

    exit_code = 11


class StorageError(ManyhandsError):
    """The disk refused a write: full, read-only, or failing."""

    exit_code = 12


class TrainingError(ManyhandsError):
    """Training on this machine gives values that are infinite or not a number, again and again."""

    exit_code = 13


class ReplayError(ManyhandsError):
    """A claim can be neither confirmed nor refuted here: what that takes is missing, or does not decide."""

    exit_code = 14


class OutdatedError(ManyhandsError):
    """A run, or an export, goes by a rule or a version of the protocol that is not this build's."""

    exit_code = 15


class Offence(str, Enum):
    """What no honest peer ever sends. The value names it to people."""

    MALFORMED = "malformed"
    OVERSIZED = "too long"
    FORGED = "forged signature"
    OTHER_RUN = "of another run"
    FALSE = "not what its hash or claim says"
    UNKNOWN_KIND = "unknown kind"
    TOO_MANY = "too many requests"


class MessageError(ManyhandsError):
    """A peer sent something malformed, oversized, unsigned or out of place. Dropped and counted.

    `offence` says what is wrong with it where no honest peer ever sends the like
    (peers/network/peer_scores.py); without one, it came at a bad time, or asks for what is not here, and
    nobody holds that against its sender.
    """

    def __init__(self, message: str, *, remedy: str = "", offence: Offence | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.offence = offence
