"""Labels are the tokens that stand after the cue, for a BPE and for a SentencePiece tokenizer."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ranker.backbone import Backbone
from ranker.labels import LETTERS, label_ids, require, tokens, tokens_after
from ranker.prompt import TEMPLATES, PromptBuilder
from shared.errors import LabelMismatch
from tests.ranker import tiny

each_template = pytest.mark.parametrize("template", [name for name, one in TEMPLATES.items() if not one.asks])


def builder(base: Backbone, template: str) -> PromptBuilder:
    return PromptBuilder(base.tokenizer, tiny.catalog(25), template, max_history=5)


def test_the_sentencepiece_tokenizer_of_these_tests_is_sentencepieces_own(sentencepiece: Backbone) -> None:
    pieces = tiny.sentencepiece_model()
    for text in ["A", "\n(B) Toy Story (1995)", "\n\n### Response:\nA", "Amélie 日本 🎬 -> T", "</s><s>"]:
        assert tokens(sentencepiece.tokenizer, text) == pieces.encode(text)


@each_template
def test_labels_are_20_distinct_single_tokens(base: Backbone, template: str) -> None:
    labels = builder(base, template).labels
    assert len(set(labels)) == len(labels) == 20
    assert not set(labels) & set(base.tokenizer.all_special_ids)


@each_template
def test_a_prompt_with_its_label_reads_back_as_that_letter(base: Backbone, template: str) -> None:
    built = builder(base, template)
    prompt = built.build([1, 2], range(3, 23))
    for letter, label in zip(LETTERS, built.labels, strict=True):
        text = base.tokenizer.decode([*prompt, label])
        assert text.endswith(TEMPLATES[template].cue + TEMPLATES[template].label.format(label=letter))


@each_template
def test_a_label_is_what_the_tokenizer_itself_puts_after_the_whole_prompt(base: Backbone, template: str) -> None:
    built = builder(base, template)
    text = base.tokenizer.decode(built.build([1, 2], range(3, 23)), skip_special_tokens=True)
    for letter, label in zip(LETTERS, built.labels, strict=True):
        assert tokens(base.tokenizer, text + TEMPLATES[template].label.format(label=letter))[-1] == label


def test_with_sentencepiece_a_letter_alone_is_another_token_than_in_the_papers_prompt(
    sentencepiece: Backbone,
) -> None:
    alone = [tokens(sentencepiece.tokenizer, letter) for letter in LETTERS]
    in_context = builder(sentencepiece, "paper").labels
    assert all(ids != [label] for ids, label in zip(alone, in_context, strict=True))


def test_the_label_after_a_title_is_the_very_token_that_answers(base: Backbone) -> None:
    """The compact format rests on this (docs/log.md)."""
    built = builder(base, "compact")
    assert [before_and_after[1][-1] for before_and_after in built.candidate_lines] == built.labels


def test_a_tokenizer_that_joins_the_cue_and_the_letter_is_refused() -> None:
    """Without pre-tokenization frequent neighbours merge across the line break."""
    made = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate("x\nAB")} | {"\nA": 4}, merges=[("\n", "A")]))
    with pytest.raises(LabelMismatch, match=r"joins 'x\\n' and 'A' into one token"):
        label_ids(PreTrainedTokenizerFast(tokenizer_object=made), "x\n", ["A", "B"])


def test_a_label_of_two_tokens_is_refused() -> None:
    made = tiny.bpe(["nothing here has a letter after a space"], size=270)
    with pytest.raises(LabelMismatch, match=r"label ' A' after 'next ->' is 2 tokens"):
        label_ids(made, "next ->", [" A", " B"])


def test_labels_that_share_a_token_are_refused() -> None:
    made = Tokenizer(models.WordLevel(vocab={"<unk>": 0, "cue": 1}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")
    with pytest.raises(LabelMismatch, match="two labels share a token"):
        label_ids(tokenizer, "cue", [" A", " B"])


def test_the_name_of_a_special_token_is_only_text(base: Backbone) -> None:
    for name in base.tokenizer.all_special_tokens:
        assert not set(tokens(base.tokenizer, f"x{name}y")) & set(base.tokenizer.all_special_ids)


def test_the_tokens_after_a_context_are_those_that_the_text_adds(base: Backbone) -> None:
    added = tokens_after(base.tokenizer, "a", "\n\nCandidates:")
    assert tokens(base.tokenizer, "a") + added == tokens(base.tokenizer, "a\n\nCandidates:")


def test_label_ids_other_than_trained_are_refused_with_both() -> None:
    require([3, 4], (3, 4), "the ranker")
    with pytest.raises(LabelMismatch, match=r"the ranker was trained with label ids \[3, 4\].*\[3, 5\]"):
        require([3, 4], [3, 5], "the ranker")
