"""An auditor's signed request to a claim's author: for the window's start, or for the claim's opening."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from peers.protocol.signed import Body, Hash, Signed
from recipes.errors import MessageError, Offence
from recipes.keys.keys import PeerId

REQUEST_BYTES = 2 << 10  # of the longest request


class AuditRequest(Body):
    """An auditor's request to the author of a claim.

    Without `trace`, it asks for the contribution from which a window ahead started, to replay it. With
    `trace`, it has replayed the steps that were drawn, is bound to its own losses, and asks for the opening.
    """

    purpose = "audit request"
    claim: Hash
    trace: Hash | None = None  # commitment to the auditor's own losses, as its verdict will have it


def parse_request(content: bytes, *, run: str, sender: PeerId) -> AuditRequest:
    """Return the request that `sender` made.

    Raises:
        MessageError: it is malformed, forged, by another peer than `sender`, or of another run.
    """
    try:
        signed: Any = Signed[AuditRequest].model_validate_json(content)
    except (ValidationError, RecursionError) as error:
        raise MessageError("a malformed request of an auditor", offence=Offence.MALFORMED) from error
    body: AuditRequest = signed.body
    if body.run != run:
        raise MessageError("a request of another run's auditor", offence=Offence.OTHER_RUN)
    if body.peer != sender or not signed.holds():
        raise MessageError("a request in another auditor's name", offence=Offence.FORGED)
    return body
