"""The prompt as token ids: a fixed frame with titles set into it, one by one.

The frame is tokenized once and titles apart from it, so no title can merge with the frame or close it: a newline,
`(B)` or `### Response` in a title stays inside that title. Order: instruction, history, candidates, cue, so that a
user's prompts share the longest possible prefix; where each title of the history asks, the candidates stand before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ranker.labels import LETTERS, label_ids, tokens, tokens_after
from shared.catalog import Catalog

_FRAME_MARKS = re.compile(r"-+>|#{2,}|#(?=\d)|\(([A-Z])\)")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Template:
    """The frame. `{n}` is a history place from 1, `{label}` a candidate's label; `{title}` splits a line."""

    head: str
    history_line: str
    pool: str
    candidate_line: str
    cue: str
    binding_cue: str
    """In the cue's place, asks for the label of one listed title (the binding warm-up)."""
    label: str
    """How the label's text looks right after the cue."""
    rank_mark: str = ""
    """Follows a candidate's title and tells its place in the retriever's order, from 1."""
    asks: bool = False
    """The candidates come first, and behind them each title of the history asks for a letter of its own."""


PAPER = Template(
    head=(
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n### Instruction:\nGiven the user's history "
        "in chronological order, pick the item to recommend from the candidate pool by its index letter."
        "\n\n### Input:\nUser history:"
    ),
    history_line="\n({n}) {title}",
    pool="\n\nCandidate pool:",
    candidate_line="\n({label}) {title}",
    cue="\n\n### Response:\n",
    binding_cue="\n\nThe letter of {title}\n\n### Response:\n",
    label="{label}",
)
"""LlamaRec's format (section 3.3): an Alpaca frame, the letter before the title, the bare letter as answer."""

COMPACT = Template(
    head="Chosen so far, oldest first:",
    history_line="\n{title}",
    pool="\n\nCandidates:",
    candidate_line="\n{title} -> {label}",
    cue="\n\nChosen next ->",
    binding_cue="\n\n{title} ->",
    label=" {label}",
)
"""The letter after the title, as the very token that answers: its own state has seen the title, so one attention
hop binds the two. A small backbone learns this; before the title the letter knows nothing (docs/log.md)."""

RANKED = replace(COMPACT, rank_mark=" #{rank}")
"""The compact format, and the language model also reads where the retriever put each candidate. The place is told in
words, not by the order of the list, so that candidates can be shuffled and letters stay free of meaning."""

ASKED = replace(COMPACT, asks=True)
"""The candidates, and for each title of the history one question in the words of the copy task: which of them goes with
this one? The questions do not see one another, so they are branches of one prompt and cost one forward; a candidate's
probability is the mean over the questions. It gives a small backbone as many targets a prompt as there are questions,
and the task it is asked to learn is the one it has learnt first (docs/log.md)."""

TEMPLATES = {"paper": PAPER, "compact": COMPACT, "ranked": RANKED, "asked": ASKED}


def neutral(title: str) -> str:
    """The title without the frame's marks, on one line."""
    text, before = title, ""
    while text != before:  # what a removed mark leaves may form another; each pass shortens the text
        before, text = text, _FRAME_MARKS.sub(lambda m: m.group(1) or ("" if m.group() == "#" else "-"), text)
    return _SPACE.sub(" ", "".join(c if c.isprintable() else " " for c in text)).strip() or "untitled"


