"""From settings to writers: the model above, one at an endpoint, or a recorded run.

Before: `settings`, `assemble`. After: `pipeline` hands the writer to `synthesis`.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from facsynth.asked import EndpointBlock, price_of
from facsynth.errors import InputError, SettingsError
from facsynth.llm import Ledger, LedgerWriter, ScriptedWriter
from facsynth.llm.address import EndpointSettings, parsed
from facsynth.llm.budget import Budget
from facsynth.llm.endpoint import Endpoint
from facsynth.llm.endpoint_writer import EndpointWriter, identity_of
from facsynth.protocols import Writer
from facsynth.records import Progress, Reply, Request, no_progress
from facsynth.settings import RunSettings

ROLES = {"writer": "", "judge": "judge:", "draft": "draft:"}
"""What an identity begins with; the same model may write, judge and draft."""


SQLITE = b"SQLite format 3"
"""What a ledger begins with."""


class Nobody:
    """Who writes where nothing is to be written."""

    identity = "nobody"
    batch_size = 1

    def write(self, requests: Sequence[Request]) -> list[Reply]:
        """No requests, no replies."""
        assert not requests, "nothing was to be written"
        return []


@contextmanager
def opened_model(
    settings: RunSettings,
    which: Literal["writer", "judge", "draft"],
    ledger: Ledger,
    local: Callable[[], Writer],
    *,
    replay: Path | None = None,
    progress: Progress = no_progress,
) -> Iterator[Writer]:
    """The writer of a run, its judge, or who drafts for the writer, through its ledger.

    Args:
        settings: of the run.
        which: of the three.
        ledger: of the run.
        local: opens the model in this process.
        replay: the ledger of another run, which answers in the model's place.
        progress: told of replies, and when an endpoint makes everything wait.

    Raises:
        InputError: there is no such ledger.
        SettingsError: an endpoint that the settings do not allow to see spans.
        ModelError: an endpoint that does not work.
    """
    block = {"writer": settings.writer.endpoint, "judge": settings.judge.endpoint, "draft": None}[which]
    role = ROLES[which]
    if replay is not None:
        check_replay(replay)
        with Ledger.open(replay) as recorded:
            yield LedgerWriter(_recorded(recorded, role), ledger, progress=progress)
    elif which == "writer" and not settings.budget.max_candidates:
        yield Nobody()
    elif block is None:
        yield LedgerWriter(local(), ledger, role=role, progress=progress)
    else:
        check_allowed(block, which)
        more = len(json.dumps(block.extra))
        budget = Budget(settings.caps, price_of(block), ledger.spent(but=ROLES["draft"]), more_bytes=more)
        with opened_endpoint(block, budget, role, ledger, progress) as writer:
            yield writer


def role_of(identity: str) -> str:
    """What an identity begins with, as in `ROLES`."""
    return next((role for role in ROLES.values() if role and identity.startswith(role)), "")


def _recorded(ledger: Ledger, role: str) -> Writer:
    """Who answers as one of a role did."""
    names = [name for name in ledger.writers() if role_of(name) == role]
    if names:
        return ScriptedWriter.replay(ledger, identity=names[0] if len(names) == 1 else None)

    who = role.removesuffix(":") or "writer"

    def never_asked(request: Request) -> Reply:
        raise InputError(
            f"{ledger.path} cannot be replayed: its run never asked a {who}, and this one does\n"
            "Take the settings of that run, or go on without --replay."
        )

    return ScriptedWriter(never_asked, identity=f"{role}nobody")


@contextmanager
def opened_endpoint(
    block: EndpointBlock, budget: Budget, role: str, ledger: Ledger, progress: Progress
) -> Iterator[Writer]:
    """The model at an endpoint, through a ledger, within a budget."""

    def tell(seconds: float, why: str) -> None:
        progress(f"waiting: {max(seconds, 1):.0f} s, the endpoint: {why}", 0, None)

    with ExitStack() as ends, Endpoint(endpoint_settings(block), tell) as endpoint:
        identity = role + identity_of(endpoint.settings, endpoint.described())
        writer = EndpointWriter(endpoint, ledger, budget, identity=identity, progress=progress)
        ends.callback(writer.close)
        yield writer


def check_replay(ledger: Path) -> None:
    """Refuse what is no ledger to replay, which is known before any work.

    Raises:
        InputError: there is no such file, or it is something else.
    """
    if not ledger.is_file():
        raise InputError(f"there is no ledger {ledger}\nGive the ledger.sqlite of a run.")
    with ledger.open("rb") as file:
        if file.read(len(SQLITE)) != SQLITE:
            raise InputError(f"{ledger} is no ledger\nGive the ledger.sqlite of a run.")


def check_endpoints(settings: RunSettings) -> None:
    """Refuse endpoints that cannot be asked, which is known before any work.

    Raises:
        SettingsError: spans may not be sent there, or the variable that was named for the key is not set.
    """
    for which, block in (("writer", settings.writer.endpoint), ("judge", settings.judge.endpoint)):
        if block is None:
            continue
        check_allowed(block, which)
        if block.key_env != EndpointBlock.model_fields["key_env"].default and not os.environ.get(block.key_env):
            raise SettingsError(
                f"${block.key_env} is not set, and {which}.endpoint.key_env names it\n"
                "Set it to the key, or leave key_env out where none is needed."
            )


def check_no_bill(settings: RunSettings, dry_run: bool, *, is_judged: bool = False) -> None:
    """Refuse a dry run that could not measure without asking an endpoint first; `is_judged` is a run that has.

    Raises:
        SettingsError: saying what can be done instead.
    """
    if dry_run and not is_judged and "judge" in settings.coverage.relevance and settings.judge.endpoint is not None:
        raise SettingsError(
            f"relevance by {settings.coverage.relevance} asks the judge before anything can be measured: no dry run\n"
            "Measure by contrast in a folder of its own; `facsynth relevance FOLDER --dry-run` then counts the calls."
        )


def endpoint_settings(block: EndpointBlock) -> EndpointSettings:
    """What the client takes of a block."""
    return EndpointSettings(**block.model_dump(exclude={"price", "allow_spans_to_endpoint"}))


def check_allowed(block: EndpointBlock, which: str) -> None:
    """Refuse to send spans of the user's data to a public address that was not allowed to see them.

    Raises:
        SettingsError: saying how it is allowed.
    """
    if not block.allow_spans_to_endpoint and not is_private(block.url):
        raise SettingsError(
            f"{parsed(block.url).hostname} is a public address, and prompts hold pieces of the anchor's texts\n"
            f"Allow it: {which}.endpoint.allow_spans_to_endpoint: true. Or give a private address."
        )


def is_private(url: str) -> bool:
    """Whether an address is of this machine or a private network; a name that cannot be looked up is not."""
    host = parsed(url).hostname or ""
    with suppress(ValueError):
        return ip_address(host).is_private
    if "." not in host:  # localhost, or a name of this network
        return True
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return bool(found) and all(ip_address(str(address).partition("%")[0]).is_private for address in found)
