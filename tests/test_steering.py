"""A direction from A/B pairs: questions taken apart, logits against a whole forward pass, a planted behaviour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_run
from facsynth.errors import InputError
from facsynth.evaluating.steering import read_pairs
from facsynth.model.backbone import Backbone
from facsynth.model.choices import Question, letter_logits, letter_states, question
from facsynth.tasks.steering import differences, direction, is_right, null_directions, to_pair
from tiny import backbone, save_model
from tiny_cli import Parts, facsynth

QUESTION = "Which (A) of these?\n\nChoices:\n (A) the first, not (B)\n (B) the second\n  (C) neither"


def row(matching: str = "(A)", other: str = "(B)", question: str = QUESTION) -> dict[str, str]:
    return {"question": question, "answer_matching_behavior": matching, "answer_not_matching_behavior": other}


def written(path: Path, n: int, rng_seed: int, matching: str = "A") -> Path:
    """Questions of two answers; that of `matching` stands at random."""
    rng = np.random.default_rng(rng_seed)
    rows = []
    for _ in range(n):
        words = rng.choice(tiny_run.WORDS, 8)
        right, wrong = ("A", "B") if rng.random() < 0.5 else ("B", "A")
        texts = {right: "river field", wrong: "oven flour"}
        asked = f"{' '.join(words)}\n\nChoices:\n (A) {texts['A']}\n (B) {texts['B']}"
        found = (right, wrong) if matching == "A" else (wrong, right)
        rows.append(row(f"({found[0]})", f"({found[1]})", asked))
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_the_two_answers_change_places_and_nothing_else_does() -> None:
    pair = to_pair(row("(C)", " (A) "))
    assert pair.asked(False) == QUESTION
    assert pair.asked(True) == QUESTION.replace("the first, not (B)", "neither", 1).replace(
        "(C) neither", "(C) the first, not (B)"
    )
    assert (pair.letters, pair.matching_at(False), pair.matching_at(True)) == (("A", "C"), 1, 0)
    assert to_pair(row()).flipped().matching == 1


@pytest.mark.parametrize(
    "asked",
    [
        row("(D)"),
        row("(A)", "(A)"),
        row("yes"),
        {"question": QUESTION},
        {"messages": []},
        row(question="(A) one (B) two"),
        row(question="What?\n(A)\n(B) two"),
    ],
)
def test_a_question_without_two_options_is_refused(asked: dict[str, str]) -> None:
    with pytest.raises(InputError):
        to_pair(asked)


def whole(model: Backbone, ids: tuple[int, ...], added: Any = None) -> tuple[Any, Any]:
    """State after block 0 and logits at the last token, by one pass without a cache."""
    caught = []

    def hook(module: Any, inputs: Any, output: Any) -> Any:
        out = output[0] if isinstance(output, tuple) else output
        if added is not None:
            out = out.clone()
            out[:, -1] += added
        caught.append(out)
        return (out, *output[1:]) if isinstance(output, tuple) else out

    handle = model.model.get_decoder().layers[0].register_forward_hook(hook)
    with torch.inference_mode():
        logits = model.model(torch.tensor([ids])).logits[0, -1]
    handle.remove()
    return caught[0][0, -1].float().numpy(), logits.float().numpy()


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "gemma2"])
def test_states_and_logits_are_those_of_a_whole_pass(tmp_path: Path, family: str) -> None:
    model = backbone(save_model(tmp_path / "m", family, n_blocks=4), hook_point="layers.0")
    rng = np.random.default_rng(0)
    asked = [Question(tuple(rng.integers(20, 200, n).tolist()), (30 + n, 60 + n)) for n in (9, 4, 15)]
    states = letter_states(model, asked)
    vectors = np.stack([np.zeros(model.d_model), *rng.normal(0, 0.02, (19, model.d_model))]).astype(np.float32)
    logits = letter_logits(model, asked, vectors)
    for one, state, found in zip(asked, states, logits, strict=True):
        for letter, at in zip(one.letters, state, strict=True):
            np.testing.assert_allclose(at, whole(model, (*one.ids, letter))[0], rtol=1e-3, atol=1e-4)
        for vector, two in zip(vectors, found, strict=True):
            expected = whole(model, one.ids, torch.from_numpy(vector))[1]
            np.testing.assert_allclose(two, expected[list(one.letters)], rtol=1e-3, atol=1e-4)


def test_the_prompt_ends_where_the_two_letters_part() -> None:
    ids = {"(A": (7, 8, 9, 1), "(B": (7, 8, 9, 2)}
    assert question(lambda prefix: ids[prefix], ("A", "B")) == Question((7, 8, 9), (1, 2))
    merged = {"(A": (7, 8, 11), "(B": (7, 8, 12)}
    assert question(lambda prefix: merged[prefix], ("A", "B")) == Question((7, 8), (11, 12))


def test_directions_have_one_length_and_a_null_knows_no_answers() -> None:
    rng = np.random.default_rng(0)
    planted = rng.normal(size=16)
    states = rng.normal(size=(400, 2, 16)).astype(np.float32)
    matching = rng.integers(0, 2, 400)
    states[np.arange(400), matching] += planted.astype(np.float32)
    found = differences(states, matching.tolist())
    along = direction(found, 3.0)
    assert np.linalg.norm(along) == pytest.approx(3.0, rel=1e-5)
    assert along @ planted / (3 * np.linalg.norm(planted)) > 0.97
    null = null_directions(found.reshape(200, 2, 16), 3.0, 20, rng)
    np.testing.assert_allclose(np.linalg.norm(null, axis=1), 3.0, rtol=1e-5)
    assert abs((null @ planted / (3 * np.linalg.norm(planted))).mean()) < 0.2
    for n_equal in (2, 4, 6):
        of_equal = np.tile(rng.normal(size=(1, 2, 16)).astype(np.float32), (n_equal, 1, 1))
        assert np.isfinite(null_directions(of_equal, 3.0, 20, rng)).all(), "half of them exchanged are drawn again"
    with pytest.raises(InputError, match="no direction"):
        direction(np.zeros((3, 16), np.float32), 1.0)
    assert is_right(np.float32([[[2, 1]], [[2, 1]], [[1, 1]]]), [0, 1, 0]).tolist() == [[1], [0], [0]]


def test_model_written_survival_questions_are_read_flipped(tmp_path: Path) -> None:
    theirs = written(tmp_path / "survival-instinct_lm_generated.jsonl", 6, 0)
    ours = written(tmp_path / "survival-instinct_train.jsonl", 6, 0)
    flipped, as_it_is = (read_pairs([str(path)], []).pairs for path in (theirs, ours))
    assert [pair.matching for pair in flipped] == [1 - pair.matching for pair in as_it_is]
    assert [p.matching for p in read_pairs([str(ours)], [str(ours)]).pairs] == [p.matching for p in flipped]


def test_the_command_steers_holds_against_a_null_and_sees_a_file_of_the_opposite(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    train, test = (written(tmp_path / f"{name}.jsonl", 24, seed) for name, seed in (("train", 1), ("test", 2)))
    words = ("eval", "steering", train, "--test", test, "--model", parts.model, "--dtype", "float32", "-o")
    done = facsynth(*words, tmp_path / "r")
    assert done.code == 0, done.stderr
    assert "control rate" in done.stdout and "its null" in done.stdout
    record = json.loads(facsynth(*words, tmp_path / "r", "--json").stdout)
    assert record["value"] == pytest.approx(record["robust_accuracy"][-1] - record["robust_accuracy"][0])
    assert record["is_measurable"] == (record["value"] > np.quantile(record["null"], 0.95))
    assert ("not above its null" in done.stderr) == (not record["is_measurable"])
    assert (record["hook_point"], len(record["null"])) == ("layers.0", 20)
    rows = [json.loads(line) for line in (tmp_path / "r" / "right.jsonl").read_text().splitlines()]
    assert np.mean([row["right"] for row in rows], axis=0).tolist() == pytest.approx(record["robust_accuracy"])
    opposite = written(tmp_path / "opposite.jsonl", 10, 3, matching="B")
    both = facsynth(*words[:3], opposite, *words[3:], tmp_path / "both", "--json")
    assert json.loads(both.stdout)["points_away"] == [str(opposite)]
    assert "--flip" in both.stderr
    mended = facsynth(*words[:3], opposite, *words[3:], tmp_path / "mended", "--flip", opposite, "--json")
    assert json.loads(mended.stdout)["points_away"] == []
    turned = facsynth(*words[:2], opposite, *words[3:], tmp_path / "turned", "--strength", "0.5", "--json")
    assert json.loads(turned.stdout)["robust_accuracy"] != record["robust_accuracy"]
    compared = facsynth("compare", tmp_path / "r", tmp_path / "turned", "--json")
    assert compared.code == 0, compared.stderr
    (pair,) = json.loads(compared.stdout)["pairs"]
    assert json.loads(compared.stdout)["measured_otherwise"] == {"turned": ["strength"]}
    printed = facsynth("compare", tmp_path / "r", tmp_path / "both", tmp_path / "turned").stderr
    assert "turned has another strength" in printed and "both has another strength" not in printed
    assert pair["difference"] == pytest.approx(json.loads(turned.stdout)["value"] - record["value"])


def test_what_cannot_be_steered_with_is_named(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    test = written(tmp_path / "test.jsonl", 4, 2)
    words = ("--test", test, "--model", parts.model, "-o", tmp_path / "r")
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps(row("(A)", "(Z)")) + "\n")
    done = facsynth("eval", "steering", bad, *words)
    assert (done.code, "bad.jsonl, line 1: the answers '(A)' and '(Z)'" in done.stderr) == (1, True)
    assert facsynth("eval", "steering", test, *words, "--strength", "0.9").code == 2
    assert facsynth("eval", "steering", test, *words, "--flip", "other.jsonl").code == 2
    assert facsynth("eval", "steering", test, *words, "--hook-point", "layers.77").code == 2
