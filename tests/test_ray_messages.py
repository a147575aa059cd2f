"""What travels on Ray arrives as it was sent, and two nodes that differ are told apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

import tiny
from facsynth import errors
from facsynth.errors import FacsynthError, ModelError
from facsynth.features.encode import EncodeSettings, FeatureSpace
from facsynth.features.encoded import settings_of
from facsynth.features.ray_messages import SpaceFacts, packed, unpacked


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> FeatureSpace:
    backbone = tiny.backbone(tiny.save_model(tmp_path_factory.mktemp("models") / "llama"))
    return FeatureSpace(backbone, tiny.random_sae(), EncodeSettings(form="chat"))


def test_an_error_arrives_as_the_same_kind_with_the_same_message() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FacsynthError)]
    assert len(kinds) > 5
    for kind in kinds:
        err = unpacked(packed(kind("first ✗\nsecond")))
        assert type(err) is kind and str(err) == "first ✗\nsecond"


def test_facts_are_what_is_written_down_of_the_space(space: FeatureSpace) -> None:
    facts = SpaceFacts.of(space, "10.0.0.1", ["a note"])
    assert settings_of(facts) == settings_of(space)
    assert (facts.d_sae, facts.form, facts.notes) == (space.d_sae, "chat", ("a note",))
    facts.check(SpaceFacts.of(space, "10.0.0.2"))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"precision": "torch.bfloat16"}, "precision"),
        ({"versions": {"facsynth": "0.0.1", "torch": "2", "transformers": "5"}}, "version of facsynth"),
        ({"d_sae": 3}, "d_sae"),
        ({"identity": {"model": "another"}}, "model"),
    ],
)
def test_a_node_that_differs_is_named_with_the_difference(
    space: FeatureSpace, change: dict[str, object], key: str
) -> None:
    facts = SpaceFacts.of(space, "10.0.0.1")
    other = replace(facts, node="10.0.0.2", **change)
    with pytest.raises(ModelError, match=rf"differ in {key}\n  10.0.0.1  .+\n  10.0.0.2  .+\nInstall the same"):
        facts.check(other)
