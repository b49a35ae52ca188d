"""A Llama's forward for inference: prompts of any lengths side by side without padding, keys and values that are known
already taken instead of computed, and behind the last attention only the rows that somebody reads.

Equal to transformers' own forward (tests/ranker/engines/test_lean.py), from which it takes weights and rotary angles.

Shapes:  N tokens of all segments  S of one segment  P known before it  D hidden width  h of one head  L layers
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ranker.engines.linear import Linear, packs, versions
from ranker.engines.native import Blocks, Kernels, Sizes, kernels

FEW = 16
"""Up to so many rows reading the head's weights takes longer than its products."""


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Tokens that stand one after another, each seeing those before it.

    known: keys and values of what stands before the first token, blocks of L x 2 x T x kv heads x h, for the kernels of
    one size that 16 divides. follows: the segment right before it in the same call stands there, and what that one
    knows. positions: of the tokens, where they are not simply the next.
    starts: where the tokens are branches side by side, per token the place of its branch's first; it sees that branch
    up to itself, and all that is known. read: the tokens whose states are wanted. keep: of how many first tokens keys
    and values are wanted.
    """

    size: int
    read: Sequence[int]
    known: Sequence[Tensor] = ()
    follows: bool = False
    positions: Sequence[int] | None = None
    starts: Sequence[int] | None = None
    keep: int = 0

    def __post_init__(self) -> None:
        """The kernels look nothing up: what is not there would be read all the same."""
        for name in ("positions", "starts"):
            told = getattr(self, name)
            if told is not None and len(told) != self.size:
                raise ValueError(f"{len(told)} {name} of {self.size} tokens")
        if self.keep > self.size or not all(0 <= place < self.size for place in self.read):
            raise ValueError(f"keep={self.keep}, read={list(self.read)}: of {self.size} tokens")


@dataclass(slots=True, eq=False)
class Placed:
    """A segment in one call. rows: its tokens among all. seen: these and those before them in the same call. known: how
    many tokens stand before its first. before, blocks: keys and values of other calls, the latter for the kernels."""

    segment: Segment
    rows: slice
    seen: slice
    known: int
    before: Sequence[Tensor]
    blocks: Blocks | None
    starts_S: Tensor | None = None
    """Of the branches, among all that is seen."""
    _mask_SM: Tensor | None = None

    def __post_init__(self) -> None:
        if self.segment.starts is not None:
            self.starts_S = torch.tensor(self.segment.starts) + self.known

    def mask(self, x_ND: Tensor, only: Sequence[int] | None) -> Tensor | None:
        """What is added to the scores of all the segment's tokens, or of some, S x M, as x_ND is; None where there is
        plain causal attention, or one token that sees everything."""
        size, starts = self.segment.size, self.starts_S
        if starts is None and (only == [size - 1] or (only is None and not self.known)):
            return None
        if only is None and self._mask_SM is not None:
            return self._mask_SM
        places_S, all_M = torch.arange(size)[slice(None) if only is None else only], torch.arange(self.known + size)
        seen_SM = all_M <= self.known + places_S[:, None]
        if starts is not None:
            seen_SM &= (all_M < self.known) | (all_M >= starts[places_S][:, None])
        bias_SM = torch.zeros(seen_SM.shape, dtype=x_ND.dtype).masked_fill_(~seen_SM, float("-inf")).to(x_ND.device)
        if only is None:
            self._mask_SM = bias_SM
        return bias_SM


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

    @property
    def linears(self) -> list[Linear]:
        """As one forward meets them, with native kernels."""
        return [self.qkv, self.out, self.both, self.down]

    @property
    def whole(self) -> bool:
        """Whether the kernels are all of it: nothing is quantized or has a bias."""
        return self.native is not None and all(linear.native for linear in self.linears)

    @property
    def adapters(self) -> list[Tensor]:
        return [weight for linear in self.linears for weight in linear.adapters] if self.native else []

    @property
    def pointers(self) -> list[int]:
        """As forward.c reads a layer."""
        norms = [self.before.weight.data_ptr(), self.between.weight.data_ptr()]
        return norms + [pointer for linear in self.linears for pointer in linear.pointers]

    def mlp(self, x_ND: Tensor) -> Tensor:
        y_ND = norm(x_ND, self.between, self.native)
        if self.native:
            gated_NI = self.both.gated(y_ND) if self.both.native else self.native.gated(self.both(y_ND))
            return self.down.plus(gated_NI, x_ND)
        if self.gate.fuses and self.up.fuses:
            return self.down.plus(self.up.times(y_ND, self.gate(y_ND, then="swish")), x_ND)
        return self.down.plus(F.silu(self.gate(y_ND)).mul_(self.up(y_ND)), x_ND)


class LeanLlama:
    """Over a frozen backbone. LoRA that is trained meanwhile counts: its tensors' versions tell that they changed."""

    def __init__(self, model: Any) -> None:
        config, inner = model.config, model.model
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.width = inner.layers[0].self_attn.q_proj.out_features // self.heads
        weight = inner.norm.weight
        pack = packs(weight.device, weight.dtype, inner.layers)
        self.native = kernels() if pack and _suits_kernels(inner.layers[0], self.heads) else None
        self.layers = [Layer(module, pack, self.native) for module in inner.layers]
        self.adapters = [weight for layer in self.layers for weight in layer.adapters]
        self.versions = versions(self.adapters)
        self.whole_layers = self._whole()
        """Of those, from the first on and without the last, of which the kernels are all: a row each for forward.c."""
        self.angles, self.norm = inner.rotary_emb, inner.norm

    @torch.inference_mode()
    def run(self, x_ND: Tensor, segments: Sequence[Segment]) -> tuple[Tensor, list[Tensor | None]]:
        """Final-norm states of the tokens read, segment after segment; and per segment what it should keep: L x 2 x
        keep x kv heads x h."""
        if self.native:
            self._lay_out_again()
        placed = _placed(segments, self.native is not None)
        angles = self._angles(x_ND, placed)
        shape = len(self.layers), 2
        kept = [x_ND.new_empty(*shape, s.keep, self.kv_heads, self.width) if s.keep else None for s in segments]
        done = len(self.whole_layers)
        if self.native and done:
            x_ND = self._whole_layers(self.native, x_ND, placed, angles, kept)
        for number, layer in enumerate(self.layers[done:], start=done):
            last = number == len(self.layers) - 1
            z_ND = layer.qkv(norm(x_ND, layer.before, self.native))
            z_NHh = z_ND.unflatten(-1, (self.heads + 2 * self.kv_heads, -1))
            qk_NHh = self._turned(z_NHh, *angles)
            q_NHh, k_NKh = qk_NHh[:, : self.heads], qk_NHh[:, self.heads :]
            v_NKh = z_NHh[:, -self.kv_heads :]
            for one, kept_L2PKh in zip(placed, kept, strict=True):
                if kept_L2PKh is not None:
                    rows = slice(one.rows.start, one.rows.start + one.segment.keep)
                    kept_L2PKh[number, 0], kept_L2PKh[number, 1] = k_NKh[rows], v_NKh[rows]
            if last:
                x_ND = x_ND[[one.rows.start + place for one in placed for place in one.segment.read]]
            told_ND, at = x_ND.new_empty(len(x_ND), q_NHh[0].numel()), 0
            for one in placed:
                count = len(one.segment.read) if last else one.segment.size
                if count:
                    self._attend(number, one, q_NHh, k_NKh, v_NKh, told_ND[at : at + count])
                at += count
            x_ND = layer.mlp(layer.out.plus(told_ND, x_ND))
        return norm(x_ND, self.norm, self.native), kept

    def _whole(self) -> Tensor:
        whole = list(itertools.takewhile(lambda layer: layer.whole, self.layers[:-1]))
        self.rank = max((linear.lora.rank for layer in whole for linear in layer.linears if linear.lora), default=0)
        return torch.tensor([layer.pointers for layer in whole])

    def _lay_out_again(self) -> None:
        """Where adapters are trained meanwhile."""
        if (now := versions(self.adapters)) != self.versions:
            for layer in self.layers:
                for linear in layer.linears:
                    linear.lay_out()
            self.versions, self.whole_layers = now, self._whole()

    def _whole_layers(
        self,
        native: Kernels,
        x_ND: Tensor,
        placed: Sequence[Placed],
        angles: tuple[Tensor, Tensor],
        kept: Sequence[Tensor | None],
    ) -> Tensor:
        spans = [
            [
                one.rows.start,
                one.segment.size,
                one.rows.start - one.seen.start,
                one.blocks.tokens if one.blocks else 0,
                one.blocks.pointers_N.data_ptr() if one.blocks else 0,
                one.starts_S.data_ptr() if one.starts_S is not None else 0,
                keep.data_ptr() if keep is not None else 0,
                one.segment.keep,
            ]
            for one, keep in zip(placed, kept, strict=True)
        ]
        first = self.layers[0]
        block = Blocks.size_of([one.blocks for one in placed if one.blocks])
        inner = first.down.plain[0].in_features
        sizes = Sizes(inner, self.heads, self.kv_heads, self.width, block)
        eps = first.before.variance_epsilon
        return native.forward(self.whole_layers, torch.tensor(spans), x_ND, sizes, self.rank, eps, *angles)

    def _attend(self, number: int, one: Placed, q_NHh: Tensor, k_NKh: Tensor, v_NKh: Tensor, told_SD: Tensor) -> None:
        """Into told_SD; of the last layer only the rows that are read."""
        segment = one.segment
        q_SHh, k_MKh, v_MKh = q_NHh[one.rows], k_NKh[one.seen], v_NKh[one.seen]
        only = list(segment.read) if number == len(self.layers) - 1 else None
        if self.native and (only is None or (only == [segment.size - 1] and segment.starts is None)):
            queries = q_SHh[-1:] if only else q_SHh
            self.native.attend(queries, k_MKh, v_MKh, told_SD, one.known, one.starts_S, one.blocks, number)
            return
        mask_SM = one.mask(q_SHh, only)
        if only is not None:
            q_SHh = q_SHh[only]
        if one.before:
            k_MKh, v_MKh = (
                torch.cat([*(block[number, which] for block in one.before), now])
                for which, now in enumerate((k_MKh, v_MKh))
            )
        told_SD.copy_(attend(q_SHh, k_MKh, v_MKh, mask_SM))

    def _angles(self, x_ND: Tensor, placed: Sequence[Placed]) -> tuple[Tensor, Tensor]:
        """What `_turned` wants of the tokens' places: for the kernels float32, of half a head's width; otherwise
        cosines and sines, these negative in the first half, N x 1 x h."""
        positions: list[int] = []
        for one in placed:
            following = range(one.known, one.known + one.segment.size)
            positions += one.segment.positions if one.segment.positions is not None else following
        places_1N = torch.tensor([positions], device=x_ND.device)
        like = torch.empty(0, dtype=torch.float32) if self.native else x_ND
        cos_1Nh, sin_1Nh = self.angles(like, places_1N)
        half = self.width // 2
        if self.native:
            return cos_1Nh[0, :, :half].contiguous(), sin_1Nh[0, :, :half].contiguous()
        signed_1Nh = torch.cat([-sin_1Nh[..., :half], sin_1Nh[..., half:]], dim=-1)
        return cos_1Nh[0][:, None], signed_1Nh[0][:, None]

    def _turned(self, z_NHh: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """From queries, keys and values of all tokens to the queries and keys, turned by their places."""
        if self.native:
            self.native.rotate_(z_NHh, cos, sin, self.heads + self.kv_heads)
            return z_NHh[:, : -self.kv_heads]
        return turned(z_NHh[:, : -self.kv_heads], cos, sin)


def norm(x_ND: Tensor, module: Any, native: Kernels | None) -> Tensor:
    if native:
        return native.norm(x_ND, module.weight, module.variance_epsilon)
    x = x_ND.float()
    mean_N1 = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
    return (x * torch.rsqrt(mean_N1 + module.variance_epsilon)).to(x_ND.dtype).mul_(module.weight)


def log_sum(x_BD: Tensor, head: Any, native: Kernels | None) -> Tensor:
    """B: log sum exp over the whole vocabulary, of which all is read."""
    if native and len(x_BD) <= FEW and type(head) is nn.Linear and head.bias is None:
        weight_VD = head.weight
        suits = weight_VD.dtype == torch.bfloat16 and weight_VD.is_contiguous()
        if suits and weight_VD.shape[0] % 16 == 0 and weight_VD.shape[1] % 32 == 0:
            return native.log_sum(x_BD, weight_VD)
    return torch.logsumexp(head(x_BD).float(), dim=-1)


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


def _placed(segments: Sequence[Segment], native: bool) -> list[Placed]:
    made: list[Placed] = []
    at = 0
    for segment in segments:
        end = at + segment.size
        if segment.follows:
            before = made[-1]
            seen, known = slice(before.seen.start, end), before.known + before.segment.size
            made.append(Placed(segment, slice(at, end), seen, known, before.before, before.blocks))
        else:
            known = sum(block.shape[2] for block in segment.known)
            blocks = Blocks(segment.known) if native and segment.known else None
            made.append(Placed(segment, slice(at, end), slice(at, end), known, segment.known, blocks))
        at = end
    return made


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
