"""Open an SAE in any of the formats of `model.sae_table`, from a local file or folder.

Before: a path, or what `model.sae_hub` fetched. After: `model.sae`. A format is told by container and keys, never by
trying; what a file lacks is taken from its path and said so, or given; what stays open is refused with what decides it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from facsynth.errors import ModelError, SettingsError
from facsynth.model.memory import enough_memory
from facsynth.model.sae import Declared, Sae, hook_point_of
from facsynth.model.sae_draft import Draft, Parts
from facsynth.model.sae_files import CONTAINERS, Held, read_config, read_weights
from facsynth.model.sae_table import COMPANIONS, FORMATS, REFUSED, WEIGHT_FILES, Format


@dataclass(frozen=True)
class OpenedSae:
    """An SAE, what it was made of, and how that is used: what its fingerprint must cover."""

    sae: Sae
    format: str
    used: Mapping[str, Any]
    """Every setting that changes codes, beside the weights."""
    weights: Path | None = None
    """The file that its tensors are from."""
    digest: str = ""
    """sha256 of the tensors, where there is no such file."""


def open_local(path: Path, *, k: int | None = None, hook_point: str = "", device: str = "cpu") -> OpenedSae:
    """Open the SAE in a file, or the only one in a folder.

    Args:
        path: a .safetensors, .npz, .pt or .pth file, or the folder that holds one with its config.
        k: of a topk SAE whose file does not say it.
        hook_point: of an SAE whose file does not say it.
        device: where its tensors go.

    Raises:
        ModelError: not there, damaged, of no known format, or one that cannot be kept exactly; with what was found. Or
            memory does not suffice.
        SettingsError: `k` contradicts the file.
    """
    file = find_weights(path)
    with enough_memory(f"the SAE in {file}", [file], dtype=torch.float32, way_out="an SAE of fewer features"):
        held = read_weights(file)
        row = detect(held)
        config, configured = _settings(held, row)
        tensors, scalars = _under_our_names(held, row)
        parts = Parts(str(file), str(file.absolute()), tensors, config | scalars, configured, k)
        sae, used = finish(row, parts, hook_point=hook_point, device=device)
    return OpenedSae(sae, row.name, used, file)


def load_sae(path: Path, *, device: str = "cpu", fingerprint: str = "") -> Sae:
    """The SAE of `open_local`, where its file says everything."""
    return replace(open_local(path, device=device).sae, fingerprint=fingerprint)


def find_weights(path: Path) -> Path:
    """The weight file that a path means.

    Raises:
        ModelError: there is none, or more than one.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise ModelError(f"no SAE at {path}: there is no such file or folder\nGive one with --sae.")
    known = [path / name for name in WEIGHT_FILES if (path / name).is_file()]
    found = known or sorted(p for p in path.iterdir() if p.suffix in CONTAINERS and p.name not in COMPANIONS)
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(str(file.relative_to(path)) for file in found[:8]) + " …" * (len(found) > 8)
        raise ModelError(f"{path} holds {len(found)} files that may be SAEs: {listed}\nName one of them with --sae.")
    inside = sorted({
        file.parents[name.count("/")] for depth in ("*", "*/*", "*/*/*") for name in WEIGHT_FILES
        for file in path.glob(f"{depth}/{name}")
    })  # fmt: skip
    if not inside:
        raise ModelError(f"no SAE in {path}\nGive a file or folder that holds one with --sae.")
    listed = ", ".join(str(folder.relative_to(path)) for folder in inside[:8]) + " …" * (len(inside) > 8)
    raise ModelError(f"no SAE in {path} itself, but in {listed}\nName one of them with --sae.")