class PromptBuilder:
    """Token ids of prompts over one catalogue. Titles are tokenized once, at construction."""

    def __init__(
        self,
        tokenizer: Any,
        catalog: Catalog,
        template: str,
        *,
        max_history: int,
        max_title_tokens: int = 32,
        max_tokens: int = 1536,
        labels: Sequence[str] = LETTERS,
    ) -> None:
        self.template = TEMPLATES[template]
        self.max_history, self.max_tokens = max_history, max_tokens
        t = self.template
        # "a" stands for whatever text the piece follows: a letter never merges with a line break or a space.
        self.begin = [] if tokenizer.bos_token_id is None or not wants_bos(tokenizer) else [tokenizer.bos_token_id]
        self.head = self.begin + tokens(tokenizer, t.head)
        self.history_lines = [_line(tokenizer, t.history_line, n=n) for n in range(1, max_history + 1)]
        self.pool = tokens_after(tokenizer, "a", t.pool)
        self.candidate_lines = [_line(tokenizer, t.candidate_line, label=label) for label in labels]
        marks = [t.rank_mark.format(rank=r) for r in range(1, len(labels) + 1)] if t.rank_mark else []
        self.rank_marks = [tokens_after(tokenizer, "a", mark) for mark in marks]
        self.cue = tokens_after(tokenizer, "a", t.cue)
        self.labels = label_ids(tokenizer, "a" + t.cue, [t.label.format(label=label) for label in labels])
        ask_before, ask_after = _line(tokenizer, t.binding_cue)
        self.ask = (ask_before, ask_after)
        spaced = t.history_line.partition("{title}")[0].endswith(" ")
        self.titles = title_tokens(tokenizer, catalog, max_title_tokens, "a" if spaced else "", " " if spaced else "\n")

    def build(self, history: Sequence[int], candidates: Sequence[int], ranks: Sequence[int] | None = None) -> list[int]:
        """Token ids for dense indices: history oldest first, candidate i gets label i.

        ranks: each candidate's place in the retriever's order, from 1; the order of the list where absent.
        Past max_tokens the oldest history goes first; the candidates and the cue always stay.
        """
        assert not self.template.asks, "such a template has several prompts"
        tail = self._pool(candidates, ranks) + self.cue
        kept = list(history[-self.max_history :]) if self.max_history else []
        while True:
            lines: list[int] = []
            for (before, after), item in zip(self.history_lines, kept, strict=False):
                lines += before + self.titles[item] + after
            if not kept or len(self.head) + len(lines) + len(tail) <= self.max_tokens:
                return self.head + lines + tail
            kept = kept[1:]

    def prompts(
        self, history: Sequence[int], candidates: Sequence[int], ranks: Sequence[int] | None = None
    ) -> list[list[int]]:
        """One, or where the template asks one for each of the last titles of the history, oldest first, all with the
        same beginning; none for somebody without history."""
        if not self.template.asks:
            return [self.build(history, candidates, ranks)]
        head = self.listed(candidates)
        return [head + self.question(item) for item in self.asked(history, candidates)]

    def asked(self, history: Sequence[int], candidates: Sequence[int]) -> list[int]:
        """The items that ask, oldest first: the last ones of the history, as many as max_tokens has room for."""
        room = self.max_tokens - len(self.listed(candidates))
        items = list(history[-self.max_history :]) if self.max_history else []
        while items and sum(len(self.question(item)) for item in items) > room:
            items = items[1:]
        return items

    def listed(self, candidates: Sequence[int]) -> list[int]:
        """What the questions stand behind."""
        return self.begin + self._pool(candidates, None)

    def question(self, item: int) -> list[int]:
        before, after = self.ask
        return before + self.titles[item] + after

    def tokens(self, history: Sequence[int], candidates: Sequence[int]) -> int:
        """Of all prompts together, what they have in common once."""
        prompts, common = self.prompts(history, candidates), len(self.listed(candidates))
        return sum(map(len, prompts)) - max(0, len(prompts) - 1) * common

    def candidate_ends(self, length: int, candidates: Sequence[int], ranks: Sequence[int] | None = None) -> list[int]:
        """In a prompt of `length` tokens by `build`: where each candidate's line ends, all of it read."""
        sizes = [len(line) for line in self._lines(candidates, ranks)]
        first = length - len(self.cue) - sum(sizes)
        return [first + sum(sizes[: place + 1]) - 1 for place in range(len(sizes))]

    def build_binding(self, asked: int, candidates: Sequence[int]) -> list[int]:
        """The copy task of the warm-up: no history, and the cue asks for the label of `asked`."""
        return self.listed(candidates) + self.question(asked)

    def _pool(self, candidates: Sequence[int], ranks: Sequence[int] | None) -> list[int]:
        return self.pool + [token for line in self._lines(candidates, ranks) for token in line]

    def _lines(self, candidates: Sequence[int], ranks: Sequence[int] | None) -> list[list[int]]:
        places = ranks or range(1, len(candidates) + 1)
        return [
            before + self.titles[item] + (self.rank_marks[rank - 1] if self.rank_marks else []) + after
            for (before, after), item, rank in zip(self.candidate_lines, candidates, places, strict=False)
        ]


def ranks_of(scores: Sequence[float]) -> list[int]:
    """Places from 1, best first; ties in the order given."""
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    ranks = [0] * len(scores)
    for rank, place in enumerate(order, start=1):
        ranks[place] = rank
    return ranks


def _line(tokenizer: Any, line: str, **values: object) -> tuple[list[int], list[int]]:
    """The tokens before and after the title. A space before it belongs to the title's first token."""
    before, after = line.format(title="\0", **values).split("\0")
    return tokens_after(tokenizer, "a", before.rstrip(" ")), tokens_after(tokenizer, "a", after)


def title_tokens(tokenizer: Any, catalog: Catalog, limit: int, context: str, gap: str) -> list[list[int]]:
    """By dense index, each as it stands after `context` + `gap`; all titles in one call, which is many times faster."""
    texts = [neutral(title) for title in catalog.titles[1:]]
    known = tokens(tokenizer, context + ("" if gap == " " else gap))
    whole = [context + gap + text for text in texts]
    encoded = tokenizer(whole, add_special_tokens=False, split_special_tokens=True)["input_ids"] if texts else []
    titles: list[list[int]] = [[]]
    for ids in encoded:
        assert ids[: len(known)] == known, "a title merged with the frame"
        titles.append(ids[len(known) :][:limit])
    return titles


def wants_bos(tokenizer: Any) -> bool:
    return tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
