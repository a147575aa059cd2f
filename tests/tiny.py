"""Small real things for tests: tokenizers, causal language models of every family and SAEs, made without a download.

Everything is saved and loaded again the way a user's own model is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedTokenizerFast,
)

from facsynth.features.encode import Pooled
from facsynth.model.backbone import Backbone, load_backbone
from facsynth.model.chunks import without_sinks
from facsynth.model.sae import Sae
from facsynth.records import Message, Progress, Sample
from facsynth.text.template import Template

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

SPECIAL = (
    "<s>", "</s>", "<unk>", "<pad>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>",
    "<|end|>",
)  # fmt: skip

TEXT = (
    "The river rose overnight, and by morning the lower fields were under water. Where does the time go? "
    "Preheat the oven to 180 degrees; mix 250 g of flour with two eggs and a pinch of salt.\n\n"
    "def area(width, height):\n    return width * height\n\nuser: hello! assistant: hi, how can I help you today? "
)

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KINDS = ("gpt2", "llama3", "sentencepiece")


def tokenizer(
    kind: str = "gpt2", chat_template: str | None = CHATML, bos: str | None = "<s>"
) -> PreTrainedTokenizerFast:
    """A fast tokenizer trained on a few lines, that knows every byte.

    Args:
        kind: gpt2 and llama3 are byte-level, with their split rules; sentencepiece has ▁ and falls back to bytes.
        chat_template: None is a base model.
        bos: None for a model that has none.
    """
    made = _sentencepiece() if kind == "sentencepiece" else _byte_level(kind)
    made.add_special_tokens(list(SPECIAL))
    named: dict[str, str] = {"eos_token": "</s>", "pad_token": "<pad>"} | ({"bos_token": bos} if bos else {})
    fast = PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **named)
    fast.chat_template = chat_template
    return fast


def _byte_level(kind: str) -> Tokenizer:
    made = Tokenizer(models.BPE())
    if kind == "gpt2":
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [TEXT] * 3, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    return made


def _sentencepiece() -> Tokenizer:
    learned = Tokenizer(models.BPE())
    learned.train_from_iterator(
        [TEXT.replace(" ", "▁").replace("\n", "")] * 3, trainers.BpeTrainer(vocab_size=150, show_progress=False)
    )
    state: dict[str, Any] = json.loads(learned.to_str())["model"]
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
    vocab |= {token: index + 256 for index, token in enumerate(state["vocab"])}
    merges = [tuple(pair) for pair in state["merges"]]
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox")
WINDOWED: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 8},
    "qwen2": {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1},
    "gemma2": {"sliding_window": 8},
    "gemma3_text": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2},
}
"""Families whose attention looks back over a window, here far shorter than a text: all blocks of mistral, some of the
others. Four blocks each."""


def save_model(
    folder: Path, family: str = "llama", *, n_blocks: int = 3, width: int = 32, rng_seed: int = 0,
    tokens: PreTrainedTokenizerFast | None = None, **config: Any,
) -> Path:  # fmt: skip
    """A model with random weights and its tokenizer, in a folder as `save_pretrained` leaves it; `config` adds keys."""
    tokens = tokens or tokenizer()
    torch.manual_seed(rng_seed)
    shape: dict[str, Any] = {
        "vocab_size": len(tokens), "hidden_size": width, "num_hidden_layers": n_blocks, "num_attention_heads": 2,
        "intermediate_size": 2 * width, "max_position_embeddings": 8192,
    }  # fmt: skip
    if family not in ("gpt2", "gpt_neox"):
        shape |= {"num_key_value_heads": 1, "head_dim": width // 2}
    if family == "gpt2":
        shape |= {"n_inner": shape.pop("intermediate_size")}
    ends = {
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": tokens.pad_token_id,
    }
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(shape | ends | config)))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "lm_head" not in name:
                weight.mul_(8)  # the initial 0.02 leaves every block close to the identity
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


SEEING = {"gemma3": "language_model", "mistral3": "language_model", "idefics3": "text_model"}
"""Families that see pictures, and what their language model is called. The first is a causal LM to transformers."""


def save_seeing_model(folder: Path, family: str, rng_seed: int = 0) -> Path:
    """As `save_model`, of three blocks of width 32 beside what sees pictures."""
    tokens = tokenizer()
    torch.manual_seed(rng_seed)
    text = {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "intermediate_size": 64, "vocab_size": len(tokens), "pad_token_id": tokens.pad_token_id,
    }  # fmt: skip
    if family != "idefics3":
        text["sliding_window"] = 8
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    config = AutoConfig.for_model(family, text_config=text, vision_config=vision)
    (AutoModelForCausalLM if family == "gemma3" else AutoModelForImageTextToText).from_config(config).save_pretrained(
        folder
    )
    tokens.save_pretrained(folder)
    return folder


def backbone(folder: Path, hook_point: str = "layers.1", *, dtype: str = "float32") -> Backbone:
    """The saved model, loaded as a user's is."""
    return load_backbone(folder, hook_point=hook_point, dtype=dtype, cache=folder.parent / "cache")


