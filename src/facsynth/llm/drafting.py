"""An endpoint that writes well and cannot be steered, after a local model that can: drafts, and what becomes of them.

Before: `synthesis` has requests, some with steering. Inside: two writers, each with its ledger. After: the rewritten
text is what is encoded and decided on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from facsynth import prompts
from facsynth.llm.ledger import Key, key_of
from facsynth.protocols import Writer
from facsynth.records import Message, Reply, Request


class DraftingWriter:
    """Requests with steering are drafted here and rewritten there; others are asked for there at once."""

    def __init__(self, drafter: Writer, writer: Writer, about: Mapping[int, str], *, draft_tokens: int) -> None:
        """Take both writers.

        Args:
            drafter: can steer.
            writer: rewrites.
            about: feature_id → what its texts have in common, as it stands in a prompt behind "in common".
            draft_tokens: longest draft.
        """
        self.identity = f"{writer.identity} after {drafter.identity}"
        self.batch_size = writer.batch_size
        self._drafter, self._writer, self._about, self._draft_tokens = drafter, writer, about, draft_tokens
        self._counted: set[Key] = set()

    def write(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer every request; a draft that failed is the reply.

        A rewritten reply counts its draft too, but where the same draft was asked for and counted before.
        """
        steered = [i for i, request in enumerate(requests) if request.steering]
        asked = [replace(r, max_tokens=min(r.max_tokens, self._draft_tokens)) for r in (requests[i] for i in steered)]
        drafts = dict(zip(steered, self._drafted(asked) if asked else [], strict=True))
        sound = {i: draft for i, draft in drafts.items() if self._text(requests[i], draft)}
        open_calls = {
            i: self._rewrite(request, self._text(request, sound[i])) if i in sound else request
            for i, request in enumerate(requests) if i in sound or i not in drafts
        }  # fmt: skip
        written = dict(
            zip(open_calls, self._writer.write(list(open_calls.values())) if open_calls else [], strict=True)
        )
        return [
            written[i].with_cost_of(drafts[i]) if i in sound else written.get(i) or drafts[i]
            for i in range(len(requests))
        ]

    def _drafted(self, asked: Sequence[Request]) -> list[Reply]:
        """Drafts, each counted once."""
        keys = [key_of(self._drafter.identity, request) for request in asked]
        free = Reply("", "stop", 0, 0, 0.0, n_calls=0)
        drafts = [
            replace(free, text=draft.text, finish_reason=draft.finish_reason, error=draft.error)
            if key in self._counted else draft
            for key, draft in zip(keys, self._drafter.write(asked), strict=True)
        ]  # fmt: skip
        self._counted.update(keys)
        return drafts

    @staticmethod
    def _text(request: Request, draft: Reply) -> str:
        return "" if draft.error else draft.text.removeprefix(request.prefix).strip()

    def _rewrite(self, request: Request, draft: str) -> Request:
        about = self._about.get(request.steering[0][0], "")
        prompt = prompts.fill("rewrite", draft=prompts.quoted(draft), about=about)
        return replace(request, messages=(Message("user", prompt),), steering=(), prefix="", stop="")
