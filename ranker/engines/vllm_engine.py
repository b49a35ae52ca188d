"""vLLM behind the engine protocol, and two other ways to read labels out of it. The only file that imports vllm.

The model runs as a pooling model that gives the state of a prompt's last token; the LM head stands here. So one
instance serves every method: labels and their share of the vocabulary, vectors, soft tokens, LoRA by name. vLLM pins
what it needs, so it has an environment of its own: `make .venv-vllm`.

Shapes:  B prompts  T tokens  N soft places  D hidden width  V vocabulary  K labels
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ranker.backbone import Backbone
from ranker.engines import told
from ranker.engines.bound import peft_folder
from ranker.engines.protocol import LabelScores, Prompt, Spliced
from ranker.fit import LINEAR_LAYERS
from shared.errors import BadInput, Unavailable

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The sizes that vLLM keeps slots for adapters in."""
LOADED = 32
"""Adapters kept beside the slots; one more costs its reading from the disk."""
UNREAD = float("inf")
ROWS = 256
"""Of the vocabulary's log probabilities at a time: 50 MB of SmolLM2's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmConfig:
    max_tokens: int = 2048
    """Of one prompt, less one that vLLM keeps for an answer."""
    batch_tokens: int = 8192
    """Of one forward; vLLM's own default of 2,048 cuts a batch of 8 prompts into three."""
    batch_prompts: int = 256
    cache_bytes: int = 2**30
    """For keys and values: those of the running batch, and of prefixes that may come again."""
    adapters: int = 0
    """LoRA adapters that may run in one batch, of any number that are loaded; 0 leaves the LoRA kernels out."""
    adapter_rank: int = 16
    eager: bool | None = None
    """Without torch.compile. None: on a CPU, where compiling takes minutes, and not on a GPU."""


