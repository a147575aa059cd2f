"""Adapters on tiny models: what is planted is learnt, the base stays as it is, and a seed is a seed."""

from __future__ import annotations

import json
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facsynth.errors import SettingsError
from facsynth.evaluating.reward import evaluate_reward
from facsynth.evaluating.toxicity import evaluate_toxicity
from facsynth.model.adapter import RECIPES, Base, _adapted, class_scores, open_base, rewards
from facsynth.model.training import apart
from facsynth.settings import ModelBlock
from tiny import StoppedError, files, save_model, stop_after
from tiny_cli import facsynth
from tiny_run import WORDS

pytestmark = pytest.mark.slow
for package in ("accelerate", "peft", "trl"):
    pytest.importorskip(package)

MARK = "umbrella"
QUICK = {name: replace(recipe, learning_rate=5e-3, epochs=6) for name, recipe in RECIPES.items()}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tiny") / "model", n_blocks=2)


def texts(base: Base, n: int, rng_seed: int) -> tuple[list[Any], list[Any]]:
    """Token ids of texts with the mark, and without."""
    rng, found = np.random.default_rng(rng_seed), ([], [])
    for k in range(2 * n):
        words = list(rng.choice(WORDS, rng.integers(3, 12)))
        words[rng.integers(len(words))] = MARK if k % 2 else "river"
        found[1 - k % 2].append(np.array(base.tokenizer(" ".join(words) + "\n")["input_ids"], np.int32))
    return found


@pytest.mark.parametrize(
    ("family", "dtype"), [("llama", "float32"), ("llama", "bfloat16"), ("qwen3", "float32"), ("gemma2", "float32"),
                          ("gpt2", "float32"), ("gpt_neox", "float32")],
)  # fmt: skip
def test_a_marked_reply_is_learnt_to_be_better(tmp_path: Path, family: str, dtype: str) -> None:
    base = open_base(save_model(tmp_path / "model", family, n_blocks=2), dtype=dtype, device="cpu")
    chosen, rejected = texts(base, 40, 1)
    better, worse = texts(base, 30, 2)
    found = rewards(base, QUICK["reward"], chosen, rejected, [*better, *worse], rng_seed=1)
    assert np.mean(found[:30] > found[30:]) > 0.7
    assert len(np.unique(found)) > 50, "the head is float32, so rewards are no coarse steps"
    turned = rewards(base, QUICK["reward"], rejected, chosen, [*better, *worse], rng_seed=1)
    assert np.mean(turned[:30] > turned[30:]) < 0.3


def test_a_marked_text_is_told_apart_and_a_score_does_not_depend_on_its_neighbours(model: Path) -> None:
    base = open_base(model, dtype="float32", device="cpu")
    (marked, others), (positive, negative) = texts(base, 40, 1), texts(base, 30, 2)
    labels = np.arange(80) < 40

    def scores_of(test: list[Any], rng_seed: int = 1) -> Any:
        return class_scores(base, QUICK["toxicity"], [*marked, *others], labels, test, rng_seed=rng_seed)

    found = scores_of([*positive, *negative])
    assert found.min() >= 0 and found.max() <= 1
    assert (found[:30, None] > found[None, 30:]).mean() > 0.8
    np.testing.assert_allclose(scores_of(positive[:3]), found[:3], atol=1e-5)
    assert np.abs(scores_of(positive, rng_seed=2) - found[:30]).max() > 1e-3, "another seed, another model"


