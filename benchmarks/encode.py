"""Encoding end to end, side by side with the recipe of the paper's scripts and with SAELens; and how near it comes
to the machine's own rate of matrix products.

Ours is all of `facsynth encode`: tokenise, run the model to the hook, SAE, maxima, Parquet, profile. The others keep
dense maxima in memory and write nothing.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import REPEATS, Row, interleaved, rates
from parts import anchor_samples, open_embedded, random_sae

from facsynth.features.encode import EncodeSettings, FeatureSpace
from facsynth.features.encoded import encode
from facsynth.features.pool import pool_codes
from facsynth.model.loading import fast_dtype
from facsynth.model.prefix import shared_prefix
from facsynth.model.sae import Sae
from facsynth.records import Sample
from facsynth.text.corpus import Corpus
from rivals import check_equal, dense_maxima, dense_of, open_saelens, released, with_saelens

N_SAMPLES, N_CHECKED = 150, 12
SLOW_SHARE = 5
"""The recipe of the scripts gets every fifth sample: rates are compared."""
NO_SAELENS = "sae_lens is not installed (pip install 'facsynth[saelens]')"
PRODUCTS = ((2048, 576, 1536, 8), (4096, 576, 8192, 1))
"""Of the model's and the SAE's shape: n, d_in, d_out, times."""


def rows(quick: bool) -> list[Row]:
    """All of it."""
    samples = anchor_samples(20 if quick else N_SAMPLES)
    few, checked = samples[:: 10 if quick else SLOW_SHARE], samples[: 4 if quick else N_CHECKED]
    exact = open_embedded("float32")
    fast = open_embedded("bfloat16") if fast_dtype("cpu") is torch.bfloat16 else None
    dense = FeatureSpace(exact.backbone, exact.sae, EncodeSettings(codes="relu"))
    theirs = open_saelens(exact.sae)
    with tempfile.TemporaryDirectory() as folder:
        ours = partial(_encode, folder=Path(folder), numbers=itertools.count())
        flips = _check(checked, exact, dense, fast, theirs, ours)
        ways: dict[str, Callable[[], object]] = {"float32": partial(ours, samples, exact)}
        if fast:
            ways["bfloat16"] = partial(ours, samples, fast)
        ways["relu"] = partial(ours, few, dense)
        ways["released"] = partial(released, few, exact, n_kept=exact.sae.d_sae)
        ways["stopped"] = partial(released, few, exact, n_kept=exact.sae.d_sae, stop=True)
        if theirs:
            ways["saelens"] = partial(with_saelens, samples, exact, theirs)
        ways |= {f"{name} product {i}": partial(_multiply, *shape, dtype)
                 for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
                 for i, shape in enumerate(PRODUCTS)}  # fmt: skip
        seconds = interleaved(ways, 1 if quick else REPEATS)
    found = _speed_rows(seconds, _n_tokens(samples, exact), _n_tokens(few, exact), flips)
    found += _share_rows(seconds, *_operations(samples, exact))
    return found + _step_rows(exact, few, theirs, quick)


def _encode(samples: Sequence[Sample], space: FeatureSpace, *, folder: Path, numbers: Any) -> Any:
    return encode(Corpus.of(samples), space, folder / str(next(numbers)))


def _check(
    samples: Sequence[Sample],
    exact: FeatureSpace,
    dense: FeatureSpace,
    fast: FeatureSpace | None,
    theirs: Any,
    ours: Any,
) -> float:
    """Equal outputs first; gives the share of active pairs that bfloat16 changes."""
    native = dense_of(ours(samples, exact))
    check_equal("released recipe, its k largest codes", native, released(samples, exact, n_kept=exact.sae.k))
    everything = released(samples, exact, n_kept=exact.sae.d_sae)
    check_equal("released recipe, all codes", dense_of(ours(samples, dense)), everything)
    stopped = released(samples, exact, n_kept=exact.sae.d_sae, stop=True)
    check_equal("released recipe, stopped at the hook", everything, stopped)
    if theirs:
        check_equal("SAELens", native, with_saelens(samples, exact, theirs))
    if fast is None:
        return 0.0
    changed = dense_of(ours(samples, fast))
    check_equal("bfloat16", changed, native, allowed=1.0)
    return float(1 - ((native > 0) & (changed > 0)).sum() / ((native > 0) | (changed > 0)).sum())


def _speed_rows(seconds: dict[str, list[float]], n_all: int, n_few: int, flips: float) -> list[Row]:
    unit, recipe = "tokens/s", rates(n_few, seconds["released"])
    stopped = rates(n_few, seconds["stopped"])
    exact = rates(n_all, seconds["float32"])
    is_default = "bfloat16" in seconds
    found = [
        Row("encode, float32", unit, exact, "released recipe", recipe, at_least=None if is_default else 5),
        Row("encode, float32", unit, exact, "released recipe that stops at the hook", stopped),
        Row("encode, float32, all codes above 0 (what the recipe gives)", unit, rates(n_few, seconds["relu"]),
            "released recipe", recipe),
    ]  # fmt: skip
    fast = rates(n_all, seconds["bfloat16"]) if "bfloat16" in seconds else ()
    note = f"{flips:.1%} of the active pairs differ from float32" if fast else "no bfloat16 in hardware here"
    against = "released recipe", recipe if fast else ()
    found.append(Row("encode, bfloat16, as it is done here by default", unit, fast, *against, at_least=5, note=note))
    base = rates(n_all, seconds["saelens"]) if "saelens" in seconds else ()
    note = "" if base else NO_SAELENS
    found.append(Row("encode, float32", unit, exact if base else (), "SAELens", base, at_least=1.3, note=note))
    if fast:
        found.append(Row("encode, bfloat16", unit, fast if base else (), "SAELens", base, at_least=3, note=note))
    return found


def _share_rows(seconds: dict[str, list[float]], model: float, sae: float) -> list[Row]:
    """Time that the operations would take at the machine's best rate, as a share of the time they took."""
    best = {}
    for name in ("float32", "bfloat16"):
        of_shape = [rates(2e-9 * n * a * b * times, seconds[f"{name} product {i}"])
                    for i, (n, a, b, times) in enumerate(PRODUCTS)]  # fmt: skip
        best[name] = [max(pair) for pair in zip(*of_shape, strict=True)]
    found = [Row(f"matrix products, {name}", "GFLOP/s", tuple(best[name])) for name in best]
    for name in ("float32", "bfloat16"):
        if name not in seconds:
            continue
        ideal = [(model + sae) / best_rate * 1e-9 for best_rate in best[name]]
        shares = tuple(i / s for i, s in zip(ideal, seconds[name], strict=True))
        note = f"share: of the {name} rate, for the operations of the model and of the SAE ({sae / (model + sae):.0%})"
        found.append(Row(f"encode, {name}: share of the matrix rate", "", shares, at_least=0.6, note=note))
    return found


