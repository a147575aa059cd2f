"""The report in a real browser: it opens, it fits, and hostile texts in it do nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facsynth.report.build import build_report
from facsynth.store import write_jsonl
from fake_run import make_run

pytestmark = pytest.mark.browser

PROBE = """<script>
const wide = [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1);
document.title = [innerWidth, document.documentElement.scrollWidth, wide.length,
  getComputedStyle(document.documentElement).backgroundColor, document.querySelectorAll("mark.token").length].join("|");
parent.postMessage(document.title, "*");
</script></body>"""
FRAME = """<title></title><script>addEventListener("message", e => document.title = e.data)</script>
<iframe src="probed.html" style="width: {width}px; height: 1500px"></iframe>"""
"""Chromium makes no window narrower than 500 pixels, but a frame of any width."""
EVIL = "<script>document.title='taken'</script><img src=x onerror=\"console.log('taken')\">\u202e مرحبا "


def probed(report: Path) -> Path:
    """A copy that measures itself: without the policy that forbids scripts, and with one."""
    html, n_removed = re.subn(r"<meta http-equiv.*?>", "", report.read_text("utf-8"))
    assert n_removed == 1
    copy = report.with_name("probed.html")
    copy.write_text(html.replace("</body>", PROBE), "utf-8")
    return copy


def title(page: Any) -> list[str]:
    found = re.search(r"<title>(.*?)</title>", page.dom)
    assert found
    return found.group(1).split("|")


def test_it_opens_from_disk_without_a_word_on_the_console(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(build_report(make_run(tmp_path / "demo")))
    assert page.console == ()
    assert "How to read this" in page.dom
    assert page.screenshot.stat().st_size > 20_000


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(tmp_path: Path, open_page: Callable[..., Any], width: int) -> None:
    run = make_run(tmp_path / "demo", edit=lambda text: text + "w" * 500)
    frame = probed(build_report(run)).with_name("frame.html")
    frame.write_text(FRAME.format(width=width), "utf-8")
    inner, scroll, n_wide, _, n_marks = title(open_page(frame, size=(1400, 1600)))
    assert int(inner) == width
    assert int(scroll) <= int(inner)
    assert n_wide == "0"
    assert int(n_marks) > 0


def test_it_is_dark_where_the_reader_wants_it(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    copy = probed(build_report(make_run(tmp_path / "demo", 2, 2)))
    assert title(open_page(copy))[3] == "rgb(255, 255, 255)"
    copy.write_text(copy.read_text("utf-8").replace("(prefers-color-scheme: dark)", "(min-width: 0)"), "utf-8")
    assert title(open_page(copy))[3] == "rgb(20, 23, 27)"


def test_hostile_texts_do_nothing(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    run = make_run(tmp_path / "<img src=x onerror=alert(1)>", edit=lambda text: text + EVIL)
    write_jsonl(run / "gave_up.jsonl", [{"feature": EVIL, "reason": EVIL}])
    (run / "facsynth.yaml").write_text(EVIL, "utf-8")
    report = build_report(run)
    page = open_page(report)
    assert page.console == ()
    assert "taken" not in title(page)[0]
    # Escaping alone holds too, without the policy that forbids scripts.
    bare = open_page(probed(report))
    assert bare.console == ()
    assert len(title(bare)) == 5
