"""Corpora: samples read from a file, stdin or the Hub, streamed again from disk each time they are walked through.

`read_corpus` reads everything once, for the fingerprint and the failures; memory does not grow with the corpus (but
with its failures: each is kept, with 200 characters of what was found). After: features (encode). Before: nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from facsynth.errors import InputError, SettingsError
from facsynth.records import Failure, Progress, Sample, no_progress
from facsynth.text.forms import form_roles, full_row, to_row, to_sample
from facsynth.text.layouts import NO_FIELDS, Fields, RawRow, RowError
from facsynth.text.sources import open_source

Row = Callable[[], dict[str, Any]]
"""`full_row` of a row as it was read."""
RAW_CHARS = 200
PROGRESS_ROWS = 1000


@dataclass(frozen=True, repr=False)
class Corpus:
    """Samples of one form. Walking through it reads them again, so it may be larger than memory."""

    name: str
    form: str
    fingerprint: str
    """sha256 over the sample ids in order: equal content, equal fingerprint, in any kind of file."""
    n_samples: int
    failures: tuple[Failure, ...]
    """Every row that is no sample, with its line and the reason."""
    n_repaired: int
    """Samples that had NUL characters or lone surrogates taken out."""
    licence: str | None
    """None: unknown."""
    _rows: Callable[[], Iterator[tuple[Sample, Row]]] = field(compare=False)

    @staticmethod
    def of(samples: Sequence[Sample], *, name: str = "samples", form: str = "message") -> Corpus:
        """A corpus of samples held in memory."""
        form_roles(form)
        held = tuple(samples)

        return Corpus(
            name,
            form,
            _fingerprint(held),
            len(held),
            (),
            0,
            None,
            lambda: ((s, partial(to_row, s, form)) for s in held),
        )

    @staticmethod
    def join(corpora: Sequence[Corpus], *, name: str | None = None) -> Corpus:
        """Corpora one after the other, as if they were one file.

        Raises:
            SettingsError: none were given, or their forms differ.
        """
        forms = sorted({corpus.form for corpus in corpora})
        if len(forms) != 1:
            raise SettingsError(f"corpora to join have the forms {', '.join(forms) or 'none'}\nRead all in one form.")
        parts = tuple(corpora)
        licences = {corpus.licence for corpus in parts}
        return Corpus(
            name=name or " + ".join(corpus.name for corpus in parts),
            form=forms[0],
            fingerprint=_fingerprint(sample for corpus in parts for sample in corpus),
            n_samples=sum(len(corpus) for corpus in parts),
            failures=tuple(failure for corpus in parts for failure in corpus.failures),
            n_repaired=sum(corpus.n_repaired for corpus in parts),
            licence=licences.pop() if len(licences) == 1 else None,
            _rows=lambda: (row for corpus in parts for row in corpus.rows()),
        )

    def without(self, is_out: Callable[[Sample], bool], reason: str) -> Corpus:
        """The samples that are not out; the others stand among the failures, with `reason`."""
        out = [sample for sample in self if is_out(sample)]
        ids = {sample.sample_id for sample in out}
        kept = replace(self, _rows=lambda: (row for row in self.rows() if row[0].sample_id not in ids))
        return replace(
            kept,
            fingerprint=_fingerprint(sample for sample in self if sample.sample_id not in ids),
            n_samples=self.n_samples - len(out),
            failures=(*self.failures, *(Failure(sample.where or sample.sample_id, reason) for sample in out)),
        )

    @property
    def n_failures(self) -> int:
        """How many rows are no samples."""
        return len(self.failures)

    def __len__(self) -> int:
        return self.n_samples

    def __iter__(self) -> Iterator[Sample]:
        """Stream the samples.

        Raises:
            InputError: at the end, where the file is no longer what it was when the corpus was read.
        """
        return (sample for sample, _ in self.rows())

    def rows(self) -> Iterator[tuple[Sample, Row]]:
        """Stream the samples, each with what gives the whole row it was cut from. Raises as iteration does."""
        digest = hashlib.sha256()
        for sample, row in self._rows():
            digest.update(sample.sample_id.encode())
            yield sample, row
        if digest.hexdigest() != self.fingerprint:
            raise InputError(f"{self.name} was changed while it was in use\nRun the same command again.")

    def __repr__(self) -> str:
        return (
            f"Corpus({self.n_samples} samples of form {self.form}, {self.n_failures} failures, {self.name}, "
            f"fingerprint {self.fingerprint[:12]}…)"
        )


class _Outcome(NamedTuple):
    sample: Sample | None
    repaired: bool = False
    failure: Failure | None = None
    hint: str = ""
    row: Any = None


class _Read(NamedTuple):
    fingerprint: str
    n_samples: int
    n_repaired: int
    failures: list[Failure]
    telling: _Outcome | None
    """The first failure that says a way out, else the first."""


def read_corpus(
    source: str | Path,
    *,
    form: str = "message",
    fields: Fields = NO_FIELDS,
    limit: int | None = None,
    progress: Progress = no_progress,
) -> Corpus:
    """Read a corpus: each row is cut to its form, each row that cannot be is a `Failure`.

    Args:
        source: a .jsonl, .json, .csv, .tsv or .parquet file, compressed with gzip or not; `-` for stdin (a json array,
            else jsonl, else one text a line); a Hub data set as `hf:owner/name`, `hf:owner/name:config@split` (split
            `train` where none is said), or without `hf:` where no such path exists.
        form: which part of a row is encoded.
        fields: where the parts are, for rows of a layout that is not recognised.
        limit: at most so many samples.
        progress: told the rows read; the total is unknown but for `limit`.

    Raises:
        InputError: nothing there, not readable, or no row that is a sample; says which fields there are.
        SettingsError: no such form, or a limit below 1.
    """
    form_roles(form)
    if limit is not None and limit < 1:
        raise SettingsError(f"limit is {limit}; at least 1 sample is needed")
    found = open_source(source)

    def outcomes() -> Iterator[_Outcome]:
        return _outcomes(found.rows(), form, fields, limit)

    read = _read_once(outcomes(), lambda n_rows: progress(f"read {found.name}", n_rows, limit))
    if not read.n_samples:
        raise _nothing(found.name, form, read)
    return Corpus(
        name=found.name,
        form=form,
        fingerprint=read.fingerprint,
        n_samples=read.n_samples,
        failures=tuple(read.failures),
        n_repaired=read.n_repaired,
        licence=found.licence,
        _rows=lambda: ((o.sample, partial(full_row, o.row, form, fields)) for o in outcomes() if o.sample),
    )


def _read_once(outcomes: Iterable[_Outcome], report: Callable[[int], None]) -> _Read:
    digest, n_samples, n_repaired = hashlib.sha256(), 0, 0
    failures: list[Failure] = []
    telling: _Outcome | None = None
    for n_rows, outcome in enumerate(outcomes, start=1):
        if outcome.sample:
            digest.update(outcome.sample.sample_id.encode())
            n_samples += 1
            n_repaired += outcome.repaired
        elif outcome.failure:
            failures.append(outcome.failure)
            if telling is None or (outcome.hint and not telling.hint):
                telling = outcome
        if n_rows % PROGRESS_ROWS == 0:
            report(n_rows)
    return _Read(digest.hexdigest(), n_samples, n_repaired, failures, telling)


def _outcomes(rows: Iterable[RawRow], form: str, fields: Fields, limit: int | None) -> Iterator[_Outcome]:
    n_samples = 0
    for row in rows:
        try:
            if row.problem:
                raise RowError(row.problem)
            mapped = to_sample(row.value, form, fields)
        except RowError as err:
            yield _Outcome(None, failure=Failure(row.where, str(err), _start(row.value)), hint=err.hint)
            continue
        yield _Outcome(replace(mapped.sample, where=row.where), mapped.repaired, row=row.value)
        n_samples += 1
        if n_samples == limit:
            return


def _start(value: Any) -> str:
    if isinstance(value, bytes):
        return value[: 4 * RAW_CHARS].decode("utf-8", "replace")[:RAW_CHARS].rstrip("\r\n")
    if not isinstance(value, str):  # no more of it is walked through than is shown, however deep it is nested
        parts = json.JSONEncoder(ensure_ascii=False, default=str).iterencode(value)
        value = "".join(islice(parts, RAW_CHARS))
    return str(value[:RAW_CHARS].encode("utf-8", "replace").decode("utf-8"))


def _nothing(name: str, form: str, read: _Read) -> InputError:
    if read.telling is None or read.telling.failure is None:
        return InputError(f"{name} is empty: there is not one row in it\nGive a file with one sample a row.")
    failure, hint = read.telling.failure, read.telling.hint
    return InputError(
        f"none of the {len(read.failures)} rows of {name} is a sample of form {form}\n"
        f"  {failure.where}: {failure.reason}\n"
        f"{hint or 'Mend the rows, or give another file.'}"
    )


def _fingerprint(samples: Iterable[Sample]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.sample_id.encode())
    return digest.hexdigest()