class _Instance:
    """A running vLLM and the adapters that it knows. Threads take turns: a release is loaded while another answers."""

    def __init__(self, base: Backbone, config: VllmConfig, **settings: Any) -> None:
        _prepare_environment()
        from vllm import LLM

        self.config, self.base = config, base
        self._folder = tempfile.TemporaryDirectory(prefix="tandem-vllm-")
        self._adapters: dict[str, Any] = {}
        self._names_used: set[str] = set()
        self._one_at_a_time = threading.RLock()
        lora: dict[str, Any] = {}
        if config.adapters:
            # Not the embeddings, which vLLM would adapt as well: its kernel counts soft places among their rows.
            lora = {"max_loras": config.adapters, "max_lora_rank": _slot(config.adapter_rank), "max_cpu_loras": LOADED}
            lora["lora_target_modules"] = list(LINEAR_LAYERS)
        self.llm = LLM(
            model=str(_written(base, self.path / "model")),
            # The base stands on the CPU, which may know no bfloat16 where the GPU does.
            dtype="bfloat16" if torch.cuda.is_available() else str(base.dtype).removeprefix("torch."),
            max_model_len=config.max_tokens,
            max_num_batched_tokens=max(config.batch_tokens, config.max_tokens),
            max_num_seqs=config.batch_prompts,
            kv_cache_memory_bytes=config.cache_bytes,
            enable_lora=bool(lora),
            enforce_eager=not torch.cuda.is_available() if config.eager is None else config.eager,
            trust_remote_code=False,
            **lora,
            **settings,
        )
        for file in (self.path / "model").glob("*.safetensors"):
            file.unlink()  # read by now; in a container /tmp is memory
        _wake_at_death(self.llm.llm_engine.engine_core)

    @property
    def path(self) -> Path:
        return Path(self._folder.name)

    def load_adapter(self, name: str, weights: Mapping[str, Tensor], alpha: float) -> None:
        """weights: by the names that `ranker.fit.adapter_weights` gives. Raises BadInput for a name that was ever
        taken: vLLM caches keys and values under it, and other weights would answer out of the old ones."""
        if name in self._names_used:
            raise BadInput(f"adapter {name!r} was loaded before. Give other weights another name.")
        if not self.config.adapters:
            raise BadInput(f"adapter {name!r}: this engine was started without room for adapters (adapters=0)")
        rank = max(tensor.shape[0] for key, tensor in weights.items() if ".lora_A." in key)
        if rank > _slot(self.config.adapter_rank):
            raise BadInput(f"adapter {name!r} has rank {rank}; this engine was started for {self.config.adapter_rank}")
        from vllm.lora.request import LoRARequest

        with self._one_at_a_time:
            number = len(self._names_used) + 1
            folder = peft_folder(self.path / f"adapter-{number}", weights, alpha)
            request = LoRARequest(name, number, str(folder))
            self._names_used.add(name)
            self.llm.llm_engine.add_lora(request)
            self._adapters[name] = request

    def unload_adapter(self, name: str) -> None:
        with self._one_at_a_time:
            request = self._adapter(name)
            self.llm.llm_engine.remove_lora(request.lora_int_id)
            del self._adapters[name]
            shutil.rmtree(request.lora_path)

    def close(self) -> None:
        self.llm.llm_engine.engine_core.shutdown()
        self._folder.cleanup()

    def _adapter(self, name: str | None) -> Any:
        if name is not None and name not in self._adapters:
            raise BadInput(f"adapter {name!r} is not loaded; there are: {', '.join(self._adapters) or 'none'}")
        return self._adapters[name] if name is not None else None

    def _inputs(self, prompts: Sequence[Prompt]) -> list[Any]:
        for prompt in prompts:
            if not 0 < len(prompt) < self.config.max_tokens:
                raise BadInput(f"a prompt of {len(prompt)} tokens; this engine takes 1 to {self.config.max_tokens - 1}")
        width = self.base.model.config.hidden_size
        return [vllm_input(prompt, width, self.base.dtype) for prompt in prompts]

    def _ask(self, method: str, inputs: list[Any], params: Any, adapter: str | None, **kwargs: Any) -> list[Any]:
        """Raises Unavailable where vLLM's process died."""
        from vllm.v1.engine.exceptions import EngineDeadError

        request = self._adapter(adapter)
        if not inputs:
            return []
        try:
            with self._one_at_a_time:
                return getattr(self.llm, method)(inputs, params, lora_request=request, use_tqdm=False, **kwargs)
        except EngineDeadError as error:
            raise Unavailable("vLLM's engine process died. Restart this service; its own log says why.") from error


