"""Linear layers as inference wants them: several of one input as one product, in the layout that the processor's matrix
kernel reads, with what follows folded in. LoRA stays beside the weights, so that rankers share them.

Shapes:  N tokens  D in  O out
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ranker.engines.native import Kernels, Lora

ROWS = 512
"""For how many tokens the layout is chosen; it fits others as well."""
PACKED_BYTES = 2**31
"""Of one backbone's layers at most: the packed copy stands beside the weights. Larger ones are read as they are."""

_packed: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""From the first of the fused weights, which all rankers over one backbone share, to the packed copy."""


class Linear:
    """Modules that read the same input, their outputs side by side. native: the products, too, are ours."""

    def __init__(self, modules: Sequence[Any], pack: bool, native: Kernels | None = None) -> None:
        self.modules = modules
        self.plain = [getattr(module, "base_layer", module) for module in modules]
        known = all(type(module) is nn.Linear for module in self.plain)
        self.native = native if pack and known and not self._biased else None
        self.paired = len(modules) == 2
        weights = [module.weight for module in self.plain] if pack and known and not self._biased else []
        self.packed = _pack(weights, self.native, self.paired) if weights else None
        self.adapted = any(hasattr(module, "lora_A") for module in modules)
        self.lora: Lora | None = None
        self.lay_out()

    def __call__(self, x_ND: Tensor, then: str = "none") -> Tensor:
        """then: none, or swish where `fuses`."""
        if self.packed is None:
            parts = [module(x_ND) for module in self.modules]
            return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        if self.native:
            return self._product(x_ND)
        return self._adapt(x_ND, torch.ops.mkldnn._linear_pointwise(x_ND, self.packed, None, then, [], ""))

    @property
    def fuses(self) -> bool:
        """Whether something may follow within the product."""
        return self.packed is not None and not self.adapted

    def plus(self, x_ND: Tensor, residual_NO: Tensor) -> Tensor:
        if self.packed is None:
            return residual_NO + self(x_ND)
        if self.native:
            return self._product(x_ND, residual_NO)
        return self._adapt(x_ND, torch.ops.mkldnn._linear_pointwise(x_ND, residual_NO, self.packed, None, "add"))

    def gated(self, x_ND: Tensor) -> Tensor:
        """silu of the first of two modules times the second. Only with native kernels."""
        return self._product(x_ND, gated=True)

    def times(self, x_ND: Tensor, factor_NO: Tensor) -> Tensor:
        """Only where `fuses`, and without native kernels."""
        return torch.ops.mkldnn._linear_pointwise(x_ND, factor_NO, self.packed, None, "mul")

    @property
    def pointers(self) -> list[int]:
        """As forward.c reads them. Only with native kernels."""
        assert self.packed is not None
        lora = [self.lora.down_RD.data_ptr(), self.lora.up_OR.data_ptr(), self.lora.rank] if self.lora else [0, 0, 0]
        return [self.packed.data_ptr(), *lora]

    def _product(self, x_ND: Tensor, residual_NO: Tensor | None = None, gated: bool = False) -> Tensor:
        assert self.native
        assert self.packed is not None
        return self.native.product(x_ND, self.packed, self.paired, residual_NO, gated, self.lora)

    @property
    def adapters(self) -> list[Tensor]:
        """LoRA's weights."""
        both = [(module.lora_A[name], module.lora_B[name]) for module in self.modules for name in _adapters(module)]
        return [half.weight for pair in both for half in pair]

    def lay_out(self) -> None:
        """For the kernels, all adapters of all modules as one: the ranks side by side, each with rows in the outputs of
        its own module alone."""
        self.lora = None
        if not self.native or self.packed is None:
            return
        parts = [
            (module.lora_A[name].weight, module.scaling[name] * module.lora_B[name].weight.float(), place)
            for place, module in enumerate(self.modules)
            for name in _adapters(module)
        ]
        rank = sum(len(down_RD) for down_RD, _, _ in parts)
        if not rank:
            return
        outs = [module.out_features for module in self.plain]
        weight = self.plain[0].weight
        down_RD = weight.new_zeros(-(-rank // 32) * 32, weight.shape[1])
        up_OR = weight.new_zeros(sum(outs), len(down_RD))
        at = 0
        for part_RD, part_OR, place in parts:
            ranks, first = slice(at, at + len(part_RD)), sum(outs[:place])
            down_RD[ranks] = part_RD.detach()
            up_OR[first : first + outs[place], ranks] = part_OR.detach()
            at = ranks.stop
        self.lora = Lora(self.native.laid_out(down_RD, False), self.native.laid_out(up_OR, self.paired))

    @property
    def _biased(self) -> bool:
        return any(getattr(module, "bias", None) is not None for module in self.plain)

    def _adapt(self, x_ND: Tensor, y_NO: Tensor) -> Tensor:
        """y + alpha / rank B A x, in place; the kernels do it themselves."""
        if not self.adapted:
            return y_NO
        outs = y_NO.split([module.out_features for module in self.plain], dim=-1)
        for module, out_NO in zip(self.modules, outs, strict=True):
            for name in _adapters(module):
                low_NR = F.linear(x_ND, module.lora_A[name].weight)
                out_NO.addmm_(low_NR, module.lora_B[name].weight.T, alpha=module.scaling[name])
        return y_NO


def _adapters(module: Any) -> Sequence[str]:
    return module.active_adapters if hasattr(module, "lora_A") else ()


def _pack(weights: Sequence[Tensor], native: Kernels | None, paired: bool) -> Tensor:
    kept = _packed.setdefault(weights[0], {})
    key = len(weights), native is not None
    now = versions(weights)
    if key not in kept or kept[key][0] != now:
        fused_OD = torch.cat([weight.detach() for weight in weights]) if len(weights) > 1 else weights[0].detach()
        if native:
            laid = native.laid_out(fused_OD, paired)
        else:
            laid = torch.ops.mkldnn._reorder_linear_weight(fused_OD.contiguous(), ROWS)
        kept[key] = now, laid
    packed: Tensor = kept[key][1]
    return packed


def versions(weights: Sequence[Tensor]) -> list[int]:
    """What changes whenever one of them is written to, but for writing through `.data`."""
    return [0 if weight.is_inference() else weight._version for weight in weights]


def packs(device: torch.device, dtype: torch.dtype, layers: nn.Module) -> bool:
    """Where the processor multiplies bfloat16 itself; float32 has a fast kernel that reads weights as they are."""
    size = sum(parameter.nbytes for parameter in layers.parameters())
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return device.type == "cpu" and dtype == torch.bfloat16 and native and size <= PACKED_BYTES
