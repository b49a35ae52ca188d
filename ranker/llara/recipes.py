"""Named runs of LLaRA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ranker.backbone import SMOLLM2, Quantization
from ranker.behaviour.models import Name
from ranker.fit import LINEAR_LAYERS
from ranker.labels import LETTERS
from ranker.llara.curriculum import Curriculum
from ranker.llara.prompt import Answer
from ranker.weights import Precision
from shared.config import at_least, from_recipe, shares
from shared.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class LLaRAConfig:
    backbone: str = SMOLLM2
    layers: int = 0
    """Keep only the backbone's first layers; 0 keeps all."""
    quantization: Quantization = "none"
    behaviour: Name = "sasrec"
    """The sequential model behind the behavioural tokens. lrurec is the retriever's own, as trained."""
    sequential: str = ""
    """The folder of a trained LLaRA: its sequential model is taken, so that several runs differ in nothing else."""
    width: int = 64
    curriculum: Curriculum = "curriculum"
    """curriculum: a batch is hybrid with probability t / T (the paper). direct: always. two-stage: text-only, then
    hybrid. text: never."""
    answer: Answer = "title"
    """title: the answer is the title (the paper); served by the candidates' likelihoods over the shared prefix.
    letter: titles are lettered, the answer is the letter; served by the letters' logits."""
    user: bool = False
    """The sequential model's vector of the user ends the prompt, projected as an item's is, and an item's token stands
    before its title: the answer is what followed the token most like the last. Not the paper's; a small backbone
    learns it in hundreds of prompts."""
    binding_prompts: int = 0
    """Prompts of a stage before, with user=true: candidates without a history, and users who chose each of half of them
    next. The users do not see one another, so that ten answers cost one forward. Not the paper's."""
    candidates: int = 20
    behaviour_epochs: int = 100
    """At most, of the small recommender; it stops when it gets no better."""
    behaviour_decays: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    """Weight decays of the small recommender, one run each; validation chooses."""
    history: int = 10
    title_tokens: int = 32
    shortest: int = 3
    """Items of history that a training row needs."""
    hard: float = 0.0
    """Share of the wrong candidates that the retriever would recommend; the others are random (the paper)."""
    lora_rank: int = 8
    lora_alpha: int = 32
    lora_dropout: float = 0.1
    lora_targets: tuple[str, ...] = LINEAR_LAYERS
    lora_first_layer: int = 0
    prompts: int = 0
    """0 is one epoch."""
    batch: int = 16
    accumulate: int = 1
    """Batches per step; the curriculum draws once a step."""
    learning_rate: float = 5e-4
    warmup: int = 100
    """Steps."""
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    clip: float = 1.0
    validate_every: int = 4000
    """Prompts."""
    validation_rows: int = 500
    patience: int = 100
    """Validations without a better HitRatio@1; the curriculum wants to be gone through to its end."""
    precision: Precision = "float32"
    """In which the artifact keeps the small recommender and the projector."""
    seed: int = 42


def paper() -> LLaRAConfig:
    """Section 4.1.3 on Llama-2-7B, batches of 128, five epochs of LastFM: needs a GPU of 80 GB."""
    return LLaRAConfig(backbone="meta-llama/Llama-2-7b-hf", prompts=240_000, batch=16, accumulate=8)


def full() -> LLaRAConfig:
    """SmolLM2 on a GPU, five epochs of LastFM."""
    return LLaRAConfig(prompts=240_000, batch=32, accumulate=4, validate_every=12_000)


def demo() -> LLaRAConfig:
    """What two CPU cores train in a quarter of an hour on ML-100K, and what ships. All layers: titles are told by the
    backbone's own head, and cut to 12 layers it tells them worse than chance (docs/log.md)."""
    return LLaRAConfig(
        behaviour="lrurec",
        history=4,
        title_tokens=8,
        lora_targets=("q_proj", "v_proj"),
        lora_rank=4,
        lora_alpha=16,
        lora_dropout=0.0,
        lora_first_layer=20,
        hard=0.5,
        prompts=1_600,
        batch=8,
        learning_rate=1e-3,
        warmup=10,
        validate_every=400,
        validation_rows=80,
        precision="int8",
    )


RECIPES: dict[str, Callable[[], LLaRAConfig]] = {"demo": demo, "full": full, "paper": paper}


def configure(recipe: str, overrides: dict[str, str]) -> LLaRAConfig:
    """Raises BadInput for an unknown recipe, an unknown field or a value that cannot train."""
    config = from_recipe("llara", RECIPES, recipe, overrides)
    at_least(
        1,
        config,
        "batch",
        "accumulate",
        "width",
        "history",
        "validate_every",
        "validation_rows",
        "patience",
        "behaviour_epochs",
        "lora_rank",
        "shortest",
        "title_tokens",
    )
    at_least(0, config, "prompts", "binding_prompts", "warmup", "layers", "lora_first_layer", "seed")
    if not 2 <= config.candidates <= len(LETTERS):
        raise BadInput(f"candidates={config.candidates}: 2 to {len(LETTERS)}")
    shares(config, "hard", "lora_dropout")
    if not config.behaviour_decays or min(config.behaviour_decays) < 0:
        raise BadInput(f"behaviour_decays={config.behaviour_decays}: one or more numbers, 0 or above")
    if config.behaviour in ("mf", "svdpp", "lightgcn", "din"):
        raise BadInput(f"behaviour={config.behaviour} knows no sequence: take gru4rec, caser, sasrec or lrurec")
    if config.binding_prompts and (not config.user or config.curriculum == "text"):
        raise BadInput(
            f"binding_prompts={config.binding_prompts} ask for users' tokens: set user=true, and curriculum to another "
            "than text."
        )
    if config.sequential and config.behaviour == "lrurec":
        raise BadInput(f"sequential={config.sequential}: behaviour=lrurec is the retriever's own model already")
    return config
