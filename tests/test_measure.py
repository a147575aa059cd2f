"""One seed set against one anchor: the figures agree with slow arithmetic, the notes with what was done to the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import tiny_run
from facsynth.coverage.coverage import Targets, coverage, targets
from facsynth.coverage.threshold import Threshold, feature_thresholds
from facsynth.errors import InputError, MismatchError, SettingsError
from facsynth.features.encode import EncodeSettings, FeatureSpace
from facsynth.features.encoded import Encoded, encode
from facsynth.features.shards import entries_of
from facsynth.measure import Measured, check_background, measure
from facsynth.profile import Profile
from facsynth.records import Message, Sample
from facsynth.settings import RunSettings, SaeBlock, parse_settings
from facsynth.text.corpus import Corpus, read_corpus
from tiny import backbone, random_sae, save_model


class Bench:
    """A tiny feature space, and corpora encoded in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = backbone(save_model(folder / "model", n_blocks=2))
        self.space = FeatureSpace(self.model, random_sae(32, 128, k=6), EncodeSettings(max_tokens=64))
        self.anchor = self.encode("anchor", self.texts(120, 1))
        self.seed = self.encode("seed", self.texts(10, 2, tiny_run.WORDS[:5]))

    @staticmethod
    def texts(n: int, rng_seed: int, words: list[str] = tiny_run.WORDS, length: int = 6) -> list[str]:
        rng = np.random.default_rng(rng_seed)
        return [" ".join(rng.choice(words, size=int(rng.integers(3, 2 * length)))) for _ in range(n)]

    def encode(self, name: str, texts: list[str], space: FeatureSpace | None = None) -> Encoded:
        corpus = Corpus.of([Sample((Message("user", text),)) for text in texts], name=name)
        return encode(corpus, space or self.space, self.folder / name)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def settings(**coverage: Any) -> RunSettings:
    block = {"relevance": "all", "threshold": "r0.5"} | coverage
    return parse_settings({"data": {"seed": "a", "anchor": "b"}, "coverage": block}, "the test")


def firing(encoded: Encoded, thresholds: Any) -> dict[int, int]:
    """feature → samples above its threshold, by plain loops over the stored samples."""
    counts: dict[int, int] = {}
    for table in encoded.shards():
        entries = entries_of(table)
        for feature, activation in zip(entries.feature.tolist(), entries.activation.tolist(), strict=True):
            counts[feature] = counts.get(feature, 0) + (activation > thresholds[feature])
    return counts


@pytest.mark.parametrize("asked", [{}, {"threshold": "0.0"}, {"anchor_support": 8, "min_support": 2}])
def test_figures_agree_with_counting_the_stored_samples(bench: Bench, asked: dict[str, Any]) -> None:
    wanted = settings(**asked)
    found = measure(bench.anchor, bench.seed, None, wanted)
    known, held = firing(bench.anchor, found.thresholds), firing(bench.seed, found.thresholds)
    target = {f for f, n in known.items() if n >= (wanted.coverage.anchor_support or 3)}
    covered = {f for f in target if held.get(f, 0) >= wanted.coverage.min_support}
    assert 0 < len(covered) < len(target)
    assert set(found.targets.feature_ids.tolist()) == target
    assert set(found.coverage.covered.tolist()) == covered
    assert set(found.coverage.missing.tolist()) == target - covered
    assert found.coverage.value == len(covered) / len(target)
    assert set(found.under.feature_ids.tolist()) <= covered
    assert found.interval is not None
    assert found.interval.low <= found.coverage.value <= found.interval.high


def test_a_quantile_threshold_asks_for_more_support(bench: Bench) -> None:
    found = measure(bench.anchor, bench.seed, None, settings(threshold="q50"))
    assert found.targets.anchor_support == 10
    assert measure(bench.anchor, bench.seed, None, settings()).targets.anchor_support == 3


def _of_half(bench: Bench) -> tuple[Profile, npt.NDArray[np.float32], Targets]:
    """The half of the anchor that is measured; thresholds and targets of the other."""
    half, other = bench.anchor.halves()
    thresholds = feature_thresholds(Threshold.parse("r0.5"), half)
    return other, thresholds, targets(half, thresholds)


