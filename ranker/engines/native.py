"""Kernels in C for what stands between a Llama's matrix products on a CPU, compiled once.

With AMX (Intel since Sapphire Rapids) they multiply in tiles, with AVX-512 BF16 alone (AMD since Zen 4, Cooper Lake) in
vectors. Without a C compiler, or on another processor, there are none, and torch's own operators do the same in half as
much time again (docs/log.md). TANDEM_KERNELS=off does without them; a folder there is where they are kept. An image
without a compiler brings them: `python -m ranker.engines.native FOLDER` compiles both kinds on any x86-64.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from shared.data.wheel import cache_folder

NAMES = ("bf16.h", "tiles.h", "kernels.h", "kernels.c", "products.c", "forward.c")
SOURCES = [Path(__file__).with_name(name) for name in NAMES]
VECTORS = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512bf16", "bmi2")
TILES = (*VECTORS, "amx-tile", "amx-bf16")
COMPILE_S = 60
PLAIN, PLUS, GATED = range(3)
"""What follows a product, as products.c has it."""

log = logging.getLogger(__name__)


class Kernels:
    """Each takes bfloat16 on the CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.norm.argtypes = [*[ctypes.c_void_p] * 3, ctypes.c_long, ctypes.c_long, ctypes.c_float]
        library.rotate.argtypes = [*[ctypes.c_void_p] * 3, *[ctypes.c_long] * 4]
        library.gated.argtypes = [*[ctypes.c_void_p] * 2, *[ctypes.c_long] * 2]
        pointer, number = ctypes.c_void_p, ctypes.c_long
        library.attend.argtypes = [*[pointer] * 4, *[number] * 9, *[pointer] * 2, *[number] * 3]
        library.log_sum.argtypes = [*[pointer] * 3, *[number] * 3]
        library.forward.argtypes = [pointer, number, pointer, ctypes.c_float, *[pointer] * 3, number, *[pointer] * 3]
        library.lay_out.argtypes = [*[ctypes.c_void_p] * 2, *[ctypes.c_long] * 2, ctypes.c_int]
        library.product.argtypes = [
            *[pointer] * 4,
            *[number] * 3,
            *[ctypes.c_int] * 2,
            *[pointer] * 2,
            number,
            pointer,
            number,
        ]

    def norm(self, x_ND: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        x_ND = x_ND.contiguous()
        y_ND = torch.empty_like(x_ND)
        self._library.norm(x_ND.data_ptr(), weight_D.data_ptr(), y_ND.data_ptr(), *x_ND.shape, eps)
        return y_ND

    def rotate_(self, z_NHh: Tensor, cos_Nh: Tensor, sin_Nh: Tensor, heads: int) -> None:
        """The first `heads` in place. cos_Nh, sin_Nh: float32, of half a head's width."""
        n, _, width = z_NHh.shape
        told = z_NHh.data_ptr(), cos_Nh.data_ptr(), sin_Nh.data_ptr()
        self._library.rotate(*told, n, z_NHh.stride(0), heads, width)

    def laid_out(self, weight_OD: Tensor, paired: bool) -> Tensor:
        """As `product` reads it. paired: the first half of the outputs goes with the second, as in a gated unit."""
        weight_OD = weight_OD.contiguous()
        laid_OD = torch.empty_like(weight_OD)
        outs, width = weight_OD.shape
        self._library.lay_out(weight_OD.data_ptr(), laid_OD.data_ptr(), width, outs, paired)
        return laid_OD

    def product(
        self,
        x_ND: Tensor,
        laid_OD: Tensor,
        paired: bool,
        residual_NO: Tensor | None = None,
        gated: bool = False,
        lora: Lora | None = None,
    ) -> Tensor:
        """x W, and the residual on top of it; or, of paired weights, silu of the first half times the second."""
        x_ND = x_ND.contiguous()
        outs, width = laid_OD.shape
        y_NO = x_ND.new_empty(len(x_ND), outs // 2 if gated else outs)
        kind = GATED if gated else PLAIN
        told = 0
        if residual_NO is not None:
            residual_NO = residual_NO.contiguous()
            kind, told = PLUS, residual_NO.data_ptr()
        sizes = len(x_ND), width, outs
        pointers = x_ND.data_ptr(), laid_OD.data_ptr(), told, y_NO.data_ptr()
        low_NR = self.product(x_ND, lora.down_RD, False) if lora else None
        more = (0, 0, 0)
        if lora and low_NR is not None:
            more = low_NR.data_ptr(), lora.up_OR.data_ptr(), lora.rank
        if self._library.product(*pointers, *sizes, paired, kind, *more, 0, 0):
            raise MemoryError(f"a product of {sizes}: no memory for its scratch")
        return y_NO

    def log_sum(self, x_BD: Tensor, weight_VD: Tensor) -> Tensor:
        """B, float32: log sum exp of each row's products with all of the weights. For few rows: what takes the time is
        reading the weights, where they are."""
        x_BD = x_BD.contiguous()
        y_B = torch.empty(len(x_BD))
        pointers = x_BD.data_ptr(), weight_VD.data_ptr(), y_B.data_ptr()
        if self._library.log_sum(*pointers, *x_BD.shape, len(weight_VD)):
            raise MemoryError(f"a log sum of {len(x_BD)} rows: no memory for its scratch")
        return y_B

    def gated(self, x_NI: Tensor) -> Tensor:
        """silu of the first half times the second."""
        n, both = x_NI.shape
        y_NI = x_NI.new_empty(n, both // 2)
        self._library.gated(x_NI.data_ptr(), y_NI.data_ptr(), n, both // 2)
        return y_NI

    def attend(
        self,
        q_SHh: Tensor,
        k_MKh: Tensor,
        v_MKh: Tensor,
        told_SD: Tensor,
        shared: int = 0,
        starts_S: Tensor | None = None,
        before: Blocks | None = None,
        layer: int = 0,
    ) -> None:
        """Into told_SD, S x H h: the last S keys are the queries' own, and each query sees all up to its own. With
        starts_S (int64, never falling) it sees of these the first `shared` and those from its start on. before: the
        keys and values of this layer that stand before k_MKh and v_MKh; they are read where they are."""
        (n, heads, width), (m, kv_heads, _) = q_SHh.shape, k_MKh.shape
        pointers = [tensor.data_ptr() for tensor in (q_SHh, k_MKh, v_MKh, told_SD)]
        strides = [tensor.stride(0) for tensor in (q_SHh, k_MKh, v_MKh)]
        starts = 0 if starts_S is None else starts_S.data_ptr()
        known = (0, 0, 1, 0)
        if before is not None:
            known = before.pointers_N.data_ptr(), before.tokens, before.size, layer * before.layer_numbers
        sizes = n, known[1] + m, heads, kv_heads, width
        if self._library.attend(*pointers, *sizes, *strides, shared, starts, *known):
            raise MemoryError(f"attention of {n} tokens to {sizes[1]}: no memory for its scratch")

    def forward(
        self,
        layers: Tensor,
        spans: Tensor,
        x_ND: Tensor,
        sizes: Sizes,
        rank: int,
        eps: float,
        cos_Nh: Tensor,
        sin_Nh: Tensor,
    ) -> Tensor:
        """The states after these layers. layers, spans: a row for each, as forward.c has them. rank: the highest of
        LoRA's, as laid out."""
        n, d = x_ND.shape
        x_ND, y_ND = x_ND.contiguous(), torch.empty_like(x_ND)
        told = torch.tensor([n, d, *sizes])
        inner, heads, kv_heads, width, _ = sizes
        room = x_ND.new_empty(n * (2 * d + 2 * (heads + kv_heads) * width + inner + rank))
        rows = x_ND.data_ptr(), y_ND.data_ptr(), room.data_ptr()
        weights, tables = (layers.data_ptr(), len(layers)), (cos_Nh.data_ptr(), sin_Nh.data_ptr())
        if self._library.forward(*weights, told.data_ptr(), eps, *tables, spans.data_ptr(), len(spans), *rows):
            raise MemoryError(f"a forward of {n} tokens: no memory for its scratch")
        return y_ND


class Sizes(NamedTuple):
    """Of a Llama's layer, and of the blocks of known tokens."""

    inner: int
    heads: int
    kv_heads: int
    width: int
    """Of one head."""
    block: int


class Lora(NamedTuple):
    """Laid out; the rank is padded to a multiple of 32, the scale is in the second."""

    down_RD: Tensor
    up_OR: Tensor

    @property
    def rank(self) -> int:
        return len(self.down_RD)


class Blocks:
    """Keys and values, L x 2 x T x kv heads x h each, T a multiple of 16: what `attend` finds of known tokens."""

    def __init__(self, blocks_L2TKh: Sequence[Tensor]) -> None:
        self.blocks = [block.contiguous() for block in blocks_L2TKh]
        sizes = {block.shape[2] for block in self.blocks}
        if len(sizes) != 1 or min(sizes) % 16:
            raise ValueError(f"blocks of {sorted(sizes)} tokens: the kernels take one size, a multiple of 16")
        self.pointers_N = torch.tensor([block.data_ptr() for block in self.blocks])
        self.size = self.blocks[0].shape[2]
        self.tokens = self.size * len(self.blocks)
        self.layer_numbers = self.blocks[0][0].numel()

    @staticmethod
    def size_of(many: Sequence[Blocks]) -> int:
        """Of all in one call; 16 where there are none."""
        sizes = {blocks.size for blocks in many} or {16}
        if len(sizes) != 1:
            raise ValueError(f"blocks of {sorted(sizes)} tokens in one call: the kernels take one size")
        return sizes.pop()


@functools.cache
def kernels() -> Kernels | None:
    """None where this machine has no use or no compiler for them."""
    where = os.environ.get("TANDEM_KERNELS", "")
    if where == "off" or platform.system() != "Linux" or platform.machine() != "x86_64":
        return None
    if not torch.cpu._is_avx512_bf16_supported():
        return None
    folder = Path(where) if where else cache_folder() / "kernels"
    kinds = (TILES, VECTORS) if torch.cpu._is_amx_tile_supported() else (VECTORS,)
    for sets in kinds:
        try:
            if made := opened(folder, sets):
                return made
        except (OSError, subprocess.SubprocessError) as error:
            log.warning("no kernels of our own with %s: %s", sets[-1], error)
    return None


def opened(folder: Path, sets: Sequence[str]) -> Kernels | None:
    """None where the kernel of the system keeps the tiles from this process. Raises as `compiled` does."""
    library = ctypes.CDLL(str(compiled(folder, sets)))
    return Kernels(library) if library.prepare() == 0 else None


def compiled(folder: Path, sets: Sequence[str]) -> Path:
    """The library in that folder, for processors with these instruction sets. Raises OSError or SubprocessError where
    there is no compiler, or it fails."""
    flags = ("-O3", *(f"-m{name}" for name in sets), "-fopenmp", "-shared", "-fPIC")
    told = b"".join(source.read_bytes() for source in SOURCES) + " ".join(flags).encode()
    made = folder / f"{hashlib.sha256(told).hexdigest()[:16]}.so"
    if made.is_file():
        return made
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise OSError("there is no C compiler (cc, gcc or $CC)")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        draft = Path(scratch) / made.name
        units = (str(source) for source in SOURCES if source.suffix == ".c")
        command = [compiler, *flags, "-o", str(draft), *units, "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_S)  # noqa: S603
        draft.replace(made)
    return made


if __name__ == "__main__":
    for kind in (TILES, VECTORS):
        print(compiled(Path(sys.argv[1]), kind))