def detect(held: Held) -> Format:
    """The one row of the table that has every tensor of the file, and all of whose needed tensors are there.

    Raises:
        ModelError: none, with the nearest and what is missing or too much.
    """
    keys = set(held.tensors)
    if refused := sorted(keys & REFUSED.keys()):
        raise ModelError(
            f"{held.path} holds {refused[0]}: it has {REFUSED[refused[0]]}\nOnly autoencoders of one place can be read."
        )
    rows = [row for row in FORMATS if row.container == held.container]
    fitting = [row for row in rows if None not in map(row.ours, keys) and row.needed <= _ours(row, keys)]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(sorted(keys)[:8]) + " …" * (len(keys) > 8) or "no tensors"
    message = f"{held.path} is no SAE of a known format: it holds {listed}"
    nearest = max(rows, key=lambda row: (len(_ours(row, keys) & row.needed), -len(row.needed)))
    if lacking := nearest.needed - _ours(nearest, keys):
        near = f"the nearest, {nearest.name}, it lacks {', '.join(sorted(lacking))}"
    else:
        near = f"{nearest.name}, it has too much: {', '.join(sorted(k for k in keys if nearest.ours(k) is None))}"
    names = ", ".join(dict.fromkeys(row.name for row in FORMATS))
    raise ModelError(f"{message}\nFor {near}\nKnown are {names}.")


def _ours(row: Format, keys: set[str]) -> set[str]:
    return {name.removesuffix(".T") for key in keys if (name := row.ours(key)) is not None}


def _settings(held: Held, row: Format) -> tuple[dict[str, Any], bool]:
    """The config files' settings under our names, and whether the one that matters was there."""
    found: dict[str, Any] = {}
    configured = False
    main = next(iter(row.config.values()), None)
    for name, keys in row.config.items():
        try:
            raw = read_config(held.path.parent / name) if name else dict(held.values)
        except ModelError:
            if keys is main:
                raise
            continue  # it would only have said more
        if raw is None:
            continue
        configured |= keys is main
        found = settings_of(raw, keys) | found
    return found, configured


