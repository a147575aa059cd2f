"""Writers on models of every family with random weights, whose tokens are bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
)

from facsynth.model.backbone import Backbone
from facsynth.model.writer import LocalWriter
from facsynth.records import Message, Reply, Request
from facsynth.text.template import Template

D_MODEL = 32
END = "<|end|>"
CHAT = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
SHAPE = {"vocab_size": 259, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "initializer_range": 0.3}
WIDE = {
    "hidden_size": D_MODEL,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
CONFIGS = {
    "llama": lambda: LlamaConfig(**SHAPE, **WIDE),
    "mistral": lambda: MistralConfig(**SHAPE, **WIDE, sliding_window=24),
    "gemma2": lambda: Gemma2Config(**SHAPE, **WIDE, sliding_window=24, attn_implementation="eager"),
    "gpt2": lambda: GPT2Config(**SHAPE, n_embd=D_MODEL, n_layer=3, n_head=4, n_positions=512),
    "neox": lambda: GPTNeoXConfig(**SHAPE, **{k: v for k, v in WIDE.items() if k not in ("head_dim",)}),
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token: ids 3 to 258, after start, pad and end."""
    names = ["<|start|>", "<|pad|>", END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=names[0], pad_token=names[1], eos_token=END)
    fast.chat_template = CHAT
    return fast


def backbone_of(kind: str, hook_point: str = "layers.1", tokenizer: Any = None) -> Backbone:
    torch.manual_seed(0)
    tokenizer = tokenizer or byte_tokenizer()
    config = CONFIGS[kind]()
    config.vocab_size = len(tokenizer)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).requires_grad_(False)
    return Backbone(model, tokenizer, hook_point=hook_point, name=kind, fingerprint=f"{kind} 0")


def writer_of(backbone: Backbone, vectors: dict[int, torch.Tensor] | None = None, batch_size: int = 64) -> LocalWriter:
    return LocalWriter(backbone, Template(backbone.tokenizer).prompt_ids, vectors or {}, batch_size=batch_size)


def request(text: str, **changes: Any) -> Request:
    plain = Request((Message("user", text),), max_tokens=30, temperature=1.0, top_p=0.95, rng_seed=7)
    return replace(plain, **changes)


def contents(replies: list[Reply]) -> list[tuple[Any, ...]]:
    """All of a reply but the time it took."""
    return [(r.text, r.finish_reason, r.prompt_tokens, r.written_tokens, r.error) for r in replies]


def vector(rng_seed: int, norm: float) -> torch.Tensor:
    direction = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(rng_seed))
    return norm * direction / direction.norm()


PROMPTS = ("Hi", "Name three rivers, please.", "è 🐘", "A much longer question than the others, to be padded against.")


@contextmanager
def recorded(module: Any) -> Iterator[list[torch.Tensor]]:
    outputs: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()
