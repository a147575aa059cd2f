"""Caps on calls, tokens and money: what a call may cost at worst is reserved before it is sent, and settled after.

Before: what the ledger says was spent. After: `llm.desk` asks for every call. A call that was sent and never answered
counts with what was reserved for it: a cap holds across retries and kills.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from facsynth.records import Reply, Request

OVERHEAD_TOKENS, MESSAGE_TOKENS = 256, 16
"""What a template may put around a prompt and around each message. A token is a byte at least."""
NOT_SENT = "budget"
"""The kind of error of a request that no cap had room for."""


class Amount(NamedTuple):
    """What calls cost, or may cost."""

    calls: int = 0
    tokens: int = 0
    """Prompt and written ones."""
    money: float = 0.0

    def plus(self, other: Amount) -> Amount:
        """The sum."""
        return Amount(self.calls + other.calls, self.tokens + other.tokens, self.money + other.money)

    def minus(self, other: Amount) -> Amount:
        """The difference."""
        return Amount(self.calls - other.calls, self.tokens - other.tokens, self.money - other.money)


NOTHING = Amount()


@dataclass(frozen=True)
class Price:
    """Of a million tokens, in whatever currency the cap is."""

    prompt: float = 0.0
    written: float = 0.0

    def of(self, prompt_tokens: int, written_tokens: int, calls: int = 1) -> Amount:
        """What they cost."""
        money = (prompt_tokens * self.prompt + written_tokens * self.written) / 1e6
        return Amount(calls, prompt_tokens + written_tokens, money)


@dataclass(frozen=True)
class Caps:
    """Never exceeded; None is no cap."""

    calls: int | None = None
    tokens: int | None = None
    money: float | None = None

    def exceeded(self, amount: Amount) -> str:
        """The cap that `amount` would exceed, in words; empty where it would exceed none."""
        for name, n in amount._asdict().items():
            cap = getattr(self, name)
            if cap is not None and n > cap:
                return f"the cap on {name} ({cap:,})"
        return ""


def worst_tokens(request: Request) -> tuple[int, int]:
    """More prompt tokens and written tokens than a call can have."""
    n_bytes = sum(len(m.content.encode("utf-8", "surrogatepass")) + MESSAGE_TOKENS for m in request.messages)
    n_bytes += sum(len(text.encode("utf-8", "surrogatepass")) for text in (request.prefix, request.json_schema))
    return n_bytes + OVERHEAD_TOKENS, request.max_tokens


NO_CAPS, FREE = Caps(), Price()


class Budget:
    """What is spent, what is reserved, and whether one more call fits."""

    def __init__(self, caps: Caps, price: Price, spent: Amount = NOTHING, *, more_bytes: int = 0) -> None:
        """Go on from `spent`; each request carries `more_bytes` beside its messages."""
        self.caps, self.price, self._more = caps, price, more_bytes
        self.spent, self.reserved = spent, Amount()

    def worst(self, request: Request) -> Amount:
        """What one call can cost."""
        prompt, written = worst_tokens(request)
        return self.price.of(prompt + self._more, written)

    def actual(self, reply: Reply) -> Amount:
        """What a reply did cost."""
        return self.price.of(reply.prompt_tokens, reply.written_tokens)

    def exceeded(self, further: Amount) -> str:
        """The cap that would be passed; empty where none."""
        return self.caps.exceeded(self.spent.plus(self.reserved).plus(further))

    def reserve(self, amount: Amount) -> None:
        """Set aside."""
        self.reserved = self.reserved.plus(amount)

    def settle(self, reserved: Amount, spent: Amount) -> None:
        """Put what was spent in the place of what was reserved."""
        self.reserved = self.reserved.minus(reserved)
        self.spent = self.spent.plus(spent)


def total(amounts: Iterable[Amount]) -> Amount:
    """The sum."""
    found = Amount()
    for amount in amounts:
        found = found.plus(amount)
    return found
