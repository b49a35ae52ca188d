"""A language model of 100 thousand weights, two tokenizers, and data: everything a ranker is made of, in miniature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mistral_common
import numpy as np
import torch
from safetensors.torch import load_file
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer, PreTrainedTokenizerFast

from ranker.fit import LINEAR_LAYERS
from ranker.labels import LETTERS
from ranker.llamarec.model import LlamaRecConfig
from ranker.llamarec.train import train
from ranker.prompt import TEMPLATES
from shared.artifact import Manifest
from shared.candidate import Candidate
from shared.catalog import Catalog, Item
from shared.data.prepared import Prepared
from shared.history import History

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_end|>"]
WORDS = ("Alien", "Brazil", "Casino", "Diva", "Eraser", "Fargo", "Gattaca", "Heat")


def same(one: Path, other: Path, name: str) -> bool:
    """The tensors of the file `name` in two artifacts, bit for bit."""
    a, b = load_file(one / name), load_file(other / name)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def titles(count: int) -> list[str]:
    return [f"{WORDS[n % 8]} {WORDS[n // 8 % 8]} {n}" for n in range(count)]


def catalog(size: int) -> Catalog:
    return of(*titles(size))


def of(*names: str) -> Catalog:
    return Catalog(tuple(Item(f"i{n}", name) for n, name in enumerate(names, start=1)))


def corpus() -> list[str]:
    lines = [f"{title} -> {letter}" for title in titles(64) for letter in LETTERS]
    frames = [t.head + t.pool + t.cue + t.binding_cue for t in TEMPLATES.values() if not t.asks]
    return lines + 20 * frames + ["a a a a"] * 20


def bpe(texts: Sequence[str], size: int = 700, begin: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as in GPT-2, Llama 3 or SmolLM2; `begin` puts <s> before every text."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    if begin:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|im_end|>"],
    )


def sentencepiece() -> LlamaTokenizer:
    """The 32,000 pieces of a Llama-style SentencePiece model, with the merges that its order of pieces implies."""
    pieces = sentencepiece_model()
    vocabulary = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    merges: list[tuple[str, str]] = []
    for piece, i in vocabulary.items():
        if not (pieces.is_control(i) or pieces.is_unknown(i) or pieces.is_byte(i)):
            halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
            known = [(left, right) for left, right in halves if left in vocabulary and right in vocabulary]
            merges += sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    return LlamaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)


def sentencepiece_model() -> SentencePieceProcessor:
    [file] = (Path(mistral_common.__file__).parent / "data").glob("tokenizer.model.v1")
    return SentencePieceProcessor(model_file=str(file))


def llama(vocabulary: int, hidden: int = 64, seed: int = 0, layers: int = 2) -> LlamaForCausalLM:
    """Random weights, large enough that every token moves the logits."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


def save(folder: Path, tokenizer: Any, model: Any) -> Path:
    """In Hugging Face layout."""
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def prepared(sequences: Sequence[Sequence[int]], items: Catalog) -> Prepared:
    """User u{n} has the n-th sequence of dense indices, oldest first."""
    offsets = np.cumsum([0, *(len(s) for s in sequences)]).astype(np.int64)
    flat = np.concatenate([np.asarray(s, dtype=np.int32) for s in sequences])
    manifest = Manifest(kind="data", method="table", data_digest="d" * 64, catalog_fingerprint=items.fingerprint())
    return Prepared(items, [f"u{n}" for n in range(len(sequences))], offsets, flat, manifest)


def cycle(users: int, length: int, items: int, seed: int = 0) -> Prepared:
    """Whoever has item i takes item i + 1 next, round the end."""
    starts = np.random.default_rng(seed).integers(items, size=users)
    return prepared([(start + np.arange(length)) % items + 1 for start in starts], catalog(items))


class Neighbours:
    """A retriever that knows the rule half: the items around the last one, in an order of the user's own."""

    def __init__(self, items: int) -> None:
        self.items = items

    def retrieve(
        self, histories: Sequence[History], k: int, exclude: Sequence[Sequence[int]] | None = None
    ) -> list[list[Candidate]]:
        banned = exclude if exclude is not None else [()] * len(histories)
        return [self._one(history, k, set(out)) for history, out in zip(histories, banned, strict=True)]

    def _one(self, history: History, k: int, banned: set[int]) -> list[Candidate]:
        last = history.items[-1] if history.items else 0
        around = [(last + step) % self.items + 1 for step in range(self.items)]
        near, far = [i for i in around[:20] if i not in banned], [i for i in around[20:] if i not in banned]
        shuffled = np.random.default_rng(sum(history.items)).permutation(near).tolist()
        return [Candidate(int(item), 20.0 - place) for place, item in enumerate((shuffled + far)[:k])]


ITEMS = 40
DATA = cycle(users=30, length=8, items=ITEMS)


def config(backbone: Path, **changes: Any) -> LlamaRecConfig:
    """Five validations in 10 steps of 8 prompts, the first 2 of them the copy task; dropout and probe are on."""
    base = LlamaRecConfig(
        backbone=str(backbone),
        history=4,
        title_tokens=8,
        lora_rank=4,
        lora_alpha=8,
        lora_dropout=0.1,
        lora_targets=LINEAR_LAYERS,
        negatives="mixed",
        probe=0.5,
        binding_prompts=16,
        prompts=64,
        batch=8,
        learning_rate=3e-3,
        warmup=2,
        validate_every=16,
        validation_users=10,
        seed=1,
    )
    return replace(base, **changes)


def trained(out: Path, backbone: Path, resume: bool = False, data: Prepared = DATA, **changes: Any) -> Manifest:
    settings = config(backbone, **changes)
    return train(data, Neighbours(len(data.catalog)), "neighbours@1", settings, out, resume=resume, device="cpu")
