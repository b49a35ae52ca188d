"""The kernels in C against the same in float32, and the whole forward with and without them."""

from __future__ import annotations

import copy
import ctypes
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from ranker.engines import lean, native
from ranker.engines.lean import LeanLlama, Segment
from ranker.engines.native import Blocks, Kernels
from ranker.fit import LINEAR_LAYERS, MasterAdamW, add_lora, overwrite

ROUNDING = 2.0**-7
"""Of bfloat16, twice."""
THREADS = 60


@pytest.fixture(params=["tiles", "vectors"])
def ours(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """Both kinds where the processor has both: the second is what AMD runs."""
    if not torch.cpu._is_avx512_bf16_supported() or not (shutil.which("cc") or shutil.which("gcc")):
        pytest.skip("this machine has no compiler, or no AVX-512 BF16")
    if request.param == "tiles" and not torch.cpu._is_amx_tile_supported():
        pytest.skip("this processor has no AMX")
    sets = {"tiles": native.TILES, "vectors": native.VECTORS}[request.param]
    made = native.opened(tmp_path_factory.getbasetemp() / "kernels", sets)
    assert made is not None
    return made


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)


def assert_near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.float(), expected, rtol=ROUNDING, atol=ROUNDING)


def test_the_norm_is_rms_norm(ours: Kernels) -> None:
    x, weight = drawn(37, 96), drawn(96, seed=1)
    assert_near(ours.norm(x, weight, 1e-5), F.rms_norm(x.float(), (96,), weight.float(), 1e-5))


def test_gated_is_silu_of_the_first_half_times_the_second(ours: Kernels) -> None:
    x = 20 * drawn(5, 64)
    gate, up = x.float().chunk(2, dim=-1)
    assert_near(ours.gated(x), F.silu(gate) * up)


def test_rotation_turns_the_first_heads_and_leaves_the_others(ours: Kernels) -> None:
    z, cos, sin = drawn(7, 5, 64), torch.rand(7, 32), torch.rand(7, 32)
    one, other = z.float()[:, :3].chunk(2, dim=-1)
    expected = torch.cat([one * cos[:, None] - other * sin[:, None], other * cos[:, None] + one * sin[:, None]], -1)
    found = z.clone()
    ours.rotate_(found, cos, sin, 3)
    assert_near(found[:, :3], expected)
    assert torch.equal(found[:, 3:], z[:, 3:])


@pytest.mark.parametrize("tokens", [0, 1, 31, 32, 33, 100, 1300])
@pytest.mark.parametrize(("width", "outs"), [(32, 64), (96, 96), (1536, 160)])
def test_a_product_is_a_product_with_what_follows(ours: Kernels, tokens: int, width: int, outs: int) -> None:
    x, weight, residual = drawn(tokens, width), drawn(outs, width, seed=1), drawn(tokens, outs, seed=2)
    x = x / width**0.5
    expected = x.float() @ weight.float().T
    for paired in (False, True):
        laid = ours.laid_out(weight, paired)
        assert_near(ours.product(x, laid, paired), expected)
        assert_near(ours.product(x, laid, paired, residual), expected + residual.float())
    gate, up = expected.chunk(2, dim=-1)
    assert_near(ours.product(x, ours.laid_out(weight, True), True, gated=True), F.silu(gate) * up)


