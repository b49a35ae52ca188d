"""A Llama's forward for inference: prompts of any lengths side by side without padding, keys and values that are known
already taken instead of computed, and behind the last attention only the rows that somebody reads.

Equal to transformers' own forward (tests/ranker/engines/test_lean.py), from which it takes weights and rotary angles.

Shapes:  N tokens of all segments  S of one segment  P known before it  D hidden width  h of one head  L layers
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ranker.engines.linear import Linear, packs
from ranker.engines.native import Kernels, kernels


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Tokens that stand one after another, each seeing those before it.

    known_L2PKh: keys and values of what stands before the first token. parent: or the segment that does, by its place
    in the same call; what that one knows comes first. positions: of the tokens, where they are not simply the next.
    starts: where the tokens are branches side by side, per token the place of its branch's first; it sees that branch
    up to itself, and all that is known. read: the tokens whose states are wanted. keep: of how many first tokens keys
    and values are wanted.
    """

    size: int
    read: Sequence[int]
    known_L2PKh: Tensor | None = None
    parent: int | None = None
    positions: Sequence[int] | None = None
    starts: Sequence[int] | None = None
    keep: int = 0


class Layer:
    def __init__(self, module: Any, pack: bool, native: Kernels | None) -> None:
        attention, mlp = module.self_attn, module.mlp
        self.native = native
        self.before, self.between = module.input_layernorm, module.post_attention_layernorm
        self.qkv = Linear([attention.q_proj, attention.k_proj, attention.v_proj], pack, native)
        self.out = Linear([attention.o_proj], pack, native)
        if native:
            self.both = Linear([mlp.gate_proj, mlp.up_proj], pack, native)
        else:
            self.gate, self.up = Linear([mlp.gate_proj], pack), Linear([mlp.up_proj], pack)
        self.down = Linear([mlp.down_proj], pack, native)

    def mlp(self, x_ND: Tensor) -> Tensor:
        y_ND = norm(x_ND, self.between, self.native)
        if self.native:
            return self.down.plus(self.both.gated(y_ND), x_ND)
        if self.gate.fuses and self.up.fuses:
            return self.down.plus(self.up.times(y_ND, self.gate(y_ND, then="swish")), x_ND)
        return self.down.plus(F.silu(self.gate(y_ND)).mul_(self.up(y_ND)), x_ND)


