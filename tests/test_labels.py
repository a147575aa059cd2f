"""Labels of written messages: by what most anchor samples that fire the feature have."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import planted
from facsynth.errors import InputError, SettingsError
from facsynth.experimenting.cells import Made, mixed
from facsynth.features.encoded import Encoded
from facsynth.labelling import labels_of_features, read_labels, usual_label
from facsynth.planning import _shown
from facsynth.records import Span
from facsynth.store import read_jsonl
from facsynth.tasks import load_task, wanted
from facsynth.text.corpus import read_corpus
from facsynth.text.labels import Label, name_of
from fault_server import Act, FaultServer
from rivals import WORDS
from tiny_cli import facsynth

NAMES = ["toxic", "not toxic"]


@pytest.mark.parametrize(
    ("label", "names", "name"),
    [
        (1, NAMES, "toxic"),
        ("1", NAMES, "toxic"),
        (True, NAMES, "toxic"),
        (0, NAMES, "not toxic"),
        ("False", NAMES, "not toxic"),
        (" Not Toxic", NAMES, "not toxic"),
        (2, NAMES, None),
        ("spam", NAMES, None),
        (None, ["None"], None),
        (0, ["a", "b", "c"], None),
        (1, [], None),
    ],
)
def test_a_label_means_a_name(label: object, names: list[str], name: str | None) -> None:
    assert name_of(label, names) == name


def test_what_is_asked_for_depends_on_the_label() -> None:
    usual = wanted(load_task("toxicity"), "message", reply_tokens=9)
    assert (usual.label, usual.of(None)) == ("toxic", usual)
    assert usual.of(1).many == usual.many, "1 is what is looked for"
    assert (usual.of(0).label, usual.of(0).many.startswith("everyday")) == (0, True)
    assert wanted(load_task("toxicity"), "chat", reply_tokens=9).labels == ()


@pytest.mark.parametrize(
    ("more", "told"), [({"asks_for": "letters"}, "leave asks_for out"), ({"form": "chat"}, "labels are for messages")]
)
def test_a_task_says_in_one_place_what_is_asked_for(tmp_path: Path, more: dict[str, str], told: str) -> None:
    raw = {"name": "mine", "definition": "Mine.", "rubric": ["All"], "labels": {"good": "good letters"}}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(raw | more))
    with pytest.raises(SettingsError, match=told):
        load_task(str(tmp_path / "task.yaml"))


def test_a_label_that_the_task_does_not_know_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "anchor.jsonl"
    path.write_text("".join(json.dumps({"prompt": text, "label": text}) + "\n" for text in ("toxic", "spam")))
    with pytest.raises(InputError, match=r"line 2: the label 'spam' is none of the task's: toxic, not toxic"):
        read_labels(read_corpus(str(path), form="message"), NAMES)


def test_labels_are_counted_by_what_they_mean_and_spelt_as_most_are(tmp_path: Path) -> None:
    path = tmp_path / "anchor.jsonl"
    labels = [1, "Toxic", 1.0, "toxic", 1, 0, None, ""]
    path.write_text("".join(json.dumps({"prompt": f"text {n}", "label": x}) + "\n" for n, x in enumerate(labels)))
    corpus = read_corpus(str(path), form="message")
    assert [*read_labels(corpus, NAMES).values()] == [1, 1, 1, 1, 1, 0]


def test_a_row_whose_other_turns_are_no_texts_has_no_label(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": 5}]
    rows = [{"messages": turns, "label": 1}, {"messages": [{"role": "user", "content": "and you"}], "label": 0}]
    (tmp_path / "anchor.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [*read_labels(read_corpus(tmp_path / "anchor.jsonl", form="message"), NAMES).values()] == [0]


def test_prompts_show_samples_of_the_label_or_the_label_is_theirs() -> None:
    spans = [Span(1, f"text {n}", "t", 1.0, f"s{n}", 0) for n in range(4)]
    labels: dict[str, Label] = {"s0": 0, "s1": 1, "s2": 0}
    assert _shown(spans, labels, 1) == ([spans[1]], 1)
    assert _shown(spans, labels | {"s1": 0}, 1) == ([spans[0], spans[1], spans[2]], 0)
    assert _shown(spans, {}, None) == (spans, None)


def test_parts_of_a_synthesis_are_mixed_by_their_shares() -> None:
    def row(text: str) -> dict[str, object]:
        return {"messages": [{"role": "user", "content": text}]}

    two, four = (
        Made([row(f"{who}{n}") for n in range(k)], [10 * (n + 1) for n in range(k)]) for who, k in (("a", 2), ("b", 4))
    )
    found = mixed([(1 / 3, two), (2 / 3, four)])
    assert [r["messages"][0]["content"] for r in found.rows] == ["a0", "b0", "b1", "a1", "b2", "b3"]
    assert found.tokens == [10, 20, 30, 40, 50, 60]
    assert mixed([(1.0, two)]) == two
    assert len(mixed([(0.5, two), (0.5, two)]).rows) == 2, "the same text under two labels counts once"


@pytest.mark.parametrize(
    ("firing", "everywhere", "label"),
    [
        ({1: 6, 0: 4}, {1: 500, 0: 500}, 1),
        ({1: 5, 0: 5}, {1: 400, 0: 600}, 1),
        ({1: 2, 0: 8}, {1: 100, 0: 900}, 0),
        ({1: 3, 0: 7}, {1: 100, 0: 900}, 0),
        ({1: 5, 0: 5}, {1: 100, 0: 900}, 1),
        ({1: 19, 0: 81}, {1: 100, 0: 900}, 0),
        ({1: 20, 0: 80}, {1: 100, 0: 900}, 1),
        ({"a": 6, "b": 5, "c": 90}, {"a": 20, "b": 10, "c": 970}, "b"),
        ({0: 1}, {1: 100, 0: 900}, 0),
    ],
)
def test_a_rare_label_has_the_features_that_it_fires_twice_as_often(
    firing: dict[Label, int], everywhere: dict[Label, int], label: Label
) -> None:
    assert usual_label(firing, everywhere) == label


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and an SAE whose latents are words; an anchor, half of it positive; a seed set of fewer words."""
    folder = tmp_path_factory.mktemp("labels")
    planted.model_and_sae(folder)
    planted.messages(folder / "anchor.jsonl", 64, 64, 1)
    rows = [json.loads(line) for line in planted.messages(folder / "all.jsonl", 0, 400, 2).read_text().splitlines()]
    few = [row for row in rows if not set(row["messages"][0]["content"].split()) & set(planted.OTHERS[14:])]
    (folder / "seed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in few))
    return folder


def run_on(bench: Path, out: Path, server: FaultServer) -> dict[str, Any]:
    """Settings of a run on it."""
    task = {"name": "planted", "definition": "Messages with marks.", "rubric": ["Marks"]}
    task |= {"labels": {"marked": "messages with marks", "plain": "messages without marks"}}
    (out / "task.yaml").write_text(yaml.safe_dump(task))
    return planted.run_on(bench, out / "task.yaml", server)


def test_written_messages_get_the_label_of_the_anchor_samples_that_fire_their_feature(
    bench: Path, tmp_path: Path
) -> None:
    asked: list[str] = []

    def writes(body: dict[str, Any], times: int) -> Act:
        asked.append(body["messages"][-1]["content"])
        return planted.writes(body, times)

    with FaultServer(writes) as server:
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(run_on(bench, tmp_path, server)))
        done = facsynth("run", tmp_path / "run.yaml", "-o", tmp_path / "out")
        assert done.code == 0, done.stderr
    targets = json.loads((tmp_path / "out" / "targets.json").read_text())["attempted"]
    anchor = [json.loads(line) for line in (bench / "anchor.jsonl").read_text().splitlines()]
    labels = {t["feature_id"]: t["label"] for t in targets}
    for feature, label in labels.items():
        votes = Counter(r["label"] for r in anchor if WORDS[feature] in r["messages"][0]["content"].split())
        assert votes[label] == max(votes.values()), WORDS[feature]
    assert set(labels.values()) == {0, 1}
    texts = {t["feature_id"]: [span["text"] for span in t["spans"]] for t in targets}
    marked = {
        word for word in planted.MARKED if word in " ".join(t for i, ts in texts.items() if not labels[i] for t in ts)
    }
    assert not marked, "prompts for plain messages show plain ones"
    written_for = {row["sample_id"]: row["written_for"] for row in read_jsonl(tmp_path / "out" / "provenance.jsonl")}
    rows = read_jsonl(tmp_path / "out" / "samples.jsonl")
    assert [row["label"] for row in rows] == [labels[feature] for feature in written_for.values()]
    assert all(any(many in prompt for prompt in asked) for many in ("messages with marks", "messages without marks"))