def attended(ours: Kernels, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    told = torch.empty(len(q), q[0].numel(), dtype=q.dtype)
    ours.attend(q, k, v, told)
    return told


@pytest.mark.parametrize(
    ("queries", "keys", "heads", "kv_heads", "width"),
    [
        (1, 1, 2, 1, 32),
        (1, 77, 2, 2, 64),
        (31, 31, 3, 1, 32),
        (33, 65, 9, 3, 64),
        (200, 200, 4, 2, 64),
        (64, 129, 4, 4, 128),
    ],
)
def test_attention_is_causal_and_sees_what_came_before(
    ours: Kernels, queries: int, keys: int, heads: int, kv_heads: int, width: int
) -> None:
    z, k, v = (
        drawn(queries, heads + 2, width),
        drawn(keys, kv_heads, width, seed=1),
        drawn(keys, kv_heads, width, seed=2),
    )
    seen = torch.ones(queries, keys, dtype=torch.bool).tril_(keys - queries)
    told = F.scaled_dot_product_attention(
        *(x.float().transpose(0, 1)[None] for x in (z[:, :heads], k, v)), attn_mask=seen, enable_gqa=True
    )
    found = attended(ours, z[:, :heads], k, v)
    assert_near(found, told[0].transpose(0, 1).flatten(1))


@pytest.mark.parametrize(
    ("shared", "sizes"), [(0, [3, 40]), (1, [1, 1, 1]), (96, [50, 7, 33]), (200, [20] * 20), (300, [150, 1, 20])]
)
def test_branches_see_their_head_and_themselves(ours: Kernels, shared: int, sizes: list[int]) -> None:
    tokens, heads = sum(sizes), 3
    starts = torch.cat([torch.full((size,), shared + sum(sizes[:n])) for n, size in enumerate(sizes)])
    z = drawn(tokens, heads, 64)
    k, v = drawn(shared + tokens, 1, 64, seed=1), drawn(shared + tokens, 1, 64, seed=2)
    keys = torch.arange(shared + tokens)
    seen = (keys < shared) | (keys >= starts[:, None]) & (keys <= shared + torch.arange(tokens)[:, None])
    expected = F.scaled_dot_product_attention(
        *(x.float().transpose(0, 1)[None] for x in (z, k, v)), attn_mask=seen, enable_gqa=True
    )
    found = torch.empty(tokens, heads * 64, dtype=z.dtype)
    ours.attend(z, k, v, found, shared, starts)
    assert_near(found, expected[0].transpose(0, 1).flatten(1))


@pytest.mark.parametrize(("blocks", "own", "queries"), [(1, 1, 1), (3, 40, 40), (25, 33, 7)])
def test_known_tokens_are_read_where_they_are(ours: Kernels, blocks: int, own: int, queries: int) -> None:
    """Of the second of three layers."""
    known = [drawn(3, 2, 16, 2, 64, seed=n) for n in range(blocks)]
    q, k, v = drawn(queries, 4, 64, seed=50), drawn(own, 2, 64, seed=51), drawn(own, 2, 64, seed=52)
    keys, values = (torch.cat([*(block[1, which] for block in known), now]) for which, now in enumerate((k, v)))
    found = torch.empty(queries, 4 * 64, dtype=q.dtype)
    ours.attend(q, k, v, found, before=Blocks(known), layer=1)
    assert torch.equal(found, attended(ours, q, keys, values))


@pytest.mark.parametrize(("rows", "width", "outs"), [(1, 32, 16), (3, 96, 4096), (16, 576, 1040)])
def test_the_log_sum_is_of_the_exponentials_of_all_products(ours: Kernels, rows: int, width: int, outs: int) -> None:
    x, weight = drawn(rows, width), drawn(outs, width, seed=1)
    x[0] *= 20
    expected = torch.logsumexp(x.float() @ weight.float().T, dim=-1)
    torch.testing.assert_close(ours.log_sum(x, weight), expected, rtol=1e-4, atol=1e-3)
    assert torch.equal(ours.log_sum(x, weight), ours.log_sum(x, weight))


def test_large_scores_overflow_nothing(ours: Kernels) -> None:
    q, k, v = 100 * drawn(40, 1, 32), 100 * drawn(40, 1, 32, seed=1), drawn(40, 1, 32, seed=2)
    assert torch.isfinite(attended(ours, q, k, v)).all()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="counts with glibc's mallinfo2")
