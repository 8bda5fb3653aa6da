"""Turning values into HTML: the templates, and how they write numbers, names and times.

Everything that a template writes is escaped. There is no inline script or style anywhere, for the answers'
headers allow none (monitoring/http/guard.py).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from monitoring.web import formatting

_HERE = Path(__file__).parent
STATIC = _HERE / "static"
_ID_END = 8  # characters of a peer id that tell peers apart: all begin alike


def render(template: str, **values: Any) -> str:
    """Return a template's page with these values in it."""
    return _environment().get_template(template).render(**values)


@lru_cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "many": formatting.many,
        "short": formatting.short,
        "measure": formatting.measure,
        "clauses": _clauses,
        "percent": formatting.percent,
        "duration": formatting.duration,
        "seconds": formatting.seconds,
        "grouped": lambda value: f"{value:,}",
        "peer": _peer,
        "hash": _hash,
        "time": _time,
    }
    return environment


def _clauses(text: str) -> Markup:
    """Return sentences as parts between which lines are broken first: the first two together, then each."""
    found = [f"{one}." for one in text.removesuffix(".").split(". ")]
    parts = [" ".join(found[:2]), *found[2:]]
    return Markup(" ").join(Markup("<span>{}</span>").format(part) for part in parts)


def _peer(peer: str) -> Markup:
    """Return a link to a peer, by the end of its id."""
    return Markup('<a class="id" href="/peers/{0}">{1}</a>').format(peer, peer[-_ID_END:])


def _hash(value: str | None) -> Markup:
    """Return the beginning of a hash, with all of it at hand."""
    if value is None:
        return Markup("–")
    return Markup('<code class="id" title="{0}">{1}</code>').format(value, value[:8])


def _time(at: float | None, now: float) -> Markup:
    """Return how long ago something was, with the time itself at hand."""
    if at is None:
        return Markup("–")
    ago = formatting.duration(max(0.0, now - at))
    return Markup('<time datetime="{0}" title="{1} UTC">{2} ago</time>').format(
        formatting.machine_moment(at), formatting.moment(at), escape(ago)
    )
