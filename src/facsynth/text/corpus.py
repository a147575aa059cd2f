"""Corpora: samples read from a file, stdin or the Hub, streamed again from disk each time they are walked through.

`read_corpus` reads everything once, for the fingerprint and the failures; memory does not grow with the corpus (but
with its failures: each is kept, with 200 characters of what was found). After: features (encode). Before: nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from facsynth.errors import InputError, SettingsError
from facsynth.records import Failure, Progress, Sample, no_progress
from facsynth.text.forms import form_roles, to_sample
from facsynth.text.layouts import NO_FIELDS, Fields, RawRow, RowError
from facsynth.text.readers import read_rows, sniff, spool

KNOWN_ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
RAW_CHARS = 200
PROGRESS_ROWS = 1000
_HUB = re.compile(r"(?P<id>[\w.-]+(/[\w.-]+)?)(:(?P<config>[^@]+))?(@(?P<split>.+))?")


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
    _samples: Callable[[], Iterator[Sample]] = field(compare=False)

    @staticmethod
    def of(samples: Sequence[Sample], *, name: str = "samples", form: str = "message") -> Corpus:
        """A corpus of samples held in memory."""
        form_roles(form)
        held = tuple(samples)
        return Corpus(name, form, _fingerprint(held), len(held), (), 0, None, lambda: iter(held))

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
            _samples=lambda: (sample for corpus in parts for sample in corpus),
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
        digest = hashlib.sha256()
        for sample in self._samples():
            digest.update(sample.sample_id.encode())
            yield sample
        if digest.hexdigest() != self.fingerprint:
            raise InputError(f"{self.name} was changed while it was in use\nRun the same command again.")

    def __repr__(self) -> str:
        return (
            f"Corpus({self.n_samples} samples of form {self.form}, {self.n_failures} failures, {self.name}, "
            f"fingerprint {self.fingerprint[:12]}…)"
        )


class _Source(NamedTuple):
    name: str
    rows: Callable[[], Iterator[RawRow]]
    licence: str | None = None


class _Outcome(NamedTuple):
    sample: Sample | None
    repaired: bool = False
    failure: Failure | None = None
    hint: str = ""


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
    found = _source(source)

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
        _samples=lambda: (outcome.sample for outcome in outcomes() if outcome.sample),
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
        yield _Outcome(replace(mapped.sample, where=row.where), mapped.repaired)
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


def _source(source: str | Path) -> _Source:
    name = str(source)
    if name == "-":
        return _stdin()
    if name.startswith("hf:"):
        return _hub(name)
    if not name:
        raise InputError(
            "the name of a file is empty\nName a file, - for stdin, or a data set on the Hub: hf:owner/name."
        )
    path = Path(os.path.expanduser(name))  # noqa: PTH111  (Path.expanduser raises where there is no such user)
    kind = _kind_of(path)
    if path.is_dir():
        raise InputError(f"{name} is a folder\nName the file in it (known: {', '.join(KNOWN_ENDINGS)}, also .gz).")
    if not path.exists():
        if kind is None and "/" in name and _HUB.fullmatch(name):
            return _hub(name)
        raise InputError(f"there is no file {name}\nA data set on the Hub is named hf:owner/name.")
    if kind is None:
        raise InputError(
            f"{name} has no known ending\nKnown: {', '.join(KNOWN_ENDINGS)}, each also with .gz. "
            "Pipe anything else to stdin (-): a json array, jsonl, or one text a line."
        )
    return _Source(name, lambda: read_rows(path, kind, name))


def _kind_of(path: Path) -> str | None:
    ending = Path(path.name.lower().removesuffix(".gz")).suffix
    return ending.removeprefix(".") if ending in KNOWN_ENDINGS else None


def _stdin() -> _Source:
    spooled = spool(sys.stdin.buffer, "stdin")

    def rows() -> Iterator[RawRow]:
        return read_rows(spooled, kind, "stdin")

    weakref.finalize(rows, spooled.unlink, missing_ok=True)  # gone with the corpus that holds `rows`
    kind = sniff(spooled, "stdin")
    return _Source("stdin", rows)


def _hub(name: str) -> _Source:
    parts = _HUB.fullmatch(name.removeprefix("hf:"))
    if parts is None:
        raise InputError(f"{name} is no data set id\nWrite hf:owner/name, hf:owner/name:config or hf:owner/name@split.")
    import datasets  # noqa: PLC0415  (seconds to load, needed for the Hub only)

    try:
        found = datasets.load_dataset(parts["id"], parts["config"], split=parts["split"] or "train")
    except Exception as err:  # whatever `datasets` raises: no such set, no network, no such config or split
        raise InputError(
            f"the data set {parts['id']} cannot be read, and there is no such file\n  {type(err).__name__}: {err}\n"
            "Check id, config and split (hf:owner/name:config@split) and the network, or download it as a file."
        ) from err

    def rows() -> Iterator[RawRow]:
        for number, row in enumerate(found, start=1):
            yield RawRow(f"{name}, row {number}", row)

    return _Source(name, rows, found.info.license or None)