def _multiply(n: int, d_in: int, d_out: int, times: int, dtype: torch.dtype) -> None:
    a, b = torch.ones((n, d_in), dtype=dtype), torch.ones((d_in, d_out), dtype=dtype)
    for _ in range(times):
        a @ b


def _n_tokens(samples: Sequence[Sample], space: FeatureSpace) -> int:
    """All positions of the sequences, padding not among them."""
    return sum(len(space.template.tokenize(s, space.roles, space.settings.max_tokens).ids) for s in samples)


def _operations(samples: Sequence[Sample], space: FeatureSpace) -> tuple[float, float]:
    """Multiplications and additions of the model up to the hook (no padding, causal attention) and of the SAE.

    Tokens that all samples begin with are left out: they are run once.
    """
    config = space.backbone.model.config
    n_blocks = int(space.backbone.hook_point.rpartition(".")[2]) + 1
    blocks = space.backbone.model.base_model.layers[:n_blocks]
    weights = sum(weight.numel() for weight in blocks.parameters() if weight.dim() == 2)
    d_attention = config.num_attention_heads * getattr(
        config, "head_dim", config.hidden_size // config.num_attention_heads
    )
    tokens = [space.template.tokenize(s, space.roles, space.settings.max_tokens) for s in samples]
    shared = shared_prefix([t.ids for t in tokens], [t.content for t in tokens])
    n_tokens, n_content = (
        sum(counts) for counts in zip(*((len(t.ids) - shared, int(t.content.sum())) for t in tokens), strict=True)
    )
    pairs = sum((len(t.ids) * (len(t.ids) + 1) - shared * (shared + 1)) / 2 for t in tokens)
    return 2 * weights * n_tokens + 4 * n_blocks * d_attention * pairs, 2.0 * n_content * space.sae.W_enc.numel()


def _step_rows(space: FeatureSpace, samples: Sequence[Sample], theirs: Any, quick: bool) -> list[Row]:
    """The SAE alone, on activations that are there: of the embedded model, and random ones of a larger shape."""
    tokens = [space.template.tokenize(s, space.roles, space.settings.max_tokens) for s in samples]
    x = space.backbone.activations([t.ids for t in tokens], [t.content for t in tokens])
    larger = random_sae(64, 512, 8) if quick else random_sae(2048, 32768, 50)
    noise = torch.randn((512, larger.d_in), generator=torch.Generator().manual_seed(1))
    found = []
    for sae, acts, counts in ((space.sae, x, [int(t.content.sum()) for t in tokens]), (larger, noise, [32] * 16)):
        for dtype, goal in ((torch.float32, 1.3), (torch.bfloat16, None)):
            name = f"SAE step, {str(dtype).removeprefix('torch.')} activations, {sae.d_in} x {sae.d_sae}"
            if theirs is None:
                found.append(Row(name, "tokens/s", note=NO_SAELENS, against="SAELens", at_least=goal))
            else:
                row = _step_row(name, sae, acts.to(dtype), counts, 1 if quick else 5)
                found.append(replace(row, at_least=goal))
    return found


def _step_row(name: str, sae: Sae, x: torch.Tensor, counts: list[int], repeats: int) -> Row:
    theirs = open_saelens(sae)
    sample, role = np.repeat(np.arange(len(counts)), counts), np.ones(len(x), np.uint8)

    def ours() -> Any:
        return pool_codes(sae.encode(x), sample, role, np.arange(len(x)))

    x_exact = x.float()
    entries, dense = ours(), np.zeros((len(counts), sae.d_sae), np.float32)
    dense[entries.sample, entries.feature] = entries.activation
    others = partial(dense_maxima, theirs.encode, x_exact, counts)
    check_equal(name, dense, others())
    seconds = interleaved({"ours": ours, "theirs": others}, repeats)
    ours_rate, their_rate = (rates(len(x), seconds[way]) for way in ("ours", "theirs"))
    return Row(name, "tokens/s", ours_rate, "SAELens, float32", their_rate)
