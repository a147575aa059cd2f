"""Writing with a local model, steered along SAE features while it writes (DESIGN 6).

Before: `text.template` gives prompt ids, `model.sae` the decoder rows. After: `synthesis` encodes what was written.
One loop instead of `generate`: equal prompts of a batch are read once, rows leave when their message ends, and the
cache is not copied for each token. A batch is not refilled: a reply is a function of its batch, so writing resumes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from facsynth.errors import InputError, MismatchError, SettingsError
from facsynth.model.backbone import Backbone, hooked_module
from facsynth.model.decoding import ending_ids, last_logits, sample_nucleus, steered, stop_ids
from facsynth.model.prompts import Prompt, read_prompts
from facsynth.model.sae import Sae
from facsynth.records import NON_FINITE, Message, Reply, Request
from facsynth.store import fingerprint

PromptIds = Callable[[Sequence[Message], str, str], Sequence[int]]
"""(messages, prefix, role) → token ids up to where the model goes on with a turn of that role."""
LOOP_VERSION = 3
"""Raised by any change of this file, `model.prompts`, `model.decoding` or `batching.token_budget` that changes what is
written."""
COMPACT_SHARE = 0.25
"""Finished rows leave the batch once they are this much of it; moving the cache costs about as much as one token."""


def steering_vectors(sae: Sae, strengths: Mapping[int, float]) -> dict[int, torch.Tensor]:
    """a_i · d_i [d_in] of every feature given, float32, in raw residual units.

    Args:
        sae: its decoder rows are the d_i.
        strengths: feature id → a_i, the mean of the feature's three highest anchor samples (`Profile.top_mean(3)`).

    Raises:
        MismatchError: a feature that the SAE does not have.
    """
    unknown = [feature_id for feature_id in strengths if not 0 <= feature_id < sae.d_sae]
    if unknown:
        raise MismatchError(
            f"feature {unknown[0]} is to steer, and the SAE has {sae.d_sae} features, from 0\n"
            "Take features from a profile that was encoded with this SAE."
        )
    return {feature_id: sae.W_dec[feature_id].float() * strength for feature_id, strength in strengths.items()}


@dataclass
class _Row:
    """One request on its way."""

    request: Request
    ids: npt.NDArray[np.int32]
    """[n_tokens] of prompt and prefix."""
    start: int
    """Where the message starts: the length of the prompt without the prefix."""
    delta: torch.Tensor
    """[d_model], added at each position whose next token is the message's; zero without steering."""
    uniform: npt.NDArray[np.float64]
    """[max_tokens] in [0, 1), one for each token, the same in any batch."""
    written: list[int] = field(default_factory=list)
    end: str = ""
    """stop, length or error; empty while it writes."""
    error: str = ""

    def take(self, token: int, finite: bool, ending: frozenset[int]) -> None:
        if not finite:
            self.fail(f"{NON_FINITE}: the logits of token {len(self.written)} hold NaN or infinity; steer less")
            return
        self.written.append(token)
        if token in ending:
            self.end = "stop"
        elif len(self.written) == self.request.max_tokens:
            self.end = "length"

    def fail(self, error: str) -> None:
        self.end, self.error = "error", error


