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
from facsynth.coverage.plan import read_plan
from facsynth.coverage.threshold import Threshold, feature_thresholds
from facsynth.features.encode import EncodeSettings, FeatureSpace
from facsynth.features.encoded import Encoded, encode
from facsynth.meaning.relevance import contrast
from facsynth.model.backbone import Backbone
from facsynth.model.sae import Sae
from facsynth.model.sae_formats import load_sae
from facsynth.model.sae_saelens import save_sae
from facsynth.records import Sample
from facsynth.settings import RunSettings
from facsynth.text.corpus import Corpus, read_corpus
from facsynth.text.forms import form_roles
from facsynth.text.template import Template
from tiny_cli import facsynth

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
    """Rows that vary the texts, no two alike, `planted` of them of a subject that the texts lack."""
    openings = ("", "Please: ", "Hello. ", "One more thing: ", "Quickly, ", "For a friend: ", "Again: ")
    ours = set(rng.choice(n_rows, planted, replace=False).tolist())
    for number in range(n_rows):
        opening = openings[number // len(texts) % len(openings)]
        subject = " ".join(rng.choice(["чайник", "рыба", "молоко", "поезд", "лампа"], 4))
        yield subject if number in ours else f"{opening}{texts[number % len(texts)]} {number}"


def is_planted(sample: Sample) -> bool:
    return "\u0400" <= sample.text[0] <= "\u04ff"


def subject_sae(model: Backbone, samples: list[Sample]) -> Sae:
    """Latents 0 and 1 find the first bytes of Cyrillic letters (discriminant analysis); the others are random."""
    chosen = [s for s in samples if is_planted(s)] + [s for s in samples if not is_planted(s)][:400]
    tokens = [Template(model.tokenizer).tokenize(sample, form_roles("message"), 4096) for sample in chosen]
    states = model.activations([t.ids for t in tokens], [t.content for t in tokens]).double()
    ids = torch.tensor(np.concatenate([t.ids[t.content] for t in tokens]))
    sae = tiny.random_sae(64, 32, "standard", hook_point="layers.0", centred=False)
    W_enc, b_enc = sae.W_enc.clone(), sae.b_enc - 2
    for latent, byte in enumerate("ÐÑ"):
        (token,) = model.tokenizer.convert_tokens_to_ids([byte])
        ours, rest = states[ids == token], states[ids != token]
        direction = torch.linalg.solve(rest.T.cov() + 1e-4 * torch.eye(64), ours.mean(0) - rest.mean(0))
        middle, reach = (ours.mean(0) + rest.mean(0)) @ direction / 2, (ours.mean(0) - rest.mean(0)) @ direction
        W_enc[:, latent], b_enc[latent] = (2 * direction / reach).float(), float(-2 * middle / reach - 0.7)
    return replace(sae, W_enc=W_enc, b_enc=b_enc)


def everyday_texts() -> list[str]:
    """Short messages: of a data set where that is, else of the examples."""
    benign = DATA / "toxicity" / "benign_instructions.jsonl.gz"
    source = benign if benign.exists() else Path(__file__).parents[1] / "examples" / "anchor.jsonl"
    return [sample.text for sample in read_corpus(source) if len(sample.text) < 50]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """With matrices this small threads only wait for each other: 285 s with two of a busy machine, 45 s with one."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.mark.slow
def test_a_subject_of_one_row_in_ten_thousand_is_planned_as_under_represented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.setenv("FACSYNTH_CACHE", str(tmp_path / "cache"))  # nothing of an earlier test is reused
    texts, rng = everyday_texts(), np.random.default_rng(0)
    for name, n_rows, planted in (("seed", 100_000, 10), ("anchor", 4_000, 40)):
        lines = [json.dumps({"text": text}) for text in rows_of(texts, n_rows, planted, rng)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    samples = list(read_corpus(tmp_path / "anchor.jsonl"))
    model = tiny.backbone(tiny.save_model(tmp_path / "model", n_blocks=1, width=64), "layers.0")
    save_sae(subject_sae(model, samples), tmp_path / "sae", metadata={})
    done = facsynth(
        "missing", tmp_path / "seed.jsonl", "--anchor", tmp_path / "anchor.jsonl", "--model", tmp_path / "model",
        "--sae", tmp_path / "sae", "--dtype", "float32", "--relevance", "all", "-o", tmp_path / "run",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    anchor, seed_set = (Encoded.open(tmp_path / "run" / "features" / name).profile for name in ("anchor", "seed"))
    limits = feature_thresholds(Threshold.parse("r0.5"), anchor, None)
    space = FeatureSpace(model, load_sae(tmp_path / "sae"), EncodeSettings())
    planted = [sample for sample in samples if is_planted(sample)]
    own = encode(Corpus.of(planted, name="planted"), space, tmp_path / "planted").profile.firing_samples(limits)
    subject = np.flatnonzero((own >= len(planted) / 4) & (anchor.firing_samples(limits) == own))
    assert len(planted) == 40 and set(subject.tolist()) >= {0, 1}
    plan = {row.feature_id: row for row in read_plan(tmp_path / "run" / "plan.csv", range(32))}
    for feature in subject.tolist():
        in_seed, tenth = int(seed_set.firing_samples(limits)[feature]), 0.1 * 100_000 * own[feature] / 4_000
        assert 1 <= in_seed < tenth / 2
        assert plan[feature].kind == "under"
        assert plan[feature].n_wanted == np.ceil(tenth) - in_seed
