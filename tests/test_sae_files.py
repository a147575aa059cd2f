"""Which format a file is, what decides where that is open, and what may be given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import foreign
from facsynth.errors import ModelError, SettingsError
from facsynth.model.sae_files import read_weights
from facsynth.model.sae_formats import detect, find_weights, open_local
from facsynth.model.sae_table import FORMATS
from foreign import MADE, W, linear

TOPK_OR_BATCH = {**linear(W), "b_dec": W.torch("b_dec"), "k": torch.tensor(5), "threshold": torch.tensor(0.7)}


@pytest.mark.parametrize("name", MADE)
def test_a_format_is_known_by_its_keys(name: str, tmp_path: Path) -> None:
    held = read_weights(find_weights(MADE[name](tmp_path)))
    assert detect(held).name == name


def test_every_format_of_the_table_is_made_here() -> None:
    assert MADE.keys() == {row.name for row in FORMATS}


def test_names_of_files_decide_nothing(tmp_path: Path) -> None:
    path = foreign.put(tmp_path / "ae.pt", {**linear(W), "bias": W.torch("b_dec")})
    assert open_local(path.rename(tmp_path / "layer3.sae.pt")).format == "dictionary_learning"


def test_a_file_and_its_folder_are_the_same(tmp_path: Path) -> None:
    folder = foreign.saelens(tmp_path, W, "standard")
    by_file, by_folder = open_local(folder / "sae_weights.safetensors"), open_local(folder)
    assert (by_file.weights, dict(by_file.used)) == (by_folder.weights, dict(by_folder.used))


def test_what_lies_beside_an_sae_is_none(tmp_path: Path) -> None:
    foreign.qwen_scope(tmp_path, W)
    foreign.put(tmp_path / "sparsity.safetensors", {"sparsity": torch.zeros(3)})
    (tmp_path / "trainer_state.pt").write_bytes(b"not read")
    assert find_weights(tmp_path).name == "layer3.sae.pt"


def test_a_folder_of_many_is_listed(tmp_path: Path) -> None:
    for layer in range(10):
        foreign.qwen_scope(tmp_path, W, file=f"layer{layer}.sae.pt")
    with pytest.raises(ModelError, match=r"holds 10 files that may be SAEs: layer0.sae.pt, .* …\nName one of them"):
        open_local(tmp_path)


def test_folders_below_are_named(tmp_path: Path) -> None:
    for hook_point in ("layers.1", "layers.2"):
        foreign.sparsify(tmp_path / hook_point, W)
    with pytest.raises(ModelError, match=r"itself, but in layers.1, layers.2\nName one of them with --sae"):
        open_local(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no SAE in .*empty\nGive a file or folder"):
        open_local(tmp_path / "empty")
    with pytest.raises(ModelError, match="there is no such file or folder"):
        open_local(tmp_path / "nowhere")


def test_topk_or_batchtopk_is_decided_by_the_config_or_by_k(tmp_path: Path) -> None:
    path = foreign.put(tmp_path / "ae.pt", TOPK_OR_BATCH)
    with pytest.raises(ModelError, match=r"(?s)k = 5, a threshold of 0.7.*TopK or BatchTopK\?.*config.json.*--sae-k"):
        open_local(path)
    assert open_local(path, k=5).sae.architecture == "topk"
    foreign.put_json(tmp_path / "config.json", trainer={"dict_class": "BatchTopKSAE"})
    assert open_local(path).sae.architecture == "jumprelu"


def test_without_a_threshold_it_is_topk(tmp_path: Path) -> None:
    path = foreign.put(tmp_path / "ae.pt", {**linear(W), "b_dec": W.torch("b_dec")})
    foreign.put_json(tmp_path / "config.json", trainer={"k": 7})
    assert open_local(path).sae.k == 7


def test_k_that_stands_nowhere_is_asked_for(tmp_path: Path) -> None:
    path = foreign.qwen_scope(tmp_path, W)
    with pytest.raises(ModelError, match=r"does not say how many latents a token keeps \(k\)\nGive it with --sae-k"):
        open_local(path)
    opened = open_local(path, k=3)
    assert (opened.sae.k, opened.used["k"]) == (3, 3)
    assert open_local(foreign.qwen_scope(tmp_path / "W1K-L0_9", W), k=3).sae.k == 3


def test_k_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    folder = foreign.sparsify(tmp_path / "layers.1", W)
    assert open_local(folder, k=4).sae.k == 4
    with pytest.raises(SettingsError, match=r"says k = 4, --sae-k says 5"):
        open_local(folder, k=5)
    with pytest.raises(SettingsError, match="is a standard SAE: it has no k"):
        open_local(foreign.saelens(tmp_path / "relu", W, "standard"), k=5)


def test_a_hook_point_is_taken_from_the_file_then_as_given_then_from_the_name(tmp_path: Path) -> None:
    stored = foreign.saelens(tmp_path / "stored", W, "standard")
    assert open_local(stored, hook_point="layers.9").sae.hook_point == "layers.3"
    named = foreign.sparsify(tmp_path / "layers.5", W)
    assert open_local(named, hook_point="layers.9").sae.hook_point == "layers.9"
    assert open_local(named).sae.hook_point == "layers.5"
    nameless = foreign.sparsify(tmp_path / "mine", W)
    assert open_local(nameless).sae.hook_point == ""
    assert open_local(nameless, hook_point="model.layers.9").sae.hook_point == "layers.9"
    metadata = {"hook_name": "blocks.3.hook_mlp_out"}
    elsewhere = foreign.saelens(tmp_path / "mlp", W, "standard", metadata=metadata)
    assert open_local(elsewhere).sae.hook_point == "blocks.3.hook_mlp_out"
    assert open_local(elsewhere, hook_point="layers.3.mlp").sae.hook_point == "layers.3.mlp"


def test_what_only_says_more_may_be_damaged(tmp_path: Path) -> None:
    path = foreign.put(tmp_path / "ae" / "ae.pt", {**linear(W), "bias": W.torch("b_dec")})
    (tmp_path / "ae" / "eval_results.json").write_text("{")
    foreign.put_json(tmp_path / "ae" / "config.json", trainer={"layer": 3, "dict_class": "AutoEncoder"})
    assert open_local(path).sae.declared.l0 is None
    foreign.put_json(tmp_path / "ae" / "eval_results.json", l0="many", frac_variance_explained=True)
    assert open_local(path).sae.declared.explained_variance is None
    (tmp_path / "config.json").write_text("{")
    assert open_local(foreign.sparsify(tmp_path / "layers.1", W)).sae.model_name == ""
