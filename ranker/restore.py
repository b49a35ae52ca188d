"""What every method does alike: from a config or an artifact to its adapted backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, TypeVar

from safetensors.torch import load_file

from ranker.backbone import Backbone, Quantization
from ranker.fit import ADAPTER, add_lora, set_adapter_weights
from shared.artifact import Manifest
from shared.errors import BadArtifact, BadInput

Config = TypeVar("Config")


class Cut(Protocol):
    """The fields of a method's config that say which backbone it is, and how much of it."""

    @property
    def backbone(self) -> str: ...
    @property
    def layers(self) -> int: ...
    @property
    def quantization(self) -> Quantization: ...


class Adapted(Cut, Protocol):
    """And how it was adapted."""

    @property
    def lora_rank(self) -> int: ...
    @property
    def lora_alpha(self) -> int: ...
    @property
    def lora_targets(self) -> tuple[str, ...]: ...
    @property
    def lora_first_layer(self) -> int: ...


class Trained(Adapted, Protocol):
    @property
    def lora_dropout(self) -> float: ...


def config_of(kind: type[Config], manifest: Manifest, folder: Path) -> Config:
    """Raises BadArtifact for the config of another version."""
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in manifest.config.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise BadArtifact(
            f"{folder} was made by another version of Tandem: {error}. Train it anew, or install "
            f"tandem-rec {manifest.packages.get('tandem-rec', 'as it was')}."
        ) from None


def lora(base: Backbone, config: Trained) -> Any:
    """`base` with a fresh LoRA to train, in the backbone's own precision and place."""
    return add_lora(
        base.model,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        targets=config.lora_targets,
        first_layer=config.lora_first_layer,
        dtype=base.dtype,
    ).to(base.device)


def adapted(base: Backbone, config: Adapted, folder: Path, merge: bool) -> Backbone:
    """`base` with the artifact's LoRA. merge: into the weights, which is faster and makes them this ranker's own."""
    wrapped = add_lora(
        base.model,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        dropout=0.0,
        targets=config.lora_targets,
        first_layer=config.lora_first_layer,
    )
    try:
        set_adapter_weights(wrapped, load_file(folder / ADAPTER))
    except BadInput as error:
        raise BadArtifact(f"{folder}: {error}") from None
    if merge:
        return base.with_model(wrapped.merge_and_unload().eval())
    inner: Any = wrapped.get_base_model()
    return base.with_model(inner.eval().requires_grad_(False))