class VllmEngine(_Instance):
    """The Engine protocol over the last states."""

    def __init__(self, base: Backbone, config: VllmConfig | None = None) -> None:
        """base: on the CPU, merged or cut as it is to serve. Its layers leave this process's memory."""
        _prepare_environment()
        from vllm.config import PoolerConfig

        # The default activation scales states to unit length, which no softmax head survives.
        pooler = PoolerConfig(task="embed", seq_pooling_type="LAST", use_activation=False)
        super().__init__(
            base,
            config or VllmConfig(),
            runner="pooling",
            convert="embed",
            pooler_config=pooler,
            enable_prompt_embeds=True,
        )
        base.model.model.layers = nn.ModuleList()

    @torch.inference_mode()
    def label_logits(
        self,
        prompts: Sequence[Prompt],
        labels: Sequence[int],
        adapter: str | None = None,
        keep: Sequence[int] | None = None,
    ) -> LabelScores:
        """keep is ignored: vLLM keeps whole blocks of what it saw, and forgets the oldest."""
        head = self.base.model.lm_head
        hidden_BD = torch.from_numpy(self.last_hidden(prompts, adapter))
        labels_BK = F.linear(hidden_BD, head.weight[list(labels)].float())
        everything_B = torch.logsumexp(head(hidden_BD.to(head.weight.dtype)).float(), dim=-1)
        mass_B = torch.exp(torch.logsumexp(labels_BK, -1) - everything_B).clamp(max=1.0)
        return LabelScores(labels_BK.numpy(), mass_B.numpy())

    @torch.inference_mode()
    def log_likelihoods(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[Sequence[Sequence[int]]],
        adapter: str | None = None,
        keep: Sequence[int] | None = None,
    ) -> list[np.ndarray]:
        """An answer's token is told by the state before it, so that each beginning of an answer is a prompt of its own,
        asked once and out of the prefix cache up to its last block."""
        heads = [_beginnings(given) for given in answers]
        asked = [
            told.joined(prompt, head) if head else prompt
            for prompt, begun in zip(prompts, heads, strict=True)
            for head in begun
        ]
        hidden_ND = torch.from_numpy(self.last_hidden(asked, adapter))
        rows: list[int] = []
        tokens: list[int] = []
        owners: list[tuple[int, int]] = []
        at = 0
        for number, (given, begun) in enumerate(zip(answers, heads, strict=True)):
            row_of = {head: at + row for row, head in enumerate(begun)}
            at += len(begun)
            for place, answer in enumerate(given):
                rows += [row_of[tuple(answer[:n])] for n in range(len(answer))]
                tokens += answer
                owners += [(number, place)] * len(answer)
        found = [np.zeros(len(given)) for given in answers]
        told_K = self._told(hidden_ND, np.array(rows, dtype=int), np.array(tokens, dtype=int))
        for (number, place), one in zip(owners, told_K, strict=True):
            found[number][place] += one
        return found

    def _told(self, hidden_ND: Tensor, rows_K: np.ndarray, tokens_K: np.ndarray) -> np.ndarray:
        """Log probability of each token after the state in its row, a few rows of the vocabulary at a time."""
        head, told_K = self.base.model.lm_head, np.zeros(len(rows_K))
        for start in range(0, len(hidden_ND), ROWS):
            some_ND = hidden_ND[start : start + ROWS].to(head.weight.dtype)
            log_NV = torch.log_softmax(head(some_ND).float(), dim=-1).numpy()
            here_K = (rows_K >= start) & (rows_K < start + ROWS)
            told_K[here_K] = log_NV[rows_K[here_K] - start, tokens_K[here_K]]
        return told_K

    def last_hidden(
        self, prompts: Sequence[Prompt], adapter: str | None = None, keep: Sequence[int] | None = None
    ) -> np.ndarray:
        from vllm import PoolingParams

        hidden_BD = np.zeros((len(prompts), self.base.model.config.hidden_size), dtype=np.float32)
        params = PoolingParams(use_activation=False)
        answers = self._ask("encode", self._inputs(prompts), params, adapter, pooling_task="embed")
        for row, answer in enumerate(answers):
            hidden_BD[row] = answer.outputs.data.float().numpy()
        return hidden_BD


class Logprobs(_Instance):
    """Labels as vLLM's sampler sees them: `logprob_token_ids` gives each asked token's log probability among the whole
    vocabulary. (`allowed_token_ids` with `logprobs=20` does not: of 20 labels one came back.)"""

    def __init__(self, base: Backbone, config: VllmConfig | None = None) -> None:
        super().__init__(base, config or VllmConfig(), runner="generate", enable_prompt_embeds=True)

    def label_logits(
        self,
        prompts: Sequence[Prompt],
        labels: Sequence[int],
        adapter: str | None = None,
        keep: Sequence[int] | None = None,
    ) -> LabelScores:
        """Here the logits are log probabilities: comparable within a prompt, not between prompts."""
        from vllm import SamplingParams

        wanted = list(labels)
        params = SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=wanted, detokenize=False)
        logits_BK = np.zeros((len(prompts), len(wanted)), dtype=np.float32)
        for row, answer in enumerate(self._ask("generate", self._inputs(prompts), params, adapter)):
            [found] = answer.outputs[0].logprobs
            logits_BK[row] = [found[label].logprob for label in wanted]
        return LabelScores(logits_BK, np.exp(logits_BK.astype(np.float64)).sum(1).clip(max=1.0).astype(np.float32))


