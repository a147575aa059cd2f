"""The rival methods and the plain control, a file each, by the names that commands know them by."""

from __future__ import annotations

from facsynth.baselines.cot_self_instruct import cot_self_instruct
from facsynth.baselines.evol_instruct import evol_instruct
from facsynth.baselines.given import Method
from facsynth.baselines.magpie import magpie
from facsynth.baselines.plain import plain
from facsynth.baselines.prismatic import prismatic
from facsynth.baselines.sao import sao
from facsynth.baselines.self_instruct import self_instruct
from facsynth.baselines.synalign import synalign

METHODS: dict[str, Method] = {
    "plain": plain,
    "self-instruct": self_instruct,
    "evol-instruct": evol_instruct,
    "magpie": magpie,
    "cot-self-instruct": cot_self_instruct,
    "sao": sao,
    "prismatic": prismatic,
    "synalign": synalign,
}
