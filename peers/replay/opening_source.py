"""Where a replay finds what a claim's author opened: in a file, as its auditor, or as the author itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from peers.audit.audit_case import Case
from peers.audit.opening import Opening
from peers.audit.opening_check import Opened, OpeningCheck
from peers.audit.opening_store import joined_opening, read_kept
from peers.audit.received_openings import MAX_OPENING_BYTES, OpenedClaim, OpenedClaims
from peers.exchange.loss_trace import TraceStore
from peers.protocol.length_prefixed import join_parts, split_parts
from peers.replay.run_data import RunData
from recipes.errors import DataError, MessageError

_PARTS_OF_TRACE, _MOST_PARTS = 2, 6  # of an opening (peers/audit/opening.py)


@dataclass(frozen=True, eq=False)
class ShownOpening:
    """The opening of a claim, not checked yet.

    Attributes:
        where: where it was found, in words.
        case: of the claim, without chunks if none are opened.
        opening: as an auditor gets it.
        start: the contribution from which its window started, likewise; empty if there is none.
    """

    where: str
    case: Case
    opening: bytes
    start: bytes

    def check(self, data: RunData) -> Opened:
        """Hold it against the claim, and return what it says.

        Raises:
            DataError: it does not fit the claim.
            StateError: a reduced segment that this takes is not here.
        """
        try:
            return check_of(self.case, data).check(self.opening, reduced=data)
        except MessageError as error:
            raise self.refused(error) from error

    def refused(self, reason: object) -> DataError:
        """Return the error that says that this is no opening of the claim."""
        return DataError(
            f"The opening from {self.where} does not fit the claim: {reason}. It says nothing about it.",
            remedy="Ask the claim's author or one of its auditors for the file again, unchanged.",
        )


def check_of(case: Case, data: RunData) -> OpeningCheck:
    """Return what checks openings of a case."""
    return OpeningCheck(
        case=case,
        layout=data.layout,
        form=data.form,
        return_dropped=data.recipe.exchange.return_dropped,
        decay=data.recipe.exchange.feedback_decay,
    )


def find_opening(case: Case, data: RunData, *, file: Path | None) -> ShownOpening | None:
    """Return what was opened of a claim: what is in `file`, or else what is in the run's folder; or None.

    Raises:
        DataError: the file cannot be read, is none of an opening, or is of another claim.
    """
    if file is not None:
        return _from_file(case, file, where=str(file))
    if (kept := OpenedClaims(data.folder).find(case.claim.hash)) is not None:
        return _from_file(case, kept, where=str(kept))
    return _own(case, data.folder)


def _from_file(case: Case, file: Path, *, where: str) -> ShownOpening:
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_OPENING_BYTES + 1)
    except OSError as error:
        raise DataError(
            f"Cannot read {file}: {error.strerror}.", remedy="Name the file of an opening."
        ) from error
    try:
        opened = OpenedClaim.parse(content)
        if opened.claim != case.claim.hash:
            raise MessageError(f"it is of the claim {opened.claim}")
        opening = opened.opening if case.whole else _trace_alone(opened.opening)
    except MessageError as error:
        raise ShownOpening(where, case, b"", b"").refused(error) from error
    return ShownOpening(where, case, opening, opened.start)


def _trace_alone(opening: bytes) -> bytes:
    """Return what of an opening is opened in every audit: which chunks are drawn is not known."""
    return join_parts(split_parts(opening, most=_MOST_PARTS)[:_PARTS_OF_TRACE])


def _own(case: Case, folder: Path) -> ShownOpening | None:
    """Return what the peer at home in a run's folder keeps of a claim of its own."""
    trace = TraceStore(folder).find(case.claim.body.loss_commitment)
    if trace is None:
        return None
    where, start = "this peer's own files", read_kept(folder, case, "start") or b""
    kept = read_kept(folder, case, "opening") if case.whole else None
    if kept is None:
        return ShownOpening(where, replace(case, places=()), Opening(trace).to_bytes(), start)
    return ShownOpening(where, case, joined_opening(trace, kept), start)
