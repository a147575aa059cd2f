from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from facsynth.experimenting.settings import load_experiment

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = ("anchor", "seed")


def rows(name: str) -> list[dict[str, Any]]:
    lines = (EXAMPLES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def texts(name: str) -> list[str]:
    return [row["messages"][0]["content"] for row in rows(name)]


def words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def subjects(name: str) -> Counter[str]:
    return Counter(row["subject"] for row in rows(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_a_subject_and_one_user_message(name: str) -> None:
    for row in rows(name):
        assert row.keys() == {"subject", "messages"}
        (message,) = row["messages"]
        assert message.keys() == {"role", "content"}
        assert message["role"] == "user"
        assert message["content"] == message["content"].strip() != ""


def test_the_anchor_is_broad_and_even() -> None:
    counts = subjects("anchor")
    assert counts.total() >= 400
    assert len(counts) >= 12
    assert min(counts.values()) >= 25


def test_the_seed_set_is_three_subjects_of_the_anchor() -> None:
    counts = subjects("seed")
    assert counts.total() >= 60
    assert len(counts) == 3
    assert min(counts.values()) >= 20
    assert counts.keys() < subjects("anchor").keys()


def test_no_message_occurs_twice_within_or_across_the_files() -> None:
    seen = Counter(" ".join(words(text)) for name in NAMES for text in texts(name))
    assert [text for text, n in seen.items() if n > 1] == []


def test_no_two_messages_share_most_of_their_words() -> None:
    bags = [frozenset(words(text)) for name in NAMES for text in texts(name)]
    close = [
        (sorted(a), sorted(b)) for i, a in enumerate(bags) for b in bags[:i] if len(a & b) > 0.5 * max(len(a), len(b))
    ]
    assert close == []


@pytest.mark.parametrize("name", NAMES)
def test_no_opening_pair_of_words_is_shared_by_many(name: str) -> None:
    openings = Counter(tuple(words(text)[:2]) for text in texts(name))
    pair, n = openings.most_common(1)[0]
    assert n <= 0.03 * openings.total(), pair


@pytest.mark.parametrize("name", NAMES)
def test_lengths_spread_from_a_few_words_to_a_paragraph(name: str) -> None:
    lengths = sorted(len(text.split()) for text in texts(name))
    assert lengths[len(lengths) // 10] < 10
    assert lengths[len(lengths) * 9 // 10] > 50


def test_the_readme_gives_the_true_counts() -> None:
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert f"{len(rows('anchor'))} messages" in readme
    assert f"{len(rows('seed'))} messages" in readme
    for subject, n in subjects("seed").items():
        assert f"{subject} {n}" in " ".join(readme.split())
    for subject in subjects("anchor"):
        assert subject in " ".join(readme.split())


def test_sweeps_accept_what_the_experiment_that_they_vary_does() -> None:
    sweeps = [path for path in (EXAMPLES / "experiments").glob("*.yaml") if "base: traffic.yaml" in path.read_text()]
    assert len(sweeps) > 5
    for settings in map(load_experiment, sweeps):
        checked = [settings.run_of(name, Path("seed"), 0).accept.check_label for name in settings.methods]
        assert all(checked), settings.methods
