"""What the web server refuses, and what goes with every answer."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from watching import OpenPage, open_page, watched

from monitoring.http.guard import HEADERS, MOST_PATH_BYTES, MOST_QUERY_BYTES

FUZZED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
KNOWN = ("/", "/peers", "/rounds", "/recipe", "/api", "/metrics", "/api/v1/swarm", "/static/page.js")
SECRETS = ("root:", "import annotations", "[metadata]", "uPlot contributors")


@pytest.fixture(scope="module")
def page() -> Iterator[OpenPage]:
    run = watched()
    run.grow(run.swarm.keys, 3)
    with open_page(run, most_followers=3) as opened:
        yield opened


@pytest.mark.parametrize("path", [*KNOWN, "/nowhere", "/static/nothing", "/rounds/9999", "/api/v1/rounds/x"])
def test_every_answer_has_the_headers_that_keep_it_to_itself(page: OpenPage, path: str) -> None:
    _, headers, _ = page.get(path)
    for name, value in HEADERS.items():
        assert headers[name.lower()] == value
    assert "cache-control" in headers
    assert "server" not in headers
    assert "set-cookie" not in headers
    policy = headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "GETT"])
def test_nothing_but_reading_is_answered(page: OpenPage, method: str) -> None:
    for path in ("/", "/api/v1/swarm", "/static/page.css", "/nowhere"):
        status, headers, _ = page.get(path, method=method)
        assert status == 405
        assert headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", KNOWN)
def test_head_is_answered_as_get_without_the_body(page: OpenPage, path: str) -> None:
    asked, given_ = page.get(path), page.get(path, method="HEAD")
    assert given_[0] == asked[0] == 200
    assert given_[2] == b""
    assert given_[1]["content-type"] == asked[1]["content-type"]


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/%2e%2e/setup.cfg",
        "/static/....//....//setup.cfg",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/page.css%00.js",
        "/static/",
        "/static/..",
        "//etc/passwd",
        "/../../../../etc/passwd",
        "/peers/../../etc/passwd",
        "/peers/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/templates/base.html",
        "/api/v1/../../static/../render.py",
    ],
)
def test_no_path_leads_out_of_what_is_shown(page: OpenPage, path: str) -> None:
    status, _, body = page.get(path)
    assert status in (400, 404, 405)
    assert not any(secret.encode() in body for secret in SECRETS)


@pytest.mark.parametrize(
    "path",
    [
        "/rounds?before=x",
        "/rounds?before=-1",
        "/rounds?before=9999999999999999999999",
        "/rounds/1e3",
        "/rounds/-1",
        "/rounds/99999999999999999999",
        "/peers/" + "1" * 80,
        "/peers/<script>",
        "/api/v1/peers/%F0%9F%92%A5",
        "/api/v1/rounds/%C2%B2",
    ],
)
def test_numbers_and_names_that_are_none_are_refused_in_words(page: OpenPage, path: str) -> None:
    status, headers, body = page.get(path)
    assert status in (400, 404)
    if path.startswith("/api/v1/"):
        assert headers["content-type"] == "application/json"
        assert b'{"error":' in body
    assert b"<script>" not in body


def test_an_address_beyond_any_that_is_needed_is_refused(page: OpenPage) -> None:
    assert page.get("/" + "a" * MOST_PATH_BYTES)[0] == 414
    assert page.get("/rounds?before=" + "1" * MOST_QUERY_BYTES)[0] == 414


def test_a_request_with_a_body_is_refused(page: OpenPage) -> None:
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    assert page.send(head + b"Content-Length: 5\r\n\r\nhello").startswith(b"HTTP/1.1 400 ")
    chunked = b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    assert page.send(head + chunked).startswith(b"HTTP/1.1 400 ")


def test_only_so_many_may_follow_and_a_place_is_free_again_once_one_leaves(page: OpenPage) -> None:
    def follow() -> tuple[socket.socket, bytes]:
        connection = socket.create_connection(("127.0.0.1", page.port), timeout=30)
        connection.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return connection, connection.recv(4096)

    followers = [follow() for _ in range(3)]
    assert all(b" 200 " in head for _, head in followers)
    one_too_many, head = follow()
    assert b" 503 " in head
    assert b"retry-after: 30" in head.lower()
    for connection, _ in [*followers, (one_too_many, b"")]:
        connection.close()
    while True:  # until the server has noticed
        connection, head = follow()
        connection.close()
        if b" 200 " in head:
            break


def test_whoever_follows_is_told_at_once_how_the_swarm_is(page: OpenPage) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=30)
    while True:
        connection.request("GET", "/events")
        answer = connection.getresponse()
        if answer.status == 200:
            break
        answer.read()
    assert answer.getheader("content-type") == "text/event-stream; charset=utf-8"
    assert answer.getheader("cache-control") == "no-store"
    assert answer.readline() == b"event: picture\n"
    connection.close()


@FUZZED
@given(
    path=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=80),
    prefix=st.sampled_from(KNOWN),
)
def test_no_path_brings_the_server_to_its_knees(page: OpenPage, path: str, prefix: str) -> None:
    status, headers, body = page.get(f"{prefix.rstrip('/')}/{path}")
    assert status in (200, 307, 400, 404)
    assert headers["x-content-type-options"] == "nosniff"
    assert not any(secret.encode() in body for secret in SECRETS)


@FUZZED
@given(content=st.binary(max_size=400))
def test_no_bytes_bring_the_server_to_its_knees(page: OpenPage, content: bytes) -> None:
    answer = page.send(content)
    assert not answer or answer.startswith(b"HTTP/1.1 ")
    assert b" 500 " not in answer.partition(b"\r\n")[0]
    assert page.get("/api/v1/swarm")[0] == 200


@FUZZED
@given(
    name=st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=20),
    value=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=200),
)
def test_no_header_brings_the_server_to_its_knees(page: OpenPage, name: str, value: str) -> None:
    request = f"GET /api/v1/swarm HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{name}: {value}\r\n\r\n"
    answer = page.send(request.encode())
    assert answer.startswith(b"HTTP/1.1 ")
    assert int(answer.split()[1]) < 500
