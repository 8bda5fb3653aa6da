"""A first address for newcomers: a peer that introduces others to each other and holds no state.

    python -m peers.bootstrap --port 31329

It keeps a part of the notice boards of whatever runs its visitors belong to. A run goes on without it: peers
that have met know each other's addresses.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer

from peers.network.addresses import listen_address
from recipes.command import plain_errors
from recipes.errors import NetworkError
from recipes.home import home_folder

DEFAULT_PORT = 31329
KEY_FILE = "bootstrap.key"  # not identity.key: a volunteer may run on the same machine


async def run_bootstrap_peer(key_path: Path, listen: str, announce: str | None) -> None:
    """Run until SIGINT or SIGTERM, and print the addresses to give to others.

    Raises:
        NetworkError: p2pd does not start, or died.
    """
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked_to_stop.set)
    # Takes seconds: not for --help, and Ctrl+C is heeded by now.
    from peers.network.p2pd.transport import P2pdTransport

    announced = [announce] if announce else []
    async with await P2pdTransport.open(
        key_path=key_path, run_id=None, listen=[listen], announce=announced
    ) as transport:
        addresses = await transport.addresses()
        print("Newcomers can meet others here:", *addresses, sep="\n  ")
        print(f"\nVolunteers join with\n\n    python -m trainer.join RUN --peer {addresses[0]}\n", flush=True)
        ends = [asyncio.create_task(event.wait()) for event in (asked_to_stop, transport.died)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if transport.died.is_set():
            raise NetworkError(
                "The network daemon p2pd ended by itself again and again. "
                f"It said:\n{transport.last_words()}",
                remedy="Run the same command again: nothing is lost.",
            )
    print("Left.")


def main(
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 for any free one.")] = DEFAULT_PORT,
    host: Annotated[str, typer.Option(help="IP address to listen on; 0.0.0.0 is all of them.")] = "0.0.0.0",
    announce: Annotated[
        str | None, typer.Option(help="Multiaddr at which others reach this machine, if it is not its own.")
    ] = None,
    home: Annotated[
        Path | None, typer.Option(help="Home folder. By default $MANYHANDS_HOME or ~/.manyhands.")
    ] = None,
    identity: Annotated[
        Path | None, typer.Option(help=f"Key file, made if missing. By default HOME/{KEY_FILE}.")
    ] = None,
) -> None:
    """Run a first address for newcomers: it introduces peers to each other and holds no state."""
    with plain_errors():
        key_path = identity or home_folder(home) / KEY_FILE
        asyncio.run(run_bootstrap_peer(key_path, listen_address(host, port), announce))


if __name__ == "__main__":
    typer.run(main)
