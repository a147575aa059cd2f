"""A head on final states: labels, states and figures against second ways, and the command on tiny parts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

import tiny_run
from facsynth.errors import InputError
from facsynth.evaluating.toxicity import read_labelled
from facsynth.model.final import final_states
from facsynth.records import Message, Sample
from facsynth.tasks.resample import of_all
from facsynth.tasks.toxicity import check_both_kinds, head_scores, metric
from facsynth.text.ids import tokenized
from facsynth.text.labels import is_wanted
from tiny import backbone, save_model
from tiny_cli import Parts, facsynth


def labelled(path: Path, n: int, rng_seed: int, words: tuple[str, str] = ("toxic", "fine")) -> Path:
    """Messages of other words where they are positive."""
    rows = []
    for k, part in enumerate((tiny_run.WORDS[:6], tiny_run.WORDS[6:])):
        texts = tiny_run.corpus(path.with_suffix(".part"), n // 2, rng_seed + k, part).read_text().splitlines()
        rows += [json.loads(line) | {"label": words[k]} for line in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_state_is_that_of_the_whole_model_at_the_last_token(tmp_path: Path) -> None:
    model = backbone(save_model(tmp_path / "model", n_blocks=2))
    rng = np.random.default_rng(0)
    ids = [rng.integers(5, 100, n).astype(np.int32) for n in (7, 3, 20, 1, 20)]
    found = final_states(model, ids)
    for row, state in zip(ids, found, strict=True):
        whole = model.model(torch.from_numpy(row).long()[None], output_hidden_states=True).hidden_states[-1]
        np.testing.assert_allclose(state, whole[0, -1].detach().float().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("label", "found"),
    [(1, True), (0, False), (True, True), ("Toxic ", True), ("1", True), ("fine", False), ("0", False),
     (2, None), ("", None), (None, None), (0.5, None)],
)  # fmt: skip
def test_labels_are_ones_or_the_word_that_is_looked_for(label: object, found: bool | None) -> None:
    assert is_wanted(label, "toxic") is found


def test_of_a_long_text_the_beginning_and_the_end_of_the_template_are_read() -> None:
    samples = [Sample((Message("user", str(n)),)) for n in (50, 30, 50)]
    found = tokenized(samples, lambda sample: range(int(sample.text)), most=40, tail=16)
    assert [row.tolist() for row in found.ids] == [[*range(24), *range(34, 50)], [*range(30)]]
    assert (found.places(samples), found.n_cut, found.max_tokens) == ([0, 1, 0], 1, 40)


def test_a_head_finds_a_planted_direction_and_each_seed_has_folds_of_its_own() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 20)).astype(np.float32)
    labels = x[:, 3] + rng.normal(0, 0.3, 300) > 0.5
    scores = head_scores(x[:200], labels[:200], x[200:], [0, 1, 0])
    assert scores.shape == (3, 100)
    assert (scores[0] == scores[2]).all()
    auprc = metric([{"label": int(label)} for label in labels[200:]])
    assert of_all(auprc, scores[0]) > 0.85
    assert np.isnan(auprc(scores[0], labels[None, 200:].astype(float))[0]), "positive ones alone"


def test_average_precision_of_draws_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(60) < 0.3
    scores = rng.integers(0, 12, 60) / 12  # with ties
    counts = rng.integers(0, 4, (20, 60)).astype(float)
    found = metric([{"label": int(label)} for label in labels])(scores, counts)
    expected = [average_precision_score(labels, scores, sample_weight=one) for one in counts]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_labels_of_one_kind_are_refused() -> None:
    with pytest.raises(InputError, match="the test set has 0 positive and 4 other samples, and 1 of each"):
        check_both_kinds(np.zeros(4, np.bool_), "the test set")


def test_the_command_trains_measures_and_gives_both_figures_where_texts_are_shared(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    train, test = (labelled(tmp_path / f"{name}.jsonl", 60, seed) for name, seed in (("train", 1), ("test", 5)))
    words = ("eval", "toxicity", train, "--test", test, "--model", parts.model, "--seeds", "2", "-o", tmp_path / "r")
    done = facsynth(*words)
    assert done.code == 0, done.stderr
    assert "AUPRC" in done.stdout and "0.500" in done.stdout
    record = json.loads(facsynth(*words, "--json").stdout)
    assert record["value"] > 0.7, "other words make other states"
    assert (record["n_test"], record["n_test_positive"], record["n_seen"], record["unseen"]) == (60, 30, 0, None)
    items = [json.loads(line) for line in (tmp_path / "r" / "items.jsonl").read_text().splitlines()]
    labels, scores = np.array([item["label"] for item in items]), np.array([item["scores"] for item in items]).T
    by_seed = [average_precision_score(labels, row) for row in scores]
    assert record["by_seed"] == pytest.approx(by_seed)
    assert record["value"] == pytest.approx(np.mean(by_seed))
    once = (*words[5:8], "1", "-o")
    shared = facsynth(*words[:2], train, train, *words[3:5], *once, tmp_path / "other", "--json", "--test", train)
    assert shared.code == 0, shared.stderr
    seen = json.loads(shared.stdout)
    assert (seen["n_seen"], seen["unseen"]["n_test"]) == (60, 60)
    assert "in training too" in shared.stderr
    broken = tmp_path / "broken.jsonl"
    odd = {"messages": [{"role": "user", "content": "so"}, {"role": "assistant", "content": 5}], "label": 1}
    broken.write_text(test.read_text() + json.dumps(odd) + '\n{"messages": [{"rol\n')
    found = facsynth(*words[:2], train, "--test", broken, *once, tmp_path / "broken", "--json")
    assert json.loads(found.stdout)["n_skipped"] == {"train": 0, "test": 2}
    assert "note: 2 rows of the test files left out: they cannot be read" in found.stderr
    same = facsynth(*words[:2], train, "--test", train, *once, tmp_path / "same")
    assert "no figure is left without them" in same.stderr
    other = facsynth(*words[:6], tiny_run.save_model(tmp_path / "model-2", n_blocks=2, width=16), *words[7:])
    assert other.code == 1
    assert "was begun with another model" in other.stderr
    blank = facsynth(*words[:6], "", *words[7:])
    assert (blank.code, "Traceback" in blank.stderr) == (2, False)
    again = facsynth(*words[:2], test, *words[3:])
    assert again.code == 1
    assert "was begun with another train" in again.stderr


def test_rows_that_no_head_can_be_trained_on_are_named(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    test = labelled(tmp_path / "test.jsonl", 20, 5)
    few = labelled(tmp_path / "few.jsonl", 8, 6)
    done = facsynth("eval", "toxicity", few, "--test", test, "--model", parts.model, "-o", tmp_path / "a")
    assert done.code == 1
    assert (
        "the training set (labels: 4 toxic, 4 fine) has 4 positive and 4 other samples, and 5 of each are needed"
        in done.stderr
    )
    bare = tiny_run.corpus(tmp_path / "bare.jsonl", 5, 7)
    done = facsynth("eval", "toxicity", bare, "--test", test, "--model", parts.model, "-o", tmp_path / "a")
    assert done.code == 1
    assert "bare.jsonl, line 1 has no label that can be read" in done.stderr
    assert not (tmp_path / "a" / "manifest.json").exists()
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"body": "so river", "label": 1}) + "\n")
    done = facsynth("eval", "toxicity", other, "--test", test, "--model", parts.model, "-o", tmp_path / "a")
    assert (done.code, "-field" in done.stderr, "Rename the fields" in done.stderr) == (1, False, True), done.stderr


def test_labels_of_more_than_two_words_are_told(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    train, test = labelled(tmp_path / "train.jsonl", 40, 5), labelled(tmp_path / "test.jsonl", 20, 6)
    rows = [json.loads(line) for line in train.read_text().splitlines()]
    for row in [row for row in rows if row["label"] == "toxic"][:8]:
        row["label"] = "Toxicc"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("--test", test, "--model", parts.model, "--seeds", 1, "-o", tmp_path / "r")
    done = facsynth("eval", "toxicity", train, *words)
    told = "training labels are 20 fine, 12 toxic, 8 toxicc: all but 1, true and toxic count as negative"
    assert (done.code, told in done.stderr) == (0, True), done.stderr
    assert "test labels" not in done.stderr


def test_a_text_to_test_with_counts_once_and_has_one_label(tmp_path: Path) -> None:
    test = labelled(tmp_path / "test.jsonl", 6, 6)
    lines = test.read_text().splitlines()
    test.write_text("\n".join([*lines, lines[0], lines[0]]))
    once = read_labelled([str(test)], "toxic", is_test=True)
    assert (len(once.samples), once.n_twice, once.words.total()) == (len(lines), 2, len(lines))
    assert len(read_labelled([str(test)], "toxic").samples) == len(lines) + 2, "training takes what it is given"
    other = json.loads(lines[0]) | {"label": "fine" if "toxic" in lines[0] else "toxic"}
    test.write_text("\n".join([*lines, json.dumps(other)]))
    with pytest.raises(InputError, match=rf"line {len(lines) + 1} has another label than the same text before it"):
        read_labelled([str(test)], "toxic", is_test=True)
