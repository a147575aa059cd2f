"""Final states are read once for a text, a model and a precision, and lost by nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import tiny
from facsynth.model import kept
from facsynth.model.backbone import Backbone
from facsynth.model.final import final_states
from facsynth.model.kept import kept_states

Ids = list[npt.NDArray[np.int32]]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny.backbone(tiny.save_model(tmp_path_factory.mktemp("models") / "llama"))


@pytest.fixture
def ids() -> Ids:
    rng = np.random.default_rng(0)
    return [rng.integers(5, 60, n).astype(np.int32) for n in rng.integers(1, 30, 20)]


def read(backbone: Backbone, ids: Ids, cache: Path) -> tuple[npt.NDArray[np.float32], int]:
    """States, and how many texts were read for them."""
    done: list[int] = []
    found = kept_states(backbone, ids, cache, lambda what, n, total: done.append(n))
    return found, max(done, default=0)


def test_states_are_those_that_were_read_and_are_read_once(
    backbone: Backbone, ids: Ids, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "PART", 6)
    found, n = read(backbone, [*ids[:12], *ids[:3]], tmp_path)
    assert n == 12, "equal texts once"
    assert np.allclose(found, final_states(backbone, [*ids[:12], *ids[:3]]), atol=1e-5)
    again, n = read(backbone, ids[::-1], tmp_path)
    assert n == 8, "the others are there"
    assert np.array_equal(again[::-1][:12], found[:12])
    assert read(backbone, ids, tmp_path)[1] == 0


def test_a_call_that_was_stopped_loses_one_part(
    backbone: Backbone, ids: Ids, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "PART", 6)

    def stop(what: str, done: int, total: int | None) -> None:
        assert total == 20
        if done > 12:
            raise tiny.StoppedError

    with pytest.raises(tiny.StoppedError):
        kept_states(backbone, ids, tmp_path, stop)
    assert read(backbone, ids, tmp_path)[1] == 8


def test_a_file_that_is_damaged_or_of_another_width_is_read_anew(backbone: Backbone, ids: Ids, tmp_path: Path) -> None:
    found, _ = read(backbone, ids, tmp_path)
    (path,) = (tmp_path / "final-states").glob("*/*.safetensors")
    whole = path.read_bytes()
    for damaged in (whole[:40], b"", b"{" + whole[1:]):
        path.write_bytes(damaged)
        again, n = read(backbone, ids, tmp_path)
        assert n == 20 and np.array_equal(again, found)
    kept._keep(path.parent, [b"x" * kept.N_BYTES], np.zeros((1, 3), np.float32))
    assert read(backbone, ids, tmp_path)[1] == 0, "others are left alone"


def test_another_model_or_precision_has_states_of_its_own(backbone: Backbone, ids: Ids, tmp_path: Path) -> None:
    read(backbone, ids, tmp_path)
    folder = tiny.save_model(tmp_path / "other", n_blocks=2)
    for other in (tiny.backbone(folder), tiny.backbone(folder, dtype="bfloat16")):
        assert read(other, ids, tmp_path)[1] == 20
    assert len([*(tmp_path / "final-states").iterdir()]) == 3
