"""From settings to parts: which model, SAE, background, corpora and writer a run means. The only place that knows
what `embedded` stands for.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path

import torch

from facsynth.blocks import EMBEDDED
from facsynth.errors import InputError, MismatchError, ModelError, SettingsError
from facsynth.features.encode import EncodeSettings, FeatureSpace
from facsynth.features.encoded import Encoded
from facsynth.model.backbone import Backbone, load_backbone
from facsynth.model.embedded import embedded_model
from facsynth.model.hashes import remembered_hash
from facsynth.model.input_norm import CENTRED
from facsynth.model.loading import load_tokenizer
from facsynth.model.sae import Sae, hook_point_of
from facsynth.model.sae_formats import OpenedSae, open_local
from facsynth.model.sae_hub import HUB, SAELENS_ID, fetch, open_release
from facsynth.model.writer import LocalWriter, steering_vectors
from facsynth.profile import Profile
from facsynth.records import Progress, no_progress
from facsynth.settings import DataBlock, RunSettings
from facsynth.store import fingerprint
from facsynth.synthesis.candidates import STEERED_RUNG
from facsynth.tasks import task_names
from facsynth.text.borrowed import check_same_tokens
from facsynth.text.corpus import Corpus, read_corpus
from facsynth.text.holdout import Holdout, read_holdout
from facsynth.text.layouts import Fields

EMBEDDED_SAE = "smollm2-135m-instruct-layers.14"


def embedded_sae_folder() -> Path:
    """The SAE that ships, with its background profile beside it."""
    return Path(str(files("facsynth").joinpath("data", EMBEDDED_SAE)))


def model_folder(path: str, cache: Path) -> Path:
    """`embedded`, a local folder, or a Hub id, as a local folder.

    Raises:
        ModelError: neither here nor to be had from the Hub, or a folder without a model.
    """
    folder = _folder(path, cache, ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"])
    if not (folder / "config.json").is_file():
        raise ModelError(f"no model in {path}: it has no config.json\nGive a folder as `save_pretrained` leaves it.")
    return folder


def tokenizer_folder(path: str, cache: Path) -> Path:
    """As `model_folder`, but of a Hub id without the weights."""
    return _folder(path, cache, ["*token*.json", "vocab*", "merges.txt", "config.json", "*.model", "*.jinja"])


def _folder(path: str, cache: Path, patterns: list[str]) -> Path:
    if path == EMBEDDED:
        return embedded_model(cache)
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (only for Hub ids)

    try:
        return Path(snapshot_download(path, allow_patterns=patterns))
    except Exception as err:  # the hub client raises many kinds, all of them mean: not to be had
        raise ModelError(f"no model {path}: not a folder, and not to be had from the Hub\n{err}") from err


def open_sae(path: str, cache: Path, device: str = "cpu", *, k: int | None = None, hook_point: str = "") -> Sae:
    """The SAE of `open_any_sae`."""
    return open_any_sae(path, cache, device, k=k, hook_point=hook_point).sae


def open_any_sae(
    path: str, cache: Path, device: str = "cpu", *, k: int | None = None, hook_point: str = ""
) -> OpenedSae:
    """The SAE a setting means, with its fingerprint: of the weights and of how they are used.

    Args:
        path: `embedded`, a file or folder of any format of `model.sae_table`, `hf:owner/name:path/inside`, or
            `saelens:RELEASE:SAE_ID`.
        cache: where file hashes are remembered.
        device: a torch device.
        k: of a topk SAE whose file does not say it.
        hook_point: of an SAE whose file does not say it.
    """
    if path.startswith(SAELENS_ID):
        opened = open_release(path, k=k, hook_point=hook_point, device=device)
    else:
        place = fetch(path) if path.startswith(HUB) else _sae_folder(path)
        opened = open_local(place, k=k, hook_point=hook_point, device=device)
    weights = remembered_hash(opened.weights, cache) if opened.weights else opened.digest
    return replace(opened, sae=replace(opened.sae, fingerprint=fingerprint([weights, dict(opened.used)])))


def open_space(settings: RunSettings, cache: Path, *, dtype: str | None = None) -> FeatureSpace:
    """Model, SAE and template of a run; `dtype` overrides that of the settings, for decisions in float32."""
    _check_device(settings.model.device)
    named = settings.model.hook_point or ""
    sae = open_sae(settings.sae.path, cache, settings.model.device, k=settings.sae.k, hook_point=named)
    return join_space(open_backbone(settings, hook_point_for(sae, settings), cache, dtype=dtype), sae, settings)


def hook_point_for(sae: Sae, settings: RunSettings) -> str:
    """Where the model is hooked: as asked for, else where the SAE was trained.

    Raises:
        SettingsError: neither is said.
    """
    hook_point = hook_point_of(settings.model.hook_point or sae.hook_point)
    if not hook_point:
        raise SettingsError("the SAE does not say where it was trained\nGive it: model.hook_point (--hook-point).")
    return hook_point


def open_backbone(settings: RunSettings, hook_point: str, cache: Path, *, dtype: str | None = None) -> Backbone:
    """The model of a run; of a base model with `chat_template_from`, the tokenizer is that of the chat model.

    Raises:
        MismatchError: the two tokenizers do not give the same ids.
    """
    _check_device(settings.model.device)
    backbone = load_backbone(
        model_folder(settings.model.path, cache),
        hook_point=hook_point,
        dtype=dtype or settings.model.dtype,
        device=settings.model.device,
        cache=cache,
    )
    if settings.model.chat_template_from is not None:
        chat = load_tokenizer(tokenizer_folder(settings.model.chat_template_from, cache))
        check_same_tokens(chat, backbone.tokenizer, settings.model.chat_template_from, settings.model.path)
        backbone.tokenizer = chat
    return backbone


def join_space(backbone: Backbone, sae: Sae, settings: RunSettings) -> FeatureSpace:
    """A model and an SAE at its hook point as what samples are measured in."""
    if sae.input_norm == CENTRED and backbone.has_rms_norm:
        sae = replace(sae, input_norm="none")
    max_tokens = min(settings.sae.max_tokens, backbone.max_positions)
    encoding = EncodeSettings(settings.data.form, settings.sae.codes, max_tokens, settings.sae.compat)
    return FeatureSpace(backbone, sae, encoding)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as err:  # AssertionError: a torch without CUDA
        reason = str(err).splitlines()[0]
        raise SettingsError(
            f"the device {device!r} cannot be used: {reason}\nSet model.device: cpu (--device cpu)."
        ) from err


def open_background(settings: RunSettings, space: FeatureSpace) -> Profile | None:
    """The profile that relevance is contrasted with and thresholds refer to; None where nothing is known.

    Raises:
        InputError: the folder that was named holds no encoded corpus.
        MismatchError: it comes from another SAE.
    """
    path = background_path(settings)
    if path is None or path.is_dir() or not path.exists():
        return Encoded.open(path).profile if path else None
    profile = Profile.load(path)
    if profile.space["sae"] != space.sae.fingerprint:
        raise MismatchError(
            f"{path} was made with another SAE than the one beside it\nGive one: coverage.background (--background)."
        )
    return profile


def background_path(settings: RunSettings) -> Path | None:
    """The folder that was named, else the profile beside the SAE, as `train-sae` leaves it; None without one."""
    if settings.coverage.background != EMBEDDED:
        return Path(settings.coverage.background)
    beside = _sae_folder(settings.sae.path) / "background.npz"
    return beside if beside.exists() else None


def _sae_folder(path: str) -> Path:
    return embedded_sae_folder() if path == EMBEDDED else Path(path)


def read_data(block: DataBlock, which: str, progress: Progress = no_progress) -> Corpus:
    """The seed set, the anchor or the pool, all files of it as one corpus.

    Named fields are those of the seed set; another file that lacks them is read in the layout it has. Anchor and pool
    come without what is in the holdout.
    """
    corpora = []
    for source in {"seed": block.seed, "anchor": block.anchor, "pool": block.pool}[which]:
        read = partial(read_corpus, source, form=block.form, limit=block.limit, progress=progress)
        try:
            corpora.append(read(fields=Fields(**block.fields)))
        except InputError:
            if which == "seed" or not block.fields or source == "-":
                raise
            corpora.append(read())
    corpus = corpora[0] if len(corpora) == 1 else Corpus.join(corpora)
    holdout = None if which == "seed" else open_holdout(block)
    corpus = holdout.kept_out_of(corpus) if holdout else corpus
    if not len(corpus):
        raise InputError(f"all of {corpus.name} is in the holdout\nAn {which} must be other data.")
    return corpus


def open_holdout(block: DataBlock) -> Holdout | None:
    """What is kept for evaluation; None where nothing was named."""
    return read_holdout(block.holdout, block.form, Fields(**block.fields))


def check_pool(settings: RunSettings) -> None:
    """Refuse a pool that cannot be read, by the first row of each of its files, before anything is measured."""
    if settings.data.pool:
        read_data(settings.data.model_copy(update={"limit": 1, "holdout": ()}), "pool")


def check_form(settings: RunSettings) -> None:
    """Refuse a form that is not written, or not without a task.

    Raises:
        SettingsError: saying what can be done instead.
    """
    if not settings.budget.max_candidates:
        return
    if settings.data.form == "text":
        raise SettingsError(
            "texts outside any chat are not written, only messages, chats, pairs and A/B questions\n"
            "Select from a pool with `facsynth select`, measure with `facsynth coverage`, or set data.form to another."
        )
    if settings.data.form == "ab" and settings.task is None:
        raise SettingsError(
            "A/B questions are about a behaviour, and no task names one\n"
            f"Name it: task: sycophancy, or a YAML file of yours. There are {', '.join(task_names())}."
        )


def open_local_writer(
    space: FeatureSpace, anchor: Profile, feature_ids: list[int], settings: RunSettings
) -> LocalWriter:
    """The writer in this process, steered by the attempted features; 1 is the mean of their three highest samples.

    Raises:
        SettingsError: steering is asked for, and the SAE has an input norm.
    """
    vectors: dict[int, torch.Tensor] = {}
    if space.sae.input_norm in {"none", CENTRED}:
        top = anchor.top_mean(3)
        vectors = steering_vectors(space.sae, {feature: float(top[feature]) for feature in feature_ids})
    elif STEERED_RUNG in settings.synthesis.rungs:
        raise SettingsError(
            f"the SAE brings each token to a norm of its own ({space.sae.input_norm}), so what a feature writes has no "
            "fixed length to steer with\nSet writer.rungs to [plain, spans]."
        )
    return LocalWriter(space.backbone, space.template.prompt_ids, vectors, batch_size=settings.writer.batch_size)
