"""Advanced: train-sae."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from facsynth.cli import options as o
from facsynth.cli.console import cache_folder, print_json, print_table, shown_progress
from facsynth.errors import SettingsError

KEYS = {"background_pieces", "model", "hook_point", "save_dtype", "train", "harvest", "corpora"}


def train_sae(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe: model, hook_point, corpora, train, harvest.")],
    out: o.Out,
    data: Annotated[Path, typer.Option("--data", help="Folder that the recipe's paths start from.")] = Path(),
    keep_gb: Annotated[float, typer.Option("--keep-gb", help="Disk for activations between epochs.")] = 8.0,
    json: o.Json = False,
) -> None:
    """Train a TopK or BatchTopK SAE from a corpus; the same command goes on from its checkpoint.

    Example:  facsynth train-sae recipe.yaml --data corpora -o runs/sae
    """
    from facsynth.settings import read_yaml

    raw = read_yaml(recipe)
    if not isinstance(raw, dict) or not raw.get("corpora") or not raw.get("hook_point") or raw.keys() - KEYS:
        raise SettingsError(
            f"{recipe} is no recipe: it needs `corpora` and `hook_point`, and knows {', '.join(sorted(KEYS))}"
        )
    with shown_progress() as progress:
        manifest = _train(raw, out, data, keep_gb, progress)
    if json:
        print_json(manifest)
        return
    names = {"fvu": "FVU", "l0": "L0", "dead_share": "dead share (held out)", "n_tokens": "held-out tokens"}
    print_table(str(out), ("", ""), [(names.get(key, key), str(value)) for key, value in manifest.items()])


def _train(raw: dict[str, Any], out: Path, data: Path, keep_gb: float, progress: Any) -> dict[str, Any]:
    import numpy as np

    from facsynth.assemble import model_folder, open_sae
    from facsynth.features.background import background_pieces
    from facsynth.features.encode import EncodeSettings, FeatureSpace
    from facsynth.features.encoded import encode
    from facsynth.features.harvest import HarvestSettings
    from facsynth.features.train import Recipe, train_on_corpora
    from facsynth.model.backbone import load_backbone
    from facsynth.model.sae_train import TrainSettings
    from facsynth.store import locked, read_json
    from facsynth.text.corpus import Corpus, read_corpus
    from facsynth.text.layouts import Fields

    try:
        recipe = Recipe(
            HarvestSettings(**raw.get("harvest", {})),
            TrainSettings(**raw.get("train", {})),
            raw.get("save_dtype", "float32"),
        )
        sources = [(data / c["path"], c["form"], Fields(**c.get("fields", {})), c.get("limit")) for c in raw["corpora"]]
    except (TypeError, KeyError) as err:
        raise SettingsError(f"the recipe is wrong: {err}") from err
    with locked(out):
        corpora = [read_corpus(path, form=form, fields=fields, limit=limit) for path, form, fields, limit in sources]
        cache = cache_folder()
        folder = model_folder(raw.get("model", "embedded"), cache)
        backbone = load_backbone(folder, hook_point=raw["hook_point"], cache=cache)
        train_on_corpora(corpora, backbone, out, recipe, keep_gb=keep_gb, progress=progress)
        if n_pieces := raw.get("background_pieces"):
            space = FeatureSpace(backbone, open_sae(str(out), cache), EncodeSettings())
            pieces = background_pieces(corpora, n_pieces, np.random.default_rng(recipe.harvest.rng_seed))
            encoded = encode(Corpus.of(pieces, name="background"), space, out / "background", progress=progress)
            encoded.profile.save(out / "background.npz")
    return dict(read_json(out / "manifest.json"))


COMMANDS = {"train-sae": train_sae}
