"""What an SAE is trained on: whole documents, split by sample id, equal ones once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from facsynth.errors import SettingsError
from facsynth.features.harvest import Harvest, HarvestSettings, chunk_activations, harvest
from facsynth.records import Message, Sample
from facsynth.text.template import Template, Tokens

SETTINGS = HarvestSettings(max_tokens=64, held_out=0.1, chunk_tokens=200)


def chats(n: int, start: int = 0) -> list[Sample]:
    return [Sample((Message("user", f"question {i}?"), Message("assistant", f"answer {i}."))) for i in range(start, n)]


def texts(n: int) -> list[Sample]:
    return [Sample((Message("text", f"{i} " + "The river rose overnight. " * (1 + 5 * (i % 3))),)) for i in range(n)]


@pytest.fixture(scope="module")
def template() -> Template:
    return Template(tiny.tokenizer())


def documents(part: list[list[Tokens]]) -> list[bytes]:
    return sorted(document.ids.tobytes() for chunk in part for document in chunk)


def both(found: Harvest) -> list[bytes]:
    return sorted(documents(found.train) + documents(found.held_out))


def test_a_share_of_every_corpus_is_held_out_whatever_its_order(template: Template) -> None:
    roles = {"user", "assistant"}
    a, b = chats(40), chats(75, start=40)
    found = harvest([(a, roles), (b, roles)], template, SETTINGS)
    assert found.n_samples == 75 and not found.failures
    assert len(documents(found.held_out)) == 4 + 4  # of 40 and of 35, rounded up
    assert not set(documents(found.held_out)) & set(documents(found.train))
    again = harvest([(a[::-1], roles), (b[::-1], roles)], template, SETTINGS)
    assert documents(again.held_out) == documents(found.held_out)
    assert [[d.ids.tobytes() for d in chunk] for chunk in again.train] == [
        [d.ids.tobytes() for d in chunk] for chunk in found.train
    ], "one data set, one order of training"


def test_equal_samples_count_once_over_all_corpora(template: Template) -> None:
    roles = {"user", "assistant"}
    once = harvest([(chats(30), roles)], template, SETTINGS)
    again = harvest([(chats(30) + chats(10), roles), (chats(20), roles)], template, SETTINGS)
    assert again.n_samples == 30
    assert both(again) == both(once)


def test_chunks_hold_whole_documents_up_to_their_size(template: Template) -> None:
    found = harvest([(chats(60), {"user"})], template, SETTINGS)
    sizes = [sum(int(d.content.sum()) for d in chunk) for chunk in found.train]
    longest = max(int(d.content.sum()) for chunk in found.train for d in chunk)
    assert len(sizes) > 2
    assert all(200 <= size < 200 + longest for size in sizes[:-1])


@pytest.mark.parametrize("bos", ["<s>", None])
def test_long_plain_text_is_cut_into_pieces_that_lose_nothing_but_first_positions(bos: str | None) -> None:
    template = Template(tiny.tokenizer(bos=bos))
    samples = texts(9)
    found = harvest([(samples, {"text"})], template, HarvestSettings(max_tokens=16, held_out=0.1))
    pieces = [document for chunk in [*found.train, *found.held_out] for document in chunk]
    assert max(len(piece.ids) for piece in pieces) == 16
    assert not any(piece.content[0] for piece in pieces)
    expected: list[int] = []
    for sample in samples:
        ids = template.tokenizer(sample.text, add_special_tokens=False)["input_ids"]
        expected += ids if bos else [token for i, token in enumerate(ids) if i % 16]
    assert sorted(int(token) for piece in pieces for token in piece.ids[piece.content]) == sorted(expected)
    assert all(piece.ids[0] == template.tokenizer.bos_token_id for piece in pieces) == (bos is not None)


@pytest.mark.parametrize("held_out", [0, 0.0, -0.1, 1, 1.5, float("nan")])
def test_a_share_that_holds_out_nothing_or_everything_is_refused(held_out: float) -> None:
    with pytest.raises(SettingsError, match=f"held_out is {held_out}\nGive a share above 0 and below 1"):
        HarvestSettings(held_out=held_out)


def test_samples_without_content_are_listed(template: Template) -> None:
    empty = Sample((Message("user", "<|im_end|>"),))
    found = harvest([([*chats(5), empty], {"user"})], template, SETTINGS)
    assert [(failure.where, "no content tokens" in failure.reason) for failure in found.failures] == [
        (empty.sample_id, True)
    ]


def test_chunk_activations_are_those_of_each_document_alone(template: Template, tmp_path: Path) -> None:
    backbone = tiny.backbone(tiny.save_model(tmp_path / "model"))
    chunk = harvest([(texts(12), {"text"})], template, SETTINGS).train[0]
    alone = [backbone.activations([document.ids], [document.content]).numpy() for document in chunk]
    for budget in (1, 100, 8192):
        found = chunk_activations(chunk, backbone, token_budget=budget)
        assert found.dtype == torch.float32
        assert len(found) == sum(map(len, alone))
        # longest first, so the rows come in another order: compare them as a set
        got, wanted = found.numpy(), np.concatenate(alone)
        np.testing.assert_allclose(got[np.lexsort(got.T)], wanted[np.lexsort(wanted.T)], rtol=1e-3, atol=1e-3)
