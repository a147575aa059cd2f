"""The report in a real browser: it opens, it fits, and hostile texts in it do nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facsynth.report.build import build_report
from facsynth.store import write_jsonl
from fake_run import make_run
from in_browser import framed, probed, title

pytestmark = pytest.mark.browser

EVIL = "<script>document.title='taken'</script><img src=x onerror=\"console.log('taken')\">\u202e مرحبا "


def test_it_opens_from_disk_without_a_word_on_the_console(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(build_report(make_run(tmp_path / "demo")))
    assert page.console == ()
    assert "How to read this" in page.dom
    assert page.screenshot.stat().st_size > 20_000


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(tmp_path: Path, open_page: Callable[..., Any], width: int) -> None:
    run = make_run(tmp_path / "demo", edit=lambda text: text + "w" * 500)
    inner, scroll, n_wide, _, n_marks = title(open_page(framed(build_report(run), width), size=(1400, 1600)))
    assert int(inner) == width
    assert int(scroll) <= int(inner)
    assert n_wide == "0"
    assert int(n_marks) > 0


def test_it_is_dark_where_the_reader_wants_it(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    report = build_report(make_run(tmp_path / "demo", 2, 2))
    assert title(open_page(probed(report)))[3] == "rgb(255, 255, 255)"
    assert title(open_page(probed(report, is_dark=True)))[3] == "rgb(20, 23, 27)"


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
