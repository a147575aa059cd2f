"""On the embedded model and on real data sets, where they are: do the defaults tell a broad set from a narrow one?"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from facsynth.assemble import open_background, open_space, read_data
from facsynth.cli.console import cache_folder
from facsynth.coverage.coverage import rarefied, samples_within, targets
from facsynth.coverage.threshold import Threshold, feature_thresholds
from facsynth.features.encode import EncodeSettings, FeatureSpace
from facsynth.features.encoded import encode
from facsynth.meaning.relevance import contrast
from facsynth.measure import measure
from facsynth.model.backbone import Backbone
from facsynth.model.sae import Sae
from facsynth.records import Sample
from facsynth.settings import RunSettings
from facsynth.text.corpus import Corpus, read_corpus
from facsynth.text.forms import form_roles
from facsynth.text.template import Template

DATA = Path(os.environ.get("FACSYNTH_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def data_file(name: str) -> Path:
    path = DATA / f"{name}.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no {path.name} in the folder of data sets; FACSYNTH_TEST_DATA names it")
    return path


def broad_settings(anchor: Path, seed: Path) -> RunSettings:
    return RunSettings.model_validate({"data": {"anchor": str(anchor), "seed": str(seed)}})


@pytest.mark.slow
def test_by_default_half_of_a_broad_anchor_covers_the_other_and_mathematics_does_not(tmp_path: Path) -> None:
    gsm8k = tmp_path / "gsm500.jsonl"
    with gzip.open(data_file("instruction/gsm8k_train"), "rt", encoding="utf-8") as file:
        gsm8k.write_text("".join(line for line, _ in zip(file, range(500), strict=False)), encoding="utf-8")
    settings = broad_settings(data_file("instruction/alpaca_en_demo"), gsm8k)
    space = open_space(settings, cache_folder())
    background = open_background(settings, space)
    assert background is not None
    halves = encode(read_data(settings.data, "anchor"), space, tmp_path / "anchor").halves()
    narrow = encode(read_data(settings.data, "seed"), space, tmp_path / "seed").profile
    threshold, covered = Threshold.parse(settings.coverage.threshold), []
    for half, other in (halves, halves[::-1]):
        limits = feature_thresholds(threshold, half, background)
        aims = targets(half, limits, contrast(half, background, limits).feature_ids, threshold.anchor_support)
        assert len(aims.feature_ids) > 200
        n_tokens = min(other.n_tokens, narrow.n_tokens)
        covered.append(
            [rarefied(profile, aims, limits, samples_within(profile, n_tokens)) for profile in (other, narrow)]
        )
    broad_share, narrow_share = np.mean(covered, axis=0)
    assert broad_share >= 0.95
    assert narrow_share <= 0.45


@pytest.mark.slow
def test_flips_of_the_embedded_model_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    examples = Path(__file__).parents[1] / "examples"
    settings = broad_settings(examples / "anchor.jsonl", examples / "seed.jsonl")
    samples = list(read_corpus(examples / "anchor.jsonl", limit=128))
    sets, active = {}, {}
    for dtype, budget in (("float32", 8192), ("float32", 1), ("bfloat16", 8192), ("bfloat16", 1)):
        space = open_space(settings, cache_folder(), dtype=dtype)
        background = open_background(settings, space)
        assert background is not None
        entries = space.pool(samples, budget).entries
        pairs = np.stack([entries.sample, entries.feature], axis=1)
        limits = feature_thresholds(Threshold.parse("r0.5"), background, background)
        sets[dtype, budget] = set(map(tuple, pairs.tolist()))
        active[dtype, budget] = set(map(tuple, pairs[entries.activation > limits[entries.feature]].tolist()))
    with capsys.disabled():
        for what, found in (("codes", sets), ("active at r0.5", active)):
            pairs_of = [
                ("float32", 1, "float32", 8192),
                ("bfloat16", 8192, "float32", 8192),
                ("bfloat16", 1, "bfloat16", 8192),
            ]
            n = len(found["float32", 8192])
            shares = [len(found[a, i] ^ found[b, j]) / n for a, i, b, j in pairs_of]
            told = zip(("float32 one by one", "bfloat16 for float32", "bfloat16 one by one"), shares, strict=True)
            print(f"\n{what}, {n} pairs; flips:", ", ".join(f"{name} {share:.2%}" for name, share in told))
            assert shares[0] < 1e-3
            assert max(shares[1:]) < 0.1


def rows_of(texts: list[str], n_rows: int, planted: int, rng: np.random.Generator) -> Iterator[str]:
    """Rows that repeat and vary the texts, `planted` of them of a subject that the texts lack."""
    openings = ("", "Please: ", "Hello. ", "One more thing: ", "Quickly, ", "For a friend: ", "Again: ")
    ours = set(rng.choice(n_rows, planted, replace=False).tolist())
    for number in range(n_rows):
        opening = openings[number // len(texts) % len(openings)]
        subject = " ".join(rng.choice(["чайник", "рыба", "молоко", "поезд", "лампа"], 4))
        yield subject if number in ours else opening + texts[number % len(texts)]


def is_planted(sample: Sample) -> bool:
    return sample.text[0] > "\u0400"


def subject_sae(model: Backbone, samples: list[Sample]) -> Sae:
    """Latents 0 and 1 find the first bytes of Cyrillic letters (discriminant analysis); the others are random."""
    chosen = [s for s in samples if is_planted(s)] + [s for s in samples if not is_planted(s)][:400]
    tokens = [Template(model.tokenizer).tokenize(sample, form_roles("message"), 4096) for sample in chosen]
    states = model.activations([t.ids for t in tokens], [t.content for t in tokens]).double()
    ids = torch.tensor(np.concatenate([t.ids[t.content] for t in tokens]))
    sae = tiny.random_sae(64, 64, "standard", hook_point="layers.0", centred=False)
    W_enc, b_enc = sae.W_enc.clone(), sae.b_enc - 2
    for latent, byte in enumerate("ÐÑ"):
        (token,) = model.tokenizer.convert_tokens_to_ids([byte])
        ours, rest = states[ids == token], states[ids != token]
        direction = torch.linalg.solve(rest.T.cov() + 1e-4 * torch.eye(64), ours.mean(0) - rest.mean(0))
        middle, reach = (ours.mean(0) + rest.mean(0)) @ direction / 2, (ours.mean(0) - rest.mean(0)) @ direction
        W_enc[:, latent], b_enc[latent] = (2 * direction / reach).float(), float(-2 * middle / reach - 0.7)
    return replace(sae, W_enc=W_enc, b_enc=b_enc)


@pytest.mark.slow
def test_a_subject_of_one_row_in_ten_thousand_is_under_represented(tmp_path: Path) -> None:
    with gzip.open(data_file("toxicity/benign_instructions"), "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["instruction"] for line in file]
    rng = np.random.default_rng(0)
    for name, n_rows, planted in (("seed", 100_000, 10), ("anchor", 4_000, 40)):
        lines = [json.dumps({"text": text}) for text in rows_of(texts, n_rows, planted, rng)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    model = tiny.backbone(tiny.save_model(tmp_path / "model", n_blocks=1, width=64), "layers.0")
    space = FeatureSpace(model, subject_sae(model, list(read_corpus(tmp_path / "anchor.jsonl"))), EncodeSettings())
    anchor, seed_set = (
        encode(read_corpus(tmp_path / f"{name}.jsonl"), space, tmp_path / name, token_budget=32768)
        for name in ("anchor", "seed")
    )
    settings = RunSettings.model_validate(
        {"data": {"anchor": "a", "seed": "b"}, "coverage": {"relevance": "all"}, "sae": {"path": "random"}}
    )
    found = measure(anchor, seed_set, None, settings)
    planted = [sample for sample in read_corpus(tmp_path / "anchor.jsonl") if is_planted(sample)]
    own = encode(Corpus.of(planted, name="planted"), space, tmp_path / "planted").profile
    firing, all_firing = own.firing_samples(found.thresholds), anchor.profile.firing_samples(found.thresholds)
    subject = np.flatnonzero((firing >= len(planted) / 4) & (all_firing == firing))
    assert len(planted) == 40 and set(subject.tolist()) >= {0, 1}
    in_seed = seed_set.profile.firing_samples(found.thresholds)[subject]
    assert (in_seed >= 1).all() and (in_seed <= 10).all()
    assert set(subject.tolist()) <= set(found.under.feature_ids.tolist())
    assert not set(subject.tolist()) & set(found.coverage.missing.tolist())
