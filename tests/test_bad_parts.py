"""Models, tokenizers and SAEs that cannot be used, from the command line: what is wrong, the way out, nothing run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ByT5Tokenizer

import foreign
import tiny
from test_bad_input import told
from test_sae_bad_files import Trap
from tiny_cli import Parts, facsynth

WIDE = foreign.weights(32, 128)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(tmp_path_factory.mktemp("parts"))


def measure(parts: Parts, *words: object) -> Any:
    return facsynth("coverage", parts.seed, *parts.options, *words)


def changed(parts: Parts, name: str, change: Callable[[Path], object]) -> Path:
    """A copy of the model with something done to it."""
    folder = Path(shutil.copytree(parts.model, parts.folder / name, dirs_exist_ok=True))
    change(folder)
    return folder


def edited(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | keys), encoding="utf-8")


def with_code(folder: Path, file: str, auto_map: dict[str, Any], **keys: Any) -> None:
    edited(folder / file, auto_map=auto_map, **keys)
    (folder / "code_of_its_own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Model: pass\n")


MODEL_CODE = {"AutoConfig": "code_of_its_own.Model", "AutoModelForCausalLM": "code_of_its_own.Model"}
TOKENIZER_CODE = {"AutoTokenizer": ["code_of_its_own.Model", "code_of_its_own.Model"]}


def test_a_model_that_needs_code_of_its_own_is_refused_and_the_code_is_not_run(parts: Parts) -> None:
    model = changed(
        parts,
        "mystery",
        lambda f: with_code(f, "config.json", MODEL_CODE, model_type="mystery", architectures=["Model"]),
    )
    done = measure(parts, "--model", model)
    told(
        done,
        1,
        f"the model in {model} needs code of its own (auto_map in its config), which is never run",
        "\nTake",
    )
    assert "trust_remote_code" not in done.stderr, "transformers' own advice is to run it"
    assert not (model / "ran").exists()


def test_a_tokenizer_that_needs_code_of_its_own_is_refused_and_the_code_is_not_run(parts: Parts) -> None:
    model = changed(
        parts,
        "words",
        lambda f: with_code(f, "tokenizer_config.json", TOKENIZER_CODE, tokenizer_class="MysteryTokenizer"),
    )
    (model / "tokenizer.json").unlink()
    told(
        measure(parts, "--model", model),
        1,
        "needs code of its own (auto_map in its config)",
        "never run",
    )
    assert not (model / "ran").exists()


def test_code_beside_a_model_that_does_not_need_it_is_left_alone(parts: Parts) -> None:
    model = changed(parts, "known", lambda f: with_code(f, "config.json", MODEL_CODE))
    assert measure(parts, "--model", model).code == 0
    assert not (model / "ran").exists()
    (model / "model.safetensors").write_bytes(b"torn")
    told(
        measure(parts, "--model", model), 1, f"cannot load a causal language model from {model}", "deserializing header"
    )


def test_a_pickle_in_the_place_of_weights_runs_no_code(parts: Parts) -> None:
    marker = parts.folder / "marker"
    model = changed(parts, "pickled", lambda f: (f / "model.safetensors").unlink())
    torch.save({"lm_head.weight": torch.ones(2), "trap": Trap(marker)}, model / "pytorch_model.bin")
    told(measure(parts, "--model", model), 1, f"cannot load a causal language model from {model}")
    torch.save({**foreign.FOUR, "trap": Trap(marker)}, parts.folder / "L0_5.sae.pt")
    done = measure(parts, "--sae", parts.folder / "L0_5.sae.pt")
    told(done, 1, "is a pickle that holds more than tensors: it calls ", "Nothing of it was run. Have its author save")
    assert not marker.exists()


def test_a_tokenizer_without_a_padding_token_works(parts: Parts) -> None:
    def bare(folder: Path) -> None:
        tokens = tiny.tokenizer()
        tokens.pad_token = None
        tokens.save_pretrained(folder)

    model = changed(parts, "unpadded", bare)
    done = measure(parts, "--model", model, "--json")
    assert done.code == 0, done.stderr
    padded = json.loads(measure(parts, "--json").stdout)
    assert {k: v for k, v in json.loads(done.stdout).items() if k != "fingerprints"} == {
        k: v for k, v in padded.items() if k != "fingerprints"
    }


def test_a_slow_tokenizer_is_refused_with_the_way_out(parts: Parts) -> None:
    def slow(folder: Path) -> None:
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            (folder / name).unlink(missing_ok=True)
        ByT5Tokenizer().save_pretrained(folder)

    model = changed(parts, "slow", slow)
    told(
        measure(parts, "--model", model),
        2,
        "ByT5Tokenizer is a slow one and gives no character offsets",
        "tokenizer.json",
    )


def test_activations_that_half_precision_cannot_hold(parts: Parts) -> None:
    def hot(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors["model.layers.0.mlp.down_proj.weight"].mul_(2e4)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    model = changed(parts, "hot", hot)
    words = "gives NaN or infinity at layers.1 in torch.float16", "Try float32 or bfloat16"
    told(measure(parts, "--model", model, "--dtype", "float16"), 1, *words)
    told(facsynth("check", parts.anchor, "--model", model, "--sae", parts.sae, "--dtype", "float16"), 1, *words)


def cut(folder: Path) -> Path:
    path = folder / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return folder


def lacking(folder: Path) -> Path:
    tensors = load_file(folder / "sae_weights.safetensors")
    del tensors["b_dec"]
    save_file(tensors, folder / "sae_weights.safetensors")
    return folder


def topk(folder: Path, **changed: Any) -> Path:
    return foreign.saelens(folder, WIDE, "topk", k=6, **changed)


THRESHOLD = {"threshold": WIDE.torch("threshold")}
TOO_LARGE = {"b_enc": torch.full((128,), 1e6).half()}
SAES: dict[str, tuple[Callable[[Path], Path], int, str]] = {
    "cut": (lambda f: cut(topk(f)), 1, "cannot be read as safetensors"),
    "lacking a tensor": (lambda f: lacking(topk(f)), 1, "it lacks b_dec"),
    "config of another": (lambda f: topk(f, tensors=THRESHOLD), 1, "its config says topk, its tensors do not"),
    "too large for float16": (lambda f: topk(f, tensors=TOO_LARGE), 1, "float16 ends at 65,504"),
    "hook of an MLP in TransformerLens": (
        lambda f: topk(f, metadata={"hook_name": "blocks.1.hook_mlp_out"}), 2, "its blocks are layers.0 to layers.1"),
    "hook that is not there": (topk, 2, "llama has no module 'layers.3'; its blocks are layers.0 to layers.1"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAES)
def test_an_sae_file_that_cannot_be_used(name: str, parts: Parts) -> None:
    make, code, words = SAES[name]
    sae = make(parts.folder / name.replace(" ", "-"))
    told(measure(parts, "--sae", sae), code, words)
    told(facsynth("check", parts.seed, "--model", parts.model, "--sae", sae), code, words)
