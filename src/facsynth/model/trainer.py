"""The weights, optimiser and gradient of a TopK or BatchTopK SAE in training.

Before: `model.chunks` gives activations. After: `model.sae_train` steps through them. The only dense product is the
encoder's, in bfloat16 where the machine multiplies that faster; both weight gradients are sparse products over the k
active latents, written out by hand because autograd would make them dense.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import embedding_bag

from facsynth.errors import SettingsError
from facsynth.model.sae import Sae
from facsynth.store import write_atomic


@dataclass(frozen=True)
class TrainSettings:
    """What the trained SAE depends on."""

    d_sae: int = 8192
    """Number of features."""
    k: int = 32
    """Active latents a token (BatchTopK: on average)."""
    architecture: str = "topk"
    """topk or batchtopk; batchtopk is saved as jumprelu with the mean smallest activation as threshold."""
    n_tokens: int = 10_000_000
    """Tokens seen, over all epochs."""
    batch_tokens: int = 4096
    learning_rate: float = 1e-3
    """Of Adam, after a warm-up of 100 steps, falling linearly to 0 over the last 30 %."""
    dead_after_tokens: int = 250_000
    """A latent that did not fire for so many tokens is dead; it gets the auxiliary loss (Gao et al. 2024, A.2)."""
    aux_share: float = 1 / 32
    buffer_chunks: int = 16
    """Chunks mixed in the shuffle buffer."""
    rng_seed: int = 0

    def __post_init__(self) -> None:
        if self.architecture not in ("topk", "batchtopk"):
            raise SettingsError(f"cannot train the architecture {self.architecture!r}; known are topk, batchtopk")
        if not 0 < self.k <= self.d_sae:
            raise SettingsError(f"k is {self.k}; it must lie between 1 and d_sae ({self.d_sae})")
        for name in ("n_tokens", "batch_tokens", "dead_after_tokens", "buffer_chunks"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}\nGive at least 1.")


WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")


class Gradients(NamedTuple):
    """Of one loss; shapes as the trainer's weights (W_enc is [d_sae, d_in] there)."""

    W_enc: torch.Tensor
    b_enc: torch.Tensor
    W_dec: torch.Tensor
    b_dec: torch.Tensor
    loss: float


