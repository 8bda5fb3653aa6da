"""The pages and the JSON API, over a real socket."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from places import ROOT
from watching import OpenPage, Watched, open_page, watched

from monitoring.swarm.peer_picture import Cuts, PeerPicture, Record
from monitoring.web import api
from monitoring.web import api_schema as forms
from monitoring.web.api_schema import FORMS
from monitoring.web.page import views
from peers.credit.escrow import Account, Pending
from recipes.keys.keys import PeerId

API_PAGE = ROOT / "docs" / "api.md"
ANSWERS: dict[str, type[forms.Form]] = {
    "/api/v1/swarm": forms.Swarm,
    "/api/v1/peers": forms.Peers,
    "/api/v1/peers/{peer}": forms.PeerPage,
    "/api/v1/rounds": forms.Rounds,
    "/api/v1/rounds/{round}": forms.RoundPage,
    "/api/v1/curve": forms.Curve,
    "/api/v1/recipe": forms.Recipe,
}


@pytest.fixture(scope="module")
def run() -> Watched:
    run = watched(description="Learns to <script>alert(1)</script> & count.")
    run.grow(run.swarm.keys, 80)
    run.watch.validated(40, 4.0, at=run.now)
    run.watch.validated(80, 2.5, at=run.now)
    return run


@pytest.fixture(scope="module")
def page(run: Watched) -> Iterator[OpenPage]:
    with open_page(run) as opened:
        yield opened


def html(page: OpenPage, path: str) -> str:
    status, headers, body = page.get(path)
    assert status == 200
    assert headers["content-type"] == "text/html; charset=utf-8"
    return body.decode()


def answer(page: OpenPage, path: str) -> Any:
    status, headers, body = page.get(path)
    assert (status, headers["content-type"]) == (200, "application/json")
    return json.loads(body)


class _Links(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.links |= {str(found[name]) for name in ("href", "src") if name in found}
        self.inline += [name for name in found if name == "style" or name.startswith("on")]
        if tag == "script" and "src" not in found:
            self.inline.append(tag)


def test_the_first_page_says_how_the_swarm_is_before_any_number(page: OpenPage) -> None:
    text = re.sub(r"<[^>]+>", "", html(page, "/"))
    assert "Training. 4 peers, round 80, 75% of time computing. Loss 2.50, falling." in text


def test_the_first_page_has_all_that_it_is_for_without_any_script(page: OpenPage, run: Watched) -> None:
    text = html(page, "/")
    for words in ("Last blocks", "Who is here", "Credit, none of it vested", "python -m trainer.join"):
        assert words in text
    assert text.count("<polyline") == 2
    for key in run.swarm.keys:
        assert f"/peers/{key.peer_id}" in text


def test_every_link_on_every_page_leads_somewhere(page: OpenPage) -> None:
    seen: set[str] = set()
    queue = ["/"]
    while queue and len(seen) < 40:
        path = queue.pop(0)
        seen.add(path)
        status, headers, body = page.get(path)
        assert status == 200, path
        if headers["content-type"].startswith("text/html"):
            found = _Links(body.decode())
            assert found.inline == []
            links = {link.partition("#")[0] for link in found.links} - {""}
            assert all(link.startswith("/") for link in links)
            queue += sorted(links - seen - set(queue))
    assert {"/", "/peers", "/rounds", "/recipe", "/api", "/metrics", "/static/page.css"} <= seen


def test_a_volunteers_page_has_every_contribution_with_its_reason(page: OpenPage, run: Watched) -> None:
    name = run.swarm.keys[0].peer_id
    text = html(page, f"/peers/{name}")
    assert "You made all of the last 32 cuts" in re.sub(r"<[^>]+>", "", text)
    assert text.count("not audited") == 80
    assert "It vests after round 86, unless an audit of this peer fails before." in text


def test_what_strangers_and_owners_write_is_escaped(page: OpenPage) -> None:
    for path in ("/", "/recipe"):
        assert "<script>alert" not in html(page, path)
        assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; count." in html(page, path)


def test_older_rounds_and_contributions_are_pages_further_on(page: OpenPage) -> None:
    assert '"/rounds?before=17"' in html(page, "/rounds")
    first = answer(page, "/api/v1/rounds")
    rest = answer(page, f"/api/v1/rounds?before={first['before']}")
    assert [one["round"] for one in first["rounds"] + rest["rounds"]] == list(range(80, 0, -1))
    assert rest["before"] is None


@pytest.mark.parametrize("path", ANSWERS)
def test_every_answer_of_the_api_has_the_form_that_the_schema_gives(
    page: OpenPage, run: Watched, path: str
) -> None:
    given = path.format(peer=run.swarm.keys[1].peer_id, round=40)
    found = answer(page, given)
    assert ANSWERS[path].model_validate(found).model_dump(mode="json") == found


def test_the_api_says_what_the_chain_says(page: OpenPage, run: Watched) -> None:
    swarm = answer(page, "/api/v1/swarm")
    assert (swarm["round"], swarm["peers"]["training"], swarm["loss"]["value"]) == (80, 4, 2.5)
    assert swarm["credited_flops"] == str(run.picture().totals.credited)
    one = answer(page, "/api/v1/rounds/40")
    assert one["round"]["block"] == run.links[39].hash
    assert one["round"]["seconds"] == 20.0
    assert len(one["contributions"]) == 4
    curve = answer(page, "/api/v1/curve")
    assert (curve["loss_rounds"], curve["losses"]) == ([40, 80], [4.0, 2.5])
    assert sum(curve["tokens"]) == swarm["tokens"]


def test_a_peer_of_the_api_has_what_its_record_and_its_account_say() -> None:
    record = Record(
        first_round=2,
        last_round=9,
        as_of=9,
        rounds=5,
        missed_rounds=3,
        tokens=70,
        last_tokens=6,
        numeric_class="cpu-fp32",
        transfer_ms=11,
    )
    account = Account(
        vested=10**20,
        pending=(Pending(8, 7),),
        uncalibrated=5,
        missed=13,
        lost={"audit failed": 17},
        passes=4,
        expelled={"claim": 1},
    )
    shown = PeerPicture(PeerId("Q"), "training", record, account, Cuts(6, 8), under_audit=True)
    [found] = api.peers(replace(watched().picture(), peers=(shown,))).peers
    assert found.model_dump(exclude={"said", "mood"}) == {
        "peer": "Q",
        "state": "training",
        "first_round": 2,
        "last_round": 9,
        "rounds": 5,
        "missed_rounds": 3,
        "cuts_made": 6,
        "cuts_tried": 8,
        "tokens": 70,
        "numeric_class": "cpu-fp32",
        "transfer_ms": 11,
        "vested_flops": str(10**20),
        "pending_flops": "12",
        "lost_flops": "17",
        "missed_flops": "13",
        "audits_passed": 4,
        "under_audit": True,
        "convicted": False,
        "expelled_until": 1,
    }


def test_the_schema_and_its_page_name_every_field(page: OpenPage) -> None:
    status, _, body = page.get("/api/v1/schema.json")
    schema = json.loads(body)["$defs"]
    explained = html(page, "/api")
    assert status == 200
    for form in FORMS:
        assert schema[form.__name__]["properties"].keys() == form.model_fields.keys()
        for name, field in form.model_fields.items():
            assert field.description, f"{form.__name__}.{name}"
            assert f"<code>{name}</code>" in explained


def test_the_document_of_the_api_has_every_address_and_every_field_and_no_other() -> None:
    text = API_PAGE.read_text()
    assert set(re.findall(r"`GET (/api/v1/[^`]*)`", text)) == {*ANSWERS, "/api/v1/schema.json"}
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    for form in FORMS:
        rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", sections[form.__name__], re.MULTILINE))
        fields = {name: field.description for name, field in form.model_fields.items()}
        assert rows == fields, form.__name__


def test_the_newest_rounds_page_does_not_lead_to_one_that_is_not_there(page: OpenPage) -> None:
    assert "/rounds/81" not in html(page, "/rounds/80")


def test_a_run_without_a_block_has_a_page_too() -> None:
    with open_page(watched()) as fresh:
        assert "No round yet." in re.sub(r"<[^>]+>", "", html(fresh, "/"))
        for path in ("/peers", "/rounds", "/recipe", "/api"):
            html(fresh, path)
        for path in ("swarm", "peers", "rounds", "curve", "recipe"):
            answer(fresh, f"/api/v1/{path}")


def test_who_is_expelled_is_called_so_in_the_list_and_on_its_page() -> None:
    run = watched(8, audited=True)
    run.expel(0)
    picture = run.picture()
    found = next(one for one in picture.peers if one.peer == run.swarm.keys[0].peer_id)
    for page in (views.peers(picture), views.peer(picture, found, [])):
        assert '<span class="tag bad">expelled</span>' in page
        assert f"Expelled up to round {found.account.expelled_until:,}" in page
