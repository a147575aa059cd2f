"""SAEs that are named instead of lying here: `hf:owner/name[:path/inside]`, and `saelens:RELEASE:SAE_ID`.

Of a repository only the files of that one SAE are fetched, then opened like any local ones. A release of SAELens is
opened by SAELens, which is imported for that alone; its tensors and settings are read as those of its folders.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from facsynth.errors import ModelError, SettingsError, missing_extra
from facsynth.model.memory import is_out_of_memory
from facsynth.model.sae_draft import Parts
from facsynth.model.sae_files import CONTAINERS
from facsynth.model.sae_formats import OpenedSae, finish, settings_of
from facsynth.model.sae_table import CONFIG_FILES, SAELENS, SAELENS_CONFIG, WEIGHT_FILES, WEIGHT_PATTERNS

HUB, SAELENS_ID = "hf:", "saelens:"


def fetch(name: str) -> Path:
    """The local place of `hf:owner/name` or `hf:owner/name:path/inside`; the path may end at a weight file.

    Raises:
        SettingsError: it is not of that form.
        ModelError: not to be had from the Hub, or nothing of that path in it.
    """
    repository, _, inside = name.removeprefix(HUB).partition(":")
    inside = inside.strip("/")
    if repository.count("/") != 1 or ".." in inside.split("/"):
        raise SettingsError(f"--sae {name} names no SAE on the Hub\nWrite hf:owner/name or hf:owner/name:path/inside.")
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (only for Hub ids)

    try:
        root = Path(snapshot_download(repository, allow_patterns=weight_files(inside) + config_files(inside)))
    except Exception as err:  # the hub client raises many kinds, all of them mean: not to be had
        reason = str(err).strip().splitlines()
        raise ModelError(
            f"no SAE {name}: not to be had from the Hub\n{reason[0] if reason else type(err).__name__}\n"
            "Check the name and the connection, or give files that lie here."
        ) from err
    if not any(found.is_file() for file in weight_files(inside) for found in root.glob(file)):
        where = f"at {inside}" if inside else "at its root"
        raise ModelError(
            f"{repository} has no SAE of a usual name {where}\n"
            f"Name its file, as listed on https://huggingface.co/{repository}/tree/main: hf:{repository}:path/to/file"
        )
    return root / inside


def weight_files(inside: str) -> list[str]:
    """The file that was named, or what a folder's SAE may be called; also as patterns."""
    if PurePosixPath(inside).suffix in CONTAINERS:
        return [inside]
    return [str(PurePosixPath(inside) / name) for name in (*WEIGHT_FILES, *WEIGHT_PATTERNS)]


def config_files(inside: str) -> list[str]:
    """Where the config of that SAE may lie: beside it or beside the folders above, as formats have it."""
    folders = {PurePosixPath(file).parent for file in weight_files(inside)}
    paths = {_plain(folder / name) for folder in folders for name in CONFIG_FILES}
    return sorted(paths - {""})


def _plain(path: PurePosixPath) -> str:
    """Without `..`; empty where it leaves the repository."""
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and not parts:
            return ""
        parts = parts[:-1] if part == ".." else [*parts, part]
    return "/".join(parts)


def open_release(name: str, *, k: int | None = None, hook_point: str = "", device: str = "cpu") -> OpenedSae:
    """The SAE of `saelens:RELEASE:SAE_ID` through SAELens.

    Raises:
        SettingsError: it is not of that form.
        ModelError: SAELens is not installed, does not know it, or cannot get it; or it cannot be kept exactly.
    """
    release, _, sae_id = name.removeprefix(SAELENS_ID).partition(":")
    if not release or not sae_id:
        raise SettingsError(f"--sae {name} names no SAE of SAELens\nWrite saelens:RELEASE:SAE_ID, as its table does.")
    try:
        import sae_lens  # noqa: PLC0415  (an extra, and seconds to load)
        from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory  # noqa: PLC0415
    except ImportError as err:
        raise missing_extra("sae-lens", "saelens") from err
    try:
        theirs = sae_lens.SAE.from_pretrained(release, sae_id, device="cpu")
    except Exception as err:  # its registry, its converters and the hub client each raise their own
        reason = str(err).strip().splitlines()
        way_out = "Its table of releases: https://decoderesearch.github.io/SAELens/latest/pretrained_saes/"
        if is_out_of_memory(err):
            way_out = "Take an SAE of fewer features, or a machine with more memory."
        raise ModelError(
            f"SAELens cannot open {release} {sae_id}\n{reason[0] if reason else type(err).__name__}\n{way_out}"
        ) from err
    opened = of_saelens(theirs, name, k=k, hook_point=hook_point, device=device)
    if release in (listed := get_pretrained_saes_directory()):
        l0 = listed[release].expected_l0.get(sae_id)  # 0 where nobody measured it, 1 of the variance
        explained = listed[release].expected_var_explained.get(sae_id)
        told = replace(
            opened.sae.declared,
            l0=l0 or opened.sae.declared.l0,
            explained_variance=None if explained == 1 else explained,
        )
        opened = replace(opened, sae=replace(opened.sae, declared=told))
    return opened


def of_saelens(theirs: Any, name: str, *, k: int | None = None, hook_point: str = "", device: str = "cpu") -> OpenedSae:
    """An SAE object of SAELens as ours, known by the bytes of its tensors."""
    tensors = {key: tensor.detach().float().cpu().contiguous() for key, tensor in theirs.state_dict().items()}
    config = settings_of(theirs.cfg.to_dict(), SAELENS_CONFIG)
    parts = Parts(name, name, {SAELENS.ours(key) or key: tensor for key, tensor in tensors.items()}, config, True, k)
    sae, used = finish(SAELENS, parts, hook_point=hook_point, device=device)
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode() + memoryview(tensors[key].view(torch.uint8).numpy()))
    return OpenedSae(sae, SAELENS.name, used, digest=digest.hexdigest())
