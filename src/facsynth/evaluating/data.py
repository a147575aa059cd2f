"""What is trained on and tested with: files, or folders that facsynth wrote, row by row in a task's form.

Before: the words of a command. After: an evaluation trains and tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from facsynth.errors import InputError
from facsynth.records import Progress, Sample
from facsynth.store import fingerprint
from facsynth.text.corpus import Corpus, read_corpus
from facsynth.text.layouts import KNOWN_LAYOUTS, RowError

IN_A_FOLDER = ("train.jsonl", "train.parquet", "samples.jsonl")
"""The data of an export, and of a run."""
LAYOUTS: Mapping[str, str] = {
    "ab": "Each row needs question, answer_matching_behavior and answer_not_matching_behavior.",
    "preference": "Each row needs texts: prompt, chosen and rejected; or chosen and rejected with the conversation.",
}
"""Of forms that hardly any layout has."""


class Rows:
    """Samples of one form with their whole rows, of one file or several."""

    def __init__(self, sources: Sequence[str], form: str, progress: Progress) -> None:
        """Read files, or folders of exports and runs.

        Raises:
            InputError: there is no sample of that form; the way out names no option that evaluations lack.
        """
        try:
            self.corpora = [read_corpus(data_file(source), form=form, progress=progress) for source in sources]
        except InputError as err:
            told, _, way_out = str(err).partition("\n")
            if "-field" not in way_out:
                raise
            raise InputError(
                f"{told}\n{LAYOUTS.get(form, KNOWN_LAYOUTS)}\nRename the fields of any other: here none can be named."
            ) from err
        self.name = " + ".join(sources)
        self._odd: set[str] = set()

    def __iter__(self) -> Iterator[tuple[Sample, dict[str, Any]]]:
        """Each sample with its row in the form's layout."""
        return (pair for corpus in self.corpora for pair in self.of(corpus))

    def of(self, corpus: Corpus) -> Iterator[tuple[Sample, dict[str, Any]]]:
        """Those of one of the files."""
        for sample, row in corpus.rows():
            try:
                yield sample, row()
            except RowError:  # its other turns are no texts
                self._odd.add(sample.where)

    @property
    def n_failures(self) -> int:
        """Rows that are no samples, of those that were read until now."""
        return sum(corpus.n_failures for corpus in self.corpora) + len(self._odd)

    def fingerprint(self, *more: Any) -> str:
        """Of the samples, and of what else of their rows matters."""
        return fingerprint([[corpus.fingerprint for corpus in self.corpora], *more])


def data_file(source: str) -> str:
    """The file of a data set: itself, or that of a folder which `export` or `run` wrote.

    Raises:
        InputError: a folder of something else.
    """
    folder = Path(source)
    if source == "-" or not folder.is_dir():
        return source
    found = next((folder / name for name in IN_A_FOLDER if (folder / name).is_file()), None)
    if found is None:
        raise InputError(f"{source} holds none of {', '.join(IN_A_FOLDER)}\nName a file, or the folder of an export.")
    return str(found)


def where_of(sample: Sample, rows: Rows) -> str:
    """What a message calls a sample."""
    return sample.where or rows.name


def shared(train: Sequence[Sample], test: Sequence[Sample]) -> list[bool]:
    """Of each test sample, whether its text is in training too."""
    known = {sample.sample_id for sample in train}
    return [sample.sample_id in known for sample in test]