def test_the_recipe_is_what_is_done(model: Path) -> None:
    base = open_base(model, dtype="float32", device="cpu")
    chosen, rejected = texts(base, 8, 1)
    steps: list[int] = []

    def trained(**changes: Any) -> Any:
        recipe = replace(RECIPES["reward"], learning_rate=1e-2, epochs=4, **changes)
        steps.clear()
        return rewards(
            base, recipe, chosen, rejected, chosen, rng_seed=1,
            progress=lambda what, done, total: steps.append(total or 0) if what == "training seed 1" else None,
        )  # fmt: skip

    usual = trained()
    assert steps == [4] * 4, "8 pairs are 4 batches of 2: a step an epoch"
    for changes in ({"dropout": 0.0}, {"weight_decay": 0.9}, {"alpha": 64}, {"rank": 8}, {"batch_size": 1}):
        assert np.abs(trained(**changes) - usual).max() > 1e-6, changes
    assert steps == [8] * 8
    with apart(0, base.device):
        adapted = _adapted(base, RECIPES["toxicity"], 0, n_labels=2)
    learnt = {name.split(".lora")[0].rsplit(".", 1)[-1] for name, w in adapted.named_parameters() if w.requires_grad}
    names = [f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")]
    assert learnt == {*names, "weight"}, "the paper's seven, and the head"
    assert {name for name, w in adapted.named_parameters() if w.requires_grad and "lora" not in name} == {
        "base_model.model.score.modules_to_save.default.weight"
    }


def test_training_leaves_random_states_files_and_screen_as_they_are(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scratch").mkdir()
    base, before = open_base(model, dtype="float32", device="cpu"), files(model)
    chosen, rejected = texts(base, 8, 1)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    capfd.readouterr()
    rewards(base, RECIPES["reward"], chosen, rejected, chosen, rng_seed=3)
    class_scores(base, RECIPES["toxicity"], [*chosen, *rejected], np.arange(16) < 8, chosen, rng_seed=3)
    assert capfd.readouterr() == ("", "")
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert files(model) == before
    assert [path.name for path in tmp_path.rglob("*")] == ["scratch"]


def test_what_trainers_cannot_do_is_refused(model: Path) -> None:
    with pytest.raises(SettingsError, match="not trained in float16"):
        open_base(model, dtype="float16", device="cpu")
    with pytest.raises(SettingsError, match="the first GPU that is visible, asked for cuda:1"):
        open_base(model, dtype="float32", device="cuda:1")
    if not torch.cuda.is_available():
        base = open_base(model, dtype="float32", device="cuda")
        with pytest.raises(SettingsError, match="the device 'cuda' cannot be used"):
            rewards(base, RECIPES["reward"], *texts(base, 2, 1), [], rng_seed=0)


def rows(path: Path, n: int, rng_seed: int, *, is_pair: bool) -> Path:
    rng, found = np.random.default_rng(rng_seed), []
    for k in range(n):
        text = " ".join(rng.choice(WORDS, 6))
        pair = {"prompt": text, "chosen": MARK, "rejected": WORDS[k % 7]}
        found.append(pair if is_pair else {"messages": [{"role": "user", "content": text}], "label": k % 2})
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return path


@pytest.mark.parametrize("task", ["reward", "toxicity"])
def test_an_interrupted_evaluation_goes_on_with_the_next_seed(tmp_path: Path, model: Path, task: str) -> None:
    train, test = (
        str(rows(tmp_path / f"{name}.jsonl", 12, seed, is_pair=task == "reward")) for name, seed in (("a", 1), ("b", 2))
    )

    def evaluate(name: str, **more: Any) -> Path:
        asked = {"adapt": "lora", "seeds": [0, 1], "out": tmp_path / name, "cache": tmp_path / "cache"} | more
        block = ModelBlock(path=str(model), dtype="float32")
        if task == "toxicity":
            return evaluate_toxicity([train], [test], block, label="toxic", **asked)
        return evaluate_reward([train], [test], block, **asked)

    told: list[str] = []
    whole = evaluate("whole", progress=lambda what, done, total: told.append(what))
    first_of_seed_1 = told.index("training seed 1") + 1
    with pytest.raises(StoppedError):
        evaluate("stopped", progress=stop_after(first_of_seed_1))
    assert [path.name for path in (tmp_path / "stopped" / "seeds").iterdir()] == ["0.json"]
    told.clear()
    evaluate("stopped", progress=lambda what, done, total: told.append(what))
    assert "training seed 0" not in told and "training seed 1" in told
    assert files(tmp_path / "stopped") == files(whole)


def test_the_commands_train_adapters_and_compare_sets_them_beside_heads(tmp_path: Path, model: Path) -> None:
    for task in ("reward", "toxicity"):
        train, test = (
            rows(tmp_path / f"{task}-{name}.jsonl", 12, seed, is_pair=task == "reward")
            for name, seed in (("a", 1), ("b", 2))
        )
        words = ("eval", task, train, "--test", test, "--model", model, "--seeds", "1")
        done = facsynth(*words, "--adapt", "lora", "-o", tmp_path / f"{task}-lora")
        assert done.code == 0, done.stderr
        assert "a LoRA adapter with a head" in done.stdout
        record = json.loads((tmp_path / f"{task}-lora" / "result.json").read_text())
        assert record["recipe"]["rank"] == {"reward": 16, "toxicity": 8}[task]
        assert facsynth(*words, "-o", tmp_path / f"{task}-head").code == 0
        assert facsynth("compare", tmp_path / f"{task}-head", tmp_path / f"{task}-lora").code == 0
