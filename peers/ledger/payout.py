"""Payouts: what each peer has vested in all, as tables, and as a Merkle root that a contract pays by.

Amounts are cumulative: a contract remembers what it paid to an address and pays the difference, so a root can
be replaced by a later one at any time, and nobody is paid twice or has to be in time. A peer is paid at the
address that it names itself, in a body signed with its own key. This page makes no payment and knows no coin:
one unit of a payment is one FLOP, and what that is worth is for others to say.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from peers.credit.escrow import Account
from peers.ledger.openzeppelin_tree import StandardTree, standard_tree
from peers.protocol.messages import Body, Count, Signed
from recipes.errors import DataError
from recipes.formats.files import write_atomic
from recipes.keys.keys import PeerId

MAX_BINDINGS = 1 << 16
_MAX_BINDING_BYTES = 1024

Address = Annotated[str, Field(pattern=r"^0x[0-9a-f]{40}$")]


class AddressBinding(Body):
    """Pay what this peer has vested to this address, until a binding with a higher number says otherwise."""

    purpose = "address"
    address: Address
    number: Count


@dataclass(frozen=True)
class Payout:
    """All peers' vested credit by a round.

    Attributes:
        run: the run's id.
        round: of the last block that was taken into account.
        root: of the ledger after it, hex.
        vested: by peer, FLOPs; only peers that have any.
        addresses: of those peers that named one.
        tree: over the payments to addresses; None if there are none.
    """

    run: str
    round: int
    root: str
    vested: Mapping[PeerId, int]
    addresses: Mapping[PeerId, str]
    tree: StandardTree | None


def make_payout(
    accounts: Mapping[PeerId, Account],
    *,
    run: str,
    round_number: int,
    root: bytes,
    bindings: Mapping[PeerId, Signed[AddressBinding]],
) -> Payout:
    """Return the payout of what `accounts` have vested. Peers with one address are paid as one."""
    vested = {peer: accounts[peer].vested for peer in sorted(accounts) if accounts[peer].vested}
    addresses = {peer: bindings[peer].body.address for peer in vested if peer in bindings}
    payments: dict[str, int] = {}
    for peer, address in addresses.items():
        payments[address] = payments.get(address, 0) + vested[peer]
    tree = standard_tree(list(payments.items())) if payments else None
    return Payout(run, round_number, root.hex(), vested, addresses, tree)


def read_bindings(path: Path, *, run: str) -> dict[PeerId, Signed[AddressBinding]]:
    """Return each peer's newest binding from a file of signed ones, one a line, whatever their order.

    A peer that signed two different ones as its newest has none: that is nobody's loss but its own.

    Raises:
        DataError: the file cannot be read, or a line is not a binding for this run that its peer signed.
    """
    newest: dict[PeerId, Signed[AddressBinding]] = {}
    twofold: dict[PeerId, int] = {}  # the number under which a peer signed two addresses
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(iter(lambda: stream.readline(_MAX_BINDING_BYTES + 1), b""), 1):
                if number > MAX_BINDINGS:
                    raise _refused(path, number, f"more than {MAX_BINDINGS} bindings")
                binding = _parse_binding(path, number, line, run=run)
                known = newest.get(binding.body.peer)
                if known is None or known.body.number < binding.body.number:
                    newest[binding.body.peer] = binding
                elif known.body.number == binding.body.number and known.hash != binding.hash:
                    twofold[binding.body.peer] = binding.body.number
    except OSError as error:
        raise DataError(
            f"Cannot read {path}: {error.strerror}.", remedy="Name the file that holds the signed addresses."
        ) from error
    return {peer: one for peer, one in newest.items() if twofold.get(peer) != one.body.number}


def _parse_binding(path: Path, number: int, line: bytes, *, run: str) -> Signed[AddressBinding]:
    if len(line) > _MAX_BINDING_BYTES:
        raise _refused(path, number, f"more than {_MAX_BINDING_BYTES} bytes")
    try:
        binding = Signed[AddressBinding].model_validate_json(line)
    except ValidationError as error:
        raise _refused(path, number, error.errors()[0]["msg"]) from error
    if binding.body.run != run:
        raise _refused(path, number, "it is for another run")
    if not binding.holds():
        raise _refused(path, number, f"the signature of {binding.body.peer} does not hold")
    return binding


def _refused(path: Path, number: int, reason: str) -> DataError:
    return DataError(
        f"{path}, line {number}: no address binding that counts: {reason}.",
        remedy="Ask the peer for it again: `python -m peers.ledger address` makes one.",
    )


def write_payout(payout: Payout, folder: Path) -> list[Path]:
    """Write payout.csv and payout.json, and tree.json and proofs.json if anybody named an address.

    Without an address, those of an earlier payout in this folder are removed.

    Raises:
        StorageError: the disk refuses.
    """
    files = {"payout.csv": _as_csv(payout), "payout.json": _as_json(_summary(payout))}
    if payout.tree is not None:
        files["tree.json"] = _as_json(payout.tree.dump())
        files["proofs.json"] = _as_json(_proofs(payout.tree))
    for name, content in files.items():
        write_atomic(folder / name, content)
    for name in {"tree.json", "proofs.json"} - files.keys():
        (folder / name).unlink(missing_ok=True)
    return [folder / name for name in files]


def _as_csv(payout: Payout) -> bytes:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["peer", "address", "vested_flops"])
    table.writerows([peer, payout.addresses.get(peer, ""), amount] for peer, amount in payout.vested.items())
    return text.getvalue().encode()


def _summary(payout: Payout) -> dict[str, object]:
    return {
        "run": payout.run,
        "round": payout.round,
        "ledger_root": payout.root,
        "merkle_root": payout.tree.root if payout.tree is not None else None,
        "total_vested": str(sum(payout.vested.values())),
        "without_address": [peer for peer in payout.vested if peer not in payout.addresses],
        "peers": [
            {"peer": peer, "address": payout.addresses.get(peer), "vested": str(amount)}
            for peer, amount in payout.vested.items()
        ],
    }


def _proofs(tree: StandardTree) -> list[dict[str, object]]:
    return [
        {"address": address, "amount": str(amount), "proof": tree.proof(number)}
        for number, (address, amount) in enumerate(tree.payments)
    ]


def _as_json(content: Iterable[object] | Mapping[str, object]) -> bytes:
    return json.dumps(content, indent=1).encode() + b"\n"
