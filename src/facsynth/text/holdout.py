"""What is kept for evaluation, and must be in nothing that is measured against, selected, shown or written.

Before: files of evaluation data. After: anchor and pool are read without it, and a candidate that holds it is rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from facsynth.errors import InputError
from facsynth.text.corpus import Corpus, read_corpus
from facsynth.text.forms import FORMS
from facsynth.text.layouts import NO_FIELDS, Fields
from facsynth.text.overlap import WordRuns

LONG_RUN = 13
"""So many words in a row are no accident (Brown et al. 2020, appendix C)."""
SHORT_RUN, SHORT_SHARE = 8, 0.5
"""Nor is it where half of a text's runs of so many words are there (as in Tülu 3's decontamination)."""
LEFT_OUT = "is in the holdout"


class Holdout:
    """Evaluation data, as the runs of words in it."""

    def __init__(self, corpora: Sequence[Corpus]) -> None:
        """Take in all texts; they are not kept."""
        self.fingerprints = [corpus.fingerprint for corpus in corpora]
        self._long, self._short = (
            WordRuns((sample.text for corpus in corpora for sample in corpus), n) for n in (LONG_RUN, SHORT_RUN)
        )

    def holds(self, text: str) -> bool:
        """Whether a text is in it, as a whole or in a part that is no accident."""
        return self._long.share(text) > 0 or self._short.share(text) >= SHORT_SHARE

    def kept_out_of(self, corpus: Corpus) -> Corpus:
        """The corpus without what is in here, which stands among its failures."""
        return corpus.without(lambda sample: self.holds(sample.text), LEFT_OUT)


def read_holdout(sources: Sequence[str | Path], form: str, fields: Fields = NO_FIELDS) -> Holdout | None:
    """Evaluation files in whatever form they have; None where there are none.

    Args:
        sources: as `read_corpus` takes them.
        form: of the run, which is tried first.
        fields: of the run's data, tried first too.

    Raises:
        InputError: a file that is none, or has no rows of any form.
    """
    return Holdout([_read(source, form, fields) for source in sources]) if sources else None


def _read(source: str | Path, form: str, fields: Fields) -> Corpus:
    """In the first form that all of its rows have, else in the one that most have."""
    best: Corpus | None = None
    error: InputError | None = None
    for tried, named in ((form, fields), *((other, NO_FIELDS) for other in dict.fromkeys((form, *FORMS)))):
        try:
            found = read_corpus(source, form=tried, fields=named)
        except InputError as err:
            error = error or err
            continue
        if best is None or found.n_failures < best.n_failures:
            best = found
        if not best.n_failures:
            break
    if best is None:
        raise InputError(f"the holdout cannot be read\n{error}") from error
    return best
