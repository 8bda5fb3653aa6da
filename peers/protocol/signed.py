"""What every message is built from: bounded types of fields, bodies, and signatures over them.

A body's canonical form is RFC 8785 JSON, so its hash and its signature are over the same bytes on every
machine.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler, StringConstraints
from pydantic_core import CoreSchema

from recipes.formats.blake3_tree import digest
from recipes.formats.canonical import canonical_json
from recipes.formats.canonical_models import Writing, with_sorted_fields, writing_of
from recipes.keys.keys import PeerId, SigningKey, known_public_key, verify


def _check_peer(peer: PeerId) -> PeerId:
    if known_public_key(peer) is None:
        raise ValueError("not the id of an Ed25519 key that may sign")
    return peer


Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
SignatureHex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]
PeerName = Annotated[PeerId, Field(pattern=r"^12D3Koo[1-9A-HJ-NP-Za-km-z]{45}$"), AfterValidator(_check_peer)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Milliseconds = Annotated[int, Field(ge=0, le=86_400_000)]
Norm = Annotated[float, Field(ge=0, allow_inf_nan=False)]
SlotRange = tuple[Count, Count]  # first slot, number of slots


class Message(BaseModel):
    """Base of all messages: immutable, closed, and without type coercion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let pydantic write fields in the order in which canonical JSON has them."""
        return with_sorted_fields(handler(source))

    def canonical(self) -> bytes:
        """Return the message as RFC 8785 canonical JSON."""
        text = self.__pydantic_serializer__.to_json(self)
        if _writing_of(type(self)).is_canonical(text):
            return text
        return canonical_json(self.model_dump(mode="json"))


@lru_cache(maxsize=256)
def _writing_of(form: type[Message]) -> Writing:
    return writing_of(form.__pydantic_core_schema__)


class Body(Message):
    """Base of what is signed. `purpose` separates the signatures of different kinds of message."""

    purpose: ClassVar[str]
    run: Hash
    peer: PeerName


BodyT = TypeVar("BodyT", bound=Body)


class Signed(Message, Generic[BodyT]):
    """A body and its author's signature over the body's canonical bytes."""

    body: BodyT
    signature: SignatureHex

    @cached_property
    def hash(self) -> str:
        """Hex BLAKE3 of the body's canonical bytes: the name by which others refer to it."""
        return digest(self.body.canonical()).hex()

    def holds(self) -> bool:
        """Whether the signature is the author's."""
        return _signature_holds(self.body.peer, self.body.purpose, self.hash, self.signature)


@lru_cache(maxsize=65536)
def _signature_holds(peer: PeerId, purpose: str, body_hash: str, signature: str) -> bool:
    return verify(peer, purpose, bytes.fromhex(body_hash), bytes.fromhex(signature))


def sign(key: SigningKey, body: BodyT) -> Signed[BodyT]:
    """Return `body` with `key`'s signature over its hash. The key must be the author's.

    Raises:
        ValueError: `body.peer` is somebody else.
    """
    if body.peer != key.peer_id:
        raise ValueError(f"{key.peer_id} cannot sign for {body.peer}")
    signature = key.sign(body.purpose, digest(body.canonical()))
    form: type[Signed[BodyT]] = Signed[type(body)]  # type: ignore[misc, assignment]
    return form(body=body, signature=signature.hex())
