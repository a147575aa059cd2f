"""Activations at the hook are those of the whole model, whatever they are batched with, and nothing more is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from facsynth.errors import ModelError, SettingsError
from facsynth.features.encode import EncodeSettings, FeatureSpace
from facsynth.model.backbone import Backbone
from facsynth.model.batching import batches, pad
from facsynth.model.final import final_states
from facsynth.model.sae import hook_point_of
from tiny_backbone import LENGTHS, everything, folders_in, sequences

KINDS = (*tiny.FAMILIES, *(f"{family} with a window" for family in tiny.WINDOWED))


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return folders_in(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def llama(folder_of: Callable[[str], Path]) -> Backbone:
    return tiny.backbone(folder_of("llama"))


@pytest.mark.parametrize("family", KINDS)
def test_the_hook_gives_the_hidden_states_after_its_block(family: str, folder_of: Callable[[str], Path]) -> None:
    for block in (0, 2):
        backbone = tiny.backbone(folder_of(family), f"layers.{block}")
        for row in sequences():
            with torch.no_grad():
                whole = backbone.model(input_ids=torch.tensor(row)[None].long(), output_hidden_states=True)
            found = backbone.activations([row], everything([row]))
            assert found.shape == (len(row), backbone.d_model)
            torch.testing.assert_close(found, whole.hidden_states[block + 1][0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", KINDS)
def test_batch_order_and_padding_change_nothing(family: str, folder_of: Callable[[str], Path]) -> None:
    backbone = tiny.backbone(folder_of(family), "layers.2")
    ids = sequences()
    alone = [backbone.activations([row], everything([row])) for row in ids]
    together = backbone.activations(ids, everything(ids)).split(list(LENGTHS))
    backwards = backbone.activations(ids[::-1], everything(ids)[::-1]).split(list(LENGTHS[::-1]))
    for one, two, three in zip(alone, together, backwards[::-1], strict=True):
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(three, one, rtol=1e-4, atol=1e-4)
    padded, attention, positions = pad(ids, side="left")  # as writing needs it
    with torch.no_grad():
        left = backbone.model(
            input_ids=padded, attention_mask=attention, position_ids=positions, output_hidden_states=True
        ).hidden_states[3]
    for row, one in enumerate(alone):
        torch.testing.assert_close(left[row, -len(one) :], one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", KINDS)
def test_padding_without_a_mask_equals_a_masked_run(family: str, folder_of: Callable[[str], Path]) -> None:
    backbone = tiny.backbone(folder_of(family), "layers.2")
    ids = sequences()
    padded, attention, _ = pad(ids, side="right")
    with torch.no_grad():
        masked = backbone.model(input_ids=padded, attention_mask=attention, output_hidden_states=True).hidden_states[3]
    found = backbone.activations(ids, everything(ids))
    torch.testing.assert_close(found, masked[attention.bool()], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", tiny.WINDOWED)
def test_a_window_decides_what_a_token_sees(family: str, folder_of: Callable[[str], Path]) -> None:
    wide, windowed = (
        tiny.backbone(folder_of(name), "layers.3").activations(sequences(), everything(sequences()))[-LENGTHS[-1] :]
        for name in (f"{family} with a wide window", f"{family} with a window")
    )
    torch.testing.assert_close(windowed[:8], wide[:8], rtol=1e-4, atol=1e-4)
    assert (windowed[9:] - wide[9:]).abs().max() > 0.1


def test_only_the_kept_positions_come_back_in_order(llama: Backbone) -> None:
    ids = sequences()
    rng = np.random.default_rng(1)
    keep = [rng.random(len(row)) < 0.5 for row in ids]
    found = llama.activations(ids, keep)
    whole = llama.activations(ids, everything(ids))
    assert torch.equal(found, whole[torch.from_numpy(np.concatenate(keep))])
    assert 0 < len(found) < len(whole)


def test_blocks_behind_the_hook_and_the_head_are_never_run(llama: Backbone) -> None:
    ran: list[str] = []
    modules = dict(llama.model.named_modules())
    names = [*(f"model.layers.{block}" for block in range(4)), "model.norm", "lm_head"]
    handles = [modules[n].register_forward_pre_hook(lambda module, inputs, n=n: ran.append(n)) for n in names]
    llama.activations(sequences(), everything(sequences()))
    for handle in handles:
        handle.remove()
    assert ran == ["model.layers.0", "model.layers.1"]


def n_hooks(backbone: Backbone) -> int:
    return sum(len(module._forward_hooks) for module in backbone.model.modules())


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("x"), KeyboardInterrupt()]
)
def test_an_error_in_the_forward_pass_comes_through_and_leaves_no_hook(llama: Backbone, error: BaseException) -> None:
    def fail(module: Any, inputs: Any) -> None:
        raise error

    ids = sequences()
    before = llama.activations(ids, everything(ids))
    handle = llama.model.base_model.layers[0].register_forward_pre_hook(fail)
    with pytest.raises(type(error)) as caught:
        llama.activations(ids, everything(ids))
    handle.remove()
    assert caught.value is error
    assert n_hooks(llama) == 0
    assert torch.equal(llama.activations(ids, everything(ids)), before)


@pytest.mark.parametrize(
    ("family", "blocks"),
    [("llama", "layers.0 to layers.3"), ("gpt2", "h.0 to h.3"), ("gpt_neox", "layers.0 to layers.3")],
)
@pytest.mark.parametrize("hook_point", ["layers.4", "blocks.1.hook_resid_post", ""])
def test_an_unknown_module_is_a_settings_error_that_lists_the_blocks(
    family: str, blocks: str, hook_point: str, folder_of: Callable[[str], Path]
) -> None:
    with pytest.raises(SettingsError, match=f"has no module '{hook_point}'; its blocks are {blocks}"):
        tiny.backbone(folder_of(family), hook_point)


def test_a_text_longer_than_the_model_knows_positions_for_is_refused(folder_of: Callable[[str], Path]) -> None:
    llama = tiny.backbone(folder_of("gpt2"), "h.1")
    long = [np.ones(llama.max_positions + 1, np.int32)]
    with pytest.raises(ModelError, match=f"Set max_tokens to at most {llama.max_positions}"):
        llama.activations(long, everything(long))


@pytest.mark.parametrize("hook_point", ["layers.1", "model.layers.1", "layers.1.mlp", "norm"])
def test_a_module_is_found_from_the_body_and_from_the_top(hook_point: str, folder_of: Callable[[str], Path]) -> None:
    ids = sequences()
    assert len(tiny.backbone(folder_of("llama"), hook_point).activations(ids, everything(ids))) == sum(LENGTHS)


@pytest.mark.parametrize("hook_point", ["rotary_emb", "lm_head", "layers.0.mlp.gate_proj", "layers"])
def test_a_module_without_activations_for_every_token_is_refused(
    hook_point: str, folder_of: Callable[[str], Path]
) -> None:
    ids = sequences()
    backbone = tiny.backbone(folder_of("llama"), hook_point)
    with pytest.raises(ModelError, match=f"{hook_point} of llama gives no activations of width 32"):
        backbone.activations(ids, everything(ids))
    assert n_hooks(backbone) == 0


@given(st.lists(st.integers(1, 200), max_size=60), st.integers(1, 600))
def test_batches_hold_every_sequence_once_within_the_budget(lengths: list[int], token_budget: int) -> None:
    found = list(batches(lengths, token_budget))
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= token_budget
    flat = [lengths[index] for batch in found for index in batch]
    assert flat == sorted(flat, reverse=True)
    for batch, following in zip(found, found[1:], strict=False):
        assert (len(batch) + 1) * lengths[batch[0]] > token_budget, f"{following[0]} had room"


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.sampled_from(["left", "right"]))
def test_padding_keeps_tokens_and_counts_positions_from_the_first(lengths: list[int], side: str) -> None:
    ids = [np.arange(1, n + 1, dtype=np.int32) for n in lengths]
    padded, attention, positions = pad(ids, side=side)
    for row, tokens in enumerate(ids):
        real = attention[row].bool()
        assert padded[row][real].tolist() == tokens.tolist()
        assert positions[row][real].tolist() == list(range(len(tokens)))
        assert not padded[row][~real].any()
        assert real[0 if side == "right" else -1]


@pytest.mark.parametrize("family", tiny.SEEING)
def test_a_model_that_sees_pictures_is_hooked_in_its_language_model(family: str, tmp_path: Path) -> None:
    backbone, ids = tiny.backbone(tiny.save_seeing_model(tmp_path / "model", family), "layers.1"), sequences()
    with torch.no_grad():
        whole = backbone.model(input_ids=torch.tensor(ids[-1])[None].long(), output_hidden_states=True)
    found = backbone.activations(ids[-1:], everything(ids[-1:]))
    torch.testing.assert_close(found, whole.hidden_states[2][0], rtol=1e-4, atol=1e-4)
    nested = tiny.SEEING[family]
    for name in ("layers.1", f"{nested}.layers.1", f"model.{nested}.layers.1"):
        assert backbone.is_hooked_at(name)
        sae = replace(tiny.random_sae(), hook_point=hook_point_of(name))
        assert sae.hook_point == "layers.1"
        FeatureSpace(backbone, sae, EncodeSettings())
    assert not backbone.is_hooked_at("layers.2") and not backbone.is_hooked_at("vision_tower.encoder.layers.1")
    with pytest.raises(SettingsError, match=r"has no module 'layers.9'; its blocks are layers.0 to layers.2\n"):
        backbone.hooked_at("layers.9")


@pytest.mark.parametrize("family", [*KINDS, *tiny.SEEING])
def test_final_states_are_those_before_the_head(family: str, folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tiny.save_seeing_model(tmp_path, family) if family in tiny.SEEING else folder_of(family)
    backbone = tiny.backbone(folder, "layers.1")
    found = torch.from_numpy(final_states(backbone, sequences()))
    for row, state in zip(sequences(), found, strict=True):
        with torch.no_grad():
            whole = backbone.model(input_ids=torch.tensor(row)[None].long(), output_hidden_states=True)
        torch.testing.assert_close(state, whole.hidden_states[-1][0, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", tiny.SEEING)
def test_what_sees_pictures_is_never_run(family: str, tmp_path: Path) -> None:
    backbone = tiny.backbone(tiny.save_seeing_model(tmp_path / "model", family), "layers.1")
    ran: list[str] = []
    for name, module in backbone.model.named_modules():
        module.register_forward_pre_hook(lambda module, inputs, name=name: ran.append(name))
    backbone.activations(sequences(), everything(sequences()))
    nested = f"model.{tiny.SEEING[family]}"
    assert f"{nested}.layers.1" in ran
    assert all(name.startswith(nested) for name in ran)
    assert not {f"{nested}.layers.2", f"{nested}.norm"} & set(ran)


def test_a_model_whose_head_is_called_its_decoder_is_hooked_in_its_body(tmp_path: Path) -> None:
    ends = {"pad_token_id": 3, "eos_token_id": 1, "bos_token_id": 0, "cls_token_id": 0, "sep_token_id": 1}
    backbone = tiny.backbone(tiny.save_model(tmp_path / "model", "modernbert-decoder", **ends))
    assert len(backbone.activations(sequences(), everything(sequences()))) == sum(LENGTHS)