class LocalWriter:
    """A `Writer` on a model in this process. Whether and where a message ends is the model's word or `max_tokens`.

    On one busy core, 64 requests on 8 prompts of 244 tokens, SmolLM2-135M in bfloat16: 189 tokens per CPU second, the
    prompts' reading counted; `generate` of transformers 5.23: 37.
    """

    def __init__(
        self, backbone: Backbone, prompt_ids: PromptIds, vectors: Mapping[int, torch.Tensor], *, batch_size: int = 64
    ) -> None:
        """Take the model that measures as the one that writes.

        Args:
            backbone: its whole model is run here, head included; steering is added at its hook point.
            prompt_ids: of the backbone's chat template.
            vectors: feature id → a_i · d_i [d_model], as `steering_vectors` gives them.
            batch_size: requests that are written together.

        Raises:
            MismatchError: vectors of another width than the model's.
        """
        if batch_size < 1:
            raise SettingsError(f"batch_size is {batch_size}; a batch holds at least 1 request")
        for feature_id, vector in vectors.items():
            if vector.shape != (backbone.d_model,):
                raise MismatchError(
                    f"the steering vector of feature {feature_id} does not fit the model\n"
                    f"  vector  {list(vector.shape)}\n  model   {backbone.name} has width {backbone.d_model}\n"
                    "Use the SAE that was trained on this model."
                )
        self.batch_size = batch_size
        self.identity = _identity(backbone, vectors)
        self._backbone = backbone
        self._prompt_ids = prompt_ids
        self._vectors = vectors
        self._module = hooked_module(backbone.model, backbone.hook_point)
        self._ending: dict[str, frozenset[int]] = {"": stop_ids(backbone)}
        """By what stops a request, the tokens that end it."""

    def write(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer every request; each reply depends on nothing but the batch it is in, cut in the given order.

        `written_tokens` counts the one that ends a message, and not those of the prefix. `latency_s` is a reply's
        equal share of its batch.

        Raises:
            SettingsError: a sampling setting that means nothing.
            InputError: steering by a feature without a vector, or a prompt of no tokens.
        """
        replies: list[Reply] = []
        for first in range(0, len(requests), self.batch_size):
            started = time.perf_counter()
            rows = [self._row(request) for request in requests[first : first + self.batch_size]]
            self._generate([row for row in rows if not row.end])
            share = (time.perf_counter() - started) / len(rows)
            replies += [self._reply(row, share) for row in rows]
        return replies

    def _row(self, request: Request) -> _Row:
        _check(request)
        if request.stop not in self._ending:
            self._ending[request.stop] = self._ending[""] | ending_ids(self._backbone, request.stop)
        ids = np.array(self._prompt_ids(request.messages, request.prefix, request.role), dtype=np.int32)
        bare = np.array(self._prompt_ids(request.messages, "", request.role), np.int32) if request.prefix else ids
        if not len(ids):
            raise InputError("the prompt of a request has no tokens; give it a message")
        n = min(len(ids), len(bare))
        differ = np.flatnonzero(ids[:n] != bare[:n])  # where the prefix merges with the end of the prompt
        delta = torch.zeros(self._backbone.d_model, dtype=torch.float32)
        for feature_id, strength in request.steering:
            if feature_id not in self._vectors:
                raise InputError(
                    f"there is no steering vector for feature {feature_id}, only for {len(self._vectors)} others\n"
                    "Give the writer the vectors of all features it is to write for."
                )
            delta += strength * self._vectors[feature_id].float().cpu()
        rng = np.random.Generator(np.random.Philox([request.rng_seed, request.sample_index]))
        row = _Row(request, ids, int(differ[0]) if len(differ) else n, delta, rng.random(request.max_tokens))
        room = getattr(self._backbone.model.config.get_text_config(), "max_position_embeddings", None)
        if room is not None and len(ids) + request.max_tokens > room:
            row.fail(
                f"too long: {len(ids)} tokens of prompt and {request.max_tokens} to write, "
                f"{self._backbone.name} has {room} positions"
            )
        return row

    def _reply(self, row: _Row, latency_s: float) -> Reply:
        text = "" if row.error else row.request.prefix + self._continuation(row)
        return Reply(text, row.end, len(row.ids), len(row.written), latency_s, row.error)

    def _continuation(self, row: _Row) -> str:
        """What the written tokens add to the prefix; decoded together, as some tokenizers eat a leading space."""

        def decode(ids: list[int]) -> str:
            tokenizer = self._backbone.tokenizer
            return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

        head = row.ids[row.start :].tolist()
        text = decode(head + row.written).removeprefix(decode(head))
        if row.request.stop:
            text = text.partition(row.request.stop)[0]
        return text.rstrip("\ufffd") if row.end == "length" else text  # the limit can cut a character in two

    @torch.inference_mode()
    def _generate(self, rows: list[_Row]) -> None:
        """Write all rows to their ends."""
        if not rows:
            return
        device = self._backbone.device
        read = [Prompt(row.ids, row.start, row.delta) for row in rows]
        logits, cache, attention, position = read_prompts(self._backbone, self._module, read)
        delta = torch.stack([row.delta for row in rows]).to(device, self._backbone.dtype)
        for step in range(max(row.request.max_tokens for row in rows)):
            tokens, finite = _sample(logits, rows, step)
            for row, token, is_finite in zip(rows, tokens.tolist(), finite.tolist(), strict=True):
                if not row.end:
                    row.take(token, is_finite, self._ending[row.request.stop])
            going = [index for index, row in enumerate(rows) if not row.end]
            if not going:
                return
            if len(going) <= (1 - COMPACT_SHARE) * len(rows):
                kept = torch.tensor(going, device=device)
                cache.batch_select_indices(kept)
                rows = [rows[index] for index in going]
                tokens, attention, position, delta = tokens[kept], attention[kept], position[kept], delta[kept]
            attention = torch.cat([attention, attention.new_ones(len(rows), 1)], dim=1)
            position = position + 1
            with steered(self._module, delta[:, None]):
                logits = last_logits(self._backbone.model, tokens[:, None], attention, position, cache)


def _sample(logits: torch.Tensor, rows: Sequence[_Row], step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Next token of every row, and whether its logits are finite. Rows that have ended get any token."""
    finite = torch.isfinite(logits.amax(dim=-1))
    if not bool(finite.all()):
        logits = torch.where(finite[:, None], logits, 0.0)
    tokens = torch.zeros(len(rows), dtype=torch.int64, device=logits.device)
    going = [index for index, row in enumerate(rows) if not row.end]
    warm = [index for index in going if rows[index].request.temperature > 0]
    cold = [index for index in going if rows[index].request.temperature == 0]
    if cold:
        tokens[cold] = logits[cold].argmax(dim=-1)
    if warm:
        settings = [(r.request.temperature, r.request.top_p, float(r.uniform[step])) for r in (rows[i] for i in warm)]
        temperature, top_p, uniform = torch.tensor(settings, dtype=torch.float64).unbind(dim=1)
        tokens[warm] = sample_nucleus(logits[warm], temperature, top_p, uniform).to(tokens.device)
    return tokens, finite


def _check(request: Request) -> None:
    found = (
        ("max_tokens", request.max_tokens, request.max_tokens >= 1, "at least 1"),
        ("temperature", request.temperature, 0 <= request.temperature < float("inf"), "0 (greedy) or more"),
        ("top_p", request.top_p, 0 < request.top_p <= 1, "above 0 and at most 1"),
        ("rng_seed", request.rng_seed, request.rng_seed >= 0, "0 or more"),
    )
    for name, value, sound, wanted in found:
        if not sound:
            raise SettingsError(f"{name} of a request is {value}; it must be {wanted}")


def _identity(backbone: Backbone, vectors: Mapping[int, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for feature_id in sorted(vectors):
        digest.update(feature_id.to_bytes(8, "little"))
        digest.update(vectors[feature_id].detach().float().cpu().contiguous().numpy().tobytes())
    what = {
        "loop": LOOP_VERSION,
        "model": backbone.fingerprint,
        "dtype": str(backbone.dtype),
        "hook_point": backbone.hook_point,
        "vectors": digest.hexdigest(),
    }
    return f"local:{backbone.name}:{fingerprint(what)[:16]}"
