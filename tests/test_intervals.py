"""Intervals of a coverage and of a difference hold what they say, and know nothing of the order of samples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom

from facsynth.coverage.intervals import Drawn, coverage_interval, difference_interval, drawn_from, enough
from facsynth.coverage.rarefaction import at_tokens, covered_at
from facsynth.errors import InputError
from facsynth.incidence import Incidence
from facsynth.records import Interval

Fires = npt.NDArray[np.bool_]


def of(fires: Fires, ids: npt.ArrayLike | None = None) -> Incidence:
    """From a matrix of samples by features; ids are random where none are given."""
    sample, column = np.nonzero(fires)
    known = np.random.default_rng(int(fires.sum())).integers(0, 2**63, len(fires)) if ids is None else ids
    return Incidence(np.asarray(known, np.uint64), np.full(len(fires), 10), sample, column)


def drawn(fires: Fires, share: float = 1.0, min_support: int = 1, ids: npt.ArrayLike | None = None) -> Drawn:
    return drawn_from([of(fires, ids)], fires.sum(axis=0), share=share, min_support=min_support)


def known(found: Interval | None) -> Interval:
    assert found is not None
    return found


class World:
    """Samples of topics; the features of a topic fire together, or each on its own."""

    def __init__(
        self, rng: np.random.Generator, *, together: bool = True, n_features: int = 250, rarest: float = 1e-4
    ) -> None:
        self.rng, n_topics = rng, 40
        self.topics = rng.dirichlet(np.full(n_topics, 0.3))
        likes = 1 + 8 * together * (rng.random((n_topics, n_features)) < 0.08)
        self.rates = np.minimum(10 ** rng.uniform(np.log10(rarest), -0.5, n_features) * likes, 0.9)

    def samples(self, n: int) -> Fires:
        rows = self.rng.choice(len(self.topics), n, p=self.topics)
        return np.concatenate([
            self.rng.random((len(part), self.rates.shape[1])) < self.rates[part]
            for part in np.array_split(rows, 1 + n // 2000)
        ])  # fmt: skip

    def texts(self, n: int, spread: float) -> Incidence:
        """Of log-normal lengths, 40 tokens in the middle; twice as long a text is as likely to fire as two."""
        n_tokens = np.maximum(np.exp(self.rng.normal(np.log(40), spread, n)), 1).round().astype(np.int64)
        rates = self.rates[self.rng.choice(len(self.topics), n, p=self.topics)]
        fires = self.rng.random(rates.shape) < 1 - (1 - rates) ** (n_tokens[:, None] / 40)
        return of(fires)._replace(n_tokens=n_tokens)


@pytest.mark.parametrize(
    ("n", "min_support", "together"),
    [
        (200, 1, True),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(60, 1, True), (400, 2, True), (400, 1, False)]),
    ],
)
def test_the_interval_covers_the_expected_coverage_of_fresh_sets(n: int, min_support: int, together: bool) -> None:
    """90 to 98 % of the intervals of fresh data sets."""
    rng, hits = np.random.default_rng(n + min_support), 0
    for _ in range(8):
        world = World(rng, together=together)
        sets = [world.samples(n) for _ in range(100)]
        truth = np.mean([(s.sum(axis=0) >= min_support).mean() for s in sets])
        for s in sets[:20]:
            found = known(coverage_interval(drawn(s, min_support=min_support)))
            hits += found.low <= truth <= found.high
    assert 0.90 <= hits / 160 <= 0.98, hits


@pytest.mark.slow
@pytest.mark.parametrize("n", [2_000, 20_000])
def test_the_interval_of_large_sets_covers_too(n: int) -> None:
    rng, hits = np.random.default_rng(n), 0
    for _ in range(8):
        world, values, found = World(rng, rarest=0.01 / n), [], []
        for number in range(40):
            fires = world.samples(n)
            values.append(fires.any(axis=0).mean())
            if number < 20:
                found.append(known(coverage_interval(drawn(fires))))
        hits += sum(interval.low <= np.mean(values) <= interval.high for interval in found)
    assert 0.90 <= hits / 160 <= 0.98, hits


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "share", "n_both", "n_fresh", "support"),
    [
        (200, 0.5, 50, 60, 1),
        (200, 0.25, 0, 120, 1),
        (200, 1.0, 0, 120, 1),
        (200, 1.0, 100, 120, 1),
        (2_000, 0.25, 0, 80, 1),
        (20_000, 1.0, 10_000, 40, 1),
        (400, 0.25, 0, 120, 2),
    ],
)
def test_the_interval_of_a_difference_covers_what_is_true_of_fresh_sets(
    n: int, share: float, n_both: int, n_fresh: int, support: int
) -> None:
    """A set against a part of a larger one, of another source; and two that have samples in common."""
    rng, hits = np.random.default_rng(n + int(100 * share) + n_both), 0
    for _ in range(4):
        one, other = (World(rng, rarest=min(1e-4, 0.01 / n)) for _ in range(2))
        other.rates = np.clip(other.rates + one.rates[rng.permutation(40)], 0, 0.9)

        def pair(one: World = one, other: World = other) -> tuple[Drawn, Drawn, float]:
            both, size = one.samples(n_both), round(n / share)
            a = np.concatenate([both, one.samples(n - n_both)])
            b = np.concatenate([both, other.samples(size - n_both)])
            ids = rng.integers(0, 2**63, n + size)
            ids_b = np.concatenate([ids[:n_both], ids[n : n + size - n_both]])
            expected = binom.sf(support - 1, b.sum(axis=0), share).mean()
            covered = (a.sum(axis=0) >= support).mean()
            return drawn(a, 1.0, support, ids[:n]), drawn(b, share, support, ids_b), float(expected - covered)

        found = [pair() for _ in range(n_fresh)]
        truth = np.mean([value for *_, value in found])
        for a, b, value in found[:40]:
            interval = known(difference_interval(value, b, a))
            hits += interval.low <= truth <= interval.high
    assert 0.90 <= hits / 160 <= 0.985, hits


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 1.0, 1.5])
def test_at_equal_tokens_the_interval_knows_nothing_of_lengths(spread: float) -> None:
    """Two sets of one source, with samples of unlike lengths: 0 is held as often as is said, and hardly more."""
    rng, hits, n = np.random.default_rng(round(10 * spread)), 0, 200
    for _ in range(4):
        world = World(rng)
        for _ in range(40):
            sets = [world.texts(n, spread) for _ in range(2)]
            n_tokens = min(part.n_tokens.sum() for part in sets)
            values = [at_tokens(covered_at(s.ids, s.n_tokens, [s], 250), int(n_tokens)).item() for s in sets]
            shares = [min(1.0, n_tokens / part.n_tokens.sum()) for part in sets]
            one, other = (drawn_from([s], s.counts(250), share=p) for s, p in zip(sets, shares, strict=True))
            found = known(difference_interval(values[0] - values[1], one, other, at_tokens=True))
            hits += found.low <= 0 <= found.high
    assert 0.90 <= hits / 160 <= 0.985, hits


def sides(found: Interval | None) -> float:
    interval = known(found)
    return interval.high - interval.low


@pytest.mark.slow
@pytest.mark.parametrize("support", [1, 2])
def test_a_part_of_a_large_set_is_as_uncertain_as_the_set_though_few_of_its_firings_are_kept(support: int) -> None:
    world, share, widths = World(np.random.default_rng(4)), 0.004, []
    for _ in range(3):
        rows = of(world.samples(16_000))._replace(n_tokens=world.rng.integers(5, 400, 16_000))
        firing = rows.counts(250)
        kept = drawn_from([rows], firing, share=share, kept=enough(16_000, share), min_support=support)
        assert kept.found == pytest.approx(0.256, rel=0.1)
        whole, fixed = Drawn(firing, rows, share, support), drawn(np.ones((8, 250), np.bool_))
        found = [(coverage_interval(one), difference_interval(0, one, fixed, at_tokens=True)) for one in (kept, whole)]
        widths.append([[sides(interval) for interval in row] for row in found])
    thinned, all_of_it = np.mean(widths, axis=0)
    assert thinned == pytest.approx(all_of_it, rel=0.15)


@pytest.mark.slow
def test_what_large_sets_share_cancels_out_though_few_of_it_is_kept() -> None:
    """One holds the other, of which it is half: drawn are as many of both."""
    fires, widths = World(np.random.default_rng(5)).samples(40_000), []
    ids = np.random.default_rng(5).integers(0, 2**63, 40_000)
    for is_thinned in (True, False):
        pair = []
        for n, share in ((40_000, 0.003), (20_000, 0.006)):
            rows = of(fires[:n], ids[:n])
            kept = enough(n, share) if is_thinned else 1.0
            pair.append(drawn_from([rows], rows.counts(250), share=share, kept=kept))
        widths.append(sides(difference_interval(0.0, *pair)))
    assert widths[0] == pytest.approx(widths[1], rel=0.15)


def test_what_two_sets_share_cancels_out() -> None:
    fires = World(np.random.default_rng(0)).samples(300)
    ids = np.arange(300)
    same = known(difference_interval(0.0, drawn(fires, ids=ids), drawn(fires, ids=ids)))
    assert (same.low, same.high) == (0.0, 0.0)
    apart = known(difference_interval(0.0, drawn(fires, ids=ids), drawn(fires, ids=ids + 1000)))
    assert apart.high > 0.005


def test_the_order_of_samples_and_the_parts_they_lie_in_change_nothing() -> None:
    fires = World(np.random.default_rng(1)).samples(200)
    ids = np.random.default_rng(2).integers(0, 2**63, 200)
    expected = coverage_interval(drawn(fires, ids=ids))
    order = np.random.default_rng(3).permutation(200)
    parts = [of(fires[rows], ids[rows]) for rows in np.array_split(order, 7)]
    assert coverage_interval(drawn_from(parts, fires.sum(axis=0))) == expected


def test_the_interval_holds_its_own_estimate() -> None:
    fires = np.random.default_rng(2).random((100, 20)) < 0.02
    found = known(coverage_interval(drawn(fires)))
    assert 0 <= found.low < fires.any(axis=0).mean() < found.high <= 1


def test_the_interval_of_a_set_that_fires_everything_often_is_1() -> None:
    found = known(coverage_interval(drawn(np.ones((200, 5), np.bool_))))
    assert (found.low, found.high) == (1.0, 1.0)


def test_where_there_is_no_spread_to_estimate_there_is_no_interval() -> None:
    assert coverage_interval(drawn(np.ones((3, 5), np.bool_))) is None, "too few samples"
    assert coverage_interval(drawn(np.zeros((9, 5), np.bool_))) is None, "nothing fires"
    assert coverage_interval(drawn(np.eye(9, 5) > 0, ids=np.zeros(9))) is None, "one sample, nine times"
    few, many = drawn(np.ones((3, 5), np.bool_)), drawn(np.ones((9, 5), np.bool_))
    assert difference_interval(0.0, few, many) is None
    with pytest.raises(InputError, match="found none"):
        coverage_interval(drawn(np.ones((9, 0), np.bool_)))
