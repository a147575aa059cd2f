"""Reward models: figures against hand computations, the head against a second way, and the command on tiny parts."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from facsynth.errors import InputError, ModelError
from facsynth.evaluating.fitting import Setup
from facsynth.evaluating.results import compare_results, measured
from facsynth.evaluating.reward import evaluate_reward, read_pairs
from facsynth.model.adapter import open_base
from facsynth.records import no_progress
from facsynth.settings import ModelBlock
from facsynth.tasks.resample import of_all
from facsynth.tasks.reward import SECTION_OF, SECTIONS, STRENGTHS, check_subsets, metric, pair_scores
from tiny import files, save_model
from tiny_cli import facsynth
from tiny_run import WORDS

MARK = "umbrella"
"""The word that chosen replies have."""


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def pairs(path: Path, n: int, rng_seed: int, *, swapped: bool = False, **more: Any) -> Path:
    """Pairs whose chosen reply ends with the mark."""
    rng, rows = np.random.default_rng(rng_seed), []
    for k in range(n):
        prompt, first, other = (" ".join(rng.choice(WORDS, rng.integers(2, 8))) for _ in range(3))
        better, worse = f"{first} {MARK}", f"{other} {WORDS[k % 7]}"
        better, worse = (worse, better) if swapped else (better, worse)
        rows.append({"prompt": prompt, "chosen": better, "rejected": worse} | {key: v[k] for key, v in more.items()})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tiny") / "model", n_blocks=2)


def evaluate(train: Path, test: Path, model: Path, out: Path, **more: Any) -> dict[str, Any]:
    asked = {"seeds": [0, 1], "out": out, "cache": out.parent / "cache"} | more
    folder = evaluate_reward([str(train)], [str(test)], ModelBlock(path=str(model), dtype="float32"), **asked)
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def test_the_sections_are_those_of_rewardbench() -> None:
    assert list(SECTIONS) == ["Chat", "Chat Hard", "Safety", "Reasoning"]
    assert [len(subsets) for subsets in SECTIONS.values()] == [5, 6, 5, 7]
    n_prompts = {name: n for subsets in SECTIONS.values() for name, n in subsets.items()} | {"math-prm": 447}
    assert sum(n_prompts.values()) == 2_985, "of its split `filtered`"
    assert SECTIONS["Reasoning"]["math-prm"] == sum(n for name, n in SECTIONS["Reasoning"].items() if "hep" in name)


def test_a_section_weighs_its_subsets_by_prompts_and_a_tie_counts_one_half() -> None:
    subsets = ["math-prm"] * 4 + ["hep-go"] * 2 + ["donotanswer"] * 3
    scores = np.array([1.0, 2.0, 3.0, -1.0, 0.0, 5.0, -2.0, 0.0, 0.0])
    by_hand = ((984 * 3 / 4 + 164 * 1.5 / 2) / (984 + 164) + 1 / 3) / 2
    items = [{"subset": subset} for subset in subsets]
    figure = metric(items)
    assert of_all(figure, scores) == pytest.approx(by_hand)
    order = np.random.default_rng(0).permutation(9)
    assert of_all(metric([items[n] for n in order]), scores[order]) == pytest.approx(by_hand), "in any order"
    without_go, without_safety = [1, 1, 1, 1, 0, 0, 2, 1, 1], [1, 1, 1, 1, 1, 1, 0, 0, 0]
    found = figure(scores, np.array([without_go, without_safety], float))
    assert found[0] == pytest.approx((3 / 4 + (0 + 0 + 0.5 + 0.5) / 4) / 2)
    assert np.isnan(found[1])


def test_sections_equal_a_slow_second_way() -> None:
    rng = np.random.default_rng(1)
    subsets = list(rng.choice(sorted(SECTION_OF), 200))
    scores = rng.normal(size=200)
    means = []
    for names in SECTIONS.values():
        parts = [(n, np.mean(scores[[s == name for s in subsets]] > 0)) for name, n in names.items() if name in subsets]
        means.append(sum(n * share for n, share in parts) / sum(n for n, _ in parts))
    assert of_all(metric([{"subset": s} for s in subsets]), scores) == pytest.approx(np.mean(means))


def test_without_subsets_it_is_plain_accuracy_and_its_interval_covers_it() -> None:
    scores = np.array([[1.0, -1.0, 2.0, 0.0] * 10])
    found = measured("reward", [{"sample_id": str(n)} for n in range(40)], scores)
    assert found["value"] == pytest.approx(2.5 / 4)
    assert found["ci95"][0] < 0.625 < found["ci95"][1]
    of_its_own = measured("reward", [{"subset": "my own"} for _ in range(40)], scores)
    assert of_its_own == found


def test_rewardbench_and_other_subsets_make_no_figure_together() -> None:
    check_subsets(["math-prm", "hep-go"])
    check_subsets(["mine", None])
    with pytest.raises(InputError, match="have mine\nMeasure them apart"):
        check_subsets(["math-prm", "mine"])


def test_the_head_minimises_the_penalised_bradley_terry_loss() -> None:
    rng = np.random.default_rng(0)
    truth, x = 3 * rng.normal(size=6), rng.normal(size=(300, 6)) * [1, 2, 0.5, 1, 1, 1]
    x *= np.where(rng.random(300) < 1 / (1 + np.exp(-x @ truth)), 1, -1)[:, None]
    train, test = x[:200].astype(np.float32), x[200:].astype(np.float32)
    found = pair_scores(train, np.concatenate([test, np.eye(6, dtype=np.float32)]), [0, 1, 0])
    assert (found[0] == found[2]).all()
    assert np.mean(found[0, :100] > 0) > 0.8
    scale = np.sqrt((train.astype(float) ** 2).mean(axis=0))
    w, scaled = found[0, 100:] * scale, train / scale
    slope = scaled.T @ (1 / (1 + np.exp(scaled @ w)))  # of the log-likelihood; at the best w it is w / C
    strength = STRENGTHS[np.argmin(np.abs(np.log(STRENGTHS * (w @ slope) / (w @ w))))]

    def loss(v: Any) -> float:
        return float(np.logaddexp(0, -scaled @ v).sum() + v @ v / (2 * strength))

    np.testing.assert_allclose(w, minimize(loss, np.zeros(6), tol=1e-10).x, atol=0.02 * np.abs(w).max())
    np.testing.assert_array_equal(pair_scores(train, -test, [0])[0], -found[0, :100])
    np.testing.assert_allclose(pair_scores(-train, test, [0])[0], -found[0, :100], rtol=1e-6)
    with pytest.raises(InputError, match="has 9 pairs, and 10 are needed"):
        pair_scores(train[:9], test, [0])


def test_a_word_that_marks_chosen_replies_is_learnt_and_swapped_pairs_turn_the_figure_round(
    tmp_path: Path, model: Path
) -> None:
    train, test = pairs(tmp_path / "train.jsonl", 60, 1), pairs(tmp_path / "test.jsonl", 40, 2)
    found = evaluate(train, test, model, tmp_path / "a")
    assert found["value"] > 0.85
    assert found["ci95"][0] > 0.75
    swapped = pairs(tmp_path / "swapped.jsonl", 40, 2, swapped=True)
    assert evaluate(train, swapped, model, tmp_path / "b")["value"] == pytest.approx(1 - found["value"])


def test_equal_replies_are_no_pair_and_long_ones_are_cut_at_their_beginning(tmp_path: Path, model: Path) -> None:
    train = pairs(tmp_path / "train.jsonl", 20, 1)
    long = "river " * 1_200
    rows = [
        {"prompt": long, "chosen": f"field {MARK}", "rejected": "field oven"},
        {"prompt": "flour", "chosen": f"salt {long}", "rejected": f"oven {long}"},
        {"prompt": "flour", "chosen": "salt", "rejected": "salt"},
    ]
    test = tmp_path / "test.jsonl"
    test.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    train.write_text(train.read_text() + json.dumps(rows[2]) + "\n")
    found = evaluate(train, test, model, tmp_path / "r")
    assert (found["n_train"], found["n_skipped"]) == (20, {"train": 1, "test": 1}), "equal replies tell nothing"
    assert (found["n_test"], found["n_twice"]) == (2, 1)
    assert (found["n_cut"], found["max_tokens"], found["n_ties"]) == (4, 1024, [1, 1]), "what is left is equal"
    scores = [json.loads(line)["scores"] for line in (tmp_path / "r" / "items.jsonl").read_text().splitlines()]
    assert scores[1] == [0.0, 0.0]
    assert scores[0] != [0.0, 0.0], "the replies are what is left"


def test_pairs_are_read_in_any_layout_and_what_is_none_is_counted(tmp_path: Path) -> None:
    rows = [
        {"chosen": "\n\nHuman: hi\n\nAssistant: yes", "rejected": "\n\nHuman: hi\n\nAssistant: no"},
        {"prompt": [turn("user", "hi")], "chosen": [turn("assistant", "yes")], "rejected": [turn("assistant", "no")]},
        {"prompt": "hi", "chosen": "yes", "rejected": "no", "subset": "hep-go", "id": 7},
        {"prompt": "hi", "chosen": "yes", "rejected": " "},
        {"prompt": "hi", "chosen": "yes"},
        {"prompt": "hi", "rejected": "no"},
        {"prompt": "hi", "chosen": "yes", "rejected": 5},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_pairs([str(path)])
    assert (len(found.pairs), found.n_skipped) == (3, 4), "whatever is wrong with them"
    assert len({(p.prompt.sample_id, p.chosen.sample_id, p.rejected.sample_id) for p in found.pairs}) == 1
    assert [p.subset for p in found.pairs] == [None, None, "hep-go"]
    path.write_text(json.dumps(rows[4]) + "\n")
    with pytest.raises(InputError, match="line 1: the row has no rejected reply"):
        read_pairs([str(path)])


def test_a_seed_is_kept_and_not_computed_again(tmp_path: Path) -> None:
    asked: list[int] = []

    def scores_of(seed: int) -> Any:
        asked.append(seed)
        return np.array([0.1 * seed, 1 / 3])

    setup = Setup("reward", ModelBlock(), "lora", [1, 2], tmp_path, tmp_path, no_progress)
    found = setup.seed_by_seed(scores_of)
    np.testing.assert_array_equal(found, [[0.1, 1 / 3], [0.2, 1 / 3]])
    more = replace(setup, seeds=[2, 1, 3])
    np.testing.assert_array_equal(more.seed_by_seed(scores_of)[:2], found[::-1])
    assert asked == [1, 2, 3]
    (tmp_path / "seeds" / "2.json").write_text('{"scores": [1.0]}')
    with pytest.raises(InputError, match=r"1.json has scores of other test items"):
        more.seed_by_seed(scores_of)


def test_a_missing_package_says_how_to_install_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setitem(sys.modules, "accelerate", types.ModuleType("accelerate"))
    with pytest.raises(ModelError, match=r"(?s)needs the package peft.*facsynth\[downstream\]"):
        open_base(model, dtype="float32", device="cpu")


def test_the_command_gives_sections_and_says_what_is_lacking_and_shared(tmp_path: Path, model: Path) -> None:
    train = pairs(tmp_path / "train.jsonl", 30, 1)
    test = pairs(tmp_path / "test.jsonl", 24, 2, subset=["hep-go", "math-prm", "donotanswer"] * 8)
    words = ("eval", "reward", train, "--test", test, "--model", model, "--seeds", "2", "-o", tmp_path / "a")
    done = facsynth(*words)
    assert done.code == 0, done.stderr
    assert "mean of section accuracies" in done.stdout and "Reasoning" in done.stdout
    assert "nothing of Chat, Chat Hard: the mean is that of the other sections" in done.stderr
    record = json.loads(facsynth(*words, "--json").stdout)
    assert list(record["sections"]) == ["Reasoning", "Safety"]
    assert record["value"] == pytest.approx(np.mean([found["value"] for found in record["sections"].values()]))
    assert [found["n_test"] for found in record["sections"].values()] == [16, 8]
    train.write_text(train.read_text() + "".join(test.read_text().splitlines(keepends=True)[:5]) + '{"prompt": "x"}\n')
    both = facsynth(*words[:-1], tmp_path / "b")
    assert both.code == 0, both.stderr
    assert "the prompts of 5 test pairs are in training too: without, " in both.stderr
    assert "1 row of the train files left out: no pair" in both.stderr
    assert "prompts not in training" in both.stdout
    compared = compare_results([tmp_path / "a", tmp_path / "b"])
    assert (compared["task"], compared["n_test"], len(compared["pairs"])) == ("reward", 24, 1)
    assert facsynth("compare", tmp_path / "a", tmp_path / "b").code == 0


def test_the_same_call_changes_nothing_and_another_is_refused(tmp_path: Path, model: Path) -> None:
    train, test = pairs(tmp_path / "train.jsonl", 12, 1), pairs(tmp_path / "test.jsonl", 10, 2)
    words = ("eval", "reward", train, "--test", test, "--model", model, "--seeds", "1", "-o", tmp_path / "a")
    assert facsynth(*words).code == 0
    before = files(tmp_path / "a")
    assert facsynth(*words).code == 0
    assert files(tmp_path / "a") == before
    other = facsynth(*words, "--adapt", "lora")
    assert (other.code, "was begun with another adapt" in other.stderr) == (1, True)
    pairs(test, 10, 2, swapped=True)
    assert "was begun with another test" in facsynth(*words).stderr
    few = facsynth(*words[:2], pairs(tmp_path / "few.jsonl", 9, 1), *words[3:-1], tmp_path / "b")
    assert (few.code, "has 9 pairs, and 10 are needed" in few.stderr) == (1, True)
    assert not (tmp_path / "b").exists()
