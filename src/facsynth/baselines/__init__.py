"""The rival methods, and the controls that name no features, a file each, by the names that commands know."""

from __future__ import annotations

from facsynth.baselines import (
    cot_self_instruct,
    dense_clusters,
    evol_instruct,
    magpie,
    plain,
    prismatic,
    sao,
    self_instruct,
    synalign,
)
from facsynth.baselines.given import Method

METHODS: dict[str, Method] = {
    "plain": plain.waves,
    "dense-clusters": dense_clusters.waves,
    "self-instruct": self_instruct.waves,
    "evol-instruct": evol_instruct.waves,
    "magpie": magpie.waves,
    "cot-self-instruct": cot_self_instruct.waves,
    "sao": sao.waves,
    "prismatic": prismatic.waves,
    "synalign": synalign.waves,
}
BY_ENCODER = frozenset({"cot-self-instruct", "dense-clusters", "synalign"})
"""Those that compare texts by a sentence encoder."""
