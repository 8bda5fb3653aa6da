"""Real p2pd peers that speak another version of the protocol are told apart, and told of."""

from __future__ import annotations

import pytest
from p2pd_peers import OpenPeer, Told, open_peer

import peers.network.p2pd.answering
import peers.network.p2pd.transport
from peers.network.transport import Request
from peers.network.versions import SPOKEN
from peers.protocol.events import Notice
from recipes.errors import OutdatedError, UnreachableError

__all__ = ["open_peer"]
LATER = max(SPOKEN) + 1


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """While it is not undone, peers that are opened speak the next version alone."""
    monkeypatch.setattr(peers.network.p2pd.transport, "_PROTOCOL", f"/manyhands/{LATER}")
    monkeypatch.setattr(peers.network.p2pd.answering, "encode_versions", lambda: str(LATER).encode())
    return monkeypatch


async def test_a_newcomer_whose_peers_all_speak_a_later_version_is_told_what_to_install(
    open_peer: OpenPeer, later: pytest.MonkeyPatch
) -> None:
    anna = await open_peer("anna")
    later.setattr(peers.network.p2pd.transport, "_PROTOCOL", f"/manyhands/{max(SPOKEN)}")
    with pytest.raises(OutdatedError, match=f"speaks version {LATER} of the protocol.* Install a newer"):
        await open_peer("bert", via=anna)


async def test_a_peer_of_a_later_version_among_others_is_told_of_once_and_cannot_be_asked(
    open_peer: OpenPeer, later: pytest.MonkeyPatch
) -> None:
    told = Told()
    anna = await open_peer("anna")
    later.setattr(peers.network.p2pd.transport, "_PROTOCOL", f"/manyhands/{max(SPOKEN)}")
    bert = await open_peer("bert", listener=told)
    await bert.connect(anna.peer_id, await anna.addresses())
    for _ in range(2):
        with pytest.raises(UnreachableError, match=f"speaks version {LATER}"):
            await bert.call(anna.peer_id, Request("head", b"", limit=10, timeout=10))
    notice = await told.next(Notice)
    assert "Install a newer build" in notice.text
    assert await bert.versions_of(anna.peer_id) == {LATER}


async def test_peers_of_one_version_tell_each_other_so(open_peer: OpenPeer) -> None:
    anna = await open_peer("anna")
    bert = await open_peer("bert", via=anna)
    assert await bert.versions_of(anna.peer_id) == set(SPOKEN)
