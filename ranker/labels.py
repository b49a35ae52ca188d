"""The verbalizer's labels: one token per place in the candidate list, taken in the context of the prompt.

A letter tokenized alone is another token than the same letter after the prompt's cue (SentencePiece puts its
leading-space mark before it). So each label is read off the end of cue + label, never looked up on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared.errors import LabelMismatch

LETTERS = tuple("ABCDEFGHIJKLMNOPQRST")


def tokens(tokenizer: Any, text: str) -> list[int]:
    """Plain token ids: no begin-of-sequence mark, and a special token's name in `text` is only text."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def tokens_after(tokenizer: Any, context: str, text: str) -> list[int]:
    """What `text` adds to the tokens of `context`. Raises LabelMismatch where the two merge into one token."""
    before, both = tokens(tokenizer, context), tokens(tokenizer, context + text)
    if both[: len(before)] != before:
        raise LabelMismatch(
            f"this tokenizer joins {context[-12:]!r} and {text[:12]!r} into one token, so the text has no tokens "
            "of its own there. Use another prompt template or another backbone."
        )
    return both[len(before) :]


def label_ids(tokenizer: Any, cue: str, labels: Sequence[str]) -> list[int]:
    """One distinct token per label, as it stands after `cue`. Raises LabelMismatch otherwise."""
    ids = [tokens_after(tokenizer, cue, label) for label in labels]
    for label, found in zip(labels, ids, strict=True):
        if len(found) != 1:
            raise LabelMismatch(
                f"label {label!r} after {cue[-12:]!r} is {len(found)} tokens {found}, not 1, with this tokenizer. "
                "Use another prompt template or another backbone."
            )
    flat = [found[0] for found in ids]
    if len(set(flat)) != len(flat):
        raise LabelMismatch(f"two labels share a token: {dict(zip(labels, flat, strict=True))}")
    return flat


def require(expected: Sequence[int], actual: Sequence[int], owner: str) -> None:
    """Raises LabelMismatch unless the tokenizer still gives the label ids that training used."""
    if list(expected) != list(actual):
        raise LabelMismatch(
            f"{owner} was trained with label ids {list(expected)}, this backbone's tokenizer gives "
            f"{list(actual)}. Load the backbone that the manifest names."
        )
