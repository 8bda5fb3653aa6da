"""The owner's signature over a recipe: recipe.sig, beside recipe.toml, over its exact bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recipes.errors import RecipeError
from recipes.keys import PeerId, SigningKey, verify

MAXIMUM_SIGNATURE_BYTES = 16 * 1024
_PURPOSE = "recipe"


class OwnerSignature(BaseModel):
    """One owner's Ed25519 signature, as 128 hex digits."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    peer: Annotated[PeerId, Field(max_length=64)]
    signature: str = Field(pattern=r"^[0-9a-f]{128}$")


class SignatureFile(BaseModel):
    """The content of recipe.sig."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    signatures: list[OwnerSignature] = Field(min_length=1, max_length=16)


def sign_recipe(content: bytes, key: SigningKey) -> bytes:
    """Return the content of recipe.sig: `key`'s signature over the recipe's exact bytes."""
    signature = OwnerSignature(peer=key.peer_id, signature=key.sign(_PURPOSE, content).hex())
    return SignatureFile(signatures=[signature]).model_dump_json(indent=2).encode() + b"\n"


def check_recipe_signature(content: bytes, signature_file: bytes, owners: Sequence[PeerId]) -> PeerId:
    """Return the first owner whose signature over `content` holds. One owner's is enough.

    Raises:
        RecipeError: recipe.sig is malformed, or no owner's signature in it holds.
    """
    if len(signature_file) > MAXIMUM_SIGNATURE_BYTES:
        raise RecipeError(
            f"recipe.sig has {len(signature_file)} bytes; at most {MAXIMUM_SIGNATURE_BYTES} fit."
        )
    try:
        signatures = SignatureFile.model_validate_json(signature_file).signatures
    except ValidationError as error:
        raise RecipeError(
            "recipe.sig does not hold signatures in the known form.",
            remedy="Get the run from its publisher again.",
        ) from error
    for entry in signatures:
        if entry.peer in owners and verify(entry.peer, _PURPOSE, content, bytes.fromhex(entry.signature)):
            return entry.peer
    raise RecipeError(
        "No owner of this recipe has signed these bytes. The recipe names as its owners: "
        f"{', '.join(owners) or 'nobody'}; recipe.sig is by {', '.join(entry.peer for entry in signatures)}.",
        remedy="It was changed after it was signed: get it from its publisher again, or publish your own.",
    )
