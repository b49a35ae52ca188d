"""vLLM for a ranker alone, with its adapter merged, or one for all that share a backbone, with adapters by name."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from safetensors.torch import load_file

from ranker.backbone import Backbone, Pool
from ranker.engines.bound import Bound
from ranker.engines.protocol import Engine
from ranker.engines.vllm_engine import VllmConfig, VllmEngine
from ranker.fit import ADAPTER
from ranker.restore import Adapted

ADAPTERS, LARGEST_RANK = 4, 32
"""As many run in one batch, of any number that are loaded."""

_numbers = count(1)


def alone(base: Backbone) -> VllmEngine:
    return VllmEngine(base)


def shared(pool: Pool, base: Backbone, name: str, adapter: Adapted | None, folder: Path) -> Engine:
    """adapter: whose weights stand in `folder`; None is the backbone itself. An artifact that is loaded a second time
    gets a second name. Raises BadInput for a rank beyond LARGEST_RANK."""
    key = (base.name, base.model.config.num_hidden_layers)
    engine: VllmEngine | None = pool.engines.get(key)
    if engine is None:
        engine = pool.engines[key] = VllmEngine(base, VllmConfig(adapters=ADAPTERS, adapter_rank=LARGEST_RANK))
    if adapter is None:
        return engine
    numbered = f"{name}/{next(_numbers)}"
    engine.load_adapter(numbered, load_file(folder / ADAPTER), adapter.lora_alpha)
    return Bound(engine, numbered)
