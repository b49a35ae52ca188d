"""LlamaRec: the logits of the candidates' letters after the prompt are their scores (Yue et al., arXiv 2311.02089).

Shapes:  B prompts  D hidden width  V vocabulary  K labels
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ranker.backbone import SMOLLM2, Quantization
from ranker.fit import LINEAR_LAYERS
from shared.config import at_least, from_recipe, shares
from shared.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class LlamaRecConfig:
    backbone: str = SMOLLM2
    layers: int = 0
    """Keep only the backbone's first layers; 0 keeps all."""
    quantization: Quantization = "none"
    template: Literal["paper", "compact", "ranked", "asked"] = "compact"
    candidates: int = 20
    history: int = 20
    """Items of history in the prompt."""
    title_tokens: int = 32
    max_tokens: int = 1536
    lora_rank: int = 8
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    lora_first_layer: int = 0
    """LoRA from this layer on; those below stay frozen, which spares their backward."""
    negatives: Literal["uniform", "hard", "mixed", "retrieved"] = "uniform"
    """uniform: at random from the catalogue (the paper). hard: the truth and the retriever's best. mixed: half of
    each. retrieved: the retriever's best as they are, prompts without a right answer among them left out: what
    serving asks."""
    targets: int = 1
    """How many of the user's next items count as right, each with an equal share of the target."""
    teacher: float = 0.0
    """Share of the target that is the retriever's softmax over the candidates instead of the truth."""
    alike: float = 0.0
    """Share of the target that tells how much each candidate's title has in common with those of the history; with the
    template `asked`, with that of each question."""
    alike_sharpness: float = 8.0
    """That part is a softmax over so many times the cosine of their tokens."""
    loss: Literal["vocabulary", "labels"] = "vocabulary"
    """Cross-entropy over the whole vocabulary (the paper), or over the labels alone. That does not teach how much falls
    on labels at all: serve such a ranker with TANDEM_MIN_LABEL_MASS=0, or its orders may count as doubtful."""
    probe: float = 0.0
    """Weight of a second loss: a linear probe, thrown away after training, must tell the right candidates from
    the state at the end of each candidate's line, two thirds up the layers. Without it a small model hears of 20
    candidates through one noisy letter."""
    binding_prompts: int = 0
    """Prompts of the copy task before the first recommendation prompt."""
    alike_prompts: int = 0
    """Prompts of a second warm-up, whose target is the likeness of titles alone; half of the candidates are drawn, and
    with the template `asked` some questions ask for titles that are listed."""
    begin: str = ""
    """The folder of a trained LlamaRec with the same backbone, layers and LoRA, whose weights are the start."""
    prompts: int = 0
    """Recommendation prompts; 0 is one epoch over every prefix of every training sequence."""
    batch: int = 16
    accumulate: int = 1
    """Batches per step: the same step in so many times less memory."""
    learning_rate: float = 1e-4
    warmup: int = 100
    """Steps."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    clip: float = 1.0
    validate_every: int = 2000
    """Prompts."""
    validation_users: int = 2000
    blend_users: int = 0
    """Validation users on whom the blend is fitted; 0 is all."""
    patience: int = 5
    """Validations without a better NDCG@10 before the training stops."""
    seed: int = 42


def paper() -> LlamaRecConfig:
    """Section 4.1 on meta-llama/Llama-2-7b-hf with NF4, its steps of 16 prompts in eight batches.

    Counted, not run: each of 32 layers keeps 165 KB of a token for the way back, so that two of Beauty's prompts (788
    tokens) take 8 GB beside 4 GB of weights. A GPU of 24 GB has room for that.
    """
    return LlamaRecConfig(
        backbone="meta-llama/Llama-2-7b-hf", quantization="nf4", template="paper", batch=2, accumulate=8
    )


def paper_format() -> LlamaRecConfig:
    """The paper's prompt and negatives on the small backbone."""
    return LlamaRecConfig(template="paper")


def full() -> LlamaRecConfig:
    """For SmolLM2 on a GPU: letters after titles, LoRA everywhere, one epoch."""
    return LlamaRecConfig(lora_targets=LINEAR_LAYERS, learning_rate=5e-4, binding_prompts=2000, negatives="mixed")


CPU = LlamaRecConfig(
    layers=24,
    history=6,
    lora_rank=6,
    lora_alpha=24,
    lora_first_layer=8,
    lora_dropout=0.0,
    lora_targets=LINEAR_LAYERS,
    negatives="retrieved",
    batch=8,
)
"""What two cores can train: the letters need 24 layers, the first 8 are as good as they are (docs/log.md)."""


