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

import torch
from torch import Tensor

from shared.data.wheel import cache_folder

SOURCES = [Path(__file__).with_name(name) for name in ("bf16.h", "tiles.h", "kernels.c", "products.c")]
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
        library.attend.argtypes = [*[ctypes.c_void_p] * 4, *[ctypes.c_long] * 9, ctypes.c_void_p]
        library.lay_out.argtypes = [*[ctypes.c_void_p] * 2, *[ctypes.c_long] * 2, ctypes.c_int]
        library.product.argtypes = [*[ctypes.c_void_p] * 4, *[ctypes.c_long] * 3, *[ctypes.c_int] * 2]

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
        self, x_ND: Tensor, laid_OD: Tensor, paired: bool, residual_NO: Tensor | None = None, gated: bool = False
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
        if self._library.product(x_ND.data_ptr(), laid_OD.data_ptr(), told, y_NO.data_ptr(), *sizes, paired, kind):
            raise MemoryError(f"a product of {sizes}: no memory for its scratch")
        return y_NO

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
    ) -> None:
        """Into told_SD, S x H h: the last S keys are the queries' own, and each query sees all up to its own. With
        starts_S (int64, never falling) it sees of these the first `shared` and those from its start on."""
        (n, heads, width), (m, kv_heads, _) = q_SHh.shape, k_MKh.shape
        pointers = [tensor.data_ptr() for tensor in (q_SHh, k_MKh, v_MKh, told_SD)]
        strides = [tensor.stride(0) for tensor in (q_SHh, k_MKh, v_MKh)]
        sizes = n, m, heads, kv_heads, width
        starts = 0 if starts_S is None else starts_S.data_ptr()
        if self._library.attend(*pointers, *sizes, *strides, shared, starts):
            raise MemoryError(f"attention of {n} tokens to {m}: no memory for its scratch")


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
    try:
        return next((made for sets in kinds if (made := opened(folder, sets))), None)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("no kernels of our own, torch's operators instead: %s", error)
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
