"""One function a format: from tensors and settings under our names to an SAE. The rows are in `model.sae_table`.

What each convention rests on was read in the library that writes the format; where two libraries read the same file
differently, the reader says which one is followed and why.
"""

from __future__ import annotations

from facsynth.model.sae_draft import Draft, Parts

LAYER = r"layer_(\d+)(?=[/_]|$)"


def gemma_scope(parts: Parts) -> Draft:
    """Gemma Scope (Gemma 2): jumprelu, not centred. Site, layer, model and L0 are in the path alone."""
    site = parts.named(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att|transcoders)")
    where, l0 = parts.named(LAYER), parts.named(r"average_l0_(\d+)")
    if parts.named(r"(^|/)embedding(?=/)"):
        raise parts.error("it reads token embeddings", "Take one that reads the residual stream: layer_N.")
    if site and site[3] in ("att", "transcoders"):
        what = "the input of o_proj" if site[3] == "att" else "one place and writes another"
        raise parts.error(f"by its name ({site[0]}) it reads {what}", "Take one of a -res release.")
    found = Draft.of(parts, "jumprelu", centred=False, threshold=parts.need("threshold")[0])
    if where and site:
        block = f"layers.{where[1]}"
        hook_point = block if site[3] == "res" else f"{block}.post_feedforward_layernorm"
        found.named["hook_point"] = hook_point, f"{site[0]} … {where[0]}"
    if site:
        found.named["model_name"] = f"google/gemma-2-{site[1]}" + "-it" * (site[2] == "it"), site[0]
    found.l0 = float(l0[1]) if l0 else None
    return found


def gemma_scope_2(parts: Parts) -> Draft:
    """Gemma Scope 2 (Gemma 3): jumprelu, not centred; config.json may be missing."""
    if parts.word("activation", "jump_relu") not in ("jump_relu", "jumprelu"):
        raise parts.error(f"its config says {parts.word('activation')!r}", "Only jump_relu is known of this format.")
    if parts.named(r"(^|/)(transcoder|clt)(_all)?/"):
        raise parts.error("by its name it is a transcoder", "Take one of a resid_post folder.")
    found = Draft.of(parts, "jumprelu", centred=False, threshold=parts.need("threshold")[0])
    found.hook_point = parts.word("hook_point").removesuffix(".output")
    found.model_name, found.l0 = parts.word("model_name"), parts.figure("l0")
    site, where = parts.named(r"(?<=/)(resid_post|mlp_out|attn_out)(_all)?(?=/)"), parts.named(LAYER)
    if found.hook_point.endswith(".input") or (not found.hook_point and site and site[1] == "attn_out"):
        raise parts.error("it reads the input of a module", "Only outputs of modules can be read: take a resid_post.")
    if site and where:
        tail = "" if site[1] == "resid_post" else ".post_feedforward_layernorm"
        found.named["hook_point"] = f"layers.{where[1]}{tail}", f"{site[0]} … {where[0]}"
    if model := parts.named(r"gemma-scope-2-(\w+)-(pt|it)"):
        plain = model[1] == "270m" and model[2] == "pt"  # on the Hub it has no -pt
        found.named["model_name"] = f"google/gemma-3-{model[1]}" + ("" if plain else f"-{model[2]}"), model[0]
    return found


def sparsify(parts: Parts) -> Draft:
    """Sparsify: topk or groupmax, always centred. The folder is named after the module it reads, from 0.

    SAELens' converter is not followed: it takes `num_latents: 0` for a width, transposes W_dec, and does not centre.
    """
    if not parts.configured:
        raise parts.error("cfg.json is missing beside it", "It says k and the activation; get the whole folder.")
    architecture = parts.word("activation", "topk")
    if architecture not in ("topk", "groupmax") or parts.config.get("signed"):
        raise parts.error(f"its activation is {architecture!r}, signed or unknown", "Known are topk and groupmax.")
    k, notes = parts.decide_k()
    found = Draft.of(parts, architecture, centred=True, k=k, notes=notes)
    folder = parts.named(r"((?:\w+\.)*(?:layers?|h|blocks?)\.\d+(?:\.\w+)*)/(?:seed\d+/)?[^/]+$")
    if folder:
        found.named["hook_point"] = folder[1], folder[1]
    found.model_name = parts.word("model_name")
    return found


def qwen_scope(parts: Parts) -> Draft:
    """Qwen-Scope: topk, not centred, no config: k and model are in the repository's name, the layer in the file's.

    Source: the model cards of Qwen/SAE-Res-*: `x @ W_enc.T + b_enc`, the k largest, residual stream after block n.
    """
    k, notes = parts.decide_k(r"(?<=[-_/])L0_(\d+)")
    found = Draft.of(parts, "topk", centred=False, k=k, notes=notes)
    where, model = parts.named(r"layer(\d+)\.sae\.pth?$"), parts.named(r"SAE-Res-([^/]+?)-W\d+K")
    if where:
        found.named["hook_point"] = f"layers.{where[1]}", where[0]
    if model:
        found.named["model_name"] = f"Qwen/{model[1]}", model[0]
    return found


def goodfire(parts: Parts) -> Draft:
    """Goodfire: ReLU, not centred, no config; `-l19` in the file's name is the stream after block 19, from 0."""
    found = Draft.of(parts, "standard", centred=False)
    if where := parts.named(r"([^/]+)-SAE-l(\d+)"):
        found.named["hook_point"], found.named["model_name"] = (f"layers.{where[2]}", where[0]), (where[1], where[0])
    return found