def settings_of(raw: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    """Settings under our names; of several keys with one meaning the first that is there."""
    found: dict[str, Any] = {}
    for key, ours in keys.items():
        value = _at(raw, key)
        if value is not None:
            found.setdefault(ours, value)
    return found


def _at(raw: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, of nested or of flat settings."""
    if key in raw:
        return raw[key]
    first, _, rest = key.partition(".")
    inner = raw.get(first)
    return _at(inner, rest) if rest and isinstance(inner, Mapping) else None


def _under_our_names(held: Held, row: Format) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Tensors in float32 and our orientation, and scalars, which are settings; the file's own are let go.

    Raises:
        ModelError: NaN or infinity, stored or made by the conversion; more axes than an SAE has; whole numbers.
    """
    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, float] = {}
    for key in list(held.tensors):
        stored = held.tensors.pop(key)  # the narrower copy of a large matrix need not stay
        name = str(row.ours(key)).removesuffix(".T")
        if name == "-":
            continue
        tensor = stored.to(torch.float32)
        if not bool(torch.isfinite(tensor).all()):
            dtype = str(stored.dtype).removeprefix("torch.")
            raise ModelError(
                f"{held.path}: the SAE's {name} holds NaN or infinity, stored as {dtype}\nGet the file again"
                + (", in bfloat16 or float32: float16 ends at 65,504." if stored.dtype == torch.float16 else ".")
            )
        if name in ("W_enc", "W_dec") and tensor.dim() != 2:
            raise ModelError(
                f"{held.path}: the SAE's {name} has the shape {list(tensor.shape)}, so it spans several layers\n"
                "Only autoencoders of one place can be read."
            )
        if name in ("W_enc", "W_dec") and not stored.is_floating_point():
            raise ModelError(
                f"{held.path}: the SAE's {name} holds {str(stored.dtype).removeprefix('torch.')}, not weights\n"
                "Quantised ones lack their scale here: get it in bfloat16 or float32."
            )
        if tensor.dim() == 0:
            scalars[name] = int(stored) if name == "k" else float(tensor)
        else:
            tensors[name] = (tensor.T if str(row.ours(key)).endswith(".T") else tensor).contiguous()
    return tensors, scalars


def finish(row: Format, parts: Parts, *, hook_point: str, device: str) -> tuple[Sae, dict[str, Any]]:
    """The SAE of a row's reader, with what names and the user add, and the settings that change its codes.

    Raises:
        ModelError, SettingsError: as `open_local`.
    """
    _refuse_others(parts)
    _check_shapes(parts, row)
    draft = row.reader(parts)
    _check_sizes(parts, draft)
    if parts.k is not None and draft.architecture not in ("topk", "groupmax"):
        raise SettingsError(f"{parts.where} is a {draft.architecture} SAE: it has no k\nLeave out --sae-k.")
    hook, told, notes = _place(draft, hook_point)
    model, source = draft.named.get("model_name", ("", ""))
    if model and not draft.model_name:
        notes.append(f"its model, {model}, is taken from the name {source!r}")
    declared = Declared(
        draft.model_name or model or None, told or None, draft.k or None, draft.l0, draft.explained_variance
    )
    try:
        sae = Sae(
            draft.W_enc.to(device), draft.b_enc.to(device), draft.W_dec.to(device), draft.b_dec.to(device),
            architecture=draft.architecture, hook_point=hook, model_name=declared.model_name or "",
            k=draft.k, threshold=None if draft.threshold is None else draft.threshold.to(device),
            centred=draft.centred, input_norm=draft.input_norm,
            notes=tuple(f"SAE: {note}" for note in (*draft.notes, *notes)), declared=declared,
        )  # fmt: skip
    except ModelError as err:
        raise ModelError(f"{parts.where}, read as {row.name}: {err}\nGet it again, with its config.") from err
    used = {"architecture": sae.architecture, "k": sae.k, "centred": sae.centred, **draft.used}
    used |= {"input_norm": sae.input_norm} if sae.input_norm != "none" else {}
    return sae, used | ({} if row.name == "SAELens" else {"format": row.name})


def _refuse_others(parts: Parts) -> None:
    """Everything that reads one place and writes another, whatever the format calls it."""
    reads, writes = parts.word("hook_point"), parts.word("hook_point_out")
    found = {
        f"it reads {reads} and writes {writes}": bool(writes) and reads != writes,
        f"it is a {parts.word('kind')}": parts.word("kind", "sae").lower() != "sae",
        "it is a transcoder": bool(parts.config.get("transcoder")),
        "it has a skip connection": bool(parts.config.get("skip")),
        "it has a gated (GLU) encoder": bool(parts.config.get("glu")),
    }
    for what, is_so in found.items():
        if is_so:
            raise parts.error(what, "Only autoencoders of one place can be read.")


def _check_shapes(parts: Parts, row: Format) -> None:
    """Tensors that fit each other, in the orientation of the format, before any is folded into another."""
    d_in, d_sae = parts.tensors["W_enc"].shape
    expected = {"W_dec": [d_sae, d_in], "b_dec": [d_in]}
    for name, tensor in parts.tensors.items():
        fits = expected.get(name, [d_sae])
        if name != "W_enc" and list(tensor.shape) != fits:
            stored = [d_sae, d_in] if "W_enc.T" in row.tensors.values() else [d_in, d_sae]
            raise parts.error(
                f"read as {row.name}, its tensors do not fit each other: with W_enc stored as {stored}, {name} is "
                f"{list(tensor.shape)}, not {fits}",
                "Get it again; a file of another library that has the same keys must be converted.",
            )


def _check_sizes(parts: Parts, draft: Draft) -> None:
    d_in, expansion = parts.number("d_in"), parts.number("expansion")
    d_sae = parts.number("d_sae") or (int(d_in * expansion) if d_in and expansion else None)
    for name, said, size in (("d_in", d_in, draft.W_enc.shape[0]), ("d_sae", d_sae, draft.W_enc.shape[1])):
        if said is not None and said != size:
            raise parts.error(
                f"its config says {name} = {said:g}, its weights have {size}",
                "Config and weights are of different SAEs; get both again.",
            )


class _Place(NamedTuple):
    """Where an SAE reads."""

    hook_point: str
    told: str
    """What file or name say, whatever was given."""
    notes: list[str]


def _place(draft: Draft, given: str) -> _Place:
    """As its file says, else as given, else by its name."""
    stored = hook_point_of(draft.hook_point)
    if stored and "hook_" not in stored:  # which is how TransformerLens calls what is no block's output
        return _Place(stored, stored, [])
    name, source = draft.named.get("hook_point", ("", ""))
    named = hook_point_of(name)
    if given or not named:
        return _Place(hook_point_of(given) or stored, stored or named, [])
    note = f"its hook point, {named}, is taken from the name {source!r}; --hook-point says otherwise"
    return _Place(named, named, [note])
