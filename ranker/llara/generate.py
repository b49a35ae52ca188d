"""The paper's own protocol: the answer is generated, and counts where it is a candidate's whole title."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ranker.llara.batches import Slate
from ranker.llara.model import LLaRA
from ranker.splice import splice
from shared.progress import progress


@torch.inference_mode()
def generate(model: LLaRA, slates: Sequence[Slate], hybrid: bool, what: str | None) -> list[str]:
    """Greedy, up to the longest title's length, one prompt at a time."""
    longest = max(len(title) for title in model.prompts.titles) + 1
    base = model.base
    answers = []
    with progress(what, len(slates), "prompts") as advance:
        for slate in slates:
            prompt = model.prompt(slate.history, slate.candidates, hybrid)
            ids_1T = torch.tensor([prompt], device=base.device)
            made_1N = base.model.generate(
                inputs_embeds=splice(base.model.get_input_embeddings(), ids_1T, model.filling([slate.history])),
                attention_mask=torch.ones_like(ids_1T),
                max_new_tokens=longest,
                do_sample=False,
                use_cache=True,
                eos_token_id=model.prompts.end,
                pad_token_id=model.prompts.end,
            )
            answers.append(base.tokenizer.decode(made_1N[0], skip_special_tokens=True))
            advance(1)
    return answers


def named(answer: str, titles: Sequence[str]) -> int | None:
    """The place of the one candidate whose whole title the answer is; None where it is none's, or two share it."""
    places = [place for place, title in enumerate(titles) if title.strip() == answer.strip()]
    return places[0] if len(places) == 1 else None


def told_titles(model: LLaRA, slate: Slate) -> list[str]:
    """As the prompt shows them: cut to the same length."""
    return [model.base.tokenizer.decode(model.prompts.titles[item]) for item in slate.candidates]