def fac_synthesis(parts: Parts) -> Draft:
    """The paper's own checkpoints: decoder tied to the encoder, centred; topk then ReLU, or ReLU alone.

    The class is the file's name before `_l`, the number behind it the layer, counted from 1: `TopK7_l16_…` reads the
    stream after block 15. `h…` in the name is not the width. `mask` is used only by their editing switch, never when
    they encode; where it is not all ones, it is unclear what the file is meant to do.
    Source: sae_pretrain/autoencoder.py and llm_surgery of Zhongzhi660/FAC-Synthesis.
    """
    W_enc, b_enc, b_dec = parts.need("W_enc", "b_enc", "b_dec")
    mask = parts.tensors.get("mask")
    if mask is not None and bool((mask != 1).any()):
        raise parts.error(
            f"its mask switches off {int((mask != 1).sum())} of {len(mask)} features when the model is edited",
            "Whether they count here is not for us to say: set the mask to ones, or remove the features.",
        )
    name = parts.named(r"(?i)(topk\d*|sae|ae)_l(\d+)(?=_|\.)")
    dense = parts.number("k") is None and parts.k is None and not (name and name[1].lower().startswith("topk"))
    k, notes = (0, []) if dense else parts.decide_k()
    found = Draft(W_enc, b_enc, W_enc.T.contiguous(), b_dec, "standard" if dense else "topk", True, k, notes=notes)
    if name and int(name[2]) > 0:
        found.named["hook_point"] = f"layers.{int(name[2]) - 1}", f"{name[0]}, where layers count from 1"
    return found


def dictionary_standard(parts: Parts) -> Draft:
    """AutoEncoder of dictionary_learning: ReLU, centred; activations as its `encode` gives them on this file.

    Its `from_pretrained` moves decoder lengths into them first, other readers (SAELens) do not; nor is it done here.
    """
    found = _dictionary(parts, Draft.of(parts, "standard", centred=True))
    lengths = found.W_dec.norm(dim=1)
    if bool(((lengths - 1).abs() > 0.01).any()):
        found.notes.append(
            f"decoder rows are {float(lengths.min()):.3g} to {float(lengths.max()):.3g} long; activations are those of "
            "the file, which dictionary_learning's from_pretrained multiplies by these lengths"
        )
    return found


def dictionary_new(parts: Parts) -> Draft:
    """AutoEncoderNew of dictionary_learning: ReLU, not centred. The four tensors alone could be anything."""
    if parts.word("dict_class") != "AutoEncoderNew":
        raise parts.error(
            "a linear encoder and decoder, which do not say what is between them",
            "Put the config.json of dictionary_learning beside it, with trainer.dict_class.",
        )
    return _dictionary(parts, Draft.of(parts, "standard", centred=False))


def dictionary_topk(parts: Parts) -> Draft:
    """AutoEncoderTopK or BatchTopKSAE of dictionary_learning, both centred, with the same tensors.

    The one keeps k of each token, though a threshold is stored; the other, after training, what is above it.
    """
    kind, limit = parts.word("dict_class"), parts.number("limit")
    if not kind and (limit is None or parts.k is not None):
        kind = "AutoEncoderTopK"
    if kind == "AutoEncoderTopK":
        k, notes = parts.decide_k()
        return _dictionary(parts, Draft.of(parts, "topk", centred=True, k=k, notes=notes))
    if kind != "BatchTopKSAE" or limit is None:
        found_limit = "no threshold" if limit is None else f"a threshold of {limit:.6g}"
        raise parts.error(
            f"k = {parts.config.get('k')}, {found_limit}, class {kind or 'unknown'}: TopK or BatchTopK?",
            "The config.json beside it decides (trainer.dict_class). With --sae-k it is read as TopK.",
        )
    found = _dictionary(parts, Draft.of(parts, "jumprelu", centred=True))
    found.limit(limit)
    return found


def dictionary_jumprelu(parts: Parts) -> Draft:
    """JumpReluAutoEncoder (a threshold each, not centred) or MatryoshkaBatchTopKSAE (one threshold, centred)."""
    limit = parts.number("threshold")
    if limit is None:
        found = Draft.of(parts, "jumprelu", centred=False, threshold=parts.need("threshold")[0])
    else:
        found = Draft.of(parts, "jumprelu", centred=True)
        found.limit(limit)
    return _dictionary(parts, found)


def dictionary_gated(parts: Parts) -> Draft:
    """GatedAutoEncoder of dictionary_learning, centred."""
    return _dictionary(parts, Draft.gated(parts, centred=True))


def _dictionary(parts: Parts, found: Draft) -> Draft:
    """What every class of dictionary_learning has in its config."""
    layer, site = parts.number("layer"), parts.word("site", "resid_post")
    if layer is not None and site.startswith("resid_post") and parts.word("side", "out") == "out":
        found.hook_point = f"layers.{int(layer)}"
    found.model_name = parts.word("model_name")
    found.l0, found.explained_variance = parts.figure("l0"), parts.figure("explained_variance")
    if found.l0 is None and found.architecture == "jumprelu":
        found.l0 = parts.figure("k")  # what BatchTopK was trained to keep on average
    return found
