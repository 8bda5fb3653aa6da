"""Nobody keeps others out of the page or the metrics by what they leave half done."""

from __future__ import annotations

import http.client
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest
from watching import open_page, watched

from monitoring.http import connections
from monitoring.http.connections import MOST_CONNECTIONS, MOST_FOR_ONE, MOST_WAITING_FOR_ONE, Connections
from monitoring.metrics.endpoint import metrics_served
from monitoring.metrics.volunteer_listener import VolunteerMetrics

HALF = b"GET / HTTP/1.1\r\nHost: local"
OTHER = "127.0.0.2"

Door = Callable[[], AbstractContextManager[int]]


@contextmanager
def page() -> Iterator[int]:
    with open_page(watched(), most_followers=100) as opened:
        yield opened.port


@contextmanager
def metrics() -> Iterator[int]:
    with metrics_served(VolunteerMetrics().registry, port=0, say=lambda _: None) as port:
        assert port is not None
        yield port


DOORS = pytest.mark.parametrize("door", [page, metrics])


def connect(port: int, source: str = "127.0.0.1", content: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(source, 0))
    connection.sendall(content)
    return connection


def status(port: int, source: str, *, seconds: float = 30) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds, source_address=(source, 0))
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found


@DOORS
def test_300_half_open_requests_of_one_client_keep_nobody_out(door: Door) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2048)), hard))
    with door() as port, ExitStack() as held:
        for _ in range(300):
            held.enter_context(connect(port, content=HALF))
        assert status(port, OTHER, seconds=2) == 200
        assert status(port, "127.0.0.1", seconds=2) == 200  # its own browser, for the oldest one gives way


@DOORS
def test_half_open_requests_of_many_clients_keep_nobody_out(door: Door) -> None:
    with door() as port, ExitStack() as held:
        for number in range(MOST_CONNECTIONS + 10):
            held.enter_context(connect(port, f"127.0.1.{number // 8 + 1}", HALF))
        assert status(port, OTHER, seconds=2) == 200


@DOORS
def test_a_head_has_to_come_in_time_however_it_drips(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    with door() as port, connect(port) as silent, connect(port, content=HALF) as half:
        assert rest(silent).startswith(b"HTTP/1.1 408 ")
        assert rest(half).startswith(b"HTTP/1.1 408 ")
        with connect(port, content=b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n") as used:
            assert used.recv(65536).startswith(b"HTTP/1.1 200 ")
            used.sendall(HALF)  # the next one of the same connection
            assert b"HTTP/1.1 408 " in rest(used)


@DOORS
def test_a_header_that_is_no_text_is_refused_without_a_trace(
    door: Door, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept: \xff\xfe\r\n\r\n"
    with door() as port, connect(port, content=request) as connection:
        assert rest(connection).startswith(b"HTTP/1.1 400 ")
    assert capfd.readouterr().err == ""
    assert not caplog.records


def test_who_follows_the_page_is_not_cut_off_for_asking_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    with (
        page() as port,
        connect(port, content=b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n") as follower,
    ):
        with connect(port, OTHER) as silent:
            assert rest(silent).startswith(b"HTTP/1.1 408 ")  # as long as that, at least
        follower.setblocking(False)
        assert follower.recv(65536).startswith(b"HTTP/1.1 200 ")
        with pytest.raises(BlockingIOError):
            follower.recv(65536)


def test_a_client_that_has_all_its_places_is_told_so_and_others_are_served() -> None:
    with page() as port, ExitStack() as held:
        for _ in range(MOST_FOR_ONE):
            follower = held.enter_context(
                connect(port, content=b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            )
            assert follower.recv(4096).startswith(b"HTTP/1.1 200 ")
        with connect(port) as one_more:
            answer = rest(one_more)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert answer.endswith(b"Too many connections from your address.\n")
        assert status(port, OTHER) == 200


def test_a_reader_that_takes_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    gone, lost = threading.Event(), connections.Connection.connection_lost

    def noted(connection: connections.Connection, exc: Exception | None) -> None:
        lost(connection, exc)
        gone.set()

    monkeypatch.setattr(connections, "STALLED_SECONDS", 0.2)
    monkeypatch.setattr(connections.Connection, "connection_lost", noted)
    with page() as port, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", port))
        # More answers than lie anywhere in between, and none is read.
        slow.sendall(b"GET /static/uplot.min.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000)
        assert gone.wait(30)


class Waiting:
    """Stands in for a connection: the registry asks no more of one."""

    def __init__(self, client_network: str, *, waits: bool = True) -> None:
        self.client_network = client_network
        self.waits = waits
        self.transport = self
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


def test_the_oldest_that_waits_gives_way_and_what_is_answered_stays() -> None:
    known = Connections()
    mine = [Waiting("a", waits=number != 0) for number in range(MOST_WAITING_FOR_ONE + 2)]
    for one in mine:
        assert known.admit(one) == ""  # type: ignore[arg-type]
    assert [one.aborted for one in mine] == [False, True] + [False] * MOST_WAITING_FOR_ONE
    assert len(known) == MOST_WAITING_FOR_ONE + 1
    for one in [*mine, *mine]:
        known.forget(one)  # type: ignore[arg-type]
    assert len(known) == 0


def test_a_server_that_answers_on_all_its_places_takes_no_further_one() -> None:
    known = Connections()
    for number in range(MOST_CONNECTIONS):
        assert known.admit(Waiting(str(number), waits=False)) == ""  # type: ignore[arg-type]
    assert known.admit(Waiting("new")) == "Too many connections."  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
    ],
)
def test_the_addresses_of_an_ipv6_network_are_one_client(one: str, other: str, same: bool) -> None:
    assert (connections.network_of(one) == connections.network_of(other)) is same