def test_a_set_of_the_anchors_own_source_covers_what_the_ceiling_is(bench: Bench) -> None:
    """At equal samples, on average: both are shares of the same targets."""
    gaps = []
    for n in range(12):
        own = bench.encode(f"own{n}", bench.texts(80, 100 + n))
        scale = measure(bench.anchor, own, None, settings()).scale
        assert scale
        gaps.append(scale.at_equal_samples - scale.ceiling)
    assert abs(np.mean(gaps)) < 0.02


def test_coverage_at_equal_tokens_takes_from_the_longer_side_only(bench: Bench) -> None:
    short = measure(bench.anchor, bench.seed, None, settings())
    assert bench.seed.profile.n_tokens < min(half.n_tokens for half in bench.anchor.halves())
    assert short.scale
    _, thresholds, aims = _of_half(bench)
    assert short.scale.at_equal_tokens == pytest.approx(coverage(bench.seed.profile, aims, thresholds).value)
    assert short.scale.ceiling_at_equal_tokens < 1
    many = bench.encode("many", bench.texts(400, 3, tiny_run.WORDS[:5]))
    long = measure(bench.anchor, many, None, settings())
    assert long.scale
    assert long.scale.at_equal_tokens < long.coverage.value
    assert long.scale.ceiling_at_equal_tokens > short.scale.ceiling_at_equal_tokens


def test_the_ceiling_is_that_of_as_many_samples_as_the_seed_set_has(bench: Bench) -> None:
    few = measure(bench.anchor, bench.seed, None, settings())
    many = measure(bench.anchor, bench.encode("fifty", bench.texts(50, 4)), None, settings())
    assert few.scale
    assert many.scale
    assert few.coverage.value < few.scale.ceiling < many.scale.ceiling <= 1
    _, thresholds, aims = _of_half(bench)
    assert few.scale.n_target == len(aims.feature_ids)
    assert few.scale.at_equal_samples == pytest.approx(coverage(bench.seed.profile, aims, thresholds).value)
    more = measure(bench.anchor, bench.encode("hundreds", bench.texts(300, 6)), None, settings())
    assert more.scale
    assert more.scale.at_equal_samples < more.coverage.value, "a half of the anchor has fewer samples than that"


def test_the_ceiling_is_of_targets_that_the_measured_half_had_no_part_in(bench: Bench) -> None:
    other, its_thresholds, known = _of_half(bench)
    found = measure(bench.anchor, bench.anchor, None, settings())
    assert found.scale
    assert found.scale.ceiling == pytest.approx(coverage(other, known, its_thresholds).value)


def test_one_long_sample_has_no_figure_at_equal_tokens(bench: Bench) -> None:
    long = bench.encode("long", [" ".join(tiny_run.WORDS * 2)])
    short = bench.encode("short anchor", tiny_run.WORDS[:6])
    found = measure(short, long, None, settings(anchor_support=1))
    assert found.scale
    assert found.scale.at_equal_tokens is None
    assert found.scale.ceiling_at_equal_tokens is not None


def test_nothing_covered_has_no_interval_instead_of_one_without_width(bench: Bench) -> None:
    found = measure(bench.anchor, bench.encode("none", bench.texts(6, 5)), None, settings(min_support=7))
    assert (found.coverage.value, found.interval) == (0, None)


@pytest.mark.parametrize("n_samples", [1, 3])
def test_a_tiny_anchor_has_no_ceiling_and_says_so(bench: Bench, n_samples: int) -> None:
    anchor = bench.encode(f"tiny-{n_samples}", bench.texts(n_samples, 10))
    found = measure(anchor, bench.seed, None, settings(anchor_support=n_samples))
    assert found.scale is None
    assert saying(found, "the anchor is too small to be halved")


def test_under_four_samples_there_is_no_interval(bench: Bench) -> None:
    assert measure(bench.anchor, bench.encode("three", bench.texts(3, 5)), None, settings()).interval is None
    assert measure(bench.anchor, bench.encode("four", bench.texts(4, 5)), None, settings()).interval is not None


def test_an_anchor_covers_itself_and_is_said_to_be_shared(bench: Bench) -> None:
    found = measure(bench.anchor, bench.anchor, None, settings())
    assert found.coverage.value == 1
    assert len(found.under.feature_ids) == 0
    assert "120 samples of the seed set are in the anchor too" in found.notes


def saying(found: Measured, word: str) -> list[str]:
    return [note for note in found.notes if word in note]


