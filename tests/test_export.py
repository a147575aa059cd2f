"""From a finished run to what trainers read: layouts, the mix, the side table, the card."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

import tiny_run
from facsynth import pipeline
from facsynth.errors import InputError, SettingsError
from facsynth.exporting import ExportSettings, _of_layout, export_run
from facsynth.settings import parse_settings
from facsynth.store import read_json, read_jsonl, write_jsonl
from facsynth.text.export import dataset_info, laid_out
from tiny_cli import facsynth


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


CHAT = {"messages": [turn("system", "be kind"), turn("user", "hello"), turn("assistant", "good day")]}
PAIR = {
    "prompt": [turn("user", "hello")],
    "chosen": [turn("assistant", "good day")],
    "rejected": [turn("assistant", "?")],
}
AB = {"question": "tea?\n(A) yes\n(B) no", "answer_matching_behavior": " (A)", "answer_not_matching_behavior": " (B)"}


@pytest.mark.parametrize(
    ("form", "row", "layout", "found"),
    [
        ("chat", CHAT, "trl", CHAT),
        ("message", CHAT, "trl", CHAT),
        ("chat", CHAT, "trl-completion", {"prompt": CHAT["messages"][:2], "completion": CHAT["messages"][2:]}),
        ("chat", CHAT, "llama-factory", CHAT),
        ("preference", PAIR, "trl", PAIR),
        (
            "preference", PAIR, "llama-factory",
            {"messages": PAIR["prompt"], "chosen": PAIR["chosen"][0], "rejected": PAIR["rejected"][0]},
        ),
        (
            "ab", AB, "trl",
            {"prompt": [turn("user", AB["question"])], "chosen": [turn("assistant", "(A)")],
             "rejected": [turn("assistant", "(B)")]},
        ),
        ("ab", AB, "plain", AB),
        ("text", {"text": "a river"}, "trl", {"text": "a river"}),
        ("message", {"messages": CHAT["messages"][:2], "label": 1}, "trl", {"text": "hello", "label": 1}),
    ],
)  # fmt: skip
def test_a_row_in_the_layout_of_a_trainer(form: str, row: dict[str, Any], layout: Any, found: dict[str, Any]) -> None:
    assert laid_out([row], form, layout) == [found]


def test_where_one_chat_has_no_reply_all_are_prompts() -> None:
    rows = [CHAT, {"messages": [turn("user", "and you?")]}]
    assert laid_out(rows, "message", "trl") == [
        {"prompt": CHAT["messages"][:2]},
        {"prompt": [turn("user", "and you?")]},
    ]


@pytest.mark.parametrize(
    ("row", "note"),
    [
        (
            {"prompt": [], "chosen": [], "rejected": []},
            "these samples have no one completion: rows hold prompt, chosen",
        ),
        ({"text": "a"}, "these samples have no one completion: rows hold text"),
        ({"prompt": []}, "some samples have no reply"),
        ({"prompt": [], "completion": []}, ""),
    ],
)
def test_a_layout_that_samples_cannot_have_is_noted(row: dict[str, Any], note: str) -> None:
    found = _of_layout([row], "trl-completion")
    assert [text[: len(note)] for text in found] == ([note] if note else [])


def test_the_entry_for_llama_factory_names_columns_and_tags() -> None:
    entry = dataset_info("mine", "train.jsonl", laid_out([PAIR], "preference", "llama-factory"))["mine"]
    assert entry["ranking"] is True
    assert entry["columns"] == {"messages": "messages", "chosen": "chosen", "rejected": "rejected"}
    assert (entry["formatting"], entry["tags"]["user_tag"]) == ("sharegpt", "user")
    assert dataset_info("t", "t.jsonl", [{"text": "a"}])["t"]["columns"] == {"prompt": "text"}
    with pytest.raises(ValueError, match="no replies"):
        dataset_info("p", "p.jsonl", [{"prompt": []}])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on messages with two samples from a pool, and some that were written."""
    folder = tmp_path_factory.mktemp("finished")
    parts = tiny_run.parts(folder)
    parts["data"]["pool"] = [str(tiny_run.corpus(folder / "pool.jsonl", 40, 3))]
    parts["budget"] |= {"n_selected": 2}
    settings = parse_settings(parts, "the test")
    pipeline.run(settings, folder / "run", folder / "cache")
    return folder / "run"


def sources(to: Path) -> Counter[str]:
    return Counter(row["source"] for row in read_jsonl(to / "provenance.jsonl"))


def test_rows_and_side_table_belong_together(finished: Path, tmp_path: Path) -> None:
    record = export_run(finished, tmp_path / "data", ExportSettings(layout="plain"))
    rows, side = read_jsonl(tmp_path / "data" / "train.jsonl"), read_jsonl(tmp_path / "data" / "provenance.jsonl")
    assert rows == read_jsonl(finished / "samples.jsonl")
    assert [row["row"] for row in side] == list(range(len(rows)))
    assert sources(tmp_path / "data") == record["sources"]
    assert record["sources"]["selected"] == 2
    assert record["sources"]["written"] > 0


