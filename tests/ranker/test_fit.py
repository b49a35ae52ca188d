"""LoRA, master weights, the schedule and checkpoints: the tools that every ranker trains with."""

from __future__ import annotations

import ctypes
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ranker.fit import (
    LINEAR_LAYERS,
    MasterAdamW,
    adapter_weights,
    add_lora,
    load_checkpoint,
    save_checkpoint,
    schedule,
    set_adapter_weights,
)
from shared.errors import BadInput
from tests.ranker import tiny

IDS = torch.tensor([[5, 9, 12, 30]])


def lora(seed: int = 0, rank: int = 4, alpha: int = 6, targets: tuple[str, ...] = LINEAR_LAYERS) -> object:
    """On a fresh random model, with B no longer zero."""
    wrapped = add_lora(tiny.llama(100), rank=rank, alpha=alpha, dropout=0.0, targets=targets)
    torch.manual_seed(seed)
    set_adapter_weights(wrapped, {n: torch.randn_like(w) for n, w in adapter_weights(wrapped).items()})
    return wrapped


def logits(model: object) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits  # type: ignore[operator]


def test_a_fresh_adapter_changes_nothing() -> None:
    wrapped = add_lora(tiny.llama(100), rank=4, alpha=8, dropout=0.0, targets=LINEAR_LAYERS)
    assert torch.equal(logits(wrapped), logits(tiny.llama(100)))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"first_layer": 99}, "lora_first_layer=99: the model has"), ({"targets": ("q_projj",)}, "lora_targets=q_projj")],
)
def test_layers_and_targets_that_the_model_lacks_are_refused(wrong: dict[str, Any], said: str) -> None:
    """peft takes an empty list of layers for all of them."""
    with pytest.raises(BadInput, match=said):
        add_lora(tiny.llama(100), **({"rank": 4, "alpha": 8, "dropout": 0.0, "targets": LINEAR_LAYERS} | wrong))


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), LINEAR_LAYERS])
def test_a_merged_adapter_equals_base_plus_b_times_a(targets: tuple[str, ...]) -> None:
    """W + alpha / rank B A, computed by hand for every target and no other matrix."""
    wrapped = lora(rank=4, alpha=6, targets=targets)
    weights = adapter_weights(wrapped)
    unmerged = logits(wrapped)
    by_hand = tiny.llama(100)
    changed = 0
    for name, matrix in by_hand.named_parameters():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.default.weight" in weights:
            a, b = (weights[f"{stem}.lora_{side}.default.weight"] for side in "AB")
            matrix.data += 6 / 4 * b @ a
            changed += 1
    merged = wrapped.merge_and_unload()  # type: ignore[attr-defined]
    assert changed == 2 * len(targets)
    for (name, expected), (_, actual) in zip(by_hand.named_parameters(), merged.named_parameters(), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0, msg=name)
    torch.testing.assert_close(logits(merged), logits(by_hand), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(logits(merged), unmerged, atol=1e-3, rtol=1e-4)


def test_only_the_adapter_learns() -> None:
    wrapped = lora(targets=("q_proj",))
    learning = {n for n, p in wrapped.named_parameters() if p.requires_grad}  # type: ignore[attr-defined]
    assert learning == set(adapter_weights(wrapped))
    assert all("lora_" in name for name in learning)


def test_adapter_weights_are_copies_that_can_be_put_back() -> None:
    wrapped, before = lora(), logits(lora())
    kept = adapter_weights(wrapped)
    set_adapter_weights(wrapped, {n: w + 1 for n, w in kept.items()})
    assert not torch.allclose(logits(wrapped), before)
    set_adapter_weights(wrapped, kept)
    assert torch.equal(logits(wrapped), before)


@pytest.mark.parametrize("other", [{"rank": 8}, {"targets": ("q_proj", "v_proj")}])
def test_the_weights_of_another_adapter_are_refused(other: dict[str, object]) -> None:
    with pytest.raises(BadInput, match="do not fit"):
        set_adapter_weights(lora(), adapter_weights(lora(**other)))  # type: ignore[arg-type]


def quadratic(parameter: Tensor) -> Tensor:
    return ((parameter.float() - torch.linspace(-1, 1, parameter.numel()).view_as(parameter)) ** 2).sum()


def parameters(dtype: torch.dtype) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in ((4, 3), (7,))]


def test_on_float32_it_is_torchs_adamw_to_the_bit() -> None:
    ours, theirs = parameters(torch.float32), parameters(torch.float32)
    master = MasterAdamW(ours, weight_decay=0.1)
    adamw = torch.optim.AdamW(theirs, weight_decay=0.1)
    for step in range(20):
        rate = 0.01 * (1 + step)
        sum(map(quadratic, ours)).backward()  # type: ignore[union-attr]
        master.step(rate, clip=1.0)
        sum(map(quadratic, theirs)).backward()  # type: ignore[union-attr]
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        adamw.param_groups[0]["lr"] = rate
        adamw.step()
        adamw.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert all(parameter.grad is None for parameter in ours)


def test_bfloat16_keeps_the_small_updates_that_plain_bfloat16_loses() -> None:
    """1 + 1e-4 rounds to 1 in bfloat16: 100 such steps are 0.01, or nothing."""
    ours, plain = (torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16)) for _ in range(2))
    master, adamw = MasterAdamW([ours]), torch.optim.AdamW([plain], lr=1e-4, weight_decay=0.0)
    for _ in range(100):
        for parameter, step in ((ours, lambda: master.step(1e-4, 1.0)), (plain, adamw.step)):
            parameter.grad = torch.ones_like(parameter)
            step()
    assert torch.equal(plain, torch.ones_like(plain))
    torch.testing.assert_close(ours.float(), torch.full((3,), 0.99), atol=2**-8, rtol=0)
    torch.testing.assert_close(master.masters[0].detach(), torch.full((3,), 0.99), atol=1e-4, rtol=0)


