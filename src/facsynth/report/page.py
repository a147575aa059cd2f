"""One self-contained HTML page: a template, its style, and where it has a table that can be searched its script.

Whatever a page shows is untrusted: the template escapes texts, rows for the script are JSON in which no sign can end
it, and the policy in the head lets no other script run, and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from facsynth import __version__
from facsynth.report import plots
from facsynth.store import write_text

HERE = Path(__file__).parent
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def write_page(path: Path, template: str, context: Mapping[str, Any], data: Any = None) -> Path:
    """Write a page.

    Args:
        path: of the HTML file.
        template: `run.html` or `comparison.html`.
        context: what it shows, with `title`.
        data: rows for the script, as JSON; None where the page has none.
    """
    script = (HERE / "table.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = _environment().get_template(template).render(
        **context, version=__version__, style=Markup((HERE / "style.css").read_text("utf-8")),
        script=Markup(script), script_hash=f"sha256-{digest}",
        data=None if data is None else Markup(as_script_data(data)),
    )  # fmt: skip
    write_text(path, _UNPRINTABLE.sub("\ufffd", html))
    return path


def as_script_data(value: Any) -> str:
    """JSON without any sign that HTML or a script would read."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def visible(token: str) -> str:
    """A token of white space as signs one can see."""
    return token if token.strip() else token.replace("\n", "⏎").replace(" ", "␣")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters = {"percent": plots.percent, "count": plots.count, "times": plots.times, "visible": visible}
    filters |= {"points": plots.points, "duration": plots.duration}
    environment.filters.update(filters | {"meter": lambda g, threshold: Markup(plots.meter(g, threshold))})
    return environment
