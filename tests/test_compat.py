"""Reading texts as the paper's released scripts do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
import tiny_run
from facsynth.assemble import open_space
from facsynth.errors import InputError, SettingsError
from facsynth.features.encode import EncodeSettings, FeatureSpace
from facsynth.records import Message, Sample
from facsynth.settings import parse_settings
from facsynth.text.compat import fac_tokens
from facsynth.text.template import Template
from tiny_cli import facsynth


def long_text(n_words: int) -> Sample:
    return Sample((Message("user", " ".join(f"river{n}" for n in range(n_words))),))


def test_everything_from_the_32nd_token_on_counts_but_special_ones_up_to_512() -> None:
    template = Template(tiny.tokenizer())
    rendered = template.rendered_ids(long_text(20).messages)
    found = fac_tokens(template, long_text(20))
    assert found.ids.tolist() == rendered
    assert found.ids.tolist().count(template.tokenizer.bos_token_id) <= 1
    special = np.isin(found.ids, template.special_ids)
    assert found.role.tolist() == [int(i >= 31 and not special[i]) for i in range(len(rendered))]
    assert found.role[-1] == 1, "the line break that ends a turn counts, as it does in the scripts"
    longer = fac_tokens(template, long_text(400))
    assert (len(longer.ids), longer.cut) == (512, True)


def test_a_text_that_ends_in_the_header_is_a_failure() -> None:
    with pytest.raises(InputError, match="no token past the first 31"):
        fac_tokens(Template(tiny.tokenizer()), Sample((Message("user", "hi"),)))


def test_maxima_are_those_of_the_whole_rendering_in_ten_lines_of_numpy(tmp_path: Path) -> None:
    backbone, sae = tiny.backbone(tiny.save_model(tmp_path / "m")), tiny.random_sae()
    space = FeatureSpace(backbone, sae, EncodeSettings(codes="relu", compat="fac"))
    sample = long_text(30)
    ids = torch.tensor(space.template.rendered_ids(sample.messages))[None, :512]
    with torch.no_grad():
        x = backbone.model(input_ids=ids, output_hidden_states=True).hidden_states[2][0].numpy()
    pre = (x - sae.b_dec.numpy()) @ sae.W_enc.numpy() + sae.b_enc.numpy()
    counts = np.array([i >= 31 and int(t) not in space.template.special_ids for i, t in enumerate(ids[0])])
    expected = pre[counts].max(axis=0)
    found = space.pool([sample]).maxima(0)
    assert sorted(found) == np.flatnonzero(expected > 0).tolist()
    assert all(found[i][0] == pytest.approx(expected[i], rel=1e-3, abs=1e-4) for i in found)
    assert "compat" in space.identity


def test_it_is_for_dense_codes_alone_which_is_said_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="compat fac measures relu codes, asked for native"):
        EncodeSettings(compat="fac")
    done = facsynth("encode", tmp_path / "not-there.jsonl", "--compat", "fac", "-o", tmp_path / "out")
    assert done.code == 2
    assert "compat fac measures relu codes, asked for native\nSet sae.codes: relu (--codes relu)." in done.stderr


def test_a_settings_file_asks_for_it(tmp_path: Path) -> None:
    parts = tiny_run.parts(tmp_path)
    parts["sae"] |= {"codes": "relu", "compat": "fac"}
    space = open_space(parse_settings(parts, "the test"), tmp_path / "cache")
    assert space.settings.compat == "fac"
    assert space.pool([long_text(30)]).tokens[0].content.tolist()[:31] == [False] * 31
