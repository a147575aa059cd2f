"""Adapters: one that fits is worn as PEFT means it, one for another base is refused; TRL teaches a planted word."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from facsynth.asked import EndpointBlock
from facsynth.errors import InputError, MismatchError, SettingsError
from facsynth.evaluating.instruction import InstructionSettings, evaluate_instruction
from facsynth.evaluating.results import read_result
from facsynth.model.backbone import Backbone
from facsynth.model.tuning import (
    CONFIG,
    WEIGHTS,
    Example,
    SftRecipe,
    adapter_hash,
    check_adapter,
    train_adapter,
    wear_adapter,
)
from facsynth.settings import ModelBlock
from fault_server import Act, FaultServer
from tiny import StoppedError, backbone, save_model
from tiny_cli import facsynth

LAYER = "model.layers.0.self_attn.q_proj"
IDS = torch.arange(20, 40)[None]


def adapter(folder: Path, width: int = 32, base: str = "a/base", layer: str = LAYER) -> Path:
    """LoRA of rank 2 on one layer, in PEFT's layout."""
    folder.mkdir()
    rng = torch.Generator().manual_seed(0)
    shapes = {"A": (2, width), "B": (width, 2)}
    weights = {
        f"base_model.model.{layer}.lora_{part}.weight": torch.randn(shape, generator=rng)
        for part, shape in shapes.items()
    }
    save_file(weights, folder / WEIGHTS)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 6, "target_modules": ["q_proj"],
              "layers_to_transform": [0], "base_model_name_or_path": base}  # fmt: skip
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


def logits(model: Backbone) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.model(IDS).logits
    return found