class LeanLlama:
    """Reads the model's tensors where they are: weights that are trained meanwhile count."""

    def __init__(self, model: Any) -> None:
        config, inner = model.config, model.model
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        weight = inner.norm.weight
        pack = packs(weight.device, weight.dtype, inner.layers)
        self.native = kernels() if pack and _suits_kernels(inner.layers[0], self.heads) else None
        self.layers = [Layer(module, pack, self.native) for module in inner.layers]
        self.angles, self.norm = inner.rotary_emb, inner.norm

    @torch.inference_mode()
    def run(self, x_ND: Tensor, segments: Sequence[Segment]) -> tuple[Tensor, list[Tensor | None]]:
        """Final-norm states of the tokens read, segment after segment; and per segment what it should keep: L x 2 x
        keep x kv heads x h."""
        places = _places(segments)
        rotate = self._rotation(x_ND, segments)
        masks: dict[int, Tensor | None] = {}
        kept: list[list[Tensor]] = [[] for _ in segments]
        for number, layer in enumerate(self.layers):
            last = number == len(self.layers) - 1
            z_ND = layer.qkv(norm(x_ND, layer.before, self.native))
            z_NHh = z_ND.unflatten(-1, (self.heads + 2 * self.kv_heads, -1))
            qk_NHh = rotate(z_NHh)
            q_NHh, k_NKh = qk_NHh[:, : self.heads], qk_NHh[:, self.heads :]
            v_NKh = z_NHh[:, -self.kv_heads :]
            pairs = [_keys_and_values(number, place, segments, places, k_NKh, v_NKh) for place in range(len(segments))]
            for place, segment in enumerate(segments):
                if segment.keep:
                    start = places[place].start
                    rows = slice(start, start + segment.keep)
                    kept[place].append(torch.stack([k_NKh[rows], v_NKh[rows]]))
            if last:
                x_ND = torch.cat([x_ND[rows][list(s.read)] for s, rows in zip(segments, places, strict=True) if s.read])
            told_ND, at = x_ND.new_empty(len(x_ND), q_NHh[0].numel()), 0
            for place, segment in enumerate(segments):
                count = len(segment.read) if last else segment.size
                if count:
                    told_SD = told_ND[at : at + count]
                    self._attend(place, segments, q_NHh[places[place]], *pairs[place], told_SD, masks, last)
                at += count
            x_ND = layer.mlp(layer.out.plus(told_ND, x_ND))
        return norm(x_ND, self.norm, self.native), [torch.stack(pieces) if pieces else None for pieces in kept]

    def _attend(
        self,
        place: int,
        segments: Sequence[Segment],
        q_SHh: Tensor,
        k_MKh: Tensor,
        v_MKh: Tensor,
        told_SD: Tensor,
        masks: dict[int, Tensor | None],
        last: bool,
    ) -> None:
        """Into told_SD; of the last layer only the rows that are read. masks: made when they are first needed."""
        segment = segments[place]
        only = list(segment.read) if last else None
        if self.native and (only is None or (only == [segment.size - 1] and segment.starts is None)):
            known = _known(segment, segments)
            starts_S = torch.tensor(segment.starts) + known if segment.starts is not None else None
            self.native.attend(q_SHh[-1:] if only else q_SHh, k_MKh, v_MKh, told_SD, known, starts_S)
            return
        if place not in masks:
            masks[place] = _mask(segment, segments, q_SHh)
        mask_SM = masks[place]
        if only is not None:
            q_SHh, mask_SM = q_SHh[only], mask_SM[only] if mask_SM is not None else None
        told_SD.copy_(attend(q_SHh, k_MKh, v_MKh, mask_SM))

    def _rotation(self, x_ND: Tensor, segments: Sequence[Segment]) -> Callable[[Tensor], Tensor]:
        """From queries, keys and values of all tokens to the queries and keys, turned by their places."""
        positions: list[int] = []
        for segment in segments:
            first = _known(segment, segments)
            positions += segment.positions if segment.positions is not None else range(first, first + segment.size)
        places_1N = torch.tensor([positions], device=x_ND.device)
        if native := self.native:
            cos_1Nh, sin_1Nh = self.angles(torch.empty(0, dtype=torch.float32), places_1N)
            half = cos_1Nh.shape[-1] // 2
            cos_Nh, sin_Nh = cos_1Nh[0, :, :half].contiguous(), sin_1Nh[0, :, :half].contiguous()

            def in_place(z_NHh: Tensor) -> Tensor:
                native.rotate_(z_NHh, cos_Nh, sin_Nh, self.heads + self.kv_heads)
                return z_NHh[:, : -self.kv_heads]

            return in_place
        cos_1Nh, sin_1Nh = self.angles(x_ND, places_1N)
        half = sin_1Nh.shape[-1] // 2
        signed_1Nh = torch.cat([-sin_1Nh[..., :half], sin_1Nh[..., half:]], dim=-1)
        return lambda z_NHh: turned(z_NHh[:, : -self.kv_heads], cos_1Nh[0][:, None], signed_1Nh[0][:, None])


def norm(x_ND: Tensor, module: Any, native: Kernels | None) -> Tensor:
    if native:
        return native.norm(x_ND, module.weight, module.variance_epsilon)
    x = x_ND.float()
    mean_N1 = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
    return (x * torch.rsqrt(mean_N1 + module.variance_epsilon)).to(x_ND.dtype).mul_(module.weight)


