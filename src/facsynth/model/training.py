"""What trainings have in common: a trainer of transformers or TRL that is seeded, silent and on one device.

Before: a model and a recipe. After: `model.adapter` and `model.tuning` train with it.
"""

from __future__ import annotations

import gc
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from facsynth.errors import SettingsError
from facsynth.records import Progress


def check_first_gpu(device: str) -> None:
    """Refuse any other GPU than the first, which trainers take.

    Raises:
        SettingsError: saying how it becomes the first.
    """
    number = device.partition(":")[2]
    if number not in {"", "0"}:
        raise SettingsError(
            f"training runs on the first GPU that is visible, asked for {device}\n"
            f"Make it the first: CUDA_VISIBLE_DEVICES={number} facsynth … --device cuda"
        )


@contextmanager
def without_advice() -> Iterator[None]:
    """What transformers, TRL and PEFT tell each other of names that will change is nothing to a user."""
    with warnings.catch_warnings():
        for kind in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", kind)
        warnings.filterwarnings("ignore", "fan_in_fan_out")  # of GPT-2; PEFT sets it right
        yield


@contextmanager
def apart(rng_seed: int, device: str) -> Iterator[None]:
    """A trainer sets random states and writes to the screen: it draws from a seed, and all is left as it was."""
    states = random.getstate(), np.random.get_state()
    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    gc.collect()  # a trainer and its model know each other; those of the seed before would stay in memory
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    devices = [device] if device.startswith("cuda") and torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices), without_advice():
            torch.manual_seed(rng_seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()


def on_one_device(settings: Any) -> Any:
    """Arguments of a trainer, which without this spreads itself over all GPUs that it sees."""
    settings._n_gpu = min(settings.n_gpu, 1)
    return settings


def run_trainer(trainer: Any, what: str, progress: Progress) -> None:
    """Let a trainer train, its steps told as those of `what`."""
    from transformers import PrinterCallback, TrainerCallback  # noqa: PLC0415  (a second)

    class Told(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            progress(what, state.global_step, state.max_steps)

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Told())
    trainer.train()
