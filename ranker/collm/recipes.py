"""Named runs of CoLLM, and of TALLRec, which is its first step alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from ranker.backbone import SMOLLM2, Quantization
from ranker.behaviour.models import Name
from ranker.behaviour.svdpp import BIASES
from ranker.fit import ATTENTION, LINEAR_LAYERS
from ranker.weights import Precision
from shared.config import at_least, from_recipe, shares
from shared.errors import BadInput

Tune = Literal["text", "mapping", "mapping+model", "lora+mapping", "together"]

AT_ONCE = ("lora+mapping", "together")
"""Tunings of one step."""


@dataclass(frozen=True, kw_only=True)
class CoLLMConfig:
    backbone: str = SMOLLM2
    layers: int = 0
    """Keep only the backbone's first layers; 0 keeps all."""
    quantization: Quantization = "none"
    tune: Tune = "mapping"
    """text: LoRA on the text-only prompt and nothing else (TALLRec). mapping: then the mapping alone, LoRA frozen (the
    paper). mapping+model: then the mapping and the collaborative model. lora+mapping: these two at once, without a
    step one. together: all three at once."""
    tallrec: str = ""
    """The folder of a trained TALLRec on the same backbone: step one is read from there."""
    behaviour: Name = "mf"
    """The collaborative model. lrurec is the retriever's own, as trained."""
    width: int = 256
    window: int = 50
    """Items of history that the collaborative model sees."""
    behaviour_epochs: int = 100
    """At most, of the small recommender; it stops when it gets no better."""
    behaviour_decays: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    """Weight decays of the small recommender, one run each; validation chooses."""
    behaviour_negatives: int = 1
    """Per event, where the data hold no labels: what the small recommender learns from."""
    history: int = 10
    """Titles of history in the prompt."""
    title_tokens: int = 32
    candidates: int = 100
    """At most, in one request."""
    lora_rank: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    lora_first_layer: int = 0
    negatives: int = 1
    """Per event, where the data hold no labels: what the language model learns from."""
    hard: float = 0.0
    """Share of these negatives that the retriever would recommend; the others are drawn from the catalogue."""
    packed: bool = False
    """In training too an event and its negatives share one prompt, as candidates do in serving: several times the pairs
    in the same time. All that counts prompts then counts events."""
    together: int = 0
    """Of packed training on labelled pairs: so many of a user's share one prompt, asked with the history that the first
    of them had. 0: only pairs whose history is the same."""
    teacher: float = 0.0
    """Share of each label in step two that is the collaborative model's probability instead: what a short training
    hears of it. The paper has 0."""
    text_prompts: int = 0
    """Of step one; 0 is one epoch."""
    mapping_prompts: int = 0
    """Of step two; 0 is one epoch."""
    batch: int = 16
    learning_rate: float = 1e-3
    warmup: int = 200
    """Steps."""
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    least: float = 0.08
    """Of the learning rate, at the end."""
    clip: float = 1.0
    validate_every: int = 4000
    """Prompts."""
    validation_pairs: int = 2000
    patience: int = 5
    """Validations without a better AUC."""
    precision: Precision = "float32"
    """In which the artifact keeps the small recommender and the mapping."""
    seed: int = 42


def paper() -> CoLLMConfig:
    """Section 5.1 with MF on Vicuna-7B: needs a GPU of 40 GB."""
    return CoLLMConfig(backbone="lmsys/vicuna-7b-v1.3")


def full() -> CoLLMConfig:
    """SmolLM2 on a GPU: LoRA on every linear layer, three epochs' worth of the paper's ML-1M a step."""
    return CoLLMConfig(lora_targets=LINEAR_LAYERS, text_prompts=100_000, mapping_prompts=100_000, width=256)


def demo() -> CoLLMConfig:
    """What two CPU cores train in a quarter of an hour on ML-100K, and what ships. Where it leaves the paper: LoRA and
    mapping at once, packed, with MF as the teacher; 640 slates are too few for two steps and sampled labels."""
    return CoLLMConfig(
        layers=12,
        tune="lora+mapping",
        width=64,
        behaviour_decays=(1e-1,),
        behaviour_negatives=4,
        history=4,
        title_tokens=9,
        lora_targets=ATTENTION,
        lora_first_layer=4,
        lora_rank=4,
        lora_dropout=0.0,
        packed=True,
        negatives=15,
        hard=0.5,
        teacher=0.8,
        text_prompts=640,
        mapping_prompts=640,
        batch=4,
        warmup=15,
        validate_every=160,
        validation_pairs=320,
        precision="int8",
    )


RECIPES: dict[str, Callable[[], CoLLMConfig]] = {"demo": demo, "full": full, "paper": paper}


def configure(recipe: str, overrides: dict[str, str], text_only: bool = False) -> CoLLMConfig:
    """text_only: TALLRec. Raises BadInput for an unknown recipe, an unknown field or a value that cannot train."""
    config = from_recipe("collm", RECIPES, recipe, overrides)
    if text_only:
        config = replace(config, tune="text")
    at_least(
        1,
        config,
        "batch",
        "width",
        "window",
        "candidates",
        "validate_every",
        "validation_pairs",
        "patience",
        "behaviour_epochs",
        "lora_rank",
        "title_tokens",
    )
    at_least(
        0,
        config,
        "text_prompts",
        "mapping_prompts",
        "together",
        "warmup",
        "layers",
        "lora_first_layer",
        "history",
        "seed",
    )
    shares(config, "hard", "teacher", "lora_dropout")
    if not config.behaviour_decays or min(config.behaviour_decays) < 0:
        raise BadInput(f"behaviour_decays={config.behaviour_decays}: one or more numbers, 0 or above")
    if min(config.negatives, config.behaviour_negatives) < 1:
        raise BadInput(f"negatives={config.negatives}: at least 1, or there is nothing to tell apart")
    if config.behaviour in ("gru4rec", "caser"):
        raise BadInput(
            f"behaviour={config.behaviour} knows sequences only: take mf, svdpp, lightgcn, sasrec, din or lrurec"
        )
    if config.behaviour == "svdpp" and config.width <= BIASES:
        raise BadInput(f"width={config.width}: svdpp keeps {BIASES} of it for biases; {BIASES + 1} or more")
    if config.teacher and config.behaviour == "lrurec":
        raise BadInput(f"teacher={config.teacher}: lrurec gives scores and no probabilities; take another behaviour")
    if config.together and not config.packed:
        raise BadInput(f"together={config.together}: only packed prompts hold several pairs; say packed=true")
    if config.tallrec and config.tune in ("text", *AT_ONCE):
        raise BadInput(f"tallrec={config.tallrec}: tune={config.tune} has no step two that could begin from it")
    return config