def test_a_text_that_was_changed_after_it_was_proved_is_not_exported(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    rows = read_jsonl(run / "samples.jsonl")
    rows[1]["messages"][0]["content"] += " and more"
    (run / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"samples.jsonl, row 2: its text was changed after it was proved\nRestore"):
        export_run(run, tmp_path / "data", ExportSettings(layout="plain"))


def test_a_mix_holds_each_sample_once_in_an_order_of_its_seed(finished: Path, tmp_path: Path) -> None:
    seed = read_jsonl(finished.parent / "seed.jsonl")
    found = [
        export_run(finished, tmp_path / str(n), ExportSettings(layout="plain", mix=True, rng_seed=n // 2))
        for n in (0, 1, 2)
    ]
    texts = [(tmp_path / str(n) / "train.jsonl").read_text() for n in (0, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert sorted(texts[0].splitlines()) == sorted(texts[2].splitlines())
    n_distinct = len({json.dumps(row) for row in seed})
    assert found[0]["sources"]["seed"] == n_distinct
    assert found[0]["n_rows"] == n_distinct + read_json(finished / "summary.json")["n_accepted"]
    assert found[0]["n_duplicates"] == len(seed) - n_distinct


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_share_of_written_samples_is_kept(finished: Path, tmp_path: Path, share: float) -> None:
    settings = ExportSettings(layout="plain", mix=True, synthetic_share=share)
    found = export_run(finished, tmp_path / "data", settings)["sources"]
    everything = export_run(finished, tmp_path / "all", ExportSettings(layout="plain", mix=True))["sources"]
    written, others = found.get("written", 0), sum(found.values()) - found.get("written", 0)
    assert abs(written - share * (written + others)) <= 1
    assert written == everything["written"] or others == sum(everything.values()) - everything["written"]
    n_left = {source: n - found.get(source, 0) for source, n in everything.items() if n > found.get(source, 0)}
    (note,) = read_json(tmp_path / "data" / "export.json")["notes"]
    assert note == f"left out, for the share that was asked for: {', '.join(f'{n} of {s}' for s, n in n_left.items())}"
    assert read_json(tmp_path / "all" / "export.json")["notes"] == []


def test_labels_of_two_kinds_are_refused() -> None:
    rows = [{"messages": [turn("user", "hello")], "label": label} for label in (1, "toxic")]
    with pytest.raises(InputError, match="as 1 and 'toxic'"):
        laid_out(rows, "message", "trl")


def test_parquet_holds_the_same_rows(finished: Path, tmp_path: Path) -> None:
    for name, parquet in (("a", False), ("b", True)):
        export_run(finished, tmp_path / name, ExportSettings(parquet=parquet))
    assert pq.read_table(tmp_path / "b" / "train.parquet").to_pylist() == read_jsonl(tmp_path / "a" / "train.jsonl")


def test_the_card_says_what_is_in_it_and_names_no_folder(finished: Path, tmp_path: Path) -> None:
    export_run(finished, tmp_path / "data", ExportSettings(mix=True))
    card = (tmp_path / "data" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "train.jsonl"}]
    assert "seed.jsonl" in card
    assert f"{read_json(finished / 'summary.json')['after']:.1%}" in card
    assert "unknown" in card
    assert str(finished.parent) not in card


def test_a_share_of_written_samples_where_none_was_written_is_refused(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    rows = read_jsonl(finished / "provenance.jsonl")
    write_jsonl(tmp_path / "run" / "provenance.jsonl", [row | {"source": "selected"} for row in rows])
    with pytest.raises(SettingsError, match="no written ones"):
        export_run(tmp_path / "run", tmp_path / "data", ExportSettings(mix=True, synthetic_share=0.2))


def test_what_cannot_be_exported_is_refused(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is no export"):
        export_run(finished, tmp_path / "mine", ExportSettings())
    with pytest.raises(SettingsError, match="--mix"):
        export_run(finished, tmp_path / "a", ExportSettings(synthetic_share=0.5))
    with pytest.raises(SettingsError, match="no replies"):
        export_run(finished, tmp_path / "b", ExportSettings(layout="llama-factory"))
    with pytest.raises(InputError, match="not finished"):
        export_run(tmp_path, tmp_path / "c", ExportSettings())


def test_the_command_writes_it_and_again(finished: Path, tmp_path: Path) -> None:
    words = ("export", finished, "-o", tmp_path / "data", "--mix")
    for _ in range(2):
        done = facsynth(*words)
        assert done.code == 0, done.stderr
    assert "some samples have no reply" in done.stderr
    assert "train.jsonl" in done.stdout
    assert facsynth(*words, "--layout", "trll").code == 2


def test_a_run_that_lost_provenance_is_not_exported_and_show_says_so(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    lines = (tmp_path / "run" / "provenance.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "provenance.jsonl").write_text("".join(lines[:-1]))
    done = facsynth("export", tmp_path / "run", "-o", tmp_path / "data")
    assert done.code == 1
    assert f"has {len(lines)} rows and provenance.jsonl {len(lines) - 1}" in done.stderr
    assert "texts are shown only where both have one" in facsynth("show", tmp_path / "run").stderr
