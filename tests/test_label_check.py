"""Labels of what is written, checked by a head that learned the anchor's."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import planted
import tiny
from facsynth.assemble import open_sae
from facsynth.errors import InputError
from facsynth.features.encode import EncodeSettings, FeatureSpace
from facsynth.label_check import LabelCheck, open_label_check
from facsynth.model.backbone import load_backbone
from facsynth.pipeline import run
from facsynth.records import Message, Sample
from facsynth.settings import RunSettings, parse_settings
from facsynth.store import read_jsonl
from facsynth.synthesis.accept import OTHER_LABEL
from facsynth.tasks.labels import fit_label_head
from facsynth.tasks.toxicity import STRENGTHS
from fault_server import Act, FaultServer
from test_template import MISTRAL02
from tiny_cli import facsynth

TASK = {
    "name": "planted", "definition": "Messages with marks.", "rubric": ["Marks"],
    "labels": {"marked": "messages with marks", "plain": "messages without marks"},
}  # fmt: skip


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c"]])
def test_a_head_is_a_logistic_regression_that_counts_labels_the_same(names: list[str]) -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(names, 300, p=[0.8, *[0.2 / (len(names) - 1)] * (len(names) - 1)])
    states = (3 * rng.normal(size=(300, 8)) + 5 + 4 * np.eye(8)[[names.index(x) for x in labels]]).astype(np.float32)
    head = fit_label_head(states, labels.tolist())
    scaled = StandardScaler().fit_transform(states)
    theirs = [LogisticRegression(C=c, class_weight="balanced", max_iter=2_000).fit(scaled, labels) for c in STRENGTHS]
    found = head.names_of(states)
    assert any((model.predict(scaled) == found).all() for model in theirs)
    assert head.names == tuple(names) and head.counts == tuple((labels == name).sum() for name in names)
    assert 1 / len(names) + 0.1 < head.balanced_accuracy < 1


def test_labels_that_no_head_can_tell_are_refused() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(200, 8)).astype(np.float32)
    with pytest.raises(InputError, match=r"cannot tell its labels apart: balanced accuracy 0.\d\d, a guess has 0.50"):
        fit_label_head(states, ["a", "b"] * 100)
    for labels, told in (
        (["a"] * 196 + ["b"] * 4, "there are 196 a, 4 b"),
        (["a"] * 200, "there are 200 a"),
        ([], "none"),
    ):
        with pytest.raises(InputError, match=told):
            fit_label_head(states[: len(labels)], labels)


def test_few_labels_have_to_be_told_better_than_by_luck() -> None:
    refused = 0
    for seed in range(4):
        states = np.random.default_rng(seed).normal(size=(60, 8)).astype(np.float32)
        try:
            fit_label_head(states, ["a"] * 6 + ["b"] * 54)
        except InputError:
            refused += 1
    assert refused == 4


def marked(words: list[str]) -> list[str]:
    """With marks in every other place, which a head on a model of random weights can tell."""
    return [planted.MARKED[n % 4] if n % 2 else word for n, word in enumerate(words)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An anchor of two kinds, and a seed set that has neither marks nor all other words."""
    folder = tmp_path_factory.mktemp("checked")
    planted.model_and_sae(folder)
    rng, rows = np.random.default_rng(0), []
    for n in range(240):
        words = rng.choice(planted.OTHERS, 7).tolist()
        content = f"so {' '.join(words if n % 2 else marked(words))}"
        rows.append({"messages": [{"role": "user", "content": content}], "label": 1 - n % 2})
    (folder / "anchor.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    few = [row for row in rows[1::2] if not set(row["messages"][0]["content"].split()) & set(planted.OTHERS[14:])]
    (folder / "seed.jsonl").write_text("".join(json.dumps(row | {"label": 0}) + "\n" for row in few))
    (folder / "task.yaml").write_text(yaml.safe_dump(TASK))
    return folder


def settings_of(bench: Path, server: FaultServer, **changes: Any) -> dict[str, Any]:
    """Of a run whose labels are checked."""
    usual = planted.run_on(bench, bench / "task.yaml", server)
    return usual | {"accept": {"check_label": True}, "budget": {"max_candidates": 9, "per_feature": 4}} | changes


def written(body: dict[str, Any]) -> Act:
    """By a writer that mistakes one kind for the other now and then."""
    words = planted.writes(body, 0).text.split()[1:]
    is_to_have = "messages with marks" in body["messages"][-1]["content"]
    is_mistaken = len(" ".join(words)) % 4 == 0
    return Act(text=f"so {' '.join(marked(words) if is_to_have != is_mistaken else words)}")


def a_run(bench: Path, folder: Path, **changes: Any) -> Any:
    """A run in a folder."""
    folder.mkdir(exist_ok=True)
    with FaultServer(lambda body, times: written(body)) as server:
        (folder / "run.yaml").write_text(yaml.safe_dump(settings_of(bench, server, **changes)))
        return facsynth("run", folder / "run.yaml", "-o", folder / "out")


def test_what_the_head_takes_for_another_label_is_not_kept(bench: Path, tmp_path: Path) -> None:
    done = a_run(bench, tmp_path)
    assert done.code == 0, done.stderr
    head = json.loads((tmp_path / "out" / "label-head.json").read_text())
    assert head["n"] == {"marked": 120, "plain": 120} and head["balanced_accuracy"] > 0.75
    assert f"(120 marked, 120 plain), of balanced accuracy {head['balanced_accuracy']:.2f}" in " ".join(
        done.stdout.split()
    )
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["label_head"] == head
    assert "learned them from the anchor (120 marked, 120 plain)" in (tmp_path / "out" / "report.html").read_text()
    waves = [row for path in sorted((tmp_path / "out").glob("synthesis/waves/*")) for row in read_jsonl(path)]
    other = [row for row in waves if row["reason"] == OTHER_LABEL]
    assert other and all(row["fires"] for row in other), "all else was right"

    def is_right(row: dict[str, Any]) -> bool:
        return (len(set(row["text"].split()) & set(planted.MARKED)) > 1) == bool(row["row"]["label"])

    kept = [row for row in waves if not row["reason"] and row["written_for"] >= 0]
    assert {row["row"]["label"] for row in kept} == {0, 1}
    share = [np.mean([is_right(row) for row in rows]) for rows in (kept, other)]
    assert len(kept) > 12 and share[0] > 0.9 > 0.3 > share[1], share
    assert (done.code, a_run(bench, tmp_path).code) == (0, 0), "the same command goes on"


@pytest.mark.slow
def test_an_interrupted_run_gives_the_samples_of_one_that_was_not(bench: Path, tmp_path: Path) -> None:
    whole, stopped, n_stops = tmp_path / "a", tmp_path / "b", 0

    def stopping(what: str, done: int, total: int | None) -> None:
        if len(list(stopped.glob("synthesis/waves/*"))) > n_stops:
            raise tiny.StoppedError

    with FaultServer(lambda body, times: written(body)) as server:
        settings = parse_settings(settings_of(bench, server), "the test")
        run(settings, whole, tmp_path / "cache")
        while n_stops < 2:
            with suppress(tiny.StoppedError):
                run(settings, stopped, tmp_path / "other", stopping)
                break
            n_stops += 1
        run(settings, stopped, tmp_path / "other")
    assert n_stops > 1, "it was stopped after a wave, and after the next"
    for name in ("samples.jsonl", "rejected.jsonl", "label-head.json"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()


def space_of(bench: Path, template: str | None = None) -> FeatureSpace:
    """The model and its SAE."""
    backbone = load_backbone(bench / "model", hook_point="embed_tokens", dtype="float32", cache=bench / "cache")
    backbone.tokenizer.chat_template = template or backbone.tokenizer.chat_template
    return FeatureSpace(backbone, open_sae(str(bench / "sae"), bench / "cache"), EncodeSettings())


@pytest.fixture
def settings(bench: Path) -> RunSettings:
    """Of a run whose labels are checked."""
    data = {"seed": str(bench / "seed.jsonl"), "anchor": str(bench / "anchor.jsonl")}
    raw = {"task": str(bench / "task.yaml"), "data": data, "accept": {"check_label": True}}
    return parse_settings(raw, "the test")


def test_a_head_is_trained_once_and_again_where_it_is_damaged_or_of_another_template(
    bench: Path, settings: RunSettings, tmp_path: Path
) -> None:
    read: list[int] = []

    def opened(space: FeatureSpace) -> LabelCheck:
        read.clear()
        found = open_label_check(settings, space, tmp_path, lambda what, done, total: read.append(done))
        assert found is not None
        return found

    space = space_of(bench)
    first = opened(space)
    assert read, "the anchor is read"
    again = opened(space)
    assert not read and np.array_equal(again.head.weights, first.head.weights)
    (path,) = (tmp_path / "label-heads").iterdir()
    good = json.loads(path.read_text())
    for damaged in ("{", json.dumps(good | {"weights": [[1.0]]})):
        path.write_text(damaged)
        assert np.array_equal(opened(space).head.weights, first.head.weights) and read
    opened(space_of(bench, tiny.CHATML.replace("\n", "\n\n")))
    assert read, "another rendering has other states"


def test_a_label_that_the_head_was_not_taught_passes_and_turns_are_merged_as_in_encoding(
    bench: Path, settings: RunSettings, tmp_path: Path
) -> None:
    found = open_label_check(settings, space_of(bench), tmp_path)
    assert found is not None
    one = Sample((Message("user", f"so {' '.join(planted.OTHERS[:7])}"),))
    assert found([one, one, one], ["plain", "marked", None]) == [True, False, True]
    wider = LabelCheck(found.head, [*found.names, "other"], found.space)
    assert wider([one], ["other"]) == [True]
    strict = space_of(bench, MISTRAL02)
    two = Sample((Message("user", "so river"), Message("user", "so meadow")))
    assert len(LabelCheck(found.head, found.names, strict)([two, one], [1, 0])) == 2


def test_a_check_that_cannot_be_made_is_refused(bench: Path, tmp_path: Path) -> None:
    none = a_run(bench, tmp_path / "a", task=None)
    assert (none.code, "and a task with labels, two at least" in none.stderr) == (2, True), none.stderr
    rows = (bench / "anchor.jsonl").read_text().replace('"label": 1', '"label": 0')
    (tmp_path / "one.jsonl").write_text(rows)
    data = {"seed": str(bench / "seed.jsonl"), "anchor": str(tmp_path / "one.jsonl")}
    one = a_run(bench, tmp_path / "b", data=data)
    assert (one.code, "there are 240 plain" in one.stderr) == (1, True), one.stderr
    assert not (tmp_path / "b" / "out" / "features").exists(), "before anything is encoded"
    assert facsynth("run", tmp_path / "b" / "run.yaml", "-o", tmp_path / "c", "--dry-run").stderr == one.stderr