def test_gradients_are_clipped_over_all_parameters_together() -> None:
    both = parameters(torch.float32)
    before = [p.detach().clone() for p in both]
    master = MasterAdamW(both)
    master.adamw = torch.optim.SGD(master.masters, lr=1.0)  # type: ignore[assignment]
    for parameter in both:
        parameter.grad = torch.full_like(parameter, 100.0)
    master.step(1.0, clip=2.0)
    moved = [a - b.detach() for a, b in zip(before, both, strict=True)]
    assert math.sqrt(sum(float((m**2).sum()) for m in moved)) == pytest.approx(2.0, abs=1e-3)


def test_a_parameter_without_a_gradient_stays() -> None:
    used, idle = parameters(torch.float32)
    before = idle.detach().clone()
    master = MasterAdamW([used, idle], weight_decay=0.5)
    quadratic(used).backward()
    master.step(0.1, 1.0)
    assert torch.equal(idle, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_optimizer_goes_on_as_if_it_had_never_stopped(dtype: torch.dtype) -> None:
    def steps(master: MasterAdamW, count: int) -> None:
        for _ in range(count):
            sum(map(quadratic, master.parameters)).backward()  # type: ignore[union-attr]
            master.step(0.05, 1.0)

    whole, first, second = (MasterAdamW(parameters(dtype)) for _ in range(3))
    steps(whole, 8)
    steps(first, 3)
    second.restore({name: tensor.clone() for name, tensor in first.tensors().items()})
    assert all(torch.equal(a, b) for a, b in zip(first.parameters, second.parameters, strict=True))
    steps(second, 5)
    assert all(torch.equal(a, b) for a, b in zip(whole.masters, second.masters, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters, second.parameters, strict=True))


def test_the_schedule_rises_over_the_warmup_and_ends_at_zero() -> None:
    linear = [schedule("linear", step, total=10, warmup=4) for step in range(11)]
    assert linear == pytest.approx([0.25, 0.5, 0.75, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])
    cosine = [schedule("cosine", step, total=10, warmup=4) for step in (3, 4, 7, 10)]
    assert cosine == pytest.approx([1, 1, 0.5, 0])
    assert [schedule("constant", step, total=10, warmup=2) for step in (0, 1, 2, 9, 50)] == [0.5, 1, 1, 1, 1]


@given(st.sampled_from(["linear", "cosine", "constant"]), st.integers(0, 300), st.integers(0, 200), st.integers(0, 200))
@settings(derandomize=True, deadline=None)
def test_the_schedule_stays_between_zero_and_one(kind: str, step: int, total: int, warmup: int) -> None:
    assert 0 <= schedule(kind, step, total, warmup) <= 1  # type: ignore[arg-type]


def test_a_schedule_never_starts_at_zero_and_falls_after_the_warmup() -> None:
    for kind in ("linear", "cosine"):
        rates = [schedule(kind, step, total=30, warmup=5) for step in range(30)]  # type: ignore[arg-type]
        assert rates[0] > 0
        assert rates[5:] == sorted(rates[5:], reverse=True)


def test_a_checkpoint_comes_back_with_its_random_state(tmp_path: Path) -> None:
    torch.manual_seed(3)
    save_checkpoint(tmp_path / "run", {"w": torch.arange(3.0)}, {"data": "d", "prompts": 7, "best": 0.1 + 0.2})
    expected = torch.rand(4)
    torch.manual_seed(99)
    tensors, facts = load_checkpoint(tmp_path / "run", {"data": "d"})
    assert torch.equal(tensors["w"], torch.arange(3.0))
    assert (facts["prompts"], facts["best"]) == (7, 0.1 + 0.2)
    assert torch.equal(torch.rand(4), expected)


def test_no_checkpoint_or_one_of_another_identity_is_refused_and_named(tmp_path: Path) -> None:
    identity = {"config": {"targets": ("a", "b"), "lr": 0.1}, "data": "d"}
    with pytest.raises(BadInput, match="run holds no checkpoint"):
        load_checkpoint(tmp_path / "run", identity)
    save_checkpoint(tmp_path / "run", {}, identity)
    load_checkpoint(tmp_path / "run", identity)
    with pytest.raises(BadInput, match="begun with another data"):
        load_checkpoint(tmp_path / "run", identity | {"data": "e"})
    with pytest.raises(BadInput, match="begun with another config"):
        load_checkpoint(tmp_path / "run", identity | {"config": {"targets": ("a",), "lr": 0.1}})


HOLES = """
from pathlib import Path
from resource import getpagesize
import torch
from ranker.fit import give_memory_back, keep_memory

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize() / 2**20

keep_memory()
every_other = [torch.ones(2**20) for _ in range(200)][::2]
before = resident_mib()
give_memory_back()
print(before - resident_mib(), sum(float(t.sum()) for t in every_other) / 2**20)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc's")
def test_holes_in_what_is_kept_are_given_back() -> None:
    told = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    given_mib, kept = map(float, told.stdout.split())
    assert given_mib > 300, "of 400 MiB in holes of 4"
    assert kept == 100
