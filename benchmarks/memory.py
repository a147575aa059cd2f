"""Peak memory of encoding 10,000 and 100,000 short samples, each in a process of its own, on a tiny model.

    python benchmarks/memory.py N_SAMPLES FOLDER

is one such process; it prints JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from figures import REPEATS, CheckError, Row, peak_mb

D_SAE, WIDTH, N_WORDS = 4096, 64, 400


def rows(quick: bool) -> list[Row]:
    """Peak at ten times the samples, and what of it is above model and imports."""
    few = 600 if quick else 10_000
    with tempfile.TemporaryDirectory() as folder:
        small = [_in_child(few, Path(folder, f"few{i}")) for i in range(1 if quick else REPEATS)]
        large = [_in_child(10 * few, Path(folder, "many"))]
        shards = [Path(folder, name, "encoded", "shards", "00000.parquet") for name in ("few0", "many")]
        if shards[0].read_bytes() != shards[1].read_bytes():
            raise CheckError("memory: the first 512 samples of both corpora are the same, their shards are not")
    names = f"{10 * few:,} samples", f"{few:,} samples"
    peaks, above = ([tuple(run["peak"] - less * run["before"] for run in runs) for runs in (large, small)]
                    for less in (0, 1))  # fmt: skip
    return [
        Row(f"memory, {names[0]}: peak", "MB", peaks[0], names[1], peaks[1], at_most=1.2,
            note=f"memory: {large[0]['n_tokens']:,} content tokens in {large[0]['seconds']:.0f} s"),
        Row(f"memory, {names[0]}: peak above the loaded model", "MB", above[0], names[1], above[1]),
    ]  # fmt: skip


def _in_child(n_samples: int, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    command = [sys.executable, __file__, str(n_samples), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CheckError(f"memory: encoding {n_samples} samples failed\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    if found["n_samples"] != n_samples:
        raise CheckError(f"memory: {found['n_samples']} of {n_samples} samples were encoded")
    return dict(found)


def _child(n_samples: int, folder: Path) -> dict[str, Any]:
    from facsynth.features.encoded import encode  # noqa: PLC0415  (only the child loads torch for this)
    from facsynth.text.corpus import read_corpus  # noqa: PLC0415

    _write_corpus(folder / "corpus.jsonl", n_samples)
    space = _tiny_space()
    before, started = peak_mb(), time.perf_counter()
    encoded = encode(read_corpus(folder / "corpus.jsonl", form="text"), space, folder / "encoded")
    seconds = time.perf_counter() - started
    counts = {"n_samples": encoded.profile.n_samples, "n_tokens": encoded.profile.n_tokens}
    return {"before": before, "peak": peak_mb(), "seconds": seconds, **counts}


def _write_corpus(path: Path, n_samples: int) -> None:
    """Texts of 4 to 10 words; the first ones are the same whatever their number."""
    import numpy as np  # noqa: PLC0415

    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(n_samples):
            words = rng.integers(N_WORDS, size=rng.integers(4, 11))
            file.write(json.dumps({"text": " ".join(f"w{word}" for word in words)}) + "\n")


def _tiny_space() -> Any:
    """Two blocks of width 64 and a random SAE, with a tokenizer of one token a word."""
    import torch  # noqa: PLC0415
    from parts import random_sae  # noqa: PLC0415
    from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: PLC0415
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast  # noqa: PLC0415

    from facsynth.features.encode import EncodeSettings, FeatureSpace  # noqa: PLC0415
    from facsynth.model.backbone import Backbone  # noqa: PLC0415

    words = {"<unk>": 0, "<s>": 1} | {f"w{i}": i + 2 for i in range(N_WORDS)}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", unk_token="<unk>")
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(words), hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=2 * WIDTH, bos_token_id=1, eos_token_id=None,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    backbone = Backbone(model, tokenizer, hook_point="layers.1", name="tiny", fingerprint="tiny")
    return FeatureSpace(backbone, random_sae(WIDTH, D_SAE, 8, "layers.1"), EncodeSettings(form="text"))


if __name__ == "__main__":
    print(json.dumps(_child(int(sys.argv[1]), Path(sys.argv[2]))))
