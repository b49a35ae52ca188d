"""Would this user like this title? The history is the prefix, one question a branch: candidates share the prefix.

With the features of both sides the branch is CoLLM's hybrid prompt (section 3.1), without them TALLRec's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ranker.labels import label_ids, tokens, tokens_after
from ranker.prompt import title_tokens, wants_bos
from shared.catalog import Catalog

HEAD = "Would the user like one more title? Answer Yes or No.\n\nLiked so far, oldest first:"
USER, TITLE, ITEM, CUE = "\n\nFeature of the user:", "\n\nOne more title:\n", "\nIts feature:", "\nAnswer:"
ANSWERS = (" Yes", " No")


@dataclass(frozen=True, slots=True)
class Features:
    """The soft tokens' ids (V + slot) that stand for a user and an item."""

    user: int
    item: int


class PairPrompts:
    """Titles are tokenized once, apart from the frame, so that no title can close it."""

    def __init__(self, tokenizer: Any, catalog: Catalog, *, max_history: int, max_title_tokens: int) -> None:
        self.max_history = max_history
        begin = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None and wants_bos(tokenizer) else []
        self.head = begin + tokens(tokenizer, HEAD)
        self.line = tokens_after(tokenizer, "a", "\n")
        self.user, self.title, self.item, self.cue = (
            tokens_after(tokenizer, "a", piece) for piece in (USER, TITLE, ITEM, CUE)
        )
        self.titles = title_tokens(tokenizer, catalog, max_title_tokens, "", "\n")
        self.answers = label_ids(tokenizer, "a" + CUE, ANSWERS)
        """Of Yes and No."""

    def prefix(self, history: Sequence[int]) -> list[int]:
        """Dense indices, oldest first; the last max_history are told."""
        kept = history[-self.max_history :] if self.max_history else []
        return self.head + [token for item in kept for token in self.line + self.titles[item]]

    def branch(self, item: int, features: Features | None = None) -> list[int]:
        about_user = [*self.user, features.user] if features else []
        about_item = [*self.item, features.item] if features else []
        return about_user + self.title + self.titles[item] + about_item + self.cue