def test_what_a_thread_kept_is_freed_when_it_ends(ours: Kernels) -> None:
    q, k, v = drawn(64, 1, 64), drawn(64, 1, 64, seed=1), drawn(64, 1, 64, seed=2)
    told = [torch.empty(64, 64, dtype=q.dtype) for _ in range(THREADS)]

    def in_threads() -> int:
        for out in told:
            thread = Thread(target=ours.attend, args=(q, k, v, out))
            thread.start()
            thread.join()
        return bytes_in_use()

    before = in_threads()
    assert in_threads() - before < THREADS * 8192


def bytes_in_use() -> int:
    """Of all arenas."""
    fields = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    info = type("mallinfo2", (ctypes.Structure,), {"_fields_": [(name, ctypes.c_size_t) for name in fields]})
    told = ctypes.CDLL(None).mallinfo2
    told.restype = info
    return int(told().uordblks)


def llama(**changes: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4}
    told = {"num_key_value_heads": 2, "initializer_range": 0.1, "vocab_size": 300}
    return LlamaForCausalLM(LlamaConfig(**told, **sizes, **changes)).eval()


def run(model: LlamaForCausalLM) -> tuple[Tensor, LeanLlama]:
    """A prompt, one behind known keys and values, two branches behind them, and two behind a head that is."""
    made = LeanLlama(model)
    prompt = torch.randint(4, 300, (90,), generator=torch.Generator().manual_seed(1))
    table = model.get_input_embeddings()
    with torch.inference_mode():
        _, [known] = made.run(table(prompt[:48]), [Segment(48, [47], keep=48)])
        segments = [
            Segment(90, [89]),
            Segment(42, [41], known=[known]),
            Segment(10, [3, 9], known=[known], starts=[0] * 4 + [4] * 6),
            Segment(22, [], known=[known], keep=16),
            Segment(20, [11, 19], follows=True, starts=[0] * 12 + [12] * 8, positions=[*range(70, 82), *range(70, 78)]),
        ]
        tokens = torch.cat([prompt, prompt[48:], prompt[48:58], prompt[48:70], prompt[70:82], prompt[:8]])
        states_ND, kept = made.run(table(tokens), segments)
        alone, [again] = made.run(table(torch.cat([prompt[:70], prompt[:8]])), [Segment(78, [77], keep=64)])
        assert kept[3] is not None
        assert again is not None
        assert float((kept[3] - again[:, :, 48:]).float().abs().max()) < 0.15
        assert float((states_ND[-1] - alone[0]).float().abs().max()) < 0.15
    return states_ND.float(), made