def demo() -> LlamaRecConfig:
    """What two CPU cores train in a quarter of an hour, and what ships for ML-100K."""
    return replace(
        CPU,
        template="ranked",
        title_tokens=9,
        max_tokens=448,
        targets=5,
        teacher=0.2,
        probe=1.0,
        binding_prompts=512,
        prompts=1_800,
        learning_rate=7e-4,
        warmup=30,
        validate_every=900,
        validation_users=250,
    )


def titles() -> LlamaRecConfig:
    """For catalogues whose titles say what an item is (products rather than films), forty minutes of one CPU core: a
    question for each title of the history, first for likeness alone, then for what came next."""
    return replace(
        CPU,
        template="asked",
        title_tokens=10,
        max_tokens=512,
        targets=3,
        alike=0.3,
        alike_sharpness=16.0,
        alike_prompts=700,
        prompts=1_500,
        learning_rate=1e-3,
        warmup=20,
        validate_every=500,
        validation_users=1_000,
        blend_users=5_000,
    )


RECIPES: dict[str, Callable[[], LlamaRecConfig]] = {
    "paper": paper,
    "paper-format": paper_format,
    "full": full,
    "demo": demo,
    "titles": titles,
}


def configure(recipe: str, overrides: dict[str, str]) -> LlamaRecConfig:
    """Raises BadInput for an unknown recipe, an unknown field or a value of the wrong type."""
    config = from_recipe("llamarec", RECIPES, recipe, overrides)
    if not 2 <= config.candidates <= 20:
        raise BadInput(f"candidates={config.candidates}: there are 20 letters, so 2 to 20")
    if not 1 <= config.targets < config.candidates:
        raise BadInput(f"targets={config.targets}: 1 to {config.candidates - 1}, so that a wrong candidate is left")
    if config.alike_sharpness <= 0:
        raise BadInput(f"alike_sharpness={config.alike_sharpness}: above 0")
    if config.template == "asked" and (config.history < 1 or config.probe):
        raise BadInput("template=asked asks for the titles of the history, without a probe: say history=6 and probe=0")
    at_least(
        1,
        config,
        "batch",
        "accumulate",
        "validate_every",
        "validation_users",
        "patience",
        "lora_rank",
        "title_tokens",
        "max_tokens",
    )
    shares(config, "teacher", "alike", "lora_dropout")
    if config.teacher + config.alike > 1:
        raise BadInput(f"teacher={config.teacher}, alike={config.alike}: shares of one target, together at most 1")
    at_least(
        0,
        config,
        "prompts",
        "binding_prompts",
        "alike_prompts",
        "blend_users",
        "warmup",
        "layers",
        "lora_first_layer",
        "history",
        "seed",
    )
    if config.negatives == "retrieved" and not config.prompts:
        raise BadInput("negatives=retrieved leaves prompts out, so an epoch has no fixed length: say prompts=N")
    return config


Over = Literal["vocabulary", "labels"]


def verbalizer_loss(hidden_BD: Tensor, head_VD: Tensor, labels_K: Tensor, target_BK: Tensor, over: Over) -> Tensor:
    """Mean cross-entropy of the target shares against the labels' probabilities (equation 5 with one hot target).

    target_BK sums to 1 per row. With one right label it is the paper's next-token loss on the letter.
    """
    return -(log_labels(hidden_BD, head_VD, labels_K, over) * target_BK).sum(-1).mean()


def log_labels(hidden_BD: Tensor, head_VD: Tensor, labels_K: Tensor, over: Over) -> Tensor:
    """Log probabilities of the labels, B x K, among the whole vocabulary or among themselves."""
    labels_BK = F.linear(hidden_BD, head_VD[labels_K]).float()
    everything_BV = labels_BK if over == "labels" else F.linear(hidden_BD, head_VD).float()
    return labels_BK - torch.logsumexp(everything_BV, dim=-1, keepdim=True)


def asked_loss(log_QK: Tensor, target_K: Tensor, alike_QK: Tensor, own: int, alike: float) -> Tensor:
    """Of one prompt's questions: cross-entropy of the target against the mean of the first `own` ones' probabilities,
    and with the share `alike` each question's against the likeness of its title."""
    mixed_K = torch.logsumexp(log_QK[:own], dim=0) - math.log(own)
    truth, likeness = -(mixed_K * target_K).sum(), -(log_QK * alike_QK).sum(-1).mean()
    return (1 - alike) * truth + alike * likeness


def probe_loss(ends_BKD: Tensor, probe_D: Tensor, target_BK: Tensor) -> Tensor:
    """Mean cross-entropy of a softmax over the candidates, scored where their lines end."""
    log_BK = torch.log_softmax((ends_BKD.float() @ probe_D.float()), dim=-1)
    return -(log_BK * target_BK).sum(-1).mean()
