"""The page of a report, parsed as a browser would: what the tests of the report look at."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from facsynth.report.build import build_report


class Outline(HTMLParser):
    """What a browser would act on, and the text it would show."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.attributes: list[tuple[str, str, str | None]] = []
        self.open: list[str] = []
        self.shown = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in ("meta", "rect", "line"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.shown += data


def outline(run: Path) -> Outline:
    """The report of a run, parsed; its elements are closed in order."""
    page = Outline(build_report(run).read_text("utf-8"))
    assert page.open == []
    return page


def words(page: Outline) -> str:
    return re.sub(r"\s+", " ", page.shown)