class TopKTrainer:
    """Weights, optimiser and gradient of one SAE. The gradient is written out: see `gradients`."""

    def __init__(self, mean: torch.Tensor, scale: float, settings: TrainSettings, *, dtype: torch.dtype) -> None:
        """Start from random unit decoder rows and their transpose, centred on `mean`.

        Args:
            mean: [d_in] of the activations.
            scale: what the centred activations are multiplied with, so that their mean square norm is d_in.
            settings: shape and optimiser.
            dtype: of the encoder's product.
        """
        generator = torch.Generator().manual_seed(settings.rng_seed)
        d_in = len(mean)
        rows = torch.randn((settings.d_sae, d_in), generator=generator)
        rows /= rows.norm(dim=1, keepdim=True)
        self.settings, self.dtype, self.mean, self.scale = settings, dtype, mean, scale
        self.W_dec = torch.nn.Parameter(rows.clone())
        self.W_enc = torch.nn.Parameter(rows.clone())  # [d_sae, d_in], transposed when saved
        self.b_enc = torch.nn.Parameter(torch.zeros(settings.d_sae))
        self.b_dec = torch.nn.Parameter(torch.zeros(d_in))
        self.since_fired = torch.zeros(settings.d_sae, dtype=torch.int64)
        self.threshold = torch.zeros(())
        self.step = 0
        self.optimizer = torch.optim.Adam(self.parameters(), lr=settings.learning_rate, betas=(0.9, 0.999), fused=True)

    def parameters(self) -> list[torch.nn.Parameter]:
        """In the order of the checkpoint."""
        return [self.W_enc, self.b_enc, self.W_dec, self.b_dec]

    def pre_acts(self, x: torch.Tensor) -> torch.Tensor:
        """[n, d_in] scaled and centred → [n, d_sae] in the product's dtype."""
        centred = (x - self.b_dec).to(self.dtype)
        return torch.addmm(self.b_enc.to(self.dtype), centred, self.W_enc.to(self.dtype).T)

    def select(self, pre: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which latents a token keeps: indices [n, k'] and float32 values ≥ 0; BatchTopK pads rows with zeros."""
        k = self.settings.k
        if self.settings.architecture == "topk":
            values, indices = pre.topk(k, dim=1, sorted=False)
            return indices, values.float().relu()
        values, indices = pre.topk(min(4 * k, self.settings.d_sae), dim=1)  # no token keeps more than 4k
        values = values.float().relu()
        n_dropped = values.numel() - k * len(pre)
        cut = values.flatten().kthvalue(n_dropped).values if n_dropped else values.new_zeros(())
        smallest = values[values > cut]
        if len(smallest):
            self.threshold.lerp_(smallest.min(), 0.01 if self.step > 100 else 0.3)
        return indices, torch.where(values > cut, values, 0.0)

    def gradients(self, x: torch.Tensor, indices: torch.Tensor, acts: torch.Tensor, target: torch.Tensor) -> Gradients:
        """Of sum((x̂ - target)²) / (n·d_in), with x̂ = S W_dec and S the sparse [n, d_sae] of `acts`.

        With E = 2 (x̂ - target) / (n·d_in):  ∂W_dec = Sᵀ E;  ∂S = E W_decᵀ on the kept latents only;
        ∂W_enc = ∂Sᵀ x.  All three cost nnz·d_in, a hundredth of the encoder's product.
        """
        n, d_in = x.shape
        indices, order = indices.sort(dim=1)
        acts = acts.gather(1, order)
        error = embedding_bag(indices, self.W_dec, mode="sum", per_sample_weights=acts) - target
        loss = float(error.square().sum()) / (n * d_in)
        error *= 2 / (n * d_in)
        flat = indices.flatten()
        rows = torch.arange(0, flat.numel() + 1, indices.shape[1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "sparse CSR is in beta state"
            pattern = torch.sparse_csr_tensor(rows, flat, torch.zeros(flat.numel()), (n, self.settings.d_sae))
            grad_acts = torch.sparse.sampled_addmm(pattern, error, self.W_dec.T, beta=0.0).values()
        grad_acts = torch.where(acts.flatten() > 0, grad_acts, 0.0)
        by_feature = flat.argsort(stable=True)
        starts = torch.searchsorted(flat[by_feature], torch.arange(self.settings.d_sae))
        token = by_feature // indices.shape[1]

        def transposed(values: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
            return embedding_bag(token, dense, starts, mode="sum", per_sample_weights=values[by_feature])

        b_enc = torch.zeros(self.settings.d_sae).index_add_(0, flat, grad_acts)
        return Gradients(
            W_enc=transposed(grad_acts, x - self.b_dec),
            b_enc=b_enc,
            W_dec=transposed(acts.flatten(), error),
            b_dec=error.sum(0) - b_enc @ self.W_enc,
            loss=loss,
        )

    def update(self, activations: torch.Tensor) -> float:
        """One optimiser step on raw activations [n, d_in]; gives back the mean squared error over d_in."""
        with torch.no_grad():
            x = (activations.float() - self.mean) * self.scale
            pre = self.pre_acts(x)
            indices, acts = self.select(pre)
            gradients = self.gradients(x, indices, acts, x - self.b_dec)
            auxiliary = self._auxiliary(x, pre, indices, acts)
            for parameter, name in zip(self.parameters(), WEIGHTS, strict=True):
                grad = getattr(gradients, name)
                parameter.grad = (
                    grad if auxiliary is None else grad + self.settings.aux_share * getattr(auxiliary, name)
                )
            self.since_fired += len(x)
            self.since_fired[indices[acts > 0]] = 0
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings.learning_rate * self._schedule()
            self.optimizer.step()
            self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True))
        self.step += 1
        return gradients.loss

    def _auxiliary(
        self, x: torch.Tensor, pre: torch.Tensor, indices: torch.Tensor, acts: torch.Tensor
    ) -> Gradients | None:
        """Let dead latents rebuild what is left, as in Gao et al. 2024 (arXiv 2406.04093), appendix A.2."""
        dead = (self.since_fired > self.settings.dead_after_tokens).nonzero().flatten()
        if not len(dead):
            return None
        rows = slice(None, None, 4)  # a quarter of the batch is enough to wake them
        rebuilt = embedding_bag(indices[rows], self.W_dec, mode="sum", per_sample_weights=acts[rows])
        values, chosen = pre[rows][:, dead].float().topk(min(2 * self.settings.k, len(dead)), dim=1)
        return self.gradients(x[rows], dead[chosen], values.relu(), x[rows] - self.b_dec - rebuilt)

    def _schedule(self) -> float:
        n_steps = max(1, self.settings.n_tokens // self.settings.batch_tokens)
        decay = (n_steps - self.step) / max(1.0, 0.3 * n_steps)
        return max(0.0, min(1.0, (self.step + 1) / 100, decay))

    def sae(self, *, hook_point: str, model_name: str) -> Sae:
        """The SAE on raw activations: mean and scale are folded away, decoder rows keep norm 1."""
        b_dec = self.mean + self.b_dec.detach() / self.scale
        batch = self.settings.architecture == "batchtopk"
        return Sae(
            self.W_enc.detach().T.contiguous(), self.b_enc.detach() / self.scale, self.W_dec.detach().clone(), b_dec,
            architecture="jumprelu" if batch else "topk",
            threshold=(self.threshold / self.scale).expand(self.settings.d_sae).clone() if batch else None,
            k=self.settings.k, hook_point=hook_point, model_name=model_name,
        )  # fmt: skip

    def save(self, path: Path, **more: torch.Tensor) -> None:
        """Everything the next step depends on, and `more`, in one file, atomically."""
        tensors = {name: p.detach() for name, p in zip(WEIGHTS, self.parameters(), strict=True)}
        for name, p in zip(WEIGHTS, self.parameters(), strict=True):
            state = self.optimizer.state.get(p, {})
            tensors |= {f"{name}.{key}": value for key, value in state.items()}
        tensors |= {"since_fired": self.since_fired, "threshold": self.threshold, "step": torch.tensor(self.step)}
        tensors |= {"mean": self.mean, "scale": torch.tensor(self.scale, dtype=torch.float64), **more}
        write_atomic(path, lambda temporary: save_file({k: v.contiguous() for k, v in tensors.items()}, temporary))

    @classmethod
    def load(
        cls, path: Path, settings: TrainSettings, *, dtype: torch.dtype
    ) -> tuple[TopKTrainer, dict[str, torch.Tensor]]:
        """The trainer where `save` left it, and all tensors of the file."""
        tensors = load_file(path)
        trainer = cls(tensors["mean"], float(tensors["scale"]), settings, dtype=dtype)
        trainer.since_fired, trainer.threshold = tensors["since_fired"], tensors["threshold"]
        trainer.step = int(tensors["step"])
        for name, parameter in zip(WEIGHTS, trainer.parameters(), strict=True):
            parameter.data = tensors[name]
            if trainer.step:
                keys = ("step", "exp_avg", "exp_avg_sq")
                trainer.optimizer.state[parameter] = {key: tensors[f"{name}.{key}"] for key in keys}
        return trainer, tensors
