"""SAEs by name: what is asked of the Hub, what is said when it is out of reach, and what SAELens opens."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects

from facsynth.assemble import open_sae
from facsynth.errors import ModelError, SettingsError
from facsynth.model.sae_hub import config_files, fetch, weight_files

LISTED = [
    "README.md", "cfg.json", "sae_weights.safetensors", "config.json", "layer0.sae.pt", "layer1.sae.pt",
    "layers.1/cfg.json", "layers.1/sae.safetensors", "layers.2/cfg.json", "layers.2/sae.safetensors",
    "layer_20/width_16k/average_l0_71/params.npz", "layer_20/width_16k/average_l0_9/params.npz",
    "L8R-8x/hyperparams.json", "L8R-8x/checkpoints/final.safetensors", "L9R-8x/checkpoints/final.safetensors",
    "model/model.safetensors",
]  # fmt: skip


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("", {"cfg.json", "sae_weights.safetensors", "config.json"}),
        ("layer1.sae.pt", {"layer1.sae.pt", "cfg.json", "config.json"}),
        ("layers.1", {"layers.1/cfg.json", "layers.1/sae.safetensors", "config.json"}),
        ("layer_20/width_16k/average_l0_71", {"layer_20/width_16k/average_l0_71/params.npz"}),
        ("L8R-8x", {"L8R-8x/hyperparams.json", "L8R-8x/checkpoints/final.safetensors", "config.json"}),
    ],
)
def test_only_the_files_of_that_sae_are_asked_for(inside: str, expected: set[str]) -> None:
    patterns = weight_files(inside) + config_files(inside)
    assert set(filter_repo_objects(LISTED, allow_patterns=patterns)) == expected
    assert not [pattern for pattern in patterns if ".." in pattern or pattern.startswith("/")]


@pytest.mark.parametrize("name", ["hf:owner/name", "hf:owner/name:layers.1", "hf:owner/name:a/b/layer0.sae.pt"])
def test_an_sae_that_cannot_be_had_is_a_message(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=rf"no SAE {name}: not to be had from the Hub\n.+\nCheck the name and the conn"
    ):
        open_sae(name, tmp_path)


@pytest.mark.parametrize("name", ["hf:owner", "hf:a/b/c", "hf:", "hf:owner/name:../../etc"])
def test_a_name_of_another_form_is_a_settings_error(name: str) -> None:
    with pytest.raises(SettingsError, match="names no SAE on the Hub\nWrite hf:owner/name"):
        fetch(name)


def test_what_was_fetched_before_is_opened_without_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    import foreign

    asked = []

    def snapshot_download(repository: str, *, allow_patterns: list[str]) -> str:
        asked.append(repository)
        return str(tmp_path / "models--Qwen--SAE-Res-Qwen3-8B-Base-W64K-L0_5" / "snapshots" / "abc")

    foreign.qwen_scope(Path(snapshot_download("", allow_patterns=[])), foreign.W)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    sae = open_sae("hf:Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_5:layer3.sae.pt", tmp_path)
    assert (sae.k, sae.hook_point, sae.model_name) == (5, "layers.3", "Qwen/Qwen3-8B-Base")
    assert asked == ["", "Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_5"]
    with pytest.raises(
        ModelError, match=r"has no SAE of a usual name at layer9\nName its file, .*: hf:owner/name:path"
    ):
        fetch("hf:owner/name:layer9")


def test_without_saelens_its_install_line_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    with pytest.raises(ModelError, match=r"pip install 'facsynth\[saelens\]'"):
        open_sae("saelens:gpt2-small-res-jb:blocks.3.hook_resid_pre", tmp_path)
    with pytest.raises(SettingsError, match="Write saelens:RELEASE:SAE_ID"):
        open_sae("saelens:gpt2-small-res-jb", tmp_path)
