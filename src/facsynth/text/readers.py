"""Files to rows: one function a file kind, each streaming from an open binary handle.

jsonl, csv and tsv are held a line at a time, parquet a batch at a time. A .json array is parsed whole (about ten
times its size in memory): large data belongs in jsonl or parquet. A row that cannot be read is a row with a problem.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from facsynth.errors import InputError, StorageError
from facsynth.store import is_disk_full
from facsynth.text.layouts import LAYOUT_KEYS, RawRow
from facsynth.text.tables import table

PARQUET_BATCH_ROWS = 256
PARQUET_BUFFER_BYTES = 1 << 16
"""A column chunk is streamed through this much; otherwise a row group is in memory as a whole (31 against 98 MB)."""
WHOLE_FILE = "a file that holds one JSON array, or rows over several lines, is named .json"
SNIFF_LINES = 20
GZIP_MAGIC = b"\x1f\x8b"


Reader = Callable[[BinaryIO, str], Iterator[RawRow]]


def read_rows(path: Path, kind: str, name: str) -> Iterator[RawRow]:
    """Stream the rows of a file, compressed or not; `name` is what messages call it.

    Raises:
        InputError: the file cannot be opened or decompressed, or is not of its kind at all.
    """
    with _told_as(name), open_plain(path) as handle:
        yield from READERS[kind](handle, name)


@contextmanager
def _told_as(name: str) -> Iterator[None]:
    """What goes wrong inside with a file or stream, said of `name`."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as err:
        raise InputError(f"{name} does not decompress: {err}\nIt is cut short or damaged; fetch it again.") from err
    except OSError as err:
        if is_disk_full(err):
            raise _no_room_to_spool(name) from err
        raise InputError(f"{name} cannot be read: {err.strerror or err}") from err


def open_plain(path: Path) -> BinaryIO:
    """Open a file for reading its decompressed bytes; gzip is known by its first two bytes, not by the name."""
    handle = path.open("rb")
    start = handle.read(2)
    handle.seek(0)
    if start != GZIP_MAGIC:
        return handle
    handle.close()
    return io.BufferedReader(gzip.open(path, "rb"))


def sniff(path: Path, name: str) -> str:
    """The kind of a file without an ending: a json array, else jsonl, else one text a line.

    Raises:
        InputError: it does not decompress.
    """
    with _told_as(name), open_plain(path) as handle:
        lines = [line.removeprefix(codecs.BOM_UTF8) for line, _ in zip(handle, range(SNIFF_LINES), strict=False)]
    starts = [line for line in lines if line.strip()]
    if any(isinstance(_json_row("", line).value, dict) for line in starts):
        return "jsonl"
    if starts and starts[0].lstrip().startswith(b"["):
        with _told_as(name), open_plain(path) as handle:
            try:
                json.loads(handle.read().decode("utf-8-sig"))
            except (ValueError, RecursionError):
                return "lines"
        return "json"
    return "lines"


def spool(stream: BinaryIO, name: str) -> Path:
    """A temporary file with all that the stream gives, to be read more than once; who asked for it removes it.

    Raises:
        StorageError: the temporary folder cannot hold it.
        InputError: the stream cannot be read.
    """
    with _told_as(name):
        descriptor, path = tempfile.mkstemp()
        try:
            with os.fdopen(descriptor, "wb") as handle:
                shutil.copyfileobj(stream, handle)
        except BaseException:
            Path(path).unlink()
            raise
    return Path(path)


def _no_room_to_spool(name: str) -> StorageError:
    return StorageError(
        f"the disk is full: {name} could not be spooled to {tempfile.gettempdir()}\n"
        "Make room there (or see your quota and ulimit -f), or set TMPDIR to a folder with more."
    )


def _jsonl(handle: BinaryIO, name: str) -> Iterator[RawRow]:
    for number, line in enumerate(handle, start=1):
        found = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if found.strip():
            yield _json_row(f"{name}, line {number}", found)


def _json_row(where: str, line: bytes) -> RawRow:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as err:
        return RawRow(where, line, f"not UTF-8: {err.reason} at byte {err.start} of the line")
    except ValueError as err:
        reason = f"the row goes on behind it; {WHOLE_FILE}" if line.strip() in (b"[", b"{") else str(err)
        return RawRow(where, line, f"not JSON: {reason}")
    except RecursionError:
        return RawRow(where, line, "not usable JSON: nested too deeply")
    return (
        RawRow(where, line, f"an array, not an object: {WHOLE_FILE}")
        if isinstance(value, list)
        else RawRow(where, value)
    )


