"""The trainer: gradients against autograd, planted features found again, and the same weights after any stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from facsynth.errors import InputError, SettingsError
from facsynth.model.chunks import Chunks
from facsynth.model.sae_formats import load_sae
from facsynth.model.sae_train import Trained, mean_and_scale, shuffled_groups, train_sae
from facsynth.model.trainer import TopKTrainer, TrainSettings
from tiny import StoppedError, stop_after

D_IN, N_PLANTED, CHUNK = 16, 24, 1000
TOY = TrainSettings(
    d_sae=32, k=3, n_tokens=12_000, batch_tokens=256, learning_rate=5e-3, dead_after_tokens=3000, buffer_chunks=2
)  # fmt: skip


def planted(rng_seed: int = 0) -> torch.Tensor:
    """[N_PLANTED, D_IN] unit directions."""
    rows = torch.randn((N_PLANTED, D_IN), generator=torch.Generator().manual_seed(99))
    return rows / rows.norm(dim=1, keepdim=True)


def toy_chunk(index: int, n: int = CHUNK) -> torch.Tensor:
    """Each row is the sum of three planted directions, off centre and of another scale than 1."""
    rng = torch.Generator().manual_seed(index)
    chosen = torch.rand((n, N_PLANTED), generator=rng).topk(3, dim=1).indices
    weights = torch.zeros((n, N_PLANTED)).scatter_(1, chosen, 1 + torch.rand((n, 3), generator=rng))
    return 20 * (weights @ planted()) + 7


def chunks(
    folder: Path, n_chunks: int, compute: Callable[[int], torch.Tensor] = toy_chunk, keep_gb: float = 1
) -> Chunks:
    return Chunks(folder, compute, n_chunks, keep_gb)


def train(out: Path, settings: TrainSettings = TOY, **given: Any) -> Trained:
    parts = {"train": chunks(out / "a", 7), "held_out": chunks(out / "b", 2, lambda i: toy_chunk(i + 1000))}
    names = {"hook_point": "layers.1", "model_name": "toy", "metadata": {"corpora": ["toy"]}}
    return train_sae(out=out, settings=settings, **parts | names | given)


def weights(out: Path) -> bytes:
    return (out / "sae_weights.safetensors").read_bytes()


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_gradients_are_those_of_autograd(architecture: str) -> None:
    settings = replace(TOY, architecture=architecture, k=5)
    trainer = TopKTrainer(torch.zeros(D_IN), 1.0, settings, dtype=torch.float32)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.parameters():  # apart from the start, where much is zero or tied
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=rng))
    x = torch.randn((40, D_IN), generator=rng)
    with torch.no_grad():
        indices, acts = trainer.select(trainer.pre_acts(x))
        found = trainer.gradients(x, indices, acts, x - trainer.b_dec)
    pre = (x - trainer.b_dec) @ trainer.W_enc.T + trainer.b_enc
    kept = torch.zeros_like(pre).scatter_(1, indices, (acts > 0).float())
    loss = ((pre * kept) @ trainer.W_dec + trainer.b_dec - x).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert found.loss == pytest.approx(float(loss.detach()), rel=1e-5)
    assert int((acts > 0).sum()) <= 5 * 40
    for name, parameter in zip(("W_enc", "b_enc", "W_dec", "b_dec"), trainer.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(getattr(found, name), parameter.grad, rtol=1e-4, atol=1e-6)


def test_topk_keeps_the_k_largest_of_every_token_and_batchtopk_of_the_batch() -> None:
    rng = torch.Generator().manual_seed(0)
    pre = torch.randn((50, 32), generator=rng) + 2 * torch.rand((50, 1), generator=rng)
    for architecture in ("topk", "batchtopk"):
        trainer = TopKTrainer(torch.zeros(D_IN), 1.0, replace(TOY, architecture=architecture), dtype=torch.float32)
        indices, acts = trainer.select(pre)
        found = torch.zeros_like(pre).scatter_(1, indices, acts)
        if architecture == "topk":
            cut = pre.topk(3, dim=1).values[:, -1:]
        else:
            cut = pre.flatten().topk(150).values[-1]
            for _ in range(60):
                trainer.select(pre)
            assert float(trainer.threshold) == pytest.approx(float(cut), rel=1e-4)
            assert len(set((found > 0).sum(1).tolist())) > 2
        torch.testing.assert_close(found, torch.where(pre >= cut, pre, 0.0).relu())


def test_batchtopk_may_keep_every_latent() -> None:
    trainer = TopKTrainer(torch.zeros(D_IN), 1.0, replace(TOY, architecture="batchtopk", d_sae=3), dtype=torch.float32)
    pre = torch.tensor([[1.0, 2.0, -1.0], [0.5, 3.0, 4.0]])
    indices, acts = trainer.select(pre)
    torch.testing.assert_close(torch.zeros_like(pre).scatter_(1, indices, acts), pre.relu())


@pytest.mark.parametrize("architecture", [pytest.param("topk", marks=pytest.mark.slow), "batchtopk"])
def test_planted_features_are_found(architecture: str, tmp_path: Path) -> None:
    losses: list[float] = []

    def progress(what: str, done: int, total: int | None) -> None:
        losses.append(float(what.split("loss ")[1].split(",", maxsplit=1)[0]))

    settings = replace(TOY, architecture=architecture, n_tokens=200_000, learning_rate=2e-2)
    trained = train(tmp_path, settings, progress=progress)
    sae = load_sae(tmp_path)
    similarity = (planted() @ sae.W_dec.T).max(dim=1).values
    assert float((similarity > 0.95).float().mean()) >= 0.9
    assert losses[-1] < 0.2 * losses[0]
    assert trained.held_out.fvu < 0.1
    assert trained.held_out.l0 == pytest.approx(3, abs=0.5)
    assert sae.architecture == ("topk" if architecture == "topk" else "jumprelu")
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(32))


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_the_saved_sae_does_on_raw_activations_what_was_trained_on_scaled_ones(
    architecture: str, tmp_path: Path
) -> None:
    settings = replace(TOY, architecture=architecture)
    train(tmp_path, settings)
    trainer, _ = TopKTrainer.load(tmp_path / "checkpoint.safetensors", settings, dtype=torch.float32)
    x, sae = toy_chunk(5, 100), load_sae(tmp_path)
    with torch.no_grad():
        scaled = trainer.pre_acts((x - trainer.mean) * trainer.scale)
    pre = torch.addmm(sae.products.bias, x, sae.W_enc)
    torch.testing.assert_close(pre, scaled / trainer.scale, rtol=1e-3, atol=1e-3)
    found = torch.zeros((100, 32))
    codes = sae.encode(x)
    found[codes.token, codes.feature] = codes.act
    limit = trainer.threshold if architecture == "batchtopk" else scaled.topk(3, dim=1).values[:, -1:]
    expected = torch.where(scaled > limit - 1e-6, scaled, 0.0).relu() / trainer.scale
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_latents_that_stay_silent_are_woken_by_the_auxiliary_loss() -> None:
    n_woken = {}
    for aux_share in (0.0, 1 / 32):
        settings = replace(TOY, dead_after_tokens=500, aux_share=aux_share, n_tokens=100_000)
        trainer = TopKTrainer(*mean_and_scale(toy_chunk(0)), settings, dtype=torch.float32)
        with torch.no_grad():
            trainer.W_enc[16:] *= 0.01  # hardly ever among the three largest
        for index in range(120):
            trainer.update(toy_chunk(index, 256))
        n_woken[aux_share] = int((trainer.since_fired[16:] < 256 * 60).sum())
    assert n_woken[0.0] < 4
    assert n_woken[1 / 32] >= 8


@pytest.mark.parametrize(("architecture", "dtype"), [("topk", torch.float32), ("batchtopk", torch.bfloat16)])
def test_training_goes_on_after_a_stop_at_any_buffer_to_the_same_bytes(
    architecture: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    settings = replace(TOY, architecture=architecture, n_tokens=9000)
    buffers: list[int] = []
    rows = {"train": chunks(tmp_path / "chunks", 7, with_sinks), "dtype": dtype}
    unbroken = train(tmp_path / "0", settings, **rows, progress=lambda what, done, total: buffers.append(done))
    assert unbroken.n_sink_tokens == 2 * 7
    assert len(buffers) == 6  # more than an epoch, which has buffers of 2, 2, 2 and 1 chunks
    for stop in range(1, len(buffers) + 1):
        out = tmp_path / str(stop)
        with pytest.raises(StoppedError):
            train(out, settings, **rows, progress=stop_after(stop))
        again: list[int] = []
        trained = train(out, settings, **rows, progress=lambda what, done, total, a=again: a.append(done))
        assert again == buffers[stop:], "what was done is not done again"
        assert weights(out) == weights(tmp_path / "0")
        assert (out / "cfg.json").read_bytes() == (tmp_path / "0" / "cfg.json").read_bytes()
        assert trained.figures == unbroken.figures


def test_chunks_beyond_the_stated_size_are_computed_again_to_the_same_bytes(tmp_path: Path) -> None:
    size = CHUNK * D_IN * 2
    n_computed = {}
    for kept, keep_gb in ((0, 0.0), (3, 3.5 * size / 1e9), (7, 1.0)):
        computed: list[int] = []

        def compute(index: int, computed: list[int] = computed) -> torch.Tensor:
            computed.append(index)
            return toy_chunk(index)

        out = tmp_path / str(kept)
        train(out, train=chunks(out / "train", 7, compute, keep_gb))
        assert len(list((out / "train").glob("*"))) == kept
        assert weights(out) == weights(tmp_path / "0")
        n_computed[kept] = len(computed)
    assert n_computed[0] > n_computed[3] > n_computed[7] == 7


def with_sinks(index: int) -> torch.Tensor:
    """The rows of the toy chunk and two more, eighty times as long as the median."""
    rows = toy_chunk(index)
    long = 80 * rows.norm(dim=1).median() * torch.nn.functional.normalize(rows[:2] - 7, dim=1)
    return torch.cat([rows[:10], long[:1], rows[10:], long[1:]])


def test_attention_sinks_are_dropped_and_counted_once_each(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain")
    sunk = train(
        tmp_path / "sunk",
        train=chunks(tmp_path / "a", 7, with_sinks),
        held_out=chunks(tmp_path / "b", 2, lambda i: with_sinks(i + 1000)),
    )
    assert plain.n_sink_tokens == 0
    assert sunk.n_sink_tokens == 2 * (7 + 2)
    assert replace(sunk, folder=plain.folder, n_sink_tokens=0) == plain
    assert weights(tmp_path / "sunk") == weights(tmp_path / "plain")
    assert len(chunks(tmp_path / "a", 7).get(0)) == CHUNK + 2, "what is kept on disk has them"


def test_figures_stand_in_the_config_and_are_those_of_the_saved_weights(tmp_path: Path) -> None:
    trained = train(tmp_path, save_dtype=torch.float16)
    metadata = json.loads((tmp_path / "cfg.json").read_text("utf-8"))["metadata"]
    assert metadata | trained.figures == metadata
    assert metadata["corpora"] == ["toy"]
    assert load_file(tmp_path / "sae_weights.safetensors")["W_dec"].dtype == torch.float16
    x = torch.cat([toy_chunk(i + 1000) for i in range(2)]).bfloat16().double().numpy()
    sae = load_sae(tmp_path)
    rebuilt = sae.decode(sae.encode(torch.from_numpy(x).float())).double().numpy()
    fvu = ((rebuilt - x) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert trained.held_out.fvu == pytest.approx(fvu, rel=1e-4)
    assert trained.held_out.n_tokens == 2 * CHUNK


def test_the_dead_share_of_training_counts_features_silent_over_all_tokens_of_a_short_run(tmp_path: Path) -> None:
    trained = train(tmp_path, replace(TOY, d_sae=256, k=2))
    since = load_file(tmp_path / "checkpoint.safetensors")["since_fired"]
    assert trained.n_tokens_seen >= 12_000 and trained.n_tokens_seen % 256 == 0
    assert trained.dead_share_train == pytest.approx(float((since == trained.n_tokens_seen).float().mean()))
    assert 0 < trained.dead_share_train <= trained.held_out.dead_share


def test_too_few_tokens_for_a_batch_are_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fewer tokens than one batch of 4096"):
        train(tmp_path, replace(TOY, batch_tokens=4096))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"architecture": "relu"}, "architecture 'relu'"), ({"k": 0}, "k is 0"), ({"k": 33}, "k is 33")],
)
def test_settings_that_cannot_be_trained_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        replace(TOY, **change)


def test_mean_and_scale_bring_activations_to_unit_size() -> None:
    x = toy_chunk(0)
    mean, scale = mean_and_scale(x)
    scaled = (x - mean) * scale
    np.testing.assert_allclose(scaled.mean(0).numpy(), 0, atol=1e-4)
    assert float(scaled.square().mean()) == pytest.approx(1, rel=1e-4)


def test_every_chunk_comes_once_an_epoch_in_another_order() -> None:
    groups = shuffled_groups(7, TOY)
    epochs = [[next(groups) for _ in range(4)] for _ in range(3)]
    for epoch in epochs:
        assert [len(group) for group in epoch] == [2, 2, 2, 1]
        assert sorted(chunk for group in epoch for chunk in group) == list(range(7))
    assert epochs[0] != epochs[1] != epochs[2]
    assert [next(shuffled_groups(7, replace(TOY, rng_seed=s))) for s in range(5)].count(epochs[0][0]) < 5