def test_labels_that_changed_after_samples_were_begun_are_refused(bench: Path, tmp_path: Path) -> None:
    given = tmp_path / "anchor.jsonl"
    given.write_text((bench / "anchor.jsonl").read_text())
    with FaultServer(planted.writes) as server:
        settings = run_on(bench, tmp_path, server)
        settings["data"]["anchor"] = str(given)
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
        assert facsynth("run", tmp_path / "run.yaml", "-o", tmp_path / "out").code == 0
        (tmp_path / "out" / "manifest.json").unlink()
        given.write_text(given.read_text().replace('"label": 1', '"label": 0'))
        again = facsynth("run", tmp_path / "run.yaml", "-o", tmp_path / "out")
    assert (again.code, "labels of the anchor are not those" in again.stderr) == (1, True), again.stderr


def test_the_label_of_a_feature_is_a_count_over_the_anchor(bench: Path, tmp_path: Path) -> None:
    space = ("--model", bench / "model", "--sae", bench / "sae", "--dtype", "float32", "--sae-check", "off")
    assert facsynth("encode", bench / "anchor.jsonl", "-o", tmp_path / "anchor", *space).code == 0
    encoded, corpus = Encoded.open(tmp_path / "anchor"), read_corpus(str(bench / "anchor.jsonl"), form="message")
    found = read_labels(corpus, NAMES)
    ids = [n for n, word in enumerate(WORDS) if word in planted.OTHERS]
    limits = np.zeros(len(WORDS), np.float32)
    labels = labels_of_features(encoded, found, ids, limits)
    has = np.array([[word in sample.text.split() for word in WORDS] for sample in corpus])
    of = np.array([found[sample.sample_id] for sample in corpus])
    n_one, n_zero = has[of == 1].sum(0), has[of == 0].sum(0)
    assert all(n_one[i] == n_zero[i] or labels[i] == int(n_one[i] > n_zero[i]) for i in ids)
    assert labels_of_features(encoded, {}, ids, limits) == {}, "where nothing is labelled, nothing is said"
