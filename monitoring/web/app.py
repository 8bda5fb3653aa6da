"""The web server's addresses: pages for people, JSON for programs, metrics for Prometheus, news live.

/                       how the swarm is
/peers, /peers/ID       all peers, and one of them with every contribution
/rounds, /rounds/N      blocks, and one of them
/recipe, /api           the recipe in plain words, the API explained
/api/v1/...             the same as JSON (api_schema.py)
/metrics                for Prometheus (swarm_metrics.py)
/events                 server-sent events: there is a new picture
/ledger.jsonl           the ledger, to be verified offline
/model.safetensors      the newest weights
/static/...             style, script, charts
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic.json_schema import models_json_schema
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from monitoring.swarm.archive import Archive
from monitoring.swarm.peer_picture import PeerPicture
from monitoring.swarm.view import ContributionPicture, Picture, RoundPicture
from monitoring.web import api
from monitoring.web.api_schema import FORMS, Form, Problem
from monitoring.web.downloads import Downloads, TooManyDownloadsError
from monitoring.web.live import Live, TooManyError
from monitoring.web.page import views
from monitoring.web.page.render import STATIC
from recipes.errors import ManyhandsError

HEARTBEAT_SECONDS = 15.0  # of live connections, so that a reader that is gone is noticed
_LONGEST_NUMBER = 15  # digits
_LONGEST_PEER = 64


class Site:
    """One run's pages, API, metrics and files."""

    def __init__(
        self,
        live: Live,
        archive: Archive,
        registry: CollectorRegistry,
        *,
        timed: Callable[[list[RoundPicture]], tuple[RoundPicture, ...]] = tuple,
        downloads: Downloads | None = None,
    ) -> None:
        """Show what others find out.

        Args:
            live: has the newest picture.
            archive: has all rounds and contributions.
            registry: of the swarm's metrics.
            timed: adds to rounds what this observer knows of their times.
            downloads: the files that may be had; None if there are none.
        """
        self._live = live
        self._archive = archive
        self._registry = registry
        self._timed = timed
        self._downloads = downloads

    def app(self) -> Starlette:
        """Return the web application."""
        return Starlette(
            routes=list(self._routes()),
            exception_handlers={HTTPException: self._problem, ManyhandsError: self._trouble},
        )

    def _routes(self) -> Iterator[BaseRoute]:
        yield Route("/", self.overview)
        yield Route("/peers", self.peers)
        yield Route("/peers/{peer}", self.peer)
        yield Route("/rounds", self.rounds)
        yield Route("/rounds/{number}", self.round)
        yield Route("/recipe", self.recipe)
        yield Route("/api", self.api)
        yield Route("/api/v1/swarm", self.api_swarm)
        yield Route("/api/v1/peers", self.api_peers)
        yield Route("/api/v1/peers/{peer}", self.api_peer)
        yield Route("/api/v1/rounds", self.api_rounds)
        yield Route("/api/v1/rounds/{number}", self.api_round)
        yield Route("/api/v1/curve", self.api_curve)
        yield Route("/api/v1/recipe", self.api_recipe)
        yield Route("/api/v1/schema.json", self.api_schema)
        yield Route("/metrics", self.metrics)
        yield Route("/events", self.events)
        yield Route("/ledger.jsonl", self.ledger)
        yield Route("/model.safetensors", self.model)
        yield Mount("/static", StaticFiles(directory=STATIC, follow_symlink=False))

    @property
    def _picture(self) -> Picture:
        return self._live.picture

    # ------------------------------------------------------------ pages

    async def overview(self, _: Request) -> Response:
        curve = api.curve(self._picture, self._archive)
        files = views.Files(
            ledger=self._downloads is not None,
            model_round=self._downloads.model_round if self._downloads is not None else None,
        )
        return HTMLResponse(views.overview(self._picture, curve, files))

    async def peers(self, request: Request) -> Response:
        return HTMLResponse(views.peers(self._picture, _asked(request, "from") or 0))

    async def peer(self, request: Request) -> Response:
        found, before = self._peer(request), _before(request)
        contributions = self._archive.contributions_of(
            found.peer, before=before, limit=api.PAGE_CONTRIBUTIONS
        )
        return HTMLResponse(views.peer(self._picture, found, contributions))

    async def rounds(self, request: Request) -> Response:
        return HTMLResponse(views.rounds(self._picture, self._rounds(request)))

    async def round(self, request: Request) -> Response:
        found, contributions = self._round(request)
        return HTMLResponse(views.round_page(self._picture, found, contributions))

    async def recipe(self, _: Request) -> Response:
        return HTMLResponse(views.recipe(self._picture))

    async def api(self, _: Request) -> Response:
        return HTMLResponse(views.explain_api(self._picture))

    # ------------------------------------------------------------ the API

    async def api_swarm(self, _: Request) -> Response:
        return _answer(api.swarm(self._picture))

    async def api_peers(self, _: Request) -> Response:
        return _answer(api.peers(self._picture))

    async def api_peer(self, request: Request) -> Response:
        found = self._peer(request)
        return _answer(api.peer_page(self._picture, self._archive, found, _before(request)))

    async def api_rounds(self, request: Request) -> Response:
        return _answer(api.rounds(self._rounds(request)))

    async def api_round(self, request: Request) -> Response:
        return _answer(api.round_page(self._picture, *self._round(request)))

    async def api_curve(self, _: Request) -> Response:
        return _answer(api.curve(self._picture, self._archive))

    async def api_recipe(self, _: Request) -> Response:
        return _answer(api.recipe(self._picture))

    async def api_schema(self, _: Request) -> Response:
        _names, schema = models_json_schema([(form, "serialization") for form in FORMS])
        return Response(json.dumps(schema, indent=1) + "\n", media_type="application/schema+json")

    # ------------------------------------------------------------ metrics, what is new, files

    async def metrics(self, _: Request) -> Response:
        content = await run_in_threadpool(generate_latest, self._registry)
        return Response(content, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def events(self, request: Request) -> Response:
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        stack = AsyncExitStack()
        try:
            news = await stack.enter_async_context(self._live.follow())
        except TooManyError as error:
            raise HTTPException(503, "Too many follow live already.", {"Retry-After": "30"}) from error
        return _Followed(self._told(news), stack)

    async def _told(self, news: asyncio.Event) -> AsyncIterator[str]:
        """Yield an event for the picture at hand, for each new one, and a comment now and then."""
        last: tuple[int, float] | None = None
        while not self._live.closed:
            news.clear()
            picture = self._picture
            if (picture.round, picture.now) != last:
                last = (picture.round, picture.now)
                said = json.dumps({"round": picture.round, "said": views.headline(picture).text})
                yield f"event: picture\ndata: {said}\n\n"
            try:
                await asyncio.wait_for(news.wait(), HEARTBEAT_SECONDS)
            except asyncio.TimeoutError:
                yield ": still here\n\n"

    async def ledger(self, _: Request) -> Response:
        path = await self._downloads.ledger() if self._downloads is not None else None
        return await self._file(path, "application/jsonl", f"ledger-{self._picture.run.run[:8]}.jsonl")

    async def model(self, _: Request) -> Response:
        path = self._downloads.model() if self._downloads is not None else None
        name = f"{self._picture.run.name}-model.safetensors"
        return await self._file(path, "application/octet-stream", name)

    async def _file(self, path: Path | None, kind: str, name: str) -> Response:
        if path is None or self._downloads is None:
            raise HTTPException(404, "There is no such file yet.")
        stack = AsyncExitStack()
        try:
            await stack.enter_async_context(self._downloads.place())
        except TooManyDownloadsError as error:
            raise HTTPException(503, "Too many downloads at once.", {"Retry-After": "60"}) from error
        return _HeldFile(path, kind, name, stack)

    # ------------------------------------------------------------ what a request names

    def _peer(self, request: Request) -> PeerPicture:
        name = request.path_params["peer"]
        found = None
        if len(name) <= _LONGEST_PEER and name.isascii() and name.isalnum():
            found = api.find_peer(self._picture, self._archive, name)
        if found is None:
            raise HTTPException(404, "No peer of that id has taken part in this run.")
        return found

    def _round(self, request: Request) -> tuple[RoundPicture, list[ContributionPicture]]:
        number = _number(request.path_params["number"])
        # The round after it, whose claims say where its time went, and the one before, from which it counts.
        around = self._timed(self._archive.rounds(before=number + 2, limit=3)) if number is not None else ()
        found = next((one for one in around if one.round == number), None)
        if found is None:
            raise HTTPException(404, "There is no such round on the chain.")
        return found, self._archive.contributions_in(found.round)

    def _rounds(self, request: Request) -> list[RoundPicture]:
        found = self._archive.rounds(before=_before(request), limit=api.PAGE_ROUNDS + 1)
        return list(self._timed(found))[: api.PAGE_ROUNDS]

    # ------------------------------------------------------------ when something is wrong

    async def _problem(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        words = error.detail if isinstance(error, HTTPException) else "Something is wrong here."
        headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
        if request.url.path.startswith("/api/v1/"):
            return _answer(Problem(error=words), status=status, headers=headers)
        return HTMLResponse(views.problem(self._picture, status, words), status, headers)

    async def _trouble(self, request: Request, _: Exception) -> Response:
        """Answer that something cannot be made, for want of disk space perhaps, without naming our paths."""
        return await self._problem(request, HTTPException(503, "That cannot be made at the moment."))


class _Followed(StreamingResponse):
    """A live connection, which gives its place back however it ends."""

    def __init__(self, content: AsyncIterator[str], stack: AsyncExitStack) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._stack = stack

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        async with self._stack:
            await super().__call__(scope, receive, send)


class _HeldFile(FileResponse):
    """A download, likewise."""

    def __init__(self, path: Path, kind: str, name: str, stack: AsyncExitStack) -> None:
        super().__init__(path, media_type=kind, filename=name)
        self._stack = stack

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        async with self._stack:
            await super().__call__(scope, receive, send)


def _answer(form: Form, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(form.model_dump_json(), status, headers, media_type="application/json")


def _number(text: str) -> int | None:
    """Return the number that a text is, or None if it is none, or longer than any."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _LONGEST_NUMBER else None


def _before(request: Request) -> int | None:
    """Return from which round on a list begins, if that is asked for."""
    return _asked(request, "before")


def _asked(request: Request, name: str) -> int | None:
    """Return a number that the address names, if it names one.

    Raises:
        HTTPException: it is no number.
    """
    text = request.query_params.get(name)
    number = _number(text) if text is not None else None
    if text is not None and number is None:
        raise HTTPException(400, f"`{name}` is a whole number.")
    return number
