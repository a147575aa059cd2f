"""Copies of a page that look at themselves: without the policy that forbids scripts, and with one of the tests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

PROBE = """<script>
const wide = [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1);
document.title = [innerWidth, document.documentElement.scrollWidth, wide.length,
  getComputedStyle(document.documentElement).backgroundColor, document.querySelectorAll("mark.token").length].join("|");
parent.postMessage(document.title, "*");
</script></body>"""
FRAME = """<title></title><script>addEventListener("message", e => document.title = e.data)</script>
<iframe src="probed.html" style="width: {width}px; height: 1500px"></iframe>"""
"""Chromium makes no window narrower than 500 pixels, but a frame of any width."""
STEPS = """<script>
const $ = id => document.getElementById(id);
const ids = () => [...document.querySelectorAll("#table tbody tr")].map(line => +line.id.slice(8));
const rest = ms => new Promise(done => setTimeout(done, ms));
(async () => { const out = {}; STEPS
  document.title = JSON.stringify(out); })();
</script></body>"""
SORT = """const started = performance.now(); $("search").value = "the";
  document.querySelector("th button[data-key=rate-0]").click(); out.sorted = performance.now() - started;"""
"""Searches and sorts before anything waits: from the first wait on, a headless browser's clock stands still at work."""
EVIL = "</script><script>document.title='taken'</script><img src=x onerror=\"console.log('taken')\">\u202e\u2028 مرحبا "


def probed(report: Path, *, is_dark: bool = False) -> Path:
    """A copy whose title is what it measured of itself; `is_dark`: as for readers who want it dark."""
    copy = _copy(report, "probed.html", PROBE)
    if is_dark:
        copy.write_text(copy.read_text("utf-8").replace("(prefers-color-scheme: dark)", "(min-width: 0)"), "utf-8")
    return copy


def framed(report: Path, width: int) -> Path:
    """A page that shows `probed` at a width, and takes over its title."""
    frame = probed(report).with_name("frame.html")
    frame.write_text(FRAME.format(width=width), "utf-8")
    return frame


def title(page: Any) -> list[str]:
    found = re.search(r"<title>(.*?)</title>", page.dom)
    assert found
    return found.group(1).split("|")


def did(report: Path, steps: str, open_page: Callable[..., Any], **page: Any) -> dict[str, Any]:
    """What `steps`, a script, found out."""
    shown = open_page(_copy(report, "stepped.html", STEPS.replace("STEPS", steps)), **page)
    assert shown.console == ()
    return dict(json.loads(unescape("|".join(title(shown)))))


def _copy(report: Path, name: str, script: str) -> Path:
    html, n_removed = re.subn(r"<meta http-equiv.*?>", "", report.read_text("utf-8"))
    assert n_removed == 1
    copy = report.with_name(name)
    copy.write_text(html.replace("</body>", script), "utf-8")
    return copy
