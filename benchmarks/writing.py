"""Writing with the local model: our loop at batch 64 against `generate` of transformers, at batch 64 and one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from figures import REPEATS, CheckError, Row
from parts import anchor_samples, open_embedded

from facsynth import prompts
from facsynth.features.encode import FeatureSpace
from facsynth.model.batching import pad
from facsynth.model.writer import LocalWriter
from facsynth.records import Message, Request
from facsynth.synthesis.parts import MESSAGE

N_PROMPTS, N_SPANS = 8, 2
"""As in a wave: a prompt a feature, several samples a prompt."""


def rows(quick: bool) -> list[Row]:
    """Written tokens a second, the reading of prompts counted."""
    _check(_requests(4, 4 if quick else 12, temperature=0.0), open_embedded("float32"))
    space = open_embedded()
    asked = _requests(8, 4) if quick else _requests(64, 24)
    alone = [replace(asked[0], max_tokens=4 if quick else 12)]
    found: dict[str, list[float]] = {"ours": [], "generate": [], "alone": []}
    for repeat in range(1 if quick else REPEATS):
        found["ours"].append(_rate(partial(_ours, asked, space)))
        found["generate"].append(_rate(partial(_generate, asked, space, repeat)))
        found["alone"].append(_rate(partial(_generate, alone, space, repeat)))
    name = f"writing, {len(asked)} requests on {N_PROMPTS} prompts, LocalWriter"
    longest = max(len(space.template.prompt_ids(request.messages)) for request in asked)
    note = f"writing: {asked[0].max_tokens} tokens a request, prompts of up to {longest}, {space.backbone.dtype}"
    return [
        Row(
            name,
            "tokens/s",
            tuple(found["ours"]),
            f"generate, {len(asked)} together",
            tuple(found["generate"]),
            note=note,
        ),
        Row(name, "tokens/s", tuple(found["ours"]), "generate, one by one", tuple(found["alone"])),
    ]


def _requests(n: int, max_tokens: int, temperature: float = 0.9) -> list[Request]:
    texts = [" ".join(sample.text.split()) for sample in anchor_samples(N_PROMPTS * N_SPANS)]
    asked = [
        prompts.fill(
            "write_message",
            spans="\n".join(f"{n}. {text}" for n, text in enumerate(texts[i::N_PROMPTS], start=1)),
            words=f'"{texts[i].split()[-1]}"',
            many=MESSAGE.many,
            one=MESSAGE.one,
        )
        for i in range(N_PROMPTS)
    ]
    return [
        Request((Message("user", asked[i % N_PROMPTS]),), max_tokens, temperature, 0.95, rng_seed=0, sample_index=i)
        for i in range(n)
    ]


def _rate(way: Callable[[], int]) -> float:
    started = time.perf_counter()
    n_written = way()
    return n_written / (time.perf_counter() - started)


def _ours(asked: Sequence[Request], space: FeatureSpace) -> int:
    writer = LocalWriter(space.backbone, space.template.prompt_ids, {}, batch_size=len(asked))
    return sum(reply.written_tokens for reply in writer.write(asked))


def _generate(asked: Sequence[Request], space: FeatureSpace, rng_seed: int) -> int:
    torch.manual_seed(rng_seed)
    return sum(len(ids) for ids in _generated(asked, space))


def _generated(asked: Sequence[Request], space: FeatureSpace) -> list[list[int]]:
    """Token ids of each reply, the one that ends it counted, as in ours."""
    tokenizer, first = space.backbone.tokenizer, asked[0]
    ids = [np.array(space.template.prompt_ids(request.messages), np.int32) for request in asked]
    padded, attention, _ = pad(ids, side="left")
    warm = {"do_sample": True, "temperature": first.temperature, "top_p": first.top_p, "top_k": 0}
    settings = {"max_new_tokens": first.max_tokens, "pad_token_id": tokenizer.pad_token_id}
    settings |= warm if first.temperature else {"do_sample": False}
    output = space.backbone.model.generate(input_ids=padded, attention_mask=attention, **settings)
    written = output[:, padded.shape[1] :].tolist()
    return [row[: row.index(tokenizer.eos_token_id) + 1] if tokenizer.eos_token_id in row else row for row in written]


def _check(asked: Sequence[Request], exact: FeatureSpace) -> None:
    """Greedy and in float32, both write the same."""
    writer = LocalWriter(exact.backbone, exact.template.prompt_ids, {}, batch_size=len(asked))
    ours = [reply.text for reply in writer.write(asked)]
    decode = partial(exact.backbone.tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    theirs = [decode(ids).rstrip("\ufffd") for ids in _generated(asked, exact)]
    if ours != theirs:
        raise CheckError(f"writing: greedy replies differ\n  ours      {ours}\n  generate  {theirs}")
