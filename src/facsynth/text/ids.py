"""Texts as token ids for a model that reads them whole: each once, and long ones cut in their middle.

Before: `text.template` renders a sample. After: `model.final` reads the ids, or `model.adapter` learns from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from facsynth.records import Sample
from facsynth.text.template import Template

MAX_TOKENS, TAIL = 1_024, 16
"""Of a prompt that is read, and how many of its last tokens stay where it is cut: there the template ends."""


def decoder(tokenizer: Any) -> Callable[[list[int]], str]:
    """What makes text of token ids, with special tokens, and spaces as they are.

    The Rust core of a tokenizer does it in a fraction of the time of `tokenizer.decode`, which guesses its types first.
    """
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        return partial(tokenizer.decode, clean_up_tokenization_spaces=False)
    return partial(core.decode, skip_special_tokens=False)


class Texts(NamedTuple):
    """Token ids of different texts, each once however often it occurs."""

    ids: list[npt.NDArray[np.int32]]
    place: dict[str, int]
    """In `ids`, by sample id."""
    max_tokens: int
    """Of a text that are read."""
    n_cut: int
    """Texts that were longer."""

    def places(self, samples: Iterable[Sample]) -> list[int]:
        """Where in `ids` they are."""
        return [self.place[sample.sample_id] for sample in samples]

    def of(self, samples: Iterable[Sample]) -> list[npt.NDArray[np.int32]]:
        """The ids of each."""
        return [self.ids[place] for place in self.places(samples)]


def tokenized(samples: Iterable[Sample], ids_of: Callable[[Sample], Sequence[int]], *, most: int, tail: int) -> Texts:
    """Token ids of samples; of a text of more than `most` the last `tail` stay, and the beginning."""
    known = {sample.sample_id: sample for sample in samples}
    whole = [np.array(ids_of(sample), np.int32) for sample in known.values()]
    tail = min(tail, most)
    ids = [row if len(row) <= most else np.concatenate([row[: most - tail], row[-tail:]]) for row in whole]
    place = {sample_id: n for n, sample_id in enumerate(known)}
    return Texts(ids, place, most, sum(len(row) > most for row in whole))


def prompt_texts(samples: Iterable[Sample], template: Template, most: int) -> Texts:
    """Chats up to where a reply would begin, of long ones the beginning; at most `MAX_TOKENS` or `most`."""
    most = min(MAX_TOKENS, most)
    return tokenized(samples, lambda sample: template.prompt_ids(sample.messages), most=most, tail=TAIL)