def _json(handle: BinaryIO, name: str) -> Iterator[RawRow]:
    found = handle.read()
    if not found.strip():
        return
    try:
        value = json.loads(found.decode("utf-8-sig"))
    except UnicodeDecodeError as err:
        raise InputError(
            f"{name} is not UTF-8: {err.reason} at byte {err.start}\n"
            "Save it as UTF-8, or as jsonl to lose one row only."
        ) from err
    except ValueError as err:
        if found.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):  # jsonl under the name .json is common
            yield from _jsonl(io.BytesIO(found), name)
            return
        raise InputError(
            f"{name} is not JSON: {err}\nMend it there, or save it as jsonl to lose one row only."
        ) from err
    except RecursionError as err:
        raise InputError(f"{name} is not usable JSON: nested too deeply") from err
    for number, row in enumerate(_array(value, name), start=1):
        yield RawRow(f"{name}, item {number}", row)


def _array(value: Any, name: str) -> list[Any]:
    """The rows of a .json file: an array, the one array in an object, one row, or an object of columns.

    Raises:
        InputError: it is none of these, or cannot be told.
    """
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        raise InputError(f"{name} holds neither an array nor an object\nWrite one object a row: [{{…}}, {{…}}].")
    arrays = [item for item in value.values() if isinstance(item, list)]
    columns = [key for key, item in value.items() if _is_column(item, texts_only=key not in LAYOUT_KEYS)]
    known = LAYOUT_KEYS & value.keys()
    texts = [key for key in columns if key in known or not known]
    if texts and len(arrays) == len(value) and len(set(map(len, arrays))) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*arrays, strict=True)]
    if known & set(texts):
        raise InputError(
            f"{name} is one object whose {texts[0]} is a list of texts, but not every field is a list as long\n"
            "Write one object a row, as DataFrame.to_json(path, orient='records') does."
        )
    if known:
        return [value]
    if len(arrays) == 1:
        return arrays[0]
    raise InputError(
        f"{name} is an object with {len(arrays)} arrays: {', '.join(map(str, value))}\n"
        "Keep the one array of rows, or write one row a line (.jsonl)."
    )


def _is_column(items: Any, *, texts_only: bool) -> bool:
    """Whether a field holds a text for each row (or a conversation for each), rather than one row's turns."""
    kinds = (str, type(None)) if texts_only else (str, type(None), list)
    return isinstance(items, list) and len(items) > 0 and all(isinstance(item, kinds) for item in items)


def _parquet(handle: BinaryIO, name: str) -> Iterator[RawRow]:
    import pyarrow as pa  # noqa: PLC0415  (slow to load, needed for this kind only)
    import pyarrow.parquet as pq  # noqa: PLC0415

    with tempfile.TemporaryFile() as spooled:
        if not isinstance(getattr(handle, "raw", None), io.FileIO):  # parquet is read from its end
            shutil.copyfileobj(handle, spooled)
            handle = spooled
        number = 0
        try:
            table = pq.ParquetFile(handle, buffer_size=PARQUET_BUFFER_BYTES, pre_buffer=False)
            for batch in table.iter_batches(PARQUET_BATCH_ROWS):
                for index in range(batch.num_rows):
                    number += 1
                    yield _parquet_row(f"{name}, row {number}", batch, index)
        except pa.ArrowException as err:
            raise InputError(f"{name} is not parquet, or damaged after row {number}: {err}") from err


def _parquet_row(where: str, batch: Any, index: int) -> RawRow:
    try:
        return RawRow(where, {key: batch.column(i)[index].as_py() for i, key in enumerate(batch.schema.names)})
    except UnicodeDecodeError as err:
        return RawRow(where, err.object, f"not UTF-8: {err.reason} at byte {err.start} of a cell")


def _lines(handle: BinaryIO, name: str) -> Iterator[RawRow]:
    for number, line in enumerate(handle, start=1):
        where = f"{name}, line {number}"
        found = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).rstrip(b"\r\n")
        try:
            if found.strip():
                yield RawRow(where, {"text": found.decode("utf-8")})
        except UnicodeDecodeError as err:
            yield RawRow(where, found, f"not UTF-8: {err.reason} at byte {err.start} of the line")


READERS: dict[str, Reader] = {
    "jsonl": _jsonl,
    "json": _json,
    "csv": table(","),
    "tsv": table("\t"),
    "parquet": _parquet,
    "lines": _lines,
}
