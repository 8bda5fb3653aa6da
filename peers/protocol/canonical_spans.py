"""Where the signed bodies stand in a canonical text: what is hashed need not be written out again."""

from __future__ import annotations

from collections.abc import Mapping

_START, _END = b'{"body":', b',"signature":"'
_SIGNATURE_DIGITS = 128


def body_texts(text: bytes) -> Mapping[str, bytes]:
    """Return the text of each signed body in a message's canonical JSON, by its signature in hex.

    Only signed things begin with a body, and within a string each quote is escaped, so both marks are found
    where they are meant. Nothing is returned if one signature stands there twice: then it names no body.
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