def test_notes_say_what_the_scale_lacks(bench: Bench) -> None:
    plain = measure(bench.anchor, bench.seed, None, settings())
    assert saying(plain, "every feature the anchor fires counts as relevant")
    assert saying(plain, "no background")
    assert not saying(plain, "tells sets hardly apart")
    flat = measure(bench.anchor, bench.seed, None, settings(threshold="0.0", anchor_support=30))
    assert saying(flat, "a tenth of the anchor already covers nearly all targets")
    background = bench.encode("background", bench.texts(300, 6, tiny_run.WORDS[-3:])).profile
    contrasted = measure(bench.anchor, bench.seed, background, settings(relevance="contrast"))
    assert not saying(contrasted, "counts as relevant")
    assert not saying(contrasted, "no background")


def test_features_that_fire_in_every_sample_are_counted_for_relu_codes_above_zero(bench: Bench) -> None:
    space = FeatureSpace(bench.model, bench.space.sae, EncodeSettings(codes="relu", max_tokens=64))
    anchor = bench.encode("dense anchor", bench.texts(120, 1), space)
    seed = bench.encode("dense seed", bench.texts(10, 2, tiny_run.WORDS[:5]), space)
    relu = {"sae": SaeBlock(codes="relu")}
    found = measure(anchor, seed, None, settings(threshold="0.0").model_copy(update=relu))
    shares = []
    for part in (anchor, seed):
        counts = firing(part, np.zeros(128))
        shares.append(sum(n == part.profile.n_samples for n in counts.values()) / 128)
    assert shares[0] > 0.05
    (note,) = saying(found, "always active")
    assert f"{shares[0]:.1%} of all features" in note
    assert f"(seed set {shares[1]:.1%})" in note
    assert not saying(measure(anchor, seed, None, settings().model_copy(update=relu)), "always active")
    assert not saying(measure(bench.anchor, bench.seed, None, settings(threshold="0.0")), "always active")


def test_anchor_lengths_that_the_background_lacks_are_said(bench: Bench) -> None:
    # A third of the anchor is far longer than anything in the background.
    longer = [" ".join([text] * 4) for text in bench.texts(20, 8)]
    anchor = bench.encode("uneven", bench.texts(60, 7, length=4) + longer)
    background = bench.encode("brief", bench.texts(300, 9, tiny_run.WORDS[-3:], length=4)).profile
    found = measure(anchor, bench.seed, background, settings(relevance="contrast"))
    assert saying(found, "of the anchor are of lengths the background lacks")
    assert 0 < found.relevance.dropped_share <= 0.5


def test_rows_that_were_dropped_cut_or_mended_are_counted_and_the_first_is_named(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    words = "river field " * 100
    path.write_text(
        '{"text": "river field oven"}\n{oops\n{"text": "salt \\u0000 garden"}\n' + f'{{"text": "{words}"}}\n'
        '{"text": "<s>"}\n{"text": "bank letter music"}\n'
    )
    part = encode(read_corpus(path), bench.space, tmp_path / "rows")
    found = measure(bench.anchor, part, None, settings())
    (failures,) = saying(found, "could not be used")
    assert failures.startswith(f"seed set: rows that could not be used: 2, all in {tmp_path / 'rows/failures.jsonl'}")
    assert f"the first is {path}, line 2: not JSON" in failures
    assert saying(found, "seed set: samples that were cut at max_tokens: 1")
    assert saying(found, "seed set: samples that had broken characters taken out: 1")
    assert not saying(found, "anchor: ")


def test_contrast_without_a_background_is_refused_before_anything_else(bench: Bench) -> None:
    with pytest.raises(SettingsError, match="needs a background"):
        measure(bench.anchor, bench.seed, None, settings(relevance="contrast"))
    with pytest.raises(SettingsError, match="facsynth encode"):
        check_background(None, settings(relevance="contrast"))
    check_background(bench.seed.profile, settings(relevance="contrast"))
    check_background(None, settings())


def test_sets_of_different_spaces_and_an_anchor_without_targets_are_refused(bench: Bench) -> None:
    dense = FeatureSpace(bench.model, bench.space.sae, EncodeSettings(codes="relu", max_tokens=64))
    other = bench.encode("dense", bench.texts(10, 2), dense)
    with pytest.raises(MismatchError, match="codes"):
        measure(bench.anchor, other, None, settings())
    with pytest.raises(MismatchError, match="codes"):
        measure(bench.anchor, bench.seed, other.profile, settings())
    with pytest.raises(InputError, match="there are no target features"):
        measure(bench.anchor, bench.seed, None, settings(anchor_support=1000))
