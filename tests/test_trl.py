"""What is exported loads in TRL's trainers, which train a step on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import tiny_run
from facsynth import pipeline
from facsynth.exporting import ExportSettings, export_run
from facsynth.settings import parse_settings

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
trl = pytest.importorskip("trl", reason="TRL is not installed")


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def row_of(form: str, user: str, reply: str) -> dict[str, Any]:
    if form == "chat":
        return {"messages": [turn("user", user), turn("assistant", reply)]}
    return {"prompt": [turn("user", user)], "chosen": [turn("assistant", reply)], "rejected": [turn("assistant", "no")]}


def exported(folder: Path, form: str, layout: Any) -> Any:
    """The training set of a run that selects."""
    from datasets import load_dataset  # every worker would load it, and leave these tests out

    parts = tiny_run.parts(folder)
    for name, rng_seed in (("seed", 1), ("anchor", 2), ("pool", 3)):
        path = tiny_run.corpus(folder / f"{name}.jsonl", 8 if name == "seed" else 60, rng_seed)
        texts = [json.loads(line)["messages"][0]["content"] for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row_of(form, text, text[::-1])) + "\n" for text in texts))
        parts["data"][name] = [str(path)]
    parts["data"]["form"] = form
    parts["budget"] |= {"max_candidates": 0}
    pipeline.run(parse_settings(parts, "the test"), folder / "run", folder / "cache")
    export_run(folder / "run", folder / "data", ExportSettings(layout=layout, mix=True))
    return load_dataset(str(folder / "data"), split="train", cache_dir=str(folder / "hf"))


def step(trainer: Any) -> float:
    return float(trainer.train().training_loss)


@pytest.mark.parametrize("layout", ["trl", "trl-completion"])
def test_sft_trains_a_step(tmp_path: Path, layout: str) -> None:
    rows = exported(tmp_path, "chat", layout)
    settings = trl.SFTConfig(output_dir=str(tmp_path / "out"), max_steps=1, report_to=[], use_cpu=True, bf16=False)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    loss = step(trl.SFTTrainer(model, args=settings, train_dataset=rows, processing_class=tokenizer))
    assert 0 < loss < 100


def test_a_reward_model_trains_a_step(tmp_path: Path) -> None:
    rows = exported(tmp_path, "preference", "trl")
    settings = trl.RewardConfig(output_dir=str(tmp_path / "out"), max_steps=1, report_to=[], use_cpu=True, bf16=False)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    loss = step(trl.RewardTrainer(model, args=settings, train_dataset=rows, processing_class=tokenizer))
    assert 0 < loss < 100
