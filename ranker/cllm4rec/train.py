"""Training CLLM4Rec: content first, then L- and C-steps in turn (section 3.3), then RecLLM (section 3.4)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ranker import backbone as backbones
from ranker import golden, weights
from ranker.backbone import Backbone
from ranker.blend import Fit
from ranker.blend import report as blend_report
from ranker.cllm4rec import evaluate
from ranker.cllm4rec.batches import Review, contents, contents_at, contents_of, interactions_at, maskings_at
from ranker.cllm4rec.documents import Document
from ranker.cllm4rec.evaluate import best_items, by_recllm, measured
from ranker.cllm4rec.model import CLLM4Rec, Embeddings, begin, random
from ranker.cllm4rec.rank import CONTENT, COUNTS, EMBEDDINGS, USERS, RecLLMScorer, scorer, written
from ranker.cllm4rec.recipes import CLLM4RecConfig
from ranker.descent import Pace, Progress, descend
from ranker.evaluate import CANDIDATES
from ranker.fit import by_name, keep_memory, plain_attention, require_checkpoint
from ranker.opinion import fit_blend
from ranker.prompt import title_tokens
from ranker.weights import settle
from shared.artifact import Manifest, open_artifact, package_versions, seal, write_text, writing
from shared.data.holdout import Holdout, holdout
from shared.data.prepared import Prepared
from shared.errors import BadInput
from shared.history import History
from shared.protocols import Retriever

TOLD = 64


def train(
    data: Prepared,
    config: CLLM4RecConfig,
    out: Path,
    *,
    retriever: Retriever | None = None,
    retriever_name: str = "",
    reviews: Sequence[Review] = (),
    resume: bool = False,
    device: str = "auto",
) -> Manifest:
    """Writes the artifact to `out`; `out`.partial holds the checkpoints meanwhile.

    Without a retriever the model stands alone, as in the paper; with one the blend is fitted to it.
    """
    if retriever and config.split == "random":
        raise BadInput(
            "split=random trains on what the retriever is asked about in validation, so no blend can be fitted: say "
            "split=last, or give no --retriever and evaluate with --protocol cllm4rec."
        )
    first = _pretrained(data, config) if config.pretrained else None
    recorded = by_name(config, "pretrained")
    torch.manual_seed(config.seed)
    keep_memory()
    folder = out.with_name(out.name + ".partial")
    require_checkpoint(folder, resume)
    cut = 0 if config.content else config.layers
    whole = backbones.load(config.backbone, layers=cut, device=device, quantization=config.quantization)
    plain_attention(whole.model, config.most_items + config.most_words)
    base = whole.shared(config.layers) if config.content and config.layers else whole
    parts = holdout(data, config.split, config.seed)
    if not any(len(items) >= 2 for items in parts.train):
        raise BadInput("no user has two training items: there is nothing to mask. Lower --min-user.")
    documents = written(base, len(data), len(data.catalog), config)
    texts = contents(data.catalog, documents, reviews)
    embeddings = Embeddings(len(data), _begin(base, data, parts, config))
    if first:
        embeddings.load_state_dict(_learnt(Path(config.pretrained), config))
    embeddings = embeddings.to(base.device, base.dtype)
    told = {slot for text in texts for slot in text.slots}
    model = CLLM4Rec(base, embeddings, config.lambda_c if config.content else 0.0, whole, told)
    identity = {"config": asdict(recorded), "data": data.digest, "retriever": retriever_name}
    stages: dict[str, tuple[int, float, bool, Callable[[int], Tensor]]] = {
        "content": (
            config.content_first if config.content and not config.pretrained else 0,
            config.learning_rate,
            False,
            lambda step: model.c_loss(contents_at(step, texts, config)),
        ),
        "pretrain": (
            0 if config.pretrained else config.pretrain,
            config.learning_rate,
            False,
            lambda step: _in_turn(step),
        ),
        "recllm": (
            config.tune if config.finetune else 0,
            config.tune_rate,
            True,
            lambda step: model.rec_loss(maskings_at(step, parts, documents, config)),
        ),
    }

    def _in_turn(step: int) -> Tensor:
        """L, C, L, C, ...; L alone where there is no content."""
        if config.content and step % 2:
            return model.c_loss(contents_at(config.content_first // contents_of(config) + step // 2, texts, config))
        return model.l_loss(interactions_at(step // 2 if config.content else step, parts, documents, config))

    runs: dict[str, Progress] = {}
    for stage, (prompts, rate, finetuned, loss_at) in stages.items():
        if prompts:
            tables = dict(embeddings.named_parameters())
            kept = {"content": ["content_SD"], "recllm": ["collaborative_SD"]}.get(stage, list(tables))
            ranker = scorer(model, base, data.user_ids, len(data.catalog), config)
            ranker.finetuned = finetuned
            validate = _telling(model, texts) if stage == "content" else _validation(ranker, parts, data, config)
            learning = {name: tables[name] for name in kept}
            for parameter in learning.values():
                parameter.requires_grad_(True)
            batch = contents_of(config) if stage == "content" else config.batch
            pace = Pace.of(config, prompts=prompts, learning_rate=rate, batch=batch)
            runs[stage] = descend(f"train {stage}", learning, pace, loss_at, validate, folder / stage, identity, resume)
    embeddings.requires_grad_(False)
    settle(embeddings, config.precision)
    ranker = scorer(model, base, data.user_ids, len(data.catalog), config)
    fitted = fit_blend(data, retriever, ranker, config.seed) if retriever else None
    return _write(data, parts, recorded, embeddings, ranker, runs, first, fitted, retriever_name, out)


def _begin(base: Backbone, data: Prepared, parts: Holdout, config: CLLM4RecConfig) -> Tensor:
    vocabulary_VD = base.model.get_input_embeddings().weight.detach().cpu()
    if config.begin == "random":
        return random(vocabulary_VD, len(data) + len(data.catalog), config.seed)
    titles = title_tokens(base.tokenizer, data.catalog, config.most_words, "", "\n")
    return begin(vocabulary_VD, len(data), titles, (items.tolist() for items in parts.train), config.seed)


def _pretrained(data: Prepared, config: CLLM4RecConfig) -> Manifest:
    """Raises BadInput where it knows other data, or items that are held out here."""
    folder = Path(config.pretrained)
    made = open_artifact(folder, "ranker", methods=("cllm4rec",))
    if made.data_digest != data.digest:
        raise BadInput(
            f"pretrained={folder} was trained on other data: {made.data_digest[:8]}, here {data.digest[:8]}."
        )
    if made.config["finetune"]:
        raise BadInput(f"pretrained={folder} is fine-tuned already. Train it with finetune=false.")
    for key in ("backbone", "layers", "split", "seed", "content", "reorder", "lambda_c"):
        theirs, ours = made.config[key], getattr(config, key)
        if theirs != ours:
            raise BadInput(f"pretrained={folder} was trained with {key}={theirs!r}, this run has {ours!r}.")
    return made


def _learnt(folder: Path, config: CLLM4RecConfig) -> dict[str, Tensor]:
    """By the names of Embeddings."""
    collaborative_SD = weights.load(folder / EMBEDDINGS)["collaborative"]
    content_SD = weights.load(folder / CONTENT)["content"] if config.content else collaborative_SD
    return {"collaborative_SD": collaborative_SD, "content_SD": content_SD}


def _told(runs: Mapping[str, Progress], first: Manifest | None) -> dict[str, Any]:
    """Of all stages, those of the run that this one began from included."""
    seconds, stages = sum(run.seconds for run in runs.values()), {}
    if first:
        seconds, stages = seconds + first.metrics["train_seconds"], dict(first.metrics["stages"])
    stages |= {name: {"curve": run.curve, "best_prompts": run.best_prompts} for name, run in runs.items()}
    return {"valid": list(runs.values())[-1].best, "train_seconds": round(seconds, 1), "stages": stages}


def _telling(model: CLLM4Rec, texts: Sequence[Document]) -> Callable[[], float]:
    """How well the content LLM tells some of the texts; it has seen them, and is asked for nothing else."""
    sample = texts[:: max(1, len(texts) // TOLD)][:TOLD]

    @torch.no_grad()
    def validate() -> float:
        return -sum(float(model.c_loss([document])) for document in sample)

    return validate


def _validation(ranker: RecLLMScorer, parts: Holdout, data: Prepared, config: CLLM4RecConfig) -> Callable[[], float]:
    asked = evaluate.ask(parts, data.user_ids, "valid", config.validation_users)
    items = len(data.catalog)

    def validate() -> float:
        best_UK = best_items(by_recllm(ranker), items, asked.histories, asked.seen, None)
        return sum(measured(best_UK, asked.truths).values())

    return validate


def _write(
    data: Prepared,
    parts: Holdout,
    config: CLLM4RecConfig,
    embeddings: Embeddings,
    ranker: RecLLMScorer,
    runs: Mapping[str, Progress],
    first: Manifest | None,
    fitted: Fit | None,
    retriever_name: str,
    out: Path,
) -> Manifest:
    user = max(range(len(data)), key=lambda u: min(len(parts.train[u]), 20))
    history = History(tuple(parts.train[user].tolist()), data.user_ids[user])
    items = list(range(1, min(CANDIDATES, len(data.catalog)) + 1))
    manifest = Manifest(
        kind="ranker",
        method="cllm4rec",
        config=asdict(config),
        seed=config.seed,
        metrics=_told(runs, first) | (blend_report(fitted) if fitted else {}),
        extra={
            "blend": fitted.weight if fitted else 1.0,
            "blended_with": retriever_name,
            "golden": golden.make(ranker, history, items),
        },
        data_digest=data.digest,
        catalog_fingerprint=data.catalog.fingerprint(),
        packages=package_versions("torch", "transformers", "numpy", "safetensors", "tandem-rec"),
    )
    with writing(out) as draft:
        # What serves are the collaborative embeddings; the content ones only a later fine-tuning asks for.
        weights.save({"collaborative": embeddings.collaborative_SD}, draft / EMBEDDINGS, config.precision)
        if config.content and not config.finetune:
            weights.save({"content": embeddings.content_SD}, draft / CONTENT, config.precision)
        seen_N = torch.from_numpy(np.concatenate(parts.train)).long()
        save_file({"counts": torch.bincount(seen_N, minlength=len(data.catalog) + 1)}, draft / COUNTS)
        write_text(draft / USERS, json.dumps(list(data.user_ids)))
        manifest = seal(draft, manifest)
    shutil.rmtree(out.with_name(out.name + ".partial"), ignore_errors=True)
    return manifest
