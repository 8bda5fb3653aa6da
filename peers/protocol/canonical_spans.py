"""The places of signed bodies in a canonical text, so that a body need not be written again to be hashed."""

from __future__ import annotations

from collections.abc import Mapping

_START, _END = b'{"body":', b',"signature":"'
_SIGNATURE_DIGITS = 128


def body_texts(text: bytes) -> Mapping[str, bytes]:
    """Return the text of each signed body in a message's canonical JSON, by its signature in hex.

    Only signed messages begin with a body, and quotes within strings are escaped, so both marks are found
    only where they are meant. If a signature occurs twice, nothing is returned: it names no single body.
    """
    found: dict[str, bytes] = {}
    open_since: list[int] = []
    start, end = text.find(_START), text.find(_END)
    while end >= 0:
        if 0 <= start < end:
            open_since.append(start + len(_START))
            start = text.find(_START, start + 1)
            continue
        if not open_since:
            return {}
        first = end + len(_END)
        signature = text[first : first + _SIGNATURE_DIGITS].decode("ascii", "replace")
        if signature in found:
            return {}
        found[signature] = text[open_since.pop() : end]
        end = text.find(_END, first)
    return found
