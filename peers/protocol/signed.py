"""The bases of all messages: bounded types of fields, bodies, and signatures over them.

A body's canonical form is RFC 8785 JSON, so its hash is over the same bytes on every machine. The signature
is over that hash; of a roster or a block, over the hash of a header that holds it (headers.py).

**Growth.** A later build may add fields to a message. This one keeps a field that it does not know as it
came: hash and signature are over it, too, and it is passed on. So a field that is added later is optional,
and left out where it is not set (`later`): then a message without it has the bytes that earlier builds write.
What a peer has to understand is no matter of a field, but of a rule that the chain puts into force
(upgrades.py). Around a body nothing may be added (`Closed`): no signature would cover it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Annotated, Any, ClassVar, Generic, TypeVar, get_args

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


MAX_UNKNOWN_FIELDS = 16  # of one object


def later(**bounds: Any) -> Any:
    """Return the description of a field that was added later: None, and left out, where it is not set."""
    return Field(default=None, exclude_if=lambda value: value is None, **bounds)


class Message(BaseModel):
    """Base of all messages: immutable, without type coercion, and carrying fields of later builds along."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let pydantic write fields in the order in which canonical JSON has them."""
        return with_sorted_fields(handler(source))

    def canonical(self) -> bytes:
        """Return the message as RFC 8785 canonical JSON, fields that this build does not know included.

        Raises:
            rfc8785.CanonicalizationError: a field that this build does not know holds what JSON cannot.
        """
        if not self.carries_unknown():
            text = self.__pydantic_serializer__.to_json(self)
            if _writing_of(type(self)).is_canonical(text):
                return text
        return canonical_json(self.model_dump(mode="json"))

    def unknown(self) -> Mapping[str, Any]:
        """Return the fields of this object itself that this build does not know."""
        return self.__pydantic_extra__ or {}

    def carries_unknown(self) -> bool:
        """Whether this object, or one within it, has fields that this build does not know."""
        return any(part.__pydantic_extra__ for part in self.objects())

    def objects(self) -> Iterator[Message]:
        """Yield this object and all objects within it that are messages, too."""
        yield self
        for name in _fields_with_objects(type(self)):
            yield from _objects_in(getattr(self, name))


def _objects_in(value: object) -> Iterator[Message]:
    if isinstance(value, Message):
        yield from value.objects()
    elif isinstance(value, tuple):
        for one in value:
            yield from _objects_in(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from _objects_in(one)


@lru_cache(maxsize=256)
def _fields_with_objects(form: type[Message]) -> tuple[str, ...]:
    """Return the names of the fields whose type has a message in it, by what the type says of itself."""
    return tuple(name for name, field in form.model_fields.items() if _holds_objects(field.annotation))


def _holds_objects(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, Message):
        return True
    return isinstance(annotation, TypeVar) or any(map(_holds_objects, get_args(annotation)))


@lru_cache(maxsize=256)
def _writing_of(form: type[Message]) -> Writing:
    return writing_of(form.__pydantic_core_schema__)


class Body(Message):
    """Base of all signed messages. `purpose` keeps signatures of different kinds of message apart."""

    purpose: ClassVar[str]
    run: Hash
    peer: PeerName

    def signed_digest(self, name: str) -> bytes:
        """Return the 32 bytes that the author signs; `name` is the hex hash of this body.

        They are that hash, unless a short header stands for the body (headers.py).
        """
        return bytes.fromhex(name)


BodyT = TypeVar("BodyT", bound=Body)


class Closed(Message):
    """Base of what has no field but its own: around a body, no signature would cover what is added."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Signed(Closed, Generic[BodyT]):
    """A body and its author's signature over its hash, or over that of its header."""

    body: BodyT
    signature: SignatureHex

    @cached_property
    def hash(self) -> str:
        """Hex BLAKE3 of the body's canonical bytes: the name by which others refer to it."""
        return digest(self.body.canonical()).hex()

    def holds(self) -> bool:
        """Whether the signature is the author's."""
        return _signature_holds(
            self.body.peer, self.body.purpose, self.body.signed_digest(self.hash), self.signature
        )


@lru_cache(maxsize=65536)
def _signature_holds(peer: PeerId, purpose: str, signed: bytes, signature: str) -> bool:
    return verify(peer, purpose, signed, bytes.fromhex(signature))


def sign(key: SigningKey, body: BodyT) -> Signed[BodyT]:
    """Return `body` with `key`'s signature over its hash, or its header's. The key must be the author's.

    Raises:
        ValueError: `body.peer` is not the key's peer.
    """
    if body.peer != key.peer_id:
        raise ValueError(f"{key.peer_id} cannot sign for {body.peer}")
    signature = key.sign(body.purpose, body.signed_digest(digest(body.canonical()).hex()))
    form: type[Signed[BodyT]] = Signed[type(body)]  # type: ignore[misc, assignment]
    return form(body=body, signature=signature.hex())
