"""On the embedded model and real requests: longer samples gain at equal samples, and nothing at equal tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facsynth.assemble import open_background, open_space, read_data
from facsynth.cli.console import cache_folder
from facsynth.features.encode import FeatureSpace
from facsynth.features.encoded import Encoded, encode, settings_of
from facsynth.features.reuse import Known
from facsynth.records import Message, Sample
from facsynth.side_by_side import side_by_side
from facsynth.text.corpus import Corpus
from test_real_data import broad_settings, data_file

N_DRAWS, N_TEXTS = 20, 200


def of(texts: list[str], name: str, space: FeatureSpace, folder: Path, known: list[Path]) -> Encoded:
    corpus = Corpus.of([Sample((Message("user", text),)) for text in texts], name=name)
    return encode(corpus, space, folder / name, known=Known(known, settings_of(space)))


@pytest.mark.slow
def test_joined_texts_gain_at_equal_samples_and_nothing_at_equal_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """B: each text of A, joined with one that is not in A. The interval of B - A holds 0 in at least 17 of 20 draws."""
    requests, examples = data_file("instruction/alpaca_en_demo"), Path(__file__).parents[1] / "examples"
    settings = broad_settings(examples / "anchor.jsonl", requests)
    space = open_space(settings, cache_folder())
    background = open_background(settings, space)
    texts = [sample.text for sample in read_data(settings.data, "seed")]
    anchor = encode(read_data(settings.data, "anchor"), space, tmp_path / "anchor")
    all_of_it = of(texts, "all", space, tmp_path, []).folder
    rng, gaps, n_held = np.random.default_rng(0), [], 0
    for draw in range(N_DRAWS):
        chosen = rng.permutation(len(texts))[: 2 * N_TEXTS]
        a, others = ([texts[i] for i in part] for part in (chosen[:N_TEXTS], chosen[N_TEXTS:]))
        joined = [f"{one}\n\n{other}" for one, other in zip(a, others, strict=True)]
        sets = {
            "A": of(a, f"a{draw}", space, tmp_path, [all_of_it]), "B": of(joined, f"b{draw}", space, tmp_path, [])
        }  # fmt: skip
        (pair,) = side_by_side(sets, anchor, background, space, settings)["pairs"]
        low, high = pair["at_equal_tokens"]["ci95"]
        n_held += low <= 0 <= high
        gaps.append([pair[at]["value"] for at in ("at_equal_samples", "at_equal_tokens")])
    at_samples, at_tokens = np.mean(gaps, axis=0)
    with capsys.disabled():
        print(
            f"\nB - A: {at_samples:+.3f} at equal samples, {at_tokens:+.3f} at equal tokens; 0 in {n_held} of {N_DRAWS}"
        )
    assert min(gap for gap, _ in gaps) > 0.02
    assert n_held >= 17
