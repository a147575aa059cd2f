"""Rival methods on the embedded model: the three that a small writer can follow give samples, beside the control."""

from __future__ import annotations

from pathlib import Path

import pytest

from facsynth.baselines import METHODS
from facsynth.baselines.frame import SAMPLES, Cap, collect, messages_of
from facsynth.baselines.given import Given
from facsynth.cli.console import cache_folder
from facsynth.demo import example_file
from facsynth.llm import Ledger, LedgerWriter
from facsynth.model.backbone import load_backbone
from facsynth.model.embedded import embedded_model
from facsynth.model.encoder import open_encoder
from facsynth.model.writer import LocalWriter
from facsynth.store import read_jsonl
from facsynth.synthesis.requests import SynthesisSettings
from facsynth.synthesis.seen import Seen
from facsynth.text.corpus import read_corpus
from facsynth.text.forms import to_sample
from facsynth.text.template import Template


@pytest.fixture(scope="module")
def writer() -> LocalWriter:
    cache = cache_folder()
    backbone = load_backbone(embedded_model(cache), hook_point="layers.14", cache=cache)
    return LocalWriter(backbone, Template(backbone.tokenizer).prompt_ids, {})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "self-instruct", "magpie", "synalign"])
def test_the_embedded_writer_gives_samples(name: str, writer: LocalWriter, tmp_path: Path) -> None:
    anchor = list(read_corpus(Path(example_file("anchor.jsonl"))))
    settings = SynthesisSettings(max_tokens=40)
    given = Given(settings, messages_of(anchor, "message")[:16], embed=open_encoder("embedded"))
    seen = Seen.of(((sample.sample_id, sample.text) for sample in anchor), settings.clean)
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        through = LedgerWriter(writer, ledger)
        found = collect(name, METHODS[name], given, through, Cap(3), out=tmp_path, seen=seen, parents={})
    rows = read_jsonl(tmp_path / SAMPLES)
    assert found["n_accepted"] == len(rows) == 3, found
    known = {sample.sample_id for sample in anchor}
    assert not known & {to_sample(row, "message").sample.sample_id for row in rows}
    assert 0 < found["written_tokens"] < 10_000
