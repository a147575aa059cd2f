"""A settings file says what it means, and nothing that is not understood passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny_run
from facsynth.blocks import parse_part, read_yaml
from facsynth.errors import SettingsError
from facsynth.features.harvest import HarvestSettings
from facsynth.model.trainer import TrainSettings
from facsynth.recipe import parse_recipe
from facsynth.settings import (
    BudgetBlock,
    CoverageBlock,
    ModelBlock,
    RunSettings,
    SaeBlock,
    WriterBlock,
    dump_settings,
    load_settings,
    parse_settings,
)
from facsynth.synthesis.requests import SynthesisSettings

ROOT = Path(__file__).parent.parent
DATA: dict[str, Any] = {"data": {"seed": ["a.jsonl"], "anchor": ["b.jsonl"]}}


def with_value(block: str, key: str, value: object) -> dict[str, Any]:
    return {**DATA, block: {**DATA.get(block, {}), key: value}}


def test_what_is_dumped_is_read_back_equal(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    made = parse_settings(yaml.safe_load(yaml.safe_dump(tiny_run.parts(tmp_path))), "here")
    path.write_text(dump_settings(made), encoding="utf-8")
    assert load_settings(path) == made


def test_every_writing_default_is_said_once() -> None:
    assert parse_settings(DATA, "here").synthesis == SynthesisSettings()


@pytest.mark.parametrize("text", ["data: {}\nbudget: {}\ndata: {}\n", "budget: {rounds: 1, rounds: 2}\n"])
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(
        SettingsError, match=r"run.yaml, line (3: data|1: rounds) stands there a second time, after line 1"
    ):
        load_settings(tmp_path / "run.yaml")


def test_blocks_may_be_merged_into_others_more_than_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: &b {a: 1}\ndefs:\n  mid: &mid {<<: *b, a: 2}\ntop: {<<: *mid}\n")
    assert read_yaml(tmp_path / "a.yaml")["top"] == {"a": 2}


def test_a_single_file_needs_no_brackets_and_an_empty_block_is_not_said() -> None:
    bare = {"data": {"seed": "a.jsonl", "anchor": "b.jsonl"}, "model": None, "budget": None}
    assert parse_settings(bare, "here") == parse_settings(DATA, "here")


@pytest.mark.parametrize(("given", "kept"), [(0, "0.0"), (0.0, "0.0"), ("0", "0.0"), (1.5, "1.5"), ("r.5", "r0.5")])
def test_one_threshold_has_one_spelling(given: object, kept: str) -> None:
    assert parse_settings(with_value("coverage", "threshold", given), "here").coverage.threshold == kept


@pytest.mark.parametrize("kind", [RunSettings, ModelBlock, SaeBlock, CoverageBlock, WriterBlock, BudgetBlock])
def test_settings_are_frozen(kind: Any) -> None:
    made = parse_settings(DATA, "here") if kind is RunSettings else kind()
    with pytest.raises(ValueError, match="frozen"):
        setattr(made, next(iter(kind.model_fields)), None)


@pytest.mark.parametrize(
    ("block", "key", "value", "words"),
    [
        ("budget", "max_candidate", 3, "unknown key `budget.max_candidate`; did you mean `max_candidates`?"),
        ("budget", "zzz", 3, "unknown key `budget.zzz`; known are features, per_feature"),
        ("budget", "control", 1.5, "`budget.control` is 1.5: Input should be less than or equal to 1"),
        ("writer", "strength", float("inf"), "`writer.strength` is inf: Input should be a finite number"),
        ("data", "seed", 3, "`data.seed` is 3: Input should be a valid list"),
        ("data", "limit", 0, "`data.limit` is 0"),
        ("data", "seed", [""], "`data.seed.0` is '': the name is empty; give a file or folder"),
        ("sae", "path", "", "`sae.path` is '': the name is empty"),
        ("data", "fields", {"text": ""}, "the name of the text field is empty"),
        ("data", "fields", {"body": "x"}, "unknown key `body`; known are text, messages"),
        ("data", "fields", {"txt": "x"}, "did you mean `text`?"),
        ("data", "fields", {"text": "x", "prompt": "y"}, "text and prompt are both named"),
        ("data", "form", "poem", "there is no form 'poem'"),
        ("coverage", "threshold", "half", 'threshold "half" is not understood'),
        ("coverage", "threshold", -1, 'threshold "-1" is not understood'),
        ("coverage", "threshold", True, 'threshold "True" is not understood'),
        ("coverage", "relevance", "judged", "Input should be 'contrast', 'judge', 'contrast+judge' or 'all'"),
        ("coverage", "relevance", "judge", "relevance by judge needs a task to judge by\nName one: task: "),
        ("coverage", "counts", ["Perhaps"], "Input should be 'Yes', 'Probably', 'Maybe' or 'No'"),
        ("model", "dtype", "int8", "`model.dtype` is 'int8'"),
    ],
)
def test_a_wrong_value_is_named_with_its_file(block: str, key: str, value: object, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(with_value(block, key, value), "run.yaml")
    assert str(caught.value).startswith("run.yaml: ")
    assert words in str(caught.value)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings({"data": {"seed": [], "anchr": "b"}, "rng_seed": -1}, "run.yaml")
    text = str(caught.value)
    assert all(
        word in text for word in ("`data.seed`", "`data.anchor` is missing", "did you mean `anchor`", "rng_seed")
    )


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (None, "is empty"),
        ([], "holds a list"),
        ("x", "holds a string"),
        ({"model": "embedded"}, "it has keys of its own"),
    ],
)
def test_what_holds_no_blocks_is_refused(raw: object, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        parse_settings(raw, "run.yaml")


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(DATA), encoding="utf-8-sig")
    assert load_settings(path) == parse_settings(DATA, "here")


@pytest.mark.parametrize("content", ["[" * 1000, "a: " + "9" * 5000, "a: 2024-13-45"], ids=["depth", "digits", "date"])
def test_what_the_parser_itself_trips_over_is_no_yaml(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"run.yaml is not YAML: .*\nCompare it with a fresh one: facsynth init"):
        read_yaml(path)


def test_a_name_of_a_user_who_is_not_there_is_kept_as_it_is() -> None:
    found = parse_settings({"data": {"seed": "~nosuchuser/x.jsonl", "anchor": "b.jsonl"}}, "here")
    assert found.data.seed == ("~nosuchuser/x.jsonl",)


def test_the_command_that_writes_a_settings_file_can_be_copied(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"facsynth init '{tmp_path}/my run.yaml'"):
        read_yaml(tmp_path / "my run.yaml")


def test_the_recipe_of_the_sae_that_ships_is_one() -> None:
    recipe = parse_recipe(read_yaml(ROOT / "docs" / "sae" / "recipe.yaml"), "recipe.yaml")
    train = parse_part(TrainSettings, recipe.train, "train")
    assert (train.d_sae, train.k, recipe.hook_point) == (8192, 32, "layers.14")
    assert parse_part(HarvestSettings, recipe.harvest, "harvest").held_out == 0.02


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"corpora": []}, "`corpora` is []: name at least one file"),
        ({"corpora": ["a.jsonl"]}, "`corpora.0` is a string; it has keys of its own: path, form"),
        (
            {"corpora": [{"path": "a", "form": "text", "limt": 3}]},
            "unknown key `corpora.0.limt`; did you mean `limit`?",
        ),
        ({"corpora": [{"path": "a", "form": "text", "fields": {"txt": "x"}}]}, "did you mean `text`?"),
        ({"trian": {}}, "unknown key `trian`; did you mean `train`?"),
        ({"save_dtype": "int8"}, "'float32' or 'float16'"),
    ],
)
def test_a_wrong_recipe_is_refused(change: dict[str, Any], words: str) -> None:
    sound = {"hook_point": "layers.1", "corpora": [{"path": "a", "form": "text"}]}
    parse_recipe(sound, "recipe.yaml")
    with pytest.raises(SettingsError) as caught:
        parse_recipe({**sound, **change}, "recipe.yaml")
    assert words in str(caught.value)


def test_a_part_of_a_recipe_is_checked_for_keys_and_types() -> None:
    assert parse_part(TrainSettings, {"k": 4, "d_sae": 64}, "train").k == 4
    with pytest.raises(SettingsError, match="train: unknown key `n_token`; did you mean `n_tokens`"):
        parse_part(TrainSettings, {"n_token": 4}, "train")
    with pytest.raises(SettingsError, match="train: `k` is 'many': Input should be a valid integer"):
        parse_part(TrainSettings, {"k": "many"}, "train")
