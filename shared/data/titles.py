"""Titles and categories are untrusted text: one line, no markup, bounded."""

from __future__ import annotations

import html
import re

MAX_CHARS = 512

# Only references that end in a semicolon: html.unescape alone turns "Rock&region" into "Rock®ion".
_REFERENCE = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# Whitespace, control characters, lone surrogates, and the marks that are invisible or turn the direction of
# what follows. The zero-width joiner stays: scripts and emoji need it.
_BLANK = re.compile(
    "[\\s\x00-\x1f\x7f-\x9f\ud800-\udfff\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufffe\uffff]+"
)


def clean_title(text: str) -> str:
    """HTML references resolved, every run of blanks and control characters one space, at most 512 characters.

    Cleaning twice changes nothing more. May be empty: such an item has no title.
    """
    text = text[: 8 * MAX_CHARS]  # resolving references is repeated until nothing changes
    while (resolved := _REFERENCE.sub(lambda match: html.unescape(match[0]), text)) != text:
        text = resolved
    return _BLANK.sub(" ", text).strip()[:MAX_CHARS].rstrip()


def clean_categories(names: list[str]) -> list[str]:
    """Cleaned, each once, in their order, without empty ones."""
    return list(dict.fromkeys(name for name in map(clean_title, names) if name))