def random_sae(
    d_in: int = 32, d_sae: int = 64, architecture: str = "topk", *, k: int = 8, rng_seed: int = 0,
    hook_point: str = "layers.1", centred: bool = True,
) -> Sae:  # fmt: skip
    """An SAE with random weights of ordinary size."""
    rng = torch.Generator().manual_seed(rng_seed)
    W_enc = torch.randn((d_in, d_sae), generator=rng) / d_in**0.5
    return Sae(
        W_enc, 0.1 * torch.randn(d_sae, generator=rng), W_enc.T.contiguous(), 0.1 * torch.randn(d_in, generator=rng),
        architecture=architecture, hook_point=hook_point, model_name="tiny", centred=centred,
        k=k if architecture in ("topk", "groupmax") else 0, fingerprint=f"random-{architecture}-{rng_seed}",
        threshold=0.5 + torch.rand(d_sae, generator=rng) if architecture == "jumprelu" else None,
    )  # fmt: skip


def named_sae(d_in: int = 32, *, hook_point: str = "layers.1") -> Sae:
    """Latent i is coordinate i of the activation where that is positive, latent d_in + i where it is negative."""
    eye = torch.eye(d_in)
    W_enc = torch.cat([eye, -eye], dim=1)
    return Sae(
        W_enc, torch.zeros(2 * d_in), W_enc.T.contiguous(), torch.zeros(d_in), architecture="standard",
        hook_point=hook_point, model_name="tiny", fingerprint="named",
    )  # fmt: skip


def fitted_sae(backbone: Backbone, samples: list[Sample], n_directions: int = 8) -> Sae:
    """An SAE that rebuilds what the samples' messages make the model do at its hook, in their main directions."""
    template = Template(backbone.tokenizer)
    tokens = [template.tokenize(sample, {"user"}, 256) for sample in samples]
    x = backbone.activations([t.ids for t in tokens], [t.content for t in tokens]).float()
    x, _ = without_sinks(x)
    mean = x.mean(dim=0)
    directions = torch.linalg.svd(x - mean, full_matrices=False).Vh[:n_directions]
    W_dec = torch.cat([directions, -directions])
    return Sae(
        W_dec.T.contiguous(), torch.zeros(len(W_dec)), W_dec, mean, architecture="standard",
        hook_point=backbone.hook_point, model_name="tiny", fingerprint=f"fitted-{backbone.hook_point}",
    )  # fmt: skip


WORDS = (*TEXT.split(), "\n\n")


def chats(n: int, rng_seed: int = 0, longest: int = 40) -> list[Sample]:
    """Different samples of two to four turns, each of a few to `longest` words."""
    rng = np.random.default_rng(rng_seed)
    samples = []
    for index in range(n):
        lengths = rng.integers(1, rng.integers(2, longest), size=rng.integers(2, 5))
        texts = [f"{index} " + " ".join(rng.choice(WORDS, size)) for size in lengths]
        samples.append(Sample(tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts))))
    return samples


def maxima(pooled: Pooled, index: int) -> dict[tuple[int, int], tuple[float, int, int]]:
    """Of one sample: (role, feature) to (maximum, its position, tokens that fire)."""
    e = pooled.entries
    return {
        (int(e.role[r]), int(e.feature[r])): (float(e.activation[r]), int(e.position[r]), int(e.n_firing[r]))
        for r in np.flatnonzero(e.sample == index)
    }


def files(folder: Path) -> dict[str, bytes]:
    """All of a folder but its lock, by name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


class StoppedError(Exception):
    """Someone stops it."""


def stop_after(n: int) -> Progress:
    """Stop what tells of its progress, at the `n`-th word of it."""
    left = [n]

    def progress(what: str, done: int, total: int | None) -> None:
        left[0] -= 1
        if not left[0]:
            raise StoppedError

    return progress