def test_the_forward_is_the_same_with_and_without(ours: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = llama()
    rounded = copy.deepcopy(exact).to(torch.bfloat16)
    expected, _ = run(exact)
    monkeypatch.setattr(lean, "kernels", lambda: ours)
    found, made = run(rounded)
    assert made.native is not None
    monkeypatch.setattr(lean, "kernels", lambda: None)
    without, _ = run(rounded)

    assert apart(found, expected) < 0.05
    assert apart(found, expected) < 1.5 * apart(without, expected) + 0.005
    assert float((found[0] - found[1]).abs().max()) < 0.15


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def adapted(model: LlamaForCausalLM, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            overwrite(parameter, 0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("rank", [0, 5, 20])
def test_whole_layers_are_what_their_kernels_make_one_by_one(
    ours: Kernels, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    """Two of three, for the last is another matter. Five times three ranks fit into one tile, twenty do not."""
    monkeypatch.setattr(lean, "kernels", lambda: ours)
    rounded = llama().to(torch.bfloat16)
    if rank:
        add_lora(rounded, rank=rank, alpha=2 * rank, dropout=0.0, targets=LINEAR_LAYERS, first_layer=1)
        adapted(rounded, 3)
    found, made = run(rounded)
    assert len(made.whole_layers) == 2
    monkeypatch.setattr(lean.Layer, "whole", property(lambda layer: False))
    one_by_one, made = run(rounded)
    assert len(made.whole_layers) == 0
    assert torch.equal(found, one_by_one)


@pytest.mark.parametrize("rank", [1, 8, 20])
def test_lora_counts_as_it_stands_in_the_modules(ours: Kernels, monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    monkeypatch.setattr(lean, "kernels", lambda: ours)
    exact = llama()
    plain, _ = run(exact)
    add_lora(exact, rank=rank, alpha=2 * rank, dropout=0.0, targets=LINEAR_LAYERS)
    adapted(exact, 4)
    rounded = copy.deepcopy(exact).to(torch.bfloat16)
    expected, _ = run(exact)
    monkeypatch.setattr(lean, "kernels", lambda: None)
    without, _ = run(rounded)
    monkeypatch.setattr(lean, "kernels", lambda: ours)
    found, made = run(rounded)
    assert apart(found, expected) < 1.2 * apart(without, expected) + 0.005
    assert apart(plain, expected) > 0.2
    for change in (lambda: adapted(rounded, 5), lambda: descended(rounded)):
        before = states(rounded, made)
        change()
        assert torch.equal(states(rounded, made), states(rounded, LeanLlama(rounded)))
        assert not torch.equal(states(rounded, made), before)


def descended(model: LlamaForCausalLM) -> None:
    """One step, as training takes it."""
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = MasterAdamW(weights)
    model(torch.arange(4, 40)[None]).logits.float().square().mean().backward()
    optimizer.step(0.1, 1.0)


def states(model: LlamaForCausalLM, made: LeanLlama) -> Tensor:
    prompt = torch.randint(4, 300, (90,), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return made.run(model.get_input_embeddings()(prompt), [Segment(90, [89])])[0].float()


def test_a_biased_gate_is_left_to_torch(ours: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean, "kernels", lambda: ours)
    exact = llama(mlp_bias=True)
    for name, parameter in exact.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    expected, _ = run(exact)
    found, made = run(copy.deepcopy(exact).to(torch.bfloat16))
    assert made.native is not None
    assert len(made.whole_layers) == 0
    assert apart(found, expected) < 0.05


def test_blocks_of_other_sizes_are_refused() -> None:
    for sizes in ((16, 32), (5,)):
        with pytest.raises(ValueError, match="one size, a multiple of 16"):
            Blocks([drawn(1, 2, size, 1, 32) for size in sizes])


@pytest.mark.parametrize("rows", [1, lean.FEW, lean.FEW + 1])
@pytest.mark.parametrize("outs", [48, 50])
def test_a_log_sum_is_the_same_by_either_way(ours: Kernels, rows: int, outs: int) -> None:
    head, x = torch.nn.Linear(96, outs, bias=False).to(torch.bfloat16), drawn(rows, 96)
    with torch.inference_mode():
        torch.testing.assert_close(lean.log_sum(x, head, ours), lean.log_sum(x, head, None), rtol=0.01, atol=0.01)


def test_without_a_compiler_there_are_none_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ours: Kernels
) -> None:
    monkeypatch.setenv("TANDEM_KERNELS", str(tmp_path / "none"))
    monkeypatch.setenv("CC", str(tmp_path / "no-compiler"))
    assert native.kernels.__wrapped__() is None
    assert "no kernels of our own" in caplog.text
    assert not list(tmp_path.rglob("*.so"))


def test_a_compiler_that_knows_no_tiles_makes_those_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ours: Kernels
) -> None:
    def opened(folder: Path, sets: Sequence[str]) -> Kernels:
        if sets == native.TILES:
            raise subprocess.CalledProcessError(1, "cc")
        return ours

    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(native, "opened", opened)
    assert native.kernels.__wrapped__() is ours
    assert "with amx-bf16" in caplog.text


def test_they_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_KERNELS", "off")
    assert native.kernels.__wrapped__() is None
