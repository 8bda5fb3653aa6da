"""The owners' signatures over a recipe: recipe.sig, beside recipe.toml, over its exact bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recipes.errors import RecipeError
from recipes.keys.keys import PeerId, SigningKey, verify

MAXIMUM_SIGNATURE_BYTES = 16 * 1024
MAXIMUM_SIGNATURES = 16
_PURPOSE = "recipe"


class OwnerSignature(BaseModel):
    """One owner's Ed25519 signature, as 128 hex digits."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    peer: Annotated[PeerId, Field(max_length=64)]
    signature: str = Field(pattern=r"^[0-9a-f]{128}$")


class SignatureFile(BaseModel):
    """The content of recipe.sig."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    signatures: list[OwnerSignature] = Field(min_length=1, max_length=MAXIMUM_SIGNATURES)


def sign_recipe(content: bytes, key: SigningKey) -> bytes:
    """Return the content of recipe.sig: `key`'s signature over the recipe's exact bytes."""
    signature = OwnerSignature(peer=key.peer_id, signature=key.sign(_PURPOSE, content).hex())
    return SignatureFile(signatures=[signature]).model_dump_json(indent=2).encode() + b"\n"


def add_signature(content: bytes, signature_file: bytes, key: SigningKey) -> bytes:
    """Return the content of recipe.sig with `key`'s signature over the recipe in it, beside those of others.

    Raises:
        RecipeError: recipe.sig is malformed, or full.
    """
    mine = OwnerSignature(peer=key.peer_id, signature=key.sign(_PURPOSE, content).hex())
    others = [one for one in parse_signatures(signature_file) if one.peer != key.peer_id]
    if len(others) >= MAXIMUM_SIGNATURES:
        raise RecipeError(f"recipe.sig holds {len(others)} signatures, and no more fit.")
    return SignatureFile(signatures=[*others, mine]).model_dump_json(indent=2).encode() + b"\n"


def parse_signatures(signature_file: bytes) -> list[OwnerSignature]:
    """Return the signatures in recipe.sig, whether or not they hold.

    Raises:
        RecipeError: it is malformed.
    """
    if len(signature_file) > MAXIMUM_SIGNATURE_BYTES:
        raise RecipeError(
            f"recipe.sig has {len(signature_file)} bytes; at most {MAXIMUM_SIGNATURE_BYTES} fit."
        )
    try:
        return SignatureFile.model_validate_json(signature_file).signatures
    except ValidationError as error:
        raise RecipeError(
            "recipe.sig does not hold signatures in the known form.",
            remedy="Get the run from its publisher again.",
        ) from error


def holding_signatures(
    content: bytes, signatures: Sequence[OwnerSignature], owners: Sequence[PeerId]
) -> tuple[OwnerSignature, ...]:
    """Return of `signatures` the first one of each owner that holds over `content`."""
    found: dict[PeerId, OwnerSignature] = {}
    for one in signatures:
        known = one.peer in found or one.peer not in owners
        if not known and verify(one.peer, _PURPOSE, content, bytes.fromhex(one.signature)):
            found[one.peer] = one
    return tuple(found.values())


def check_recipe_signatures(
    content: bytes, signature_file: bytes, owners: Sequence[PeerId], *, threshold: int = 1
) -> tuple[PeerId, ...]:
    """Return the owners whose signatures over `content` hold, if they are `threshold` or more.

    Raises:
        RecipeError: recipe.sig is malformed, or too few owners' signatures in it hold.
    """
    signatures = parse_signatures(signature_file)
    signers = tuple(one.peer for one in holding_signatures(content, signatures, owners))
    if not signers:
        raise RecipeError(
            "No owner of this recipe has signed these bytes. The recipe names as its owners: "
            f"{', '.join(owners) or 'nobody'}; recipe.sig is by {', '.join(one.peer for one in signatures)}.",
            remedy="It was changed after it was signed: get it from its publisher, or publish your own.",
        )
    if len(signers) < threshold:
        raise RecipeError(
            f"The recipe needs the signatures of {threshold} of its owners; it has {len(signers)}.",
            remedy="Another owner adds a signature with `python -m recipes.sign FOLDER`.",
        )
    return signers
