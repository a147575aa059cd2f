"""Advanced: encode, merge, train-sae."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from facsynth.cli import options as o
from facsynth.cli.console import Panel, cache_folder, note, print_json, print_table, shown_progress
from facsynth.errors import SettingsError
from facsynth.records import Progress

if TYPE_CHECKING:
    from facsynth.features.encoded import Encoded, Engine, Space
    from facsynth.recipe import RecipeFile
    from facsynth.settings import RunSettings
    from facsynth.text.corpus import Corpus

Where = Annotated[
    Literal["local", "ray"], typer.Option("--engine", help="Where: in this process, or on Ray (docs/scaling.md).")
]
RayAddress = Annotated[
    str | None, typer.Option("--ray-address", help="HOST:PORT of a Ray head. [RAY_ADDRESS, else this machine alone]")
]
RayActors = Annotated[
    int | None, typer.Option("--ray-actors", min=1, help="Copies of the model on Ray. [as many as fit]")
]


@o.takes(o.SPACE, o.ROWS)
def encode(
    corpus: Annotated[str, typer.Argument(help="What to encode: a file, - for stdin, or hf:owner/name.")],
    out: o.Out,
    shard: o.Shard = None,
    reuse: o.Reuse = None,
    engine: Where = "local",
    ray_address: RayAddress = None,
    ray_actors: RayActors = None,
    json: o.Json = False,
    **options: Any,
) -> None:
    """Encode a corpus to a folder, for instance as a background.

    Example:  facsynth encode broad.jsonl -o runs/broad
    """
    _check_engine(engine, ray_address, ray_actors)
    settings = o.resolve(None, [corpus], **options)
    with shown_progress() as progress:
        from facsynth.assemble import read_data
        from facsynth.features.encoded import encode as encode_corpus
        from facsynth.features.encoded import settings_of
        from facsynth.features.queue import Part
        from facsynth.features.reuse import Known, check_named
        from facsynth.lock import locked
        from facsynth.measure import notes_on_rows

        part = Part.parse(shard) if shard else None
        data = read_data(settings.data, "seed", progress)
        with locked(out):
            progress("loading the model", 0, None)
            where = (
                _on_ray(data, settings, ray_address, ray_actors) if engine == "ray" else _here(data, settings, progress)
            )
            with where as (space, notes, pool):
                is_new = not (out / "manifest.json").exists()
                check_named(reuse or () if is_new else (), settings_of(space))
                known = Known(reuse or (), settings_of(space))
                encoded = encode_corpus(data, space, out, part=part, known=known, engine=pool, progress=progress)
    _print_encoded(encoded, json)
    if reuse and is_new:
        note(f"{known.n_found} samples were there already: {', '.join(map(str, reuse))}")
    if part and not encoded.profile.n_samples:
        note(f"note: part {part} of this corpus holds no samples")
    for text in (*notes, *notes_on_rows("corpus", encoded)):
        note(f"note: {text}")


def _check_engine(engine: str, address: str | None, actors: int | None) -> None:
    """Before anything is read: minutes later it would be the same error."""
    from facsynth.features.ray_cluster import import_ray

    if engine == "ray":
        import_ray()
    elif address or actors:
        raise SettingsError("--ray-address and --ray-actors say how Ray is used, and it is not\nAdd --engine ray.")


Pool = tuple["Space", Sequence[str], "Engine | None"]
"""What is encoded in, notes on it, and who does it."""


@contextmanager
def _here(data: Corpus, settings: RunSettings, progress: Progress) -> Iterator[Pool]:
    from facsynth.assemble import open_space
    from facsynth.selfcheck import check_before_measuring

    cache = cache_folder()
    space = open_space(settings, cache)
    notes = check_before_measuring(space, data, settings, cache, progress, data=[data.fingerprint])
    yield space, (*space.sae.notes, *notes), None


@contextmanager
def _on_ray(data: Corpus, settings: RunSettings, address: str | None, actors: int | None) -> Iterator[Pool]:
    from facsynth.assemble import open_space
    from facsynth.features.encoded import SHARD_SAMPLES
    from facsynth.features.ray import on_ray
    from facsynth.selfcheck import check_before_measuring

    cache, first = cache_folder(), list(islice(data, SHARD_SAMPLES))
    checked = partial(check_before_measuring, samples=first, data=[data.fingerprint], settings=settings, cache=cache)
    opened = partial(open_space, settings, cache)
    with on_ray(opened, checked, device=settings.model.device, address=address, actors=actors) as (facts, engine):
        yield facts, facts.notes, engine


def merge(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `facsynth encode` left.")],
    out: o.Out,
    json: o.Json = False,
) -> None:
    """Put encoded folders together: the parts of `encode --shard`, or different corpora.

    Example:  facsynth merge runs/broad-1 runs/broad-2 -o runs/broad
    """
    from facsynth.features.merge import merge_encoded
    from facsynth.lock import locked

    with locked(out):
        _print_encoded(merge_encoded(folders, out), json)


def _print_encoded(encoded: Encoded, json: bool) -> None:
    if json:
        print_json(encoded.manifest)
    else:
        counts = f"{encoded.profile.n_samples} samples, {encoded.profile.n_tokens} content tokens"
        print(f"{counts}: {encoded.folder}")


def train_sae(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe: model, hook_point, corpora, train, harvest.")],
    out: o.Out,
    data: Annotated[Path, typer.Option("--data", help="Folder that the recipe's paths start from.")] = Path(),
    keep_gb: Annotated[float, typer.Option("--keep-gb", min=0, help="Disk for activations between epochs.")] = 8.0,
    json: o.Json = False,
) -> None:
    """Train a TopK or BatchTopK SAE from a corpus; it goes on from its checkpoint.

    Example:  facsynth train-sae recipe.yaml --data corpora -o runs/sae
    """
    from facsynth.blocks import read_yaml
    from facsynth.recipe import parse_recipe

    asked = parse_recipe(read_yaml(recipe), str(recipe))
    with shown_progress() as progress:
        manifest = _train(asked, str(recipe), out, data, keep_gb, progress)
    if json:
        print_json(manifest)
        return
    names = {"fvu": "FVU", "l0": "L0", "dead_share": "dead share (held out)", "n_tokens": "held-out tokens"}
    print_table(str(out), ("", ""), [(names.get(key, key), str(value)) for key, value in manifest.items()])


def _train(asked: RecipeFile, name: str, out: Path, data: Path, keep_gb: float, progress: Progress) -> dict[str, Any]:
    import numpy as np

    from facsynth.assemble import model_folder, open_sae
    from facsynth.blocks import parse_part
    from facsynth.features.background import background_pieces
    from facsynth.features.encode import EncodeSettings, FeatureSpace
    from facsynth.features.encoded import encode
    from facsynth.features.harvest import HarvestSettings
    from facsynth.features.train import Recipe, train_on_corpora
    from facsynth.lock import locked
    from facsynth.model.backbone import load_backbone
    from facsynth.model.trainer import TrainSettings
    from facsynth.store import read_json
    from facsynth.text.corpus import Corpus, read_corpus
    from facsynth.text.layouts import Fields

    recipe = Recipe(
        parse_part(HarvestSettings, asked.harvest, f"{name}, harvest"),
        parse_part(TrainSettings, asked.train, f"{name}, train"),
        asked.save_dtype,
    )
    corpora = [
        read_corpus(data / c.path, form=c.form, fields=Fields(**c.fields), limit=c.limit, progress=progress)
        for c in asked.corpora
    ]
    with locked(out):
        cache = cache_folder()
        progress("loading the model", 0, None)
        backbone = load_backbone(model_folder(asked.model, cache), hook_point=asked.hook_point, cache=cache)
        train_on_corpora(corpora, backbone, out, recipe, keep_gb=keep_gb, progress=progress)
        if asked.background_pieces:
            space = FeatureSpace(backbone, open_sae(str(out), cache), EncodeSettings())
            rng = np.random.default_rng(recipe.harvest.rng_seed)
            pieces = background_pieces(corpora, asked.background_pieces, rng)
            encoded = encode(Corpus.of(pieces, name="background"), space, out / "background", progress=progress)
            encoded.profile.save(out / "background.npz")
    return read_json(out / "manifest.json")


COMMANDS: Panel = {"encode": encode, "merge": merge, "train-sae": train_sae}
