"""Hybrid prompts (section 3.3): each title is followed by one behavioural token, or in text-only form by a mark.

Items of the history first, then the candidates, then the cue; the answer is a title, or a candidate's letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from ranker.labels import LETTERS, label_ids, tokens, tokens_after
from ranker.prompt import title_tokens, wants_bos
from shared.catalog import Catalog

Answer = Literal["title", "letter"]

HEAD, POOL = "Chosen so far, oldest first:", "\n\nCandidates, one of which was chosen next:"
CUES = {"title": "\n\nChosen next:\n", "letter": "\n\nChosen next ->"}
PLACEHOLDER = " *"
"""Stands in the behavioural token's place in a text-only prompt."""


class HybridPrompts:
    """A slot's number is its item's dense index; `vocabulary` is the first id behind the backbone's own."""

    def __init__(
        self,
        tokenizer: Any,
        catalog: Catalog,
        vocabulary: int,
        *,
        answer: Answer,
        max_history: int,
        max_title_tokens: int,
        user: bool = False,
    ) -> None:
        """user: a token of the user's own ends the prompt, and each item's stands before its title."""
        self.answer, self.vocabulary, self.max_history, self.user = answer, vocabulary, max_history, user
        begin = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None and wants_bos(tokenizer) else []
        self.head = begin + tokens(tokenizer, HEAD)
        self.line, self.pool, self.cue, self.mark = (
            tokens_after(tokenizer, "a", piece) for piece in ("\n", POOL, CUES[answer], PLACEHOLDER)
        )
        self.titles = title_tokens(tokenizer, catalog, max_title_tokens, "", "\n")
        self.end: int = tokenizer.eos_token_id
        self.labels: list[int] = []
        self.letters: list[list[int]] = [[]] * len(LETTERS)
        if answer == "letter":
            self.labels = label_ids(tokenizer, "a" + CUES[answer], [f" {letter}" for letter in LETTERS])
            self.letters = [tokens_after(tokenizer, "a", f" -> {letter}") for letter in LETTERS]

    def build(
        self, history: Sequence[int], candidates: Sequence[int], behavioural: Sequence[bool], number: int = 0
    ) -> list[int]:
        """behavioural[i]: item i shows its behavioural token; all False is the text-only prompt. number: of the user
        among those that are asked at once; its slot stands behind the items'."""
        kept = self.kept(history)
        return self._until_user(kept, candidates, behavioural) + self._user(kept, behavioural, number)

    def kept(self, history: Sequence[int]) -> list[int]:
        """What a prompt tells of a history."""
        return list(history[-self.max_history :]) if self.max_history else []

    def binding(
        self, candidates: Sequence[int], behavioural: Sequence[bool], asked: Sequence[int], first: int
    ) -> tuple[list[int], list[list[int]]]:
        """The prefix that holds the candidates and no history, and a branch for each place in `asked`: the token of
        user `first`, `first` + 1, ..., then the answer but its last token."""
        branches = [[self._slot(first + n), *self.right(candidates, place)[:-1]] for n, place in enumerate(asked)]
        return self._until_user([], candidates, behavioural), branches

    @property
    def end_size(self) -> int:
        """Tokens behind the candidates."""
        return len(self.cue) + (len(self._user([], [], 0)) if self.user else 0)

    def right(self, candidates: Sequence[int], place: int) -> list[int]:
        """The tokens of the answer that names the candidate at `place`, its end included."""
        if self.answer == "letter":
            return [self.labels[place]]
        return [*self.titles[candidates[place]], self.end]

    def _until_user(self, history: Sequence[int], candidates: Sequence[int], behavioural: Sequence[bool]) -> list[int]:
        told = [token for item in history for token in self._item(item, behavioural)]
        pool = [
            token
            for item, letter in zip(candidates, self.letters, strict=False)
            for token in [*self._item(item, behavioural), *letter]
        ]
        return self.head + told + self.pool + pool + self.cue

    def _item(self, item: int, behavioural: Sequence[bool]) -> list[int]:
        mark = [self.vocabulary + item] if behavioural[item] else self.mark
        return self.line + (mark + self.titles[item] if self.user else self.titles[item] + mark)

    def _user(self, history: Sequence[int], behavioural: Sequence[bool], number: int) -> list[int]:
        if not self.user:
            return []
        known = any(behavioural[item] for item in history)
        return [self._slot(number)] if known else self.mark

    def _slot(self, number: int) -> int:
        """A user's, behind the items'."""
        return self.vocabulary + len(self.titles) + number