@pytest.mark.slow
def test_an_adapter_adds_its_product_to_the_weights_it_was_made_for(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", n_blocks=2)
    place = adapter(tmp_path / "adapter")
    bare, by_hand = backbone(folder), backbone(folder)
    worn = wear_adapter(backbone(folder), place)
    parts = {name[-8]: weight for name, weight in load_file(place / WEIGHTS).items()}
    with torch.no_grad():
        by_hand.model.get_submodule(LAYER).weight += 6 / 2 * parts["B"] @ parts["A"]
    torch.testing.assert_close(logits(worn), logits(by_hand), rtol=1e-4, atol=1e-4)
    assert (logits(worn) - logits(bare)).abs().max() > 0.01
    assert worn.fingerprint != bare.fingerprint
    before = adapter_hash(place)
    config = json.loads((place / CONFIG).read_text())
    (place / CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": "/elsewhere"}))
    assert adapter_hash(place) == before, "where the base lay is no part of it"
    (place / CONFIG).write_text(json.dumps(config | {"lora_alpha": 7}))
    assert adapter_hash(place) != before


def test_an_adapter_for_another_base_is_refused_and_both_are_named(tmp_path: Path) -> None:
    model = backbone(save_model(tmp_path / "small", n_blocks=2))
    with pytest.raises(MismatchError, match=r"(?s)trained on a/base: .*q_proj is 64 wide.*small: .*is 32 wide"):
        wear_adapter(model, adapter(tmp_path / "wide", width=64))
    with pytest.raises(MismatchError, match="small: has no such layer"):
        wear_adapter(model, adapter(tmp_path / "deep", layer=LAYER.replace("0", "7")))
    shallow = adapter(tmp_path / "shallow")
    config = json.loads((shallow / CONFIG).read_text())
    (shallow / CONFIG).write_text(json.dumps(config | {"layers_to_transform": None}))
    with pytest.raises(MismatchError, match=r"(?s)matrices for 1 layers.*small: it has 2 of those names"):
        wear_adapter(model, shallow)
    config |= {"layers_to_transform": None}
    for fits in (
        {"peft_type": "IA3"}, {"target_modules": "q"}, {"target_modules": [LAYER.removeprefix("model.")]},
        {"modules_to_save": ["layers.1"]},
    ):  # fmt: skip
        (shallow / CONFIG).write_text(json.dumps(config | fits))
        check_adapter(model, shallow)
    place = adapter(tmp_path / "broken")
    (place / WEIGHTS).write_bytes(b"\xff" * 40)
    with pytest.raises(InputError, match="cannot be read"):
        wear_adapter(model, place)
    (place / CONFIG).unlink()
    with pytest.raises(InputError, match="it has no adapter_config.json"):
        wear_adapter(model, place)


def words(tmp_path: Path, server: FaultServer) -> tuple[object, ...]:
    """The command on a tiny model that is not trained."""
    reference = tmp_path / "ref.json"
    reference.write_text(json.dumps([{"instruction": f"Say {k}.", "output": "x" * (k + 1)} for k in range(4)]))
    server.script = prefers_granite
    return (
        "eval", "instruction", "--test", reference, "--reference", reference, "--dtype", "float32", "--model",
        save_model(tmp_path / "model", n_blocks=2), "--answer-tokens", 4, "--seeds", 1, "--judge-url", server.url,
        "--judge-model", "scripted", "-o", tmp_path / "r",
    )  # fmt: skip


def test_the_command_refuses_it_before_anybody_is_asked(tmp_path: Path, server: FaultServer) -> None:
    done = facsynth(*words(tmp_path, server), "--adapter", adapter(tmp_path / "wide", width=64))
    assert done.code == 1
    assert "is for another base" in done.stderr and "a/base" in done.stderr and not server.answered


@pytest.mark.slow
def test_one_that_fits_answers_though_it_names_another_base(tmp_path: Path, server: FaultServer) -> None:
    done = facsynth(*words(tmp_path, server), "--adapter", adapter(tmp_path / "fits"))
    assert done.code == 0, done.stderr
    assert "the adapter says it was trained on a/base; its matrices fit" in done.stderr


def test_settings_that_teach_nothing_are_refused() -> None:
    with pytest.raises(SettingsError, match="n_epochs is 0"):
        SftRecipe(n_epochs=0)


def prefers_granite(body: dict[str, Any], seen: int) -> Act:
    del seen
    prompt = body["messages"][0]["content"]
    a, b = ("granite" in found for found in re.findall(r"^Answer [AB]: (.*)$", prompt, re.MULTILINE))
    return Act(text=json.dumps({"better": "tie" if a == b else "A" if a else "B"}))


FAST = SftRecipe(n_epochs=12, learning_rate=0.02)


def chats(path: Path, n: int = 32) -> Path:
    rows = [{"instruction": f"Which stone is number {k}?", "output": "granite"} for k in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
def test_a_model_that_is_taught_a_word_wins_under_a_judge_that_wants_it(tmp_path: Path, server: FaultServer) -> None:
    model = ModelBlock(path=str(save_model(tmp_path / "model", n_blocks=2, rng_seed=1)), dtype="float32")
    train, reference = chats(tmp_path / "train.jsonl"), tmp_path / "ref.json"
    rows = [{"instruction": f"Which stone is number {k}?", "output": f"slate {k}"} for k in range(28, 40)]
    reference.write_text(json.dumps(rows))
    server.script = prefers_granite
    judge = EndpointBlock(url=server.url, model="scripted")

    def evaluate(train: list[str], out: str, **more: Any) -> dict[str, Any]:
        settings = InstructionSettings((0, 1), FAST, 8)
        folder = evaluate_instruction(
            train, [str(reference)], str(reference), model, settings, judge=judge,
            out=tmp_path / out, cache=tmp_path / "cache", **more,
        )  # fmt: skip
        return read_result(folder).record

    def stop(what: str, done: int, total: int | None) -> None:
        if what == "training" and done == 3 and (tmp_path / "tuned" / "verdicts-0.jsonl").exists():
            raise StoppedError

    with pytest.raises(StoppedError):  # while it trains for the second seed
        evaluate([str(train)], "tuned", progress=stop)
    first = {path.name: path.read_bytes() for path in (tmp_path / "tuned" / "adapter-0").iterdir()}
    found = evaluate([str(train)], "tuned")
    assert {path.name: path.read_bytes() for path in (tmp_path / "tuned" / "adapter-0").iterdir()} == first
    assert (found["value"], found["by_seed"]) == (1.0, [1.0, 1.0])
    assert (found["n_seen"], found["unseen"]["n_test"], found["unseen"]["value"]) == (4, 8, 1.0)
    assert max(server.answered.values()) == 1
    assert evaluate([], "bare")["value"] == 0.5, "neither says it"
    worn = evaluate([], "worn", adapter=tmp_path / "tuned" / "adapter-1")
    assert worn["value"] == 1.0
    a, b = (load_file(tmp_path / "tuned" / f"adapter-{seed}" / WEIGHTS) for seed in (0, 1))
    assert any(not torch.equal(a[name], b[name]) for name in a), "seeds differ"


@pytest.mark.slow
def test_a_seed_repeats_its_training_and_leaves_the_generators_of_the_process_alone(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", n_blocks=2)
    examples = [Example(list(range(20 + k, 30 + k)), 4) for k in range(8)]
    found = []
    for name in ("a", "b"):
        torch.manual_seed(3 if name == "a" else 4)
        state, drawn = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
        train_adapter(backbone(folder), examples, SftRecipe(n_epochs=1), rng_seed=5, out=tmp_path / name)
        assert torch.equal(torch.get_rng_state(), state)
        assert np.random.get_state()[1].tolist() == drawn  # noqa: NPY002
        found.append((tmp_path / name / WEIGHTS).read_bytes())
    assert found[0] == found[1]
