"""What `make bench-gpu` runs: encoding with the shape of Llama-3.1-8B, random weights, on one CUDA device.

    python benchmarks/gpu.py [--toy]

A tokenizer of one token a word, samples of 20 to 400 words, the hook after block 15, a TopK SAE of 65,536 features.
`--toy` is a small shape on whatever device there is: does it run, not how fast.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from figures import REPEATS, Row, interleaved, rates, table
from parts import random_sae
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from facsynth.features.encode import EncodeSettings, FeatureSpace
from facsynth.features.encoded import encode
from facsynth.model.backbone import Backbone
from facsynth.records import Message, Sample
from facsynth.text.corpus import Corpus

N_WORDS = 5000


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Encoding on one CUDA device.")
    parser.add_argument("--toy", action="store_true", help="a small shape, on any device")
    toy = parser.parse_args().toy
    if not toy and not torch.cuda.is_available():
        print("no CUDA device here; --toy runs a small shape on the CPU", file=sys.stderr)
        return 1
    device = "cuda" if torch.cuda.is_available() else "cpu"
    samples = _samples(24 if toy else 4096)
    with torch.device(device):
        rows = _rows(_space(torch.bfloat16, toy=toy), _space(torch.float32, toy=toy), samples, toy=toy)
    print(table(rows))
    print(f"\n- {torch.cuda.get_device_name() if device == 'cuda' else 'CPU'}, torch {torch.__version__}")
    return 0


def _rows(fast: FeatureSpace, exact: FeatureSpace, samples: list[Sample], *, toy: bool) -> list[Row]:
    tokens = [fast.template.tokenize(s, fast.roles, fast.settings.max_tokens) for s in samples]
    n_tokens = sum(len(t.ids) for t in tokens)
    n_content = sum(int(t.content.sum()) for t in tokens)
    with tempfile.TemporaryDirectory() as folder:
        names = iter(range(1_000_000))
        seconds = interleaved(
            {
                "encode": lambda: encode(Corpus.of(samples, form="text"), fast, Path(folder, str(next(names)))),
                "pool": lambda: fast.pool(samples),
                "product": lambda: _multiply(512 if toy else 8192),
            },
            1 if toy else REPEATS,
        )
    blocks = fast.backbone.model.base_model.layers[: int(fast.backbone.hook_point.rpartition(".")[2]) + 1]
    weights = sum(weight.numel() for weight in blocks.parameters() if weight.dim() == 2)
    operations = 2.0 * weights * n_tokens + 2.0 * fast.sae.W_enc.numel() * n_content
    best = rates(1e-12 * 2 * (512 if toy else 8192) ** 3 * 8, seconds["product"])
    found = rates(1e-12 * operations, seconds["pool"])
    flips = _flips(fast, exact, samples[:32])
    return [
        Row("encode, all of it", "tokens/s", rates(n_tokens, seconds["encode"])),
        Row("model and SAE alone", "tokens/s", rates(n_tokens, seconds["pool"])),
        Row("matrix products, bfloat16", "TFLOP/s", best),
        Row("share of the matrix rate", "", tuple(f / b for f, b in zip(found, best, strict=True)), at_least=0.5),
        Row("active pairs that bfloat16 changes, of 32 samples", "%", (100 * flips,)),
        Row("peak memory", "GB", (torch.cuda.max_memory_allocated() / 1e9,) if torch.cuda.is_available() else ()),
    ]


def _flips(fast: FeatureSpace, exact: FeatureSpace, samples: list[Sample]) -> float:
    a, b = ({*zip(e.sample.tolist(), e.feature.tolist(), strict=True)} for e in
            (space.pool(samples).entries for space in (fast, exact)))  # fmt: skip
    return 1 - len(a & b) / len(a | b)


def _multiply(n: int) -> None:
    a = torch.ones((n, n), dtype=torch.bfloat16)
    for _ in range(8):
        a @ a
    if a.is_cuda:
        torch.cuda.synchronize()


def _samples(n: int) -> list[Sample]:
    rng = np.random.default_rng(0)
    texts = (" ".join(f"w{word}" for word in rng.integers(N_WORDS, size=rng.integers(20, 400))) for _ in range(n))
    return [Sample((Message("text", text),)) for text in texts]


def _space(dtype: torch.dtype, *, toy: bool) -> FeatureSpace:
    """Llama-3.1-8B with 16 of its blocks: what lies behind the hook is never run."""
    words = {"<unk>": 0, "<s>": 1} | {f"w{i}": i + 2 for i in range(N_WORDS)}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", unk_token="<unk>")
    width, n_blocks = (64, 2) if toy else (4096, 16)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(words), hidden_size=width, num_hidden_layers=n_blocks, num_attention_heads=width // 32,
        num_key_value_heads=width // 128 or 1, intermediate_size=int(3.5 * width), max_position_embeddings=8192,
    )  # fmt: skip
    torch.manual_seed(0)
    started = time.perf_counter()
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).requires_grad_(requires_grad=False)
    hook_point = f"layers.{n_blocks - 1}"
    backbone = Backbone(model, tokenizer, hook_point=hook_point, name="random", fingerprint="random")
    sae = random_sae(width, 512 if toy else 65_536, 8 if toy else 50, hook_point)
    print(f"built in {time.perf_counter() - started:.0f} s, {dtype}", file=sys.stderr)
    return FeatureSpace(backbone, sae, EncodeSettings(form="text"))


if __name__ == "__main__":
    sys.exit(main())
