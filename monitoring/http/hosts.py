"""The names under which a server may be asked, so that no page elsewhere reads it through a browser.

A page of evil.example can have that name lead to 127.0.0.1 (DNS rebinding). The browser then takes what this
server answers for that page's own, but still sends the name: `Host: evil.example`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from recipes.errors import NetworkError

LOCALHOST = "localhost"
REFUSAL = (
    "Nothing is answered here under the name that this request gives as its Host. Use the IP address or "
    "localhost; whoever runs the page can give it more names with --host-name.\n"
)
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\Z")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(:[0-9]{0,5})?\Z")
_LONGEST = 253 + 1 + 6  # a name with its last dot, and a port


class Hosts:
    """The names of one server: its addresses, localhost, and those that were given."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        """Take more names than a server has anyway.

        Raises:
            NetworkError: one of them is neither a host's name nor an IP address.
        """
        self._names = {LOCALHOST, *(_checked(name) for name in names)}

    def includes(self, host: str, reached: str | None) -> bool:
        """Whether a request may name this Host.

        Args:
            host: as the header has it, with or without a port: another one may be forwarded to ours.
            reached: this machine's IP address on which the connection came in.
        """
        match = _HOST.match(host.lower()) if len(host) <= _LONGEST else None
        if match is None:
            return False
        name = match[1].strip("[]").removesuffix(".")
        address = _address(name)
        if address is None:
            return name in self._names
        return address.is_loopback or str(address) in self._names or address == _address(reached or "")


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the IP address that a text is; an IPv4 address in IPv6's form is that IPv4 address."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


def _checked(name: str) -> str:
    found = name.lower().strip("[]").removesuffix(".")
    address = _address(found)
    if address is not None:
        return str(address)
    if len(found) > 253 or not _NAME.match(found):
        raise NetworkError(
            f"{name[:80]!r} is not the name of a host.",
            remedy="Give --host-name as it stands in a browser's address: without http://, port or path.",
        )
    return found
