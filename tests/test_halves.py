"""On the embedded model and real requests: halves of one data set do not differ, and what was put into one is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from facsynth.assemble import open_background, open_space, read_data
from facsynth.cli.console import cache_folder
from facsynth.coverage.compare import Differences, differences
from facsynth.features.encoded import encode
from facsynth.incidence import Incidence, joined
from facsynth.profile import Profile, ProfileBuilder
from facsynth.scale import aims_of
from test_real_data import broad_settings, data_file

N_DRAWS, N_A_SIDE, REPLACED = 20, 2_000, 0.05
Rows = npt.NDArray[np.int64]


class Texts:
    """Samples of which any part can be compared with another."""

    def __init__(self, found: Incidence, profile: Profile, thresholds: npt.NDArray[np.float32]) -> None:
        self.found, self.space, self.d_sae, self.thresholds = found, profile.identity, profile.d_sae, thresholds
        order = np.argsort(found.sample, kind="stable")
        self.columns, self.starts = found.column[order], np.searchsorted(found.sample[order], np.arange(self.n + 1))

    @property
    def n(self) -> int:
        return len(self.found.ids)

    def profile(self, rows: Rows) -> Profile:
        counts = self.starts[rows + 1] - self.starts[rows]
        columns = np.concatenate([self.columns[self.starts[row] : self.starts[row + 1]] for row in rows])
        ones = np.ones(len(columns))
        builder = ProfileBuilder(self.space, self.d_sae)
        ids = [f"{n:016x}" for n in range(len(rows))]
        builder.add(
            ids, self.found.n_tokens[rows], np.repeat(np.arange(len(rows)), counts), columns, 1e6 * ones, ones, ones
        )
        return builder.build()

    def differ(self, one: Rows, other: Rows) -> Differences:
        return differences(self.profile(one), self.profile(other), np.arange(self.d_sae), self.thresholds)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Texts:
    folder, requests = tmp_path_factory.mktemp("halves"), data_file("toxicity/benign_instructions")
    settings = broad_settings(Path(__file__).parents[1] / "examples" / "anchor.jsonl", requests)
    space = open_space(settings, cache_folder())
    encoded = encode(read_data(settings.data, "seed"), space, folder / "requests")
    thresholds, _, _ = aims_of(encoded.profile, open_background(settings, space), settings, None)
    every = np.arange(encoded.profile.d_sae)
    return Texts(joined(encoded.incidence(every, thresholds)), encoded.profile, thresholds)


@pytest.mark.slow
def test_halves_of_a_data_set_differ_in_at_most_3_of_20_splits(
    texts: Texts, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, n_found, n_tested = np.random.default_rng(0), [], 0
    for _ in range(N_DRAWS):
        one, other = np.split(rng.permutation(texts.n)[: 2 * N_A_SIDE], 2)
        told = texts.differ(one, other)
        n_found.append(len(told.feature_ids))
        n_tested = told.n_tested
    with capsys.disabled():
        print(f"\nhalves of {N_A_SIDE:,}: differences {n_found}, of {n_tested:,} features")
    assert np.count_nonzero(n_found) <= 3


@pytest.mark.slow
def test_a_rare_feature_that_a_twentieth_of_a_half_was_given_is_found(
    texts: Texts, capsys: pytest.CaptureFixture[str]
) -> None:
    """5 % of one half are replaced by other requests that fire a feature of a base rate under 1 %."""
    rng, n_new = np.random.default_rng(1), round(REPLACED * N_A_SIDE)
    rates = np.bincount(texts.columns, minlength=texts.d_sae) / texts.n
    known = rng.choice(np.flatnonzero((rates > n_new / texts.n * 1.3) & (rates < 0.01)), N_DRAWS, replace=False)
    hits, others = 0, []
    for feature in known:
        fires = np.unique(texts.found.sample[texts.found.column == feature])
        new = rng.choice(fires, n_new, replace=False)
        rest = rng.permutation(np.setdiff1d(np.arange(texts.n), new))[: 2 * N_A_SIDE - n_new]
        one, other = np.concatenate([new, rest[: N_A_SIDE - n_new]]), rest[N_A_SIDE - n_new :]
        told = texts.differ(one, other)
        row = np.flatnonzero(told.feature_ids == feature)
        hits += len(row) == 1 and told.log_odds[row[0]] > 0
        others.append(len(told.feature_ids) - len(row))
    with capsys.disabled():
        print(f"\nplanted: {hits} of {N_DRAWS} found; beside them {others}")
    assert hits >= 0.8 * N_DRAWS
