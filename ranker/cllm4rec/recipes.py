"""Named runs of CLLM4Rec."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ranker.backbone import SMOLLM2, Quantization
from ranker.weights import Precision
from shared.config import at_least, from_recipe
from shared.data.holdout import Split
from shared.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class CLLM4RecConfig:
    backbone: str = SMOLLM2
    layers: int = 0
    """Keep only the backbone's first layers; 0 keeps all. The content LLM keeps all in any case: its head over words
    belongs to the last one's states. The collaborative LLM's head is our own."""
    quantization: Quantization = "none"
    split: Split = "last"
    """last: as served. random: a tenth of each user's items for validation and test (the paper): for the paper's
    evaluation, not for a retriever's candidates: it trains on most of the last items that measure those."""
    lambda_c: float = 1.0
    """Strength of the mutual regularisation."""
    content: bool = True
    """The content LLM and the regularisation; without it this is the paper's LLM-CF."""
    reorder: bool = True
    """Stochastic item reordering; without it LLM-FixOrd."""
    finetune: bool = True
    """RecLLM's masked fine-tuning; without it LLM-PreRec, which predicts by the collaborative LLM."""
    pretrained: str = ""
    """The folder of a CLLM4Rec that was trained alike with finetune=false: fine-tuning begins from its embeddings."""
    masked: float = 0.2
    """Share of a user's items that RecLLM must predict."""
    begin: Literal["random", "titles"] = "titles"
    """How embeddings start: random (the paper), or items at the mean of their titles' words and users at the mean of
    their items."""
    most_items: int = 200
    """Items of a history in one prompt; a longer one is a random part of it in training, the last in serving."""
    most_words: int = 64
    """Tokens of a title with categories, or of a review."""
    candidates: int = 1000
    """At most, in one request: all items are scored in any case."""
    content_first: int = 0
    """Documents of the content LLM before the alternation."""
    pretrain: int = 0
    """Documents of the alternation, L- and C-steps in turn, each counted as one of `batch`."""
    tune: int = 0
    """Histories of RecLLM."""
    batch: int = 16
    content_batch: int = 0
    """Documents of a C-step; 0 is `batch`. Through all layers each of them costs several of an L-step through few."""
    learning_rate: float = 1e-3
    tune_rate: float = 1e-4
    warmup: int = 50
    """Steps of each stage."""
    schedule: Literal["linear", "cosine", "constant"] = "constant"
    clip: float = 1.0
    validate_every: int = 2000
    """Documents."""
    validation_users: int = 2000
    patience: int = 5
    """Validations without a better Recall@20 + Recall@40 + NDCG@100."""
    precision: Precision = "float32"
    """In which the artifact keeps the embeddings."""
    seed: int = 42


def full() -> CLLM4RecConfig:
    """The paper's schedule on a GPU: ten epochs of content, then both, on some 10,000 users and 6,000 items."""
    return CLLM4RecConfig(begin="random", content_first=60_000, pretrain=200_000, tune=200_000, validate_every=20_000)


def demo() -> CLLM4RecConfig:
    """What two CPU cores train in a quarter of an hour on ML-100K, and what ships: the paper's LLM-CF as
    LLM-PreRec. With the content half it learns a little more in six times the time, and fine-tuning ends below what
    it begins from (docs/log.md)."""
    return CLLM4RecConfig(
        layers=4,
        content=False,
        finetune=False,
        most_items=48,
        most_words=24,
        pretrain=8_000,
        tune=6_400,
        learning_rate=3e-3,
        tune_rate=2e-3,
        warmup=20,
        schedule="cosine",
        validate_every=1_600,
        validation_users=400,
        precision="int8",
    )


RECIPES: dict[str, Callable[[], CLLM4RecConfig]] = {"demo": demo, "full": full}


def configure(recipe: str, overrides: dict[str, str]) -> CLLM4RecConfig:
    """Raises BadInput for an unknown recipe, an unknown field or a value that cannot train."""
    config = from_recipe("cllm4rec", RECIPES, recipe, overrides)
    at_least(
        1, config, "batch", "most_items", "most_words", "candidates", "validate_every", "validation_users", "patience"
    )
    at_least(0, config, "layers", "content_first", "pretrain", "tune", "content_batch", "warmup", "seed", "lambda_c")
    if not 0 < config.masked < 1:
        raise BadInput(f"masked={config.masked}: a share between 0 and 1")
    if config.finetune and not config.tune:
        raise BadInput("tune=0: nothing would be fine-tuned. Say tune=N, or finetune=false.")
    if config.pretrained and not config.finetune:
        raise BadInput(f"pretrained={config.pretrained}: without fine-tuning nothing is left to train. Say tune=N.")
    if not config.pretrain and not config.finetune:
        raise BadInput("pretrain=0 and no fine-tuning: there is nothing to train. Say pretrain=N or tune=N.")
    return config
