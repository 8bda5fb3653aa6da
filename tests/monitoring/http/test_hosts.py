"""Under which names the page and the metrics are answered: DNS rebinding reads neither of them."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest
from watching import OpenPage, open_page, watched

from monitoring.http.hosts import REFUSAL, Hosts
from monitoring.metrics.endpoint import metrics_served
from monitoring.metrics.volunteer_listener import VolunteerMetrics
from recipes.errors import NetworkError


@pytest.fixture(scope="module")
def page() -> Iterator[OpenPage]:
    with open_page(watched(), hosts=Hosts(["Swarm.Example.", "203.0.113.5"])) as opened:
        yield opened


def asked(port: int, host: str | None, path: str = "/metrics") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.putrequest("GET", path, skip_host=True)
        if host is not None:
            connection.putheader("Host", host)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    "path", ["/", "/metrics", "/api/v1/peers", "/ledger.jsonl", "/static/page.js", "/nowhere"]
)
def test_a_name_that_leads_here_by_somebody_elses_doing_reads_nothing(page: OpenPage, path: str) -> None:
    for host in (
        "evil.example",
        f"evil.example:{page.port}",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
    ):
        assert asked(page.port, host, path) == (421, REFUSAL.encode())


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:{}",
        "localhost",
        "LOCALHOST:{}",
        "localhost.:9000",
        "[::1]:{}",
        "swarm.example",
        "SWARM.example:443",
        "203.0.113.5",
    ],
)
def test_addresses_localhost_and_given_names_are_answered(page: OpenPage, host: str) -> None:
    assert asked(page.port, host.format(page.port))[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":80",
        "192.0.2.7",
        "swarm.example.evil.example",
        "other.swarm.example",
        "swarm.example@evil.example",
        "evil.example#localhost",
        "localhost:x",
        "[localhost",
        "localhost,evil.example",
        "[::1]evil",
        "127.1",
        "0.0.0.0",
        "2130706433",
        "x" * 300,
    ],
)
def test_what_is_none_of_our_names_is_refused(page: OpenPage, host: str) -> None:
    assert asked(page.port, host)[0] in (400, 421)


def test_a_request_without_a_host_is_refused(page: OpenPage) -> None:
    assert page.send(b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 421 ")
    assert page.send(b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_on_all_interfaces_an_address_counts_if_the_request_came_in_on_it() -> None:
    hosts = Hosts()
    for reached in ("192.0.2.7", "::ffff:192.0.2.7"):
        assert hosts.includes("192.0.2.7:8117", reached)
    assert hosts.includes("[2001:db8::7]:8117", "2001:db8::7")
    assert not hosts.includes("192.0.2.8", "192.0.2.7")
    assert not hosts.includes("192.0.2.8", None)


def test_a_volunteers_metrics_are_read_by_address_and_localhost_alone() -> None:
    with metrics_served(VolunteerMetrics().registry, port=0, say=lambda _: None) as port:
        assert port is not None
        assert asked(port, "evil.example")[0] == 421
        assert asked(port, f"127.0.0.1:{port}")[0] == asked(port, "localhost")[0] == 200


@pytest.mark.parametrize(
    "name", ["http://a.example", "a.example/", "a.example:80", "a b", "", "-a", "é.example", "a..b"]
)
def test_a_name_that_is_none_is_refused_with_a_sentence(name: str) -> None:
    with pytest.raises(NetworkError, match="not the name of a host"):
        Hosts([name])
