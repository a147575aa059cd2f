"""Tokens that all sequences begin with are run once, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from facsynth.features.encode import EncodeSettings, FeatureSpace
from facsynth.model.backbone import Backbone
from facsynth.model.prefix import FEWEST, shared_prefix
from facsynth.records import Message, Sample
from tiny import chats

KINDS = (*tiny.FAMILIES, *(f"{family} with a window" for family in tiny.WINDOWED))
N_SHARED, WINDOW = 12, 16
"""A window begins to leave tokens out while the sequences are read, and not before."""


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("models")

    def folder_of(kind: str) -> Path:
        path, family = root / kind, kind.partition(" ")[0]
        config: dict[str, Any] = tiny.WINDOWED[family] | {"sliding_window": WINDOW} if "window" in kind else {}
        return path if path.exists() else tiny.save_model(path, family, n_blocks=4, **config)

    return folder_of


def sequences() -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    start = rng.integers(20, 200, N_SHARED).astype(np.int32)
    return [np.concatenate([start, rng.integers(20, 200, n).astype(np.int32)]) for n in (1, 5, 17, 40)]


def after(ids: list[np.ndarray[Any, Any]], n: int) -> list[np.ndarray[Any, Any]]:
    return [np.arange(len(row)) >= n for row in ids]


def run_tokens(backbone: Backbone, call: Callable[[], Any]) -> tuple[Any, list[tuple[int, int]]]:
    """What `call` gives, and the sizes of the inputs of the first block meanwhile."""
    sizes: list[tuple[int, int]] = []
    block = next(m for name, m in backbone.model.base_model.named_modules() if name in {"layers.0", "h.0"})
    handle = block.register_forward_pre_hook(lambda module, inputs: sizes.append(tuple(inputs[0].shape[:2])))
    try:
        return call(), sizes
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_a_shared_beginning_is_run_once_and_changes_nothing(kind: str, folder_of: Callable[[str], Path]) -> None:
    backbone, ids = tiny.backbone(folder_of(kind), "layers.2"), sequences()
    keep = after(ids, N_SHARED)
    whole = backbone.activations(ids, keep)
    found, sizes = run_tokens(backbone, lambda: backbone.activations(ids, keep, N_SHARED))
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-4)
    assert sizes == [(1, N_SHARED), (4, 40)]
    again, sizes = run_tokens(backbone, lambda: backbone.activations(ids[::-1], keep[::-1], N_SHARED))
    assert sizes == [(4, 40)], "the same beginning is kept"
    counts = [int(mask.sum()) for mask in keep]
    for one, other in zip(again.split(counts[::-1])[::-1], whole.split(counts), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert torch.equal(backbone.activations(ids, keep, N_SHARED), found)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layer_types", ["full_attention", "linear_attention", "full_attention"]),
        ("sliding_window", N_SHARED - 1),
        ("rope_parameters", {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
        ("rope_parameters", {"full_attention": {"rope_type": "longrope"}}),
    ],
)
def test_where_a_beginning_may_not_be_the_same_for_all_everything_is_run(
    name: str, value: object, tmp_path: Path
) -> None:
    backbone, ids = tiny.backbone(tiny.save_model(tmp_path / "llama"), "layers.1"), sequences()
    setattr(backbone.model.config, name, value)
    found, sizes = run_tokens(backbone, lambda: backbone.activations(ids, after(ids, N_SHARED), N_SHARED))
    assert sizes == [(4, N_SHARED + 40)]
    assert len(found) == sum(len(row) - N_SHARED for row in ids)


def test_samples_give_the_same_with_and_without_others_that_share_their_header(tmp_path: Path) -> None:
    backbone = tiny.backbone(tiny.save_model(tmp_path / "llama"), "layers.1")
    space = FeatureSpace(backbone, tiny.random_sae(), EncodeSettings(form="message"))
    system = Message("system", "answer in few words and never in capital letters please")
    samples = [Sample((system, *sample.messages)) for sample in chats(12)]
    together, sizes = run_tokens(backbone, lambda: space.pool(samples))
    assert sizes[0][0] == 1 and sizes[0][1] >= FEWEST
    for index, sample in enumerate(samples):
        alone = space.pool([sample]).maxima(0)
        assert together.maxima(index).keys() == alone.keys()
        assert together.maxima(index) == {
            feature: (pytest.approx(value, rel=1e-4), position) for feature, (value, position) in alone.items()
        }


@given(st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=2, max_size=20), st.integers(1, 19)), max_size=5))
def test_what_is_shared_is_a_beginning_of_all_and_holds_nothing_that_is_kept(
    rows: list[tuple[list[int], int]],
) -> None:
    start = list(range(100, 107))
    ids = [np.array(start + row, np.int32) for row, _ in rows]
    keep = [np.arange(len(row)) >= min(7 + first, len(row) - 1) for row, (_, first) in zip(ids, rows, strict=True)]
    n = shared_prefix(ids, keep)
    assert n == 0 or n >= FEWEST
    for row, mask in zip(ids, keep, strict=True):
        assert row[:n].tolist() == ids[0][:n].tolist()
        assert not mask[:n].any() and n < len(row)
    longer = min((len(row) for row in ids), default=0)
    same = next((i for i in range(longer) if len({int(row[i]) for row in ids}) > 1), longer)
    first_kept = min((int(mask.argmax()) for mask in keep), default=0)
    best = min(same, first_kept)
    assert n == (best if len(ids) > 1 and best >= FEWEST else 0)


def test_a_run_of_a_beginning_that_fails_leaves_the_last_one_as_it_was(tmp_path: Path) -> None:
    backbone, ids = tiny.backbone(tiny.save_model(tmp_path / "llama"), "layers.1"), sequences()
    expected = backbone.activations(ids, after(ids, N_SHARED), N_SHARED)
    others = [np.concatenate([row[:N_SHARED] + 1, row[N_SHARED:]]) for row in ids]

    def fail(module: Any, inputs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    handle = backbone.model.base_model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        backbone.activations(others, after(others, N_SHARED), N_SHARED)
    handle.remove()
    assert torch.equal(backbone.activations(ids, after(ids, N_SHARED), N_SHARED), expected)


def test_keys_and_values_of_a_long_beginning_are_not_repeated_for_too_many(tmp_path: Path) -> None:
    backbone = tiny.backbone(tiny.save_model(tmp_path / "llama"), "layers.1")
    space, system = FeatureSpace(backbone, tiny.random_sae(), EncodeSettings()), Message("system", "river oven " * 300)
    samples = [Sample((system, Message("user", f"hi {n}"))) for n in range(40)]
    tokens = space.read(samples).tokens
    n_shared = shared_prefix([t.ids for t in tokens], [t.content for t in tokens])
    budget, (_, sizes) = 1024, run_tokens(backbone, lambda: space.pool(samples, 1024))
    assert n_shared > 500 and sizes[0] == (1, n_shared)
    assert max(n for n, _ in sizes) * n_shared <= 8 * budget