class LabelHead(_Instance):
    """Labels chosen at the start: vLLM keeps only their rows of the LM head. Knows nothing of the other tokens."""

    def __init__(self, base: Backbone, labels: Sequence[int], config: VllmConfig | None = None) -> None:
        self.labels = list(labels)
        overrides = {
            "architectures": [base.model.config.architectures[0].replace("CausalLM", "SequenceClassification")],
            "classifier_from_token": base.tokenizer.convert_ids_to_tokens(self.labels),
            "method": "no_post_processing",
            "num_labels": len(self.labels),
        }
        super().__init__(
            base, config or VllmConfig(), runner="pooling", hf_overrides=overrides, enable_prompt_embeds=True
        )

    def label_logits(
        self,
        prompts: Sequence[Prompt],
        labels: Sequence[int],
        adapter: str | None = None,
        keep: Sequence[int] | None = None,
    ) -> LabelScores:
        """Raises BadInput for other labels than those of the start."""
        from vllm import PoolingParams

        if list(labels) != self.labels:
            raise BadInput(f"labels {list(labels)[:3]}...: this engine was started for {self.labels[:3]}...")
        params = PoolingParams(use_activation=False)
        answers = self._ask("encode", self._inputs(prompts), params, adapter, pooling_task="classify")
        rows = [answer.outputs.data.float().numpy() for answer in answers]
        logits_BK = np.array(rows, dtype=np.float32).reshape(len(prompts), len(self.labels))
        return LabelScores(logits_BK, np.full(len(prompts), np.nan, dtype=np.float32))


def _wake_at_death(core: Any) -> None:
    """vLLM notes when its process dies, but leaves whoever waits for an answer just then to wait for good (0.32)."""
    reader = getattr(core, "output_queue_thread", None)
    if reader is None:  # it runs in this process
        return
    from vllm.v1.engine.exceptions import EngineDeadError

    answers = core.outputs_queue

    def wake() -> None:
        reader.join()
        answers.put_nowait(EngineDeadError())

    threading.Thread(target=wake, name="vllm-death", daemon=True).start()


def vllm_input(prompt: Prompt, width: int, dtype: torch.dtype, unread: float = UNREAD) -> dict[str, Any]:
    """unread: fills the rows of plain tokens, and so salts the prefix cache. vLLM hashes ids and rows block by block,
    but not the mask that says which of the two counts, and sets the ids in soft places to 0: a zero vector and a real
    token 0 are the same to it, unless a token's row is what no vector can be. A salt for the whole mask would tell them
    apart too, and end the sharing of prefixes between prompts of different lengths."""
    if not isinstance(prompt, Spliced):
        return {"prompt_token_ids": list(prompt)}
    rows_TD = torch.full((len(prompt), width), unread, dtype=dtype)
    rows_TD[list(prompt.places)] = torch.from_numpy(prompt.rows_ND).to(dtype)
    soft = set(prompt.places)
    is_text = [place not in soft for place in range(len(prompt))]
    return {"prompt_embeds": rows_TD, "prompt_token_ids": list(prompt.ids), "prompt_is_token_ids": is_text}


def _beginnings(answers: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Of all answers, without their last tokens; each once, shorter ones first."""
    return sorted({tuple(answer[:end]) for answer in answers for end in range(len(answer))}, key=len)


def _prepare_environment() -> None:
    """What vLLM reads from the environment alone; whoever set it keeps what was set. Raises BadInput without vLLM."""
    if find_spec("vllm") is None:
        raise BadInput("vLLM is not installed here. It has an environment of its own: make .venv-vllm")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # nothing is sent anywhere
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    # Left to itself vLLM keeps a core free of the model, which is half of a machine with two.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


def _written(base: Backbone, folder: Path) -> Path:
    """The backbone as it is in memory, cut and merged, in Hugging Face layout."""
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


def _slot(rank: int) -> int:
    fitting = [size for size in RANKS if size >= rank]
    if not fitting:
        raise BadInput(f"LoRA of rank {rank}: vLLM takes at most {RANKS[-1]}")
    return fitting[0]
