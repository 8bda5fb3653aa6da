"""What hostile bytes are tried on: a parser, good samples of what it reads, its errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from recipes.errors import MessageError
from recipes.keys.keys import SigningKey

KEY = SigningKey(bytes(32))


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
