"""A task whose label hangs on known features: one word, one token, one latent; and a writer that can tell words.

A message is positive where it holds a marked word. The seed set knows the first few of them, the anchor all. The SAE
reads token embeddings, and each of its latents is the embedding of one word.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from facsynth.model.sae import Sae
from facsynth.model.sae_saelens import save_sae
from fault_server import MODEL, Act, FaultServer
from rivals import WORDS
from tiny import CHATML, SPECIAL, save_model
from tiny_cli import facsynth

MARKED, OTHERS = WORDS[:16], WORDS[16:36]
N_KNOWN = 4
WIDTH = 128


def tokenizer() -> PreTrainedTokenizerFast:
    """Every word with the space before it is one token."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([f"so {' '.join(WORDS)}"] * 50, trainer)
    made.add_special_tokens(list(SPECIAL))
    named: dict[str, Any] = {"eos_token": "</s>", "pad_token": "<pad>", "bos_token": "<s>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **named)
    fast.chat_template = CHATML
    return fast


def model_and_sae(folder: Path) -> None:
    """In `model` and `sae`."""
    tokens = tokenizer()
    ids = [tokens(f" {word}", add_special_tokens=False)["input_ids"] for word in WORDS]
    assert all(len(one) == 1 for one in ids)
    path = save_model(folder / "model", n_blocks=2, width=WIDTH, tokens=tokens)
    embedding = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).get_input_embeddings().weight.detach()
    d = embedding[[one[0] for one in ids]]
    W_dec = d / d.norm(dim=-1, keepdim=True)
    zero = torch.zeros(len(WORDS)), torch.zeros(WIDTH)
    sae = Sae(
        W_dec.T.contiguous(), zero[0], W_dec.contiguous(), zero[1], architecture="topk", hook_point="embed_tokens",
        model_name="planted", centred=False, k=1, fingerprint="planted", threshold=None,
    )  # fmt: skip
    save_sae(sae, folder / "sae", metadata={})


def messages(path: Path, n_positive: int, n_other: int, rng_seed: int, marked: list[str] = MARKED) -> Path:
    """Labelled messages of seven words and a beginning."""
    rng = np.random.default_rng(rng_seed)
    rows = []
    for n in range(n_positive + n_other):
        words = rng.choice(OTHERS, 7).tolist()
        if n < n_positive:
            words[int(rng.integers(7))] = marked[n % len(marked)]
        text = f"so {' '.join(words)}"
        rows.append({"messages": [{"role": "user", "content": text}], "label": int(n < n_positive)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def writes(body: dict[str, Any], times: int) -> Act:
    """Of examples, the word that most of them have, among others; of a plain request, a word that all know."""
    prompt = body["messages"][-1]["content"]
    rng = np.random.default_rng(int(hashlib.sha256(json.dumps(body).encode()).hexdigest()[:12], 16))
    words = rng.choice(OTHERS, 7).tolist()
    shown = [set(re.findall(r"[a-z]+", line)) & set(WORDS) for line in re.findall(r"^\d+\. (.*)", prompt, re.MULTILINE)]
    counts = Counter(word for line in shown for word in line)
    most = max(counts.values(), default=0)
    common = sorted(word for word, n in counts.items() if n == most) or MARKED[:N_KNOWN]
    words[int(rng.integers(7))] = str(rng.choice(common))
    return Act(text=f"so {' '.join(words)}")


def run_on(bench: Path, task: Path, server: FaultServer) -> dict[str, Any]:
    """Settings of a run on the seed set and anchor in `bench`, beside model and SAE."""
    return {
        "task": str(task),
        "data": {"seed": str(bench / "seed.jsonl"), "anchor": str(bench / "anchor.jsonl")},
        "model": {"path": str(bench / "model"), "dtype": "float32"},
        "sae": {"path": str(bench / "sae"), "check": "off"},
        "coverage": {"relevance": "all"},
        "writer": {"endpoint": {"url": server.url, "model": MODEL}},
        "budget": {"max_candidates": 6},
    }


def experiment(folder: Path, server: FaultServer, **changes: Any) -> Path:
    """The YAML of an experiment on it."""
    model_and_sae(folder)
    anchor = messages(folder / "anchor.jsonl", 96, 96, 1)
    negative = messages(folder / "negative.jsonl", 0, 200, 2)
    model = {"path": str(folder / "model"), "dtype": "float32"}
    space = ("--model", model["path"], "--sae", folder / "sae", "--dtype", "float32", "--sae-check", "off")
    done = facsynth("encode", negative, "-o", folder / "background", *space)
    assert done.code == 0, done.stderr
    task = {"name": "planted", "definition": "Messages with marks.", "rubric": ["Marks"]}
    task |= {"labels": {"toxic": "messages with marks"}}
    (folder / "task.yaml").write_text(yaml.safe_dump(task))
    raw = {
        "evaluate": {"task": "toxicity", "test": str(messages(folder / "test.jsonl", 160, 320, 3)), "model": model},
        "run": {
            "task": str(folder / "task.yaml"),
            "model": model,
            "sae": {"path": str(folder / "sae"), "check": "off"},
            "data": {"anchor": [str(anchor)]},
            "coverage": {"background": str(folder / "background")},
            "writer": {"endpoint": {"url": server.url, "model": MODEL, "concurrency": 16}, "rungs": ["spans"]},
            "budget": {"max_candidates": 10},
        },
        "draw": [
            {"path": str(messages(folder / "known.jsonl", 120, 0, 4, MARKED[:N_KNOWN])), "n": 40},
            {"path": str(messages(folder / "rest.jsonl", 0, 300, 5)), "n": 120},
        ],
        "methods": {"random-features": None, "fac": None, "none": None, "anchor": None},
        "budgets": [24, 48],
        "seeds": [0, 1, 2, 3, 4],
    } | changes
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path
