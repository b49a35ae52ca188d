"""Soft + hard prompts (section 3.3.2): ID tokens of users and items among words, and the text that follows them.

Slot u - 1 is user u (from 1), slot U + i - 1 item i; as a token id each stands behind the backbone's vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ranker.labels import tokens, tokens_after
from ranker.prompt import neutral, wants_bos
from shared.catalog import Item

NOBODY = 0
INTERACTED, WILL = " has interacted with", ", the user will interact with"
CONTENT, IS, REVIEW = "The content of", " is:", " writes the review for"


@dataclass(frozen=True, slots=True)
class Document:
    """prompt: soft and hard tokens. text: what the language model is to predict after it, of one kind: ID tokens
    of items, or words. slots: the users and items whose embeddings are regularised, each once."""

    prompt: list[int]
    text: list[int]
    slots: list[int]


class Documents:
    """most_items: of a history in one prompt. The prompt's end always stays."""

    def __init__(
        self, tokenizer: Any, vocabulary: int, users: int, items: int, *, most_items: int, most_words: int
    ) -> None:
        self.vocabulary, self.users, self.items = vocabulary, users, items
        self.most_items, self.most_words = most_items, most_words
        self.tokenizer = tokenizer
        self.begin = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None and wants_bos(tokenizer) else []
        self.nobody = tokens(tokenizer, "A user")
        self.about = tokens(tokenizer, CONTENT)
        self.interacted, self.will, self.is_, self.review = (
            tokens_after(tokenizer, "a", piece) for piece in (INTERACTED, WILL, IS, REVIEW)
        )
        self.colon = tokens_after(tokenizer, "a", ":")
        self.end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    def interactions(self, user: int, items: Sequence[int]) -> Document:
        """The L-step's: "<user> has interacted with" -> the items, in the order given."""
        kept = list(items)[: self.most_items]
        prompt = self._who(user) + self.interacted
        return Document(prompt, [self._item(i) for i in kept], self._slots(user, kept))

    def recommendation(self, user: int, items: Sequence[int], held: Sequence[int] = ()) -> Document:
        """RecLLM's: "<user> has interacted with <items>, the user will interact with". held: to be predicted."""
        kept = list(items)[: self.most_items]
        prompt = self._who(user) + self.interacted + [self._item(i) for i in kept] + self.will
        return Document(prompt, [self._item(i) for i in held], self._slots(user, [*kept, *held]))

    def content(self, item: int, words: str) -> Document:
        """The C-step's: "The content of <item> is:" -> its title and categories."""
        prompt = [*self.begin, *self.about, self._item(item), *self.is_]
        return Document(prompt, self._words(words), self._slots(NOBODY, [item]))

    def reviewed(self, user: int, item: int, words: str) -> Document:
        """The C-step's for a pair: "<user> writes the review for <item>:" -> the review."""
        prompt = [*self._who(user), *self.review, self._item(item), *self.colon]
        return Document(prompt, self._words(words), self._slots(user, [item]))

    def _words(self, words: str) -> list[int]:
        return tokens_after(self.tokenizer, "a", " " + neutral(words))[: self.most_words] + self.end

    def _who(self, user: int) -> list[int]:
        return self.begin + ([self.vocabulary + user - 1] if user else self.nobody)

    def _item(self, item: int) -> int:
        return self.vocabulary + self.users + item - 1

    def _slots(self, user: int, items: Sequence[int]) -> list[int]:
        return ([user - 1] if user else []) + [self.users + i - 1 for i in dict.fromkeys(items)]


def described(item: Item) -> str:
    return f"{item.title}. Categories: {', '.join(item.categories)}" if item.categories else item.title
