"""Figures with their intervals as one SVG: what stands where, and what is too long or all alike."""

from __future__ import annotations

import re

from facsynth.report.whiskers import LONGEST, WIDTH, Dot, whiskers


def numbers(drawn: str) -> list[str]:
    return re.findall(r'text-anchor="middle">([^<]*)<', drawn)


def test_an_axis_of_one_number_is_one_that_can_be_read() -> None:
    drawn = whiskers(
        "alike", [("8 samples", [Dot("none", 0.0, 0.0, 0.0, "0.500"), Dot("fac", 0.0, 0.0, 0.0, "0.500")])]
    )
    assert numbers(drawn) == ["-0.01", "-0.005", "0", "0.005", "0.01"]


def test_long_names_have_room_or_an_end_that_says_so_and_a_long_title_has_lines() -> None:
    names = ["none", "a method of thirty-nine letters or so, ok", "x" * 100]
    dots = [Dot(name, 0.1 * n, 0.1 * n - 0.05, 0.1 * n + 0.05, "0.5") for n, name in enumerate(names)]
    title = "mean of section accuracies, 5 seeds: change to none with its 95 % interval; on the right the figure itself"
    drawn = whiskers(title, [("8 samples", dots)])
    assert f">{names[1]}<" in drawn and f">{'x' * (LONGEST - 1)}…<" in drawn
    left = min(float(x) for x in re.findall(r'<circle class="dot" cx="([\d.]+)"', drawn))
    assert 12 + 8 * LONGEST < left < 0.6 * WIDTH, "a label ends before the first dot"
    lines = re.findall(r'class="title"[^>]*>([^<]*)<', drawn)
    assert " ".join(lines) == title and max(map(len, lines)) <= 85 and len(lines) == 2
