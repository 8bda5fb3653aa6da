"""Liars of benchmarks.newcomers: they stand on the notice board, and name heads that they cannot deliver.

    python -m benchmarks.newcomers.boasters RUN ADDRESS COUNT FOLDER

Each has its own way with whoever asks for blocks: no answer at all, an empty one, or the first blocks of the
run again and again. All say that they hold hundreds of snapshots, and give none.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from peers.network.discovery import Crowd
from peers.network.p2pd.transport import P2pdTransport
from peers.network.transport import RemoteError, Request
from peers.protocol.messages import HeadNotice
from peers.protocol.requests import encode_round
from recipes.errors import UnreachableError
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId

FAR = 100_000  # rounds beyond any real one
_NEVER_SECONDS = 3600.0
_LOOK_AROUND_SECONDS = 5.0

Answer = Callable[[PeerId, bytes], Awaitable[bytes]]


async def boast(run: str, address: str, number: int, folder: Path, begun: asyncio.Event) -> None:
    """Be one liar, until cancelled."""
    async with AsyncExitStack() as stack:
        opening = P2pdTransport.open(
            key_path=folder / str(number) / "identity.key",
            run_id=run,
            listen=["/ip4/127.0.0.1/tcp/0"],
            bootstrap=[address],
        )
        transport = await stack.enter_async_context(await opening)
        names = 0

        async def head(_: PeerId, __: bytes) -> bytes:
            nonlocal names
            names += 1
            block = digest(f"{number}/{names}".encode()).hex()
            return HeadNotice(round=FAR + names, block=block, age_seconds=1.0).canonical()

        async def never(_: PeerId, __: bytes) -> bytes:
            await asyncio.sleep(_NEVER_SECONDS)
            return b""

        async def empty(_: PeerId, __: bytes) -> bytes:
            return b""

        async def first_ones(_: PeerId, __: bytes) -> bytes:
            source = PeerId(address.rsplit("/", 1)[1])
            try:
                return await transport.call(
                    source, Request("blocks", encode_round(0), limit=8 << 20, timeout=30)
                )
            except UnreachableError as error:
                raise RemoteError(str(error)) from error

        async def snapshots(_: PeerId, __: bytes) -> bytes:
            return b"".join(encode_round(4 * place) for place in range(64))

        ways: tuple[Answer, ...] = (never, empty, first_ones)
        transport.serve("head", head, limit=0)
        transport.serve("blocks", ways[number % len(ways)], limit=8)
        transport.serve("snapshots", snapshots, limit=0)
        transport.serve("snapshot", never, limit=8)
        crowd = Crowd(transport, run, folder=folder / str(number))
        while True:
            await crowd.look_around(announce_round=FAR)
            begun.set()
            await asyncio.sleep(_LOOK_AROUND_SECONDS)


async def main(run: str, address: str, count: int, folder: Path) -> None:
    """Be so many liars; say `ready` once all are on the notice board."""
    begun = [asyncio.Event() for _ in range(count)]
    lives = [asyncio.create_task(boast(run, address, n, folder, begun[n])) for n in range(count)]
    for event in begun:
        await event.wait()
    print("ready", flush=True)
    await asyncio.gather(*lives)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])))
