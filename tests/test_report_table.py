"""The table and the map of a report in a real browser: searched, sorted, filtered, opened; with 20,000 features too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facsynth.report.build import build_report
from facsynth.store import write_json
from fake_run import make_run
from in_browser import EVIL, SORT, did

pytestmark = pytest.mark.browser


def with_map(run: Path) -> Path:
    before = json.loads((run / "coverage/before.json").read_text())
    rng = np.random.default_rng(0)
    points = [[i, *rng.integers(0, 1000, 2).tolist()] for i in [*before["missing"], *range(90_000, 90_200)]]
    write_json(run / "coverage/map.json", {"points": points})
    return run


def test_the_script_runs_under_the_policy_and_draws_the_table(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(build_report(with_map(make_run(tmp_path / "demo"))))
    assert page.console == ()
    assert 'id="search"' in page.dom
    assert "<canvas" in page.dom


def test_it_is_searched_sorted_filtered_and_opened(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    run = with_map(make_run(tmp_path / "demo", 30, 15))
    found = did(build_report(run), """
      out.all = ids();
      $("concepts").checked = false; $("concepts").onchange();
      out.every = ids();
      document.querySelector("th button[data-key=id]").click(); out.ascending = ids();
      document.querySelector("th button[data-key=id]").click(); out.descending = ids();
      document.querySelector("th button[data-key=rate-0]").click(); out.byRate = ids();
      $("filter").value = "not recovered"; $("filter").onchange(); out.lost = ids();
      out.states = [...document.querySelectorAll("#table .state")].map(e => e.textContent);
      $("filter").value = ""; $("filter").onchange();
      $("search").value = String(out.every[3]); $("search").oninput(); await rest(200); out.one = ids();
      const opened = document.querySelector("#table details"); opened.open = true; await rest(100);
      out.titles = [...opened.querySelectorAll("h3")].map(e => e.textContent);
      out.counted = $("counted").textContent;
    """, open_page)  # fmt: skip
    targets = json.loads((run / "targets.json").read_text())["attempted"]
    assert set(found["every"]) >= {row["feature_id"] for row in targets}
    assert found["ascending"] == sorted(found["every"])
    assert found["descending"] == sorted(found["every"], reverse=True)
    rates = {row["feature_id"]: row["anchor_rate"] for row in targets}
    known = [rates[i] for i in found["byRate"] if i in rates]
    assert known == sorted(known, reverse=True)
    assert 0 < len(found["lost"]) < len(found["every"])
    assert set(found["states"]) == {"not recovered"}
    assert found["one"] == [found["every"][3]]
    assert found["titles"][0] == "Fires in the anchor on"
    assert found["counted"].startswith("1 of ")


def test_a_point_of_the_map_opens_its_feature(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    run = make_run(tmp_path / "demo", 8, 3)
    feature = json.loads((run / "targets.json").read_text())["attempted"][2]["feature_id"]
    write_json(run / "coverage/map.json", {"points": [[feature, 500, 500], [90_000, 0, 0], [90_001, 999, 999]]})
    found = did(build_report(run), """
      const canvas = document.querySelector("canvas"), box = canvas.getBoundingClientRect();
      const x = box.left + box.width * 520 / canvas.width, y = box.top + box.height * 270 / canvas.height;
      const at = {clientX: x, clientY: y};
      canvas.onmousemove(at); out.said = document.querySelector("#map p.note").textContent;
      canvas.onclick(at); out.first = ids()[0]; out.open = document.querySelector("#table details").open;
    """, open_page)  # fmt: skip
    assert found["said"].startswith(f"{feature} · ")
    assert found["first"] == feature
    assert found["open"]


def test_hostile_texts_do_nothing_in_the_script_either(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    run = with_map(make_run(tmp_path / "demo", edit=lambda text: text + EVIL))
    plan = (run / "plan.csv").read_text("utf-8")
    (run / "plan.csv").write_text(plan.replace("missing", f'"{EVIL.replace(chr(34), chr(34) * 2)}"', 1), "utf-8")
    found = did(build_report(run), """
      for (const one of document.querySelectorAll("#table details")) one.open = true;
      await rest(200); out.images = document.images.length; out.scripts = document.scripts.length;
      out.text = document.querySelector("#table .text").textContent;
    """, open_page)  # fmt: skip
    assert (found["images"], found["scripts"]) == (0, 3)


def test_20000_features_open_in_3_seconds_and_6_megabytes(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    run = with_map(make_run(tmp_path / "large", 300, 19_700))
    report = build_report(run)
    assert report.stat().st_size < 6_000_000
    found = did(report, """
      out.opened = performance.now(); SORT
      out.shown = ids().length; out.counted = $("counted").textContent;
    """.replace("SORT", SORT), open_page)  # fmt: skip
    assert found["opened"] < 3000
    assert found["sorted"] < 1500
    assert found["shown"] == 100
