"""SASRec and BERT4Rec from the library RecTools, on the same split: their lists for `tandem evaluate --lists`.

    .venv-rectools/bin/python -m retriever.rectools sasrec --data data/beauty --out artifacts/beauty/sasrec.parquet

Runs in an environment of its own (`make .venv-rectools`): RecTools 0.19 wants NumPy 1. Training stops by the validation
items, as LRURec's does, and the best weights make the lists; FILE.json says how they were made.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retriever.evaluate import excluded
from shared.artifact import package_versions, write_text
from shared.data import lists, prepared
from shared.data.prepared import Prepared
from shared.data.split import Case, cases, train_sequence
from shared.metrics import rank_of, recall

LISTED = 20
"""Items of a user's list, beside those that the evaluation leaves out."""
MODELS = ("sasrec", "bert4rec")
LOSSES = ("softmax", "sampled_softmax", "gBCE", "BCE")
VALID_USERS = 4_000


def main() -> None:
    args = _arguments()
    data = prepared.load(args.data)
    began = time.monotonic()
    model, told = _fitted(args, data)
    asked = list(cases(data, "test"))
    users = [case.user for case in asked]
    lists.write(args.out, data, users, recommend(model, data, asked, args.window))
    how = vars(args) | told | {"train_seconds": round(time.monotonic() - began, 1), "data_digest": data.digest}
    versions = package_versions("rectools", "torch", "numpy", "pytorch-lightning")
    made = {name: str(value) if isinstance(value, Path) else value for name, value in how.items()}
    write_text(args.out.with_suffix(".json"), json.dumps(made | {"packages": versions}, indent=2) + "\n")


def _fitted(args: argparse.Namespace, data: Prepared) -> tuple[Any, dict[str, Any]]:
    """The model with the weights that were best on validation."""
    from rectools.dataset import Dataset

    model = _model(args)
    dataset = Dataset.construct(_frame([train_sequence(sequence) for sequence in data.sequences()]))
    asked = list(cases(data, "valid"))
    asked = asked[:: max(1, len(asked) // VALID_USERS)]
    curve: list[tuple[int, float]] = []
    best, kept, best_epoch = -1.0, None, 0
    for epoch in range(args.every, args.epochs + 1, args.every):
        model.fit_partial(dataset, min_epochs=args.every, max_epochs=args.every)
        found = recommend(model, data, asked, args.window)
        ranks_U = np.array([rank_of(case.truth, items) for case, items in zip(asked, found, strict=True)])
        value = float(recall(ranks_U, 10).mean())
        curve.append((epoch, value))
        print(f"{args.model}: epoch {epoch}, validation Recall@10 {value:.4f}", flush=True)
        if value > best:
            best, best_epoch, kept = value, epoch, copy.deepcopy(model.torch_model.state_dict())
        if epoch - best_epoch >= args.patience:
            break
    model.torch_model.load_state_dict(kept)
    return model, {"valid_recall@10": best, "best_epoch": best_epoch, "curve": curve}


def _model(args: argparse.Namespace) -> Any:
    from rectools.models import BERT4RecModel, SASRecModel

    made = {"sasrec": SASRecModel, "bert4rec": BERT4RecModel}[args.model]
    own = {"mask_prob": args.mask} if args.model == "bert4rec" else {}
    return made(
        n_factors=args.width,
        n_blocks=2,
        n_heads=2,
        dropout_rate=args.dropout,
        session_max_len=args.session or args.window,
        lr=args.learning_rate,
        batch_size=args.batch,
        loss=args.loss,
        n_negatives=args.negatives,
        recommend_torch_device="cpu",
        get_trainer_func=_trainer,
        **own,
    )


def _trainer() -> Any:
    from pytorch_lightning import Trainer

    return Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=1, min_epochs=1,
    )  # fmt: skip


def recommend(model: Any, data: Prepared, asked: Sequence[Case], window: int) -> list[list[int]]:
    """Per case the best items that its visible window does not hold."""
    from rectools.dataset import Dataset

    histories = [case.history[-window:] for case in asked]
    k = LISTED + max(len(history) for history in histories)
    found = model.recommend(
        users=np.arange(len(asked)), dataset=Dataset.construct(_frame(histories)), k=k, filter_viewed=False
    )
    told = found.sort_values(["user_id", "rank"]).groupby("user_id")["item_id"].agg(list)
    answers = []
    for row, case in enumerate(asked):
        barred = set(excluded(case, "window", window).tolist())
        answers.append([int(item) for item in told.get(row, []) if item not in barred][:LISTED])
    return answers


def _frame(sequences: Sequence[np.ndarray]) -> Any:
    """RecTools orders a user's events by their day."""
    import pandas as pd

    lengths = [len(sequence) for sequence in sequences]
    places = np.concatenate([np.arange(length) for length in lengths])
    return pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(len(sequences)), lengths),
            "item_id": np.concatenate(list(sequences)),
            "weight": 1.0,
            "datetime": pd.Timestamp("2000-01-01") + pd.to_timedelta(places, unit="s"),
        }
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--data", type=Path, required=True, help="the prepared data folder")
    parser.add_argument("--out", type=Path, required=True, help="the lists, Parquet; replaced")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--window", type=int, default=50, help="items of a history that are seen, and never listed")
    parser.add_argument("--session", type=int, default=0, help="fewer of them for the model alone; 0: --window")
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--mask", type=float, default=0.2, help="share of masked items, bert4rec")
    parser.add_argument(
        "--loss",
        choices=LOSSES,
        default="softmax",
        help="over the whole catalogue, or sampled negatives where that is too slow",
    )
    parser.add_argument("--negatives", type=int, default=256, help="for each position, not for softmax")
    parser.add_argument("--learning-rate", type=float, default=0.001)
    parser.add_argument("--batch", type=int, default=128, help="users")
    parser.add_argument("--epochs", type=int, default=200, help="at most")
    parser.add_argument("--every", type=int, default=5, help="epochs between validations")
    parser.add_argument("--patience", type=int, default=20, help="epochs without a better validation")
    parser.add_argument("--seed", type=int, default=42)
    return _seeded(parser.parse_args())


def _seeded(args: argparse.Namespace) -> argparse.Namespace:
    from pytorch_lightning import seed_everything

    seed_everything(args.seed)
    return args


if __name__ == "__main__":
    main()
