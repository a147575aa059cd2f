"""Do the features that contrast tells find toxic messages? Labelled messages of ToxicChat, without any LLM.

    python benchmarks/toxicity.py DATA OUT [--spans]

`contrast` between the labels of the training part gives features; a message's score is the highest g_i / threshold_i
over the first n of them, n by cross-validation. AUPRC on the validation part, beside its prevalence, 20 random sets of
as many features, and logistic regression on all features. `--spans` prints the spans of the first 30 features, which
are offensive: to be read, not to be kept. Needs `pip install scikit-learn`.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import MaxAbsScaler

from facsynth.assemble import open_background, open_space
from facsynth.cli.console import cache_folder
from facsynth.coverage.threshold import Threshold, feature_thresholds
from facsynth.features.draw import draw
from facsynth.features.encoded import Encoded, encode
from facsynth.features.shards import count, entries_of, over_roles
from facsynth.meaning.asking import marked
from facsynth.meaning.free import firing_tokens
from facsynth.meaning.relevance import contrast
from facsynth.profile import Profile, ProfileBuilder
from facsynth.records import Message, Sample
from facsynth.settings import DataBlock, RunSettings
from facsynth.text.corpus import Corpus

SIZES = (1, 2, 5, 10, 20, 50, 100, 200)
N_RANDOM, N_RESAMPLES, N_SHOWN = 20, 1000, 30


class Labelled:
    """An encoded part with its labels; codes as a matrix [n_samples, d_sae]."""

    def __init__(self, encoded: Encoded, labels: dict[str, int]) -> None:
        self.encoded = encoded
        self.labels = np.array([labels[i] for i in encoded.ids()])
        rows, columns, values, start = [], [], [], 0
        for table in encoded.shards():
            entries = over_roles(entries_of(table))
            rows.append(entries.sample + start)
            columns.append(entries.feature)
            values.append(entries.activation)
            start += len(table)
        self.codes = csr_array(
            (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
            shape=(start, encoded.profile.d_sae),
        )

    def profile(self, chosen: np.ndarray) -> Profile:
        """Of some samples."""
        builder, start = ProfileBuilder(self.encoded.profile.space, self.encoded.profile.d_sae), 0
        for table in self.encoded.shards():
            count(builder, table.filter(chosen[start : start + len(table)]))
            start += len(table)
        return builder.build()


def read(path: Path) -> list[tuple[Sample, int]]:
    """Messages and whether most people held them toxic, each message once."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    found = {row["instance"]: int(row["annotations"]["toxicity"]["majority_human"]) for row in rows}
    return [(Sample((Message("user", text),)), label) for text, label in found.items() if text.strip()]


def ranked(part: Labelled, chosen: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The features that tell the toxic among these samples from the others, by their log-odds.

    By q value, common words come first: of the training part 0.37 at best, by log-odds 0.53.
    """
    is_toxic = part.labels == 1
    found = contrast(part.profile(chosen & is_toxic), part.profile(chosen & ~is_toxic), thresholds)
    return found.feature_ids[np.argsort(-found.log_odds, kind="stable")]


def scores(part: Labelled, features: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The highest g_i / threshold_i of each sample."""
    usable = features[thresholds[features] > 0]
    over = part.codes[:, usable].toarray() / thresholds[usable]
    return over.max(axis=1) if len(usable) else np.zeros(len(part.labels))


def cross_validated(part: Labelled, thresholds: np.ndarray) -> dict[int, float]:
    """AUPRC by how many features are taken, of folds that had no part in choosing them."""
    found: dict[int, list[float]] = {n: [] for n in SIZES}
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    for kept, held_out in folds.split(part.labels, part.labels):
        chosen = np.zeros(len(part.labels), bool)
        chosen[kept] = True
        features = ranked(part, chosen, thresholds)
        for n in SIZES:
            score = scores(part, features[:n], thresholds)[held_out]
            found[n].append(average_precision_score(part.labels[held_out], score))
    return {n: float(np.mean(values)) for n, values in found.items()}


def regression(train: Labelled, test: Labelled) -> np.ndarray:
    """Logistic regression on all features, its strength by cross-validation on the training part."""
    scaler = MaxAbsScaler().fit(train.codes)
    x, best = scaler.transform(train.codes), (-1.0, 1.0)
    for strength in (0.01, 0.1, 1.0, 10.0):
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        values = [
            average_precision_score(
                train.labels[b],
                LogisticRegression(C=strength, max_iter=2000).fit(x[a], train.labels[a]).decision_function(x[b]),
            )
            for a, b in folds.split(train.labels, train.labels)
        ]
        best = max(best, (float(np.mean(values)), strength))
    model = LogisticRegression(C=best[1], max_iter=2000).fit(x, train.labels)
    return model.decision_function(scaler.transform(test.codes))


def with_interval(labels: np.ndarray, score: np.ndarray) -> list[float]:
    """AUPRC and its 95 % interval, resampled within each label."""
    rng, parts = np.random.default_rng(0), [np.flatnonzero(labels == label) for label in (0, 1)]
    values = []
    for _ in range(N_RESAMPLES):
        drawn = np.concatenate([rng.choice(part, len(part)) for part in parts])
        values.append(average_precision_score(labels[drawn], score[drawn]))
    return [float(average_precision_score(labels, score)), *np.quantile(values, [0.025, 0.975]).tolist()]


def measure(data: Path, out: Path, show_spans: bool) -> dict[str, Any]:
    """All figures."""
    settings = RunSettings(data=DataBlock(seed=("-",), anchor=("-",)))
    space = open_space(settings, cache_folder())
    parts = []
    for name in ("train", "validation"):
        rows = read(data / "toxicity" / f"toxicchat_{name}.jsonl.gz")
        corpus = Corpus.of([sample for sample, _ in rows], name=name)
        parts.append(Labelled(encode(corpus, space, out / name), {s.sample_id: label for s, label in rows}))
    train, test = parts
    everything = np.ones(len(train.labels), bool)
    thresholds = feature_thresholds(Threshold.parse("r0.5"), train.encoded.profile, open_background(settings, space))
    by_size = cross_validated(train, thresholds)
    n = max(by_size, key=lambda size: by_size[size])
    features = ranked(train, everything, thresholds)
    rng, fires = np.random.default_rng(0), np.flatnonzero(thresholds > 0)
    random = [
        average_precision_score(test.labels, scores(test, rng.choice(fires, n, replace=False), thresholds))
        for _ in range(N_RANDOM)
    ]
    if show_spans:
        found = draw(
            train.encoded, space.backbone.tokenizer, features[:N_SHOWN].tolist(), thresholds, n_firing=8, n_silent=0
        )
        for feature, rows in found.items():
            print(f"\n{feature}: {firing_tokens(rows.firing)}")
            print("\n".join(f"  {marked(span)}" for span in rows.firing))
    return {
        "n_train": len(train.labels), "n_test": len(test.labels), "n_relevant": len(features),
        "prevalence": float(test.labels.mean()), "auprc_by_size": by_size, "n": n,
        "auprc": with_interval(test.labels, scores(test, features[:n], thresholds)),
        "random": [float(np.mean(random)), float(np.min(random)), float(np.max(random))],
        "regression": with_interval(test.labels, regression(train, test)),
    }  # fmt: skip


def main() -> None:
    """Print the figures as JSON, and keep them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--spans", action="store_true", help="print spans of the first features: they are offensive")
    asked = parser.parse_args()
    figures = measure(asked.data, asked.out, asked.spans)
    (asked.out / "toxicity.json").write_text(json.dumps(figures, indent=2), encoding="utf-8")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