def turned(x_NHh: Tensor, cos_N1h: Tensor, signed_N1h: Tensor) -> Tensor:
    """signed_N1h: the sine, negative in its first half."""
    return torch.mul(x_NHh, cos_N1h).addcmul_(torch.roll(x_NHh, x_NHh.shape[-1] // 2, -1), signed_N1h)


def attend(q_SHh: Tensor, k_MKh: Tensor, v_MKh: Tensor, mask_SM: Tensor | None) -> Tensor:
    """S x H h. mask_SM: added to the scores; without one the tokens are all there are, or one that sees everything."""
    told_1HSh = F.scaled_dot_product_attention(
        q_SHh.transpose(0, 1)[None],
        k_MKh.transpose(0, 1)[None],
        v_MKh.transpose(0, 1)[None],
        attn_mask=mask_SM,
        is_causal=mask_SM is None and len(q_SHh) > 1,
        enable_gqa=q_SHh.shape[1] != k_MKh.shape[1],
    )
    return told_1HSh[0].transpose(0, 1).flatten(1)


def _keys_and_values(
    layer: int, place: int, segments: Sequence[Segment], places: Sequence[slice], k_NKh: Tensor, v_NKh: Tensor
) -> tuple[Tensor, Tensor]:
    """All that the segment's tokens may see, known ones first."""
    segment = segments[place]
    before_k, before_v = [], []
    if segment.parent is not None:
        parent_k, parent_v = _keys_and_values(layer, segment.parent, segments, places, k_NKh, v_NKh)
        before_k, before_v = [parent_k], [parent_v]
    elif segment.known_L2PKh is not None:
        before_k, before_v = ([both_PKh] for both_PKh in segment.known_L2PKh[layer])
    own = places[place]
    if not before_k:
        return k_NKh[own], v_NKh[own]
    return torch.cat([*before_k, k_NKh[own]]), torch.cat([*before_v, v_NKh[own]])


def _known(segment: Segment, segments: Sequence[Segment]) -> int:
    if segment.parent is not None:
        parent = segments[segment.parent]
        return _known(parent, segments) + parent.size
    return segment.known_L2PKh.shape[2] if segment.known_L2PKh is not None else 0


def _mask(segment: Segment, segments: Sequence[Segment], x_ND: Tensor) -> Tensor | None:
    """What is added to the scores, S x M; None where plain causal attention does."""
    known = _known(segment, segments)
    if not known and segment.starts is None and list(segment.read) in ([], [segment.size - 1]):
        return None
    seen_SM = torch.ones(segment.size, known + segment.size, dtype=torch.bool).tril_(known)
    if segment.starts is not None:
        own_S1 = torch.tensor(segment.starts)[:, None]
        seen_SM[:, known:] &= torch.arange(segment.size)[None] >= own_S1
    return torch.zeros(seen_SM.shape, dtype=x_ND.dtype).masked_fill_(~seen_SM, float("-inf")).to(x_ND.device)


def _places(segments: Sequence[Segment]) -> list[slice]:
    places, at = [], 0
    for segment in segments:
        places.append(slice(at, at + segment.size))
        at += segment.size
    return places


def _suits_kernels(layer: Any, heads: int) -> bool:
    """Widths that are whole vectors and tiles."""
    attention, mlp = layer.self_attn, layer.mlp
    width, inner = mlp.gate_proj.in_features, mlp.gate_proj.out_features
    outs = [attention.q_proj.out_features + 2 * attention.k_proj.out_features, attention.q_proj.out_features]
    return all(size % 32 == 0 for size in (width, inner, *outs)) and attention.q_proj.out_features // heads % 32 == 0


def fits(model: nn.Module) -> bool:
    """Whether this forward is the model's own: Llama's blocks, with or without LoRA, in any quantization."""
    config: Any = model.config
    return config.model_type == "llama" and config.hidden_act == "silu"
