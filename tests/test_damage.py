"""Every file of a run gone, cut short or filled with something else: a message with the way out, or no harm."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from facsynth.features.encoded import Encoded
from tiny_cli import Done, Parts, facsynth

DAMAGES = {
    "junk": lambda data: b'[1, {"a": null}]\n',
    "half": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "gone": None,
}
Run = tuple[Parts, Path]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACSYNTH_CACHE", str(folder / "cache"))
        tiny = Parts(folder)
        assert facsynth("run", tiny.config, "-o", folder / "run").code == 0
        yield tiny, folder / "run"


def damaged(run: Path, name: Path, how: str, folder: Path) -> Path:
    """A copy of a run with one file of it damaged."""
    shutil.rmtree(folder / "copy", ignore_errors=True)
    copy = Path(shutil.copytree(run, folder / "copy"))
    change = DAMAGES[how]
    if change is None:
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(change((run / name).read_bytes()))
    return copy


def files_of(run: Path) -> list[Path]:
    """All of its files but the lock."""
    return sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file() and path.name != ".lock")


@pytest.mark.parametrize("how", DAMAGES)
def test_no_damage_to_a_finished_run_ends_in_a_traceback(finished: Run, tmp_path: Path, how: str) -> None:
    tiny, run = finished
    top = [name for name in files_of(run) if name.parts[0] not in ("features", "synthesis")]
    assert len(top) > 10
    for name in top:
        copy = damaged(run, name, how, tmp_path)
        for words in (("verify", copy), ("show", copy), ("report", copy), ("run", tiny.config, "-o", copy)):
            done = facsynth(*words)
            assert done.code in (0, 1, 2), (name, words, done.stderr)
            assert done.code == 0 or told_way_out(done), (name, words, done.stderr)


@pytest.mark.parametrize("how", DAMAGES)
def test_going_on_with_damaged_files_ends_in_the_same_samples_or_a_message(
    finished: Run, tmp_path: Path, how: str
) -> None:
    tiny, run = finished
    outcomes = set()
    for name in files_of(run):
        copy = damaged(run, name, how, tmp_path)
        for manifest in ("manifest.json", "synthesis/manifest.json"):  # as if it had been killed before them
            (copy / manifest).unlink(missing_ok=True)
        done = facsynth("run", tiny.config, "-o", copy)
        outcomes.add(done.code)
        if done.code == 0:
            assert (copy / "samples.jsonl").read_bytes() == (run / "samples.jsonl").read_bytes(), name
        else:
            assert told_way_out(done), (name, done.stderr)
    assert {0, 1} <= outcomes


def test_a_shard_that_is_gone_is_missed(finished: Run, tmp_path: Path) -> None:
    _, run = finished
    copy = damaged(run, Path("features/anchor/shards/00000.parquet"), "gone", tmp_path)
    (copy / "manifest.json").unlink()
    done = facsynth("run", finished[0].config, "-o", copy)
    assert done.code == 1
    assert "features/anchor holds 0 samples, its manifest says 80\nRemove" in done.stderr
    shutil.rmtree(copy / "features" / "anchor")
    assert facsynth("run", finished[0].config, "-o", copy).code == 0
    assert Encoded.open(copy / "features" / "anchor").profile.n_samples == 80


def told_way_out(done: Done) -> bool:
    """Whether the message at the end has a line for the way out; of a setting it says at once what it may be."""
    message = done.stderr[done.stderr.index("facsynth: ") :].strip()
    return len(message.splitlines()) > 1 or (done.code == 2 and "facsynth.yaml" in message)
