"""Three rows as the bytes of every kind of file that a corpus is read from."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = [
    {"prompt": "Why is the sky blue?", "completion": "Light scatters."},
    {"prompt": "Say “é”,\nor \u2028 \x85 \U0001f600,\r\nand\ttab", "completion": "\"é\", 'quoted'"},
    {"prompt": "Count", "completion": "1,2;3"},
]


def as_jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_table(rows, delimiter):
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, rows[0].keys(), delimiter=delimiter)
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


WRITERS = {
    "jsonl": as_jsonl,
    "json": lambda rows: json.dumps(rows, indent=1).encode(),
    "wrapped.json": lambda rows: json.dumps({"version": 1, "data": rows}).encode(),
    "lines.json": as_jsonl,
    "bom.jsonl": lambda rows: b"\xef\xbb\xbf" + as_jsonl(rows),
    "crlf.jsonl": lambda rows: as_jsonl(rows).replace(b"\n", b"\r\n\r\n"),
    "csv": lambda rows: as_table(rows, ","),
    "bom.csv": lambda rows: b"\xef\xbb\xbf" + as_table(rows, ","),
    "tsv": lambda rows: as_table(rows, "\t"),
    "parquet": as_parquet,
}


def contents(corpus):
    return [[m.content for m in sample.messages] for sample in corpus]


def put(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
