"""The report: each gateway beside the bare route of its own round; and, where it is real, what is compared is equal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.bench import gateway, plots
from services.bench.gateway import VARIANTS, Settings, Trial, Variant, bodies, history, report_of, servers
from services.bench.load import Measured
from shared.wire.recommend import RecommendRequest

SETTINGS = Settings(rounds=2, seconds=0.2, connections=2, load=0.5, users=3)


def measured(per_second: float, p99_ms: float) -> Measured:
    return Measured(
        requests=1, failed=0, seconds=1.0, per_second=per_second, p50_ms=p99_ms / 2, p99_ms=p99_ms, lag_ms_p99=0.0
    )


def trial(variant: Variant, number: int, per_second: float, p99_ms: float) -> Trial:
    one = measured(per_second, p99_ms)
    return Trial(variant.name, number, one, 1e6 / per_second, 1.0, one, load_average=0.0)


def trials(speeds: tuple[float, ...]) -> list[Trial]:
    """The gateway has half the throughput and 3 ms more, on a machine whose speed changes from round to round."""
    return [
        trial(variant, number, speed, 1.0) if variant.subject == "bare" else trial(variant, number, speed / 2, 4.0)
        for number, speed in enumerate(speeds)
        for variant in VARIANTS
    ]


def test_a_machine_that_slows_down_changes_no_ratio() -> None:
    for rounds in ((1000.0, 1000.0, 1000.0), (1000.0, 10.0, 300.0)):
        report = report_of(SETTINGS, trials(rounds))
        assert {one["throughput_ratio"] for one in report["beside_bare"].values()} == {0.5}
        assert {one["added_p99_ms"] for one in report["beside_bare"].values()} == {3.0}


def test_the_bare_route_is_compared_with_nothing() -> None:
    report = report_of(SETTINGS, trials((1.0,)))
    assert set(report["beside_bare"]) == {"memory, stored", "redis, stored", "memory, sent", "redis, sent"}


def test_stored_and_sent_histories_are_the_same() -> None:
    sent = [RecommendRequest.model_validate_json(body) for body in bodies(SETTINGS, "sent")]
    assert [request.history for request in sent] == [history(n) for n in range(3)]
    assert len({body for asked in ("stored", "sent") for body in bodies(SETTINGS, asked)}) == 6


def test_the_report_is_json_and_can_be_drawn(tmp_path: Path) -> None:
    report = json.loads(json.dumps(report_of(SETTINGS, trials((1.0, 2.0)))))
    plots.gateway(report, tmp_path / "folder" / "gateway.png")
    assert (tmp_path / "folder" / "gateway.png").stat().st_size > 10_000


@pytest.mark.real
def test_all_servers_answer_the_same_and_the_gateways_out_of_their_cache() -> None:
    with servers(SETTINGS) as running:
        for asked in ("stored", "sent"):
            answers = {
                name: json.loads(one.post(gateway.PATH, bodies(SETTINGS, asked)[0])) for name, one in running.items()
            }
            assert {(answer["cache"], answer["rung"]) for answer in answers.values()} == {("hit", "cache")}
            items = [[item["item_id"] for item in answer["items"]] for answer in answers.values()]
            assert items[0] == items[1] == items[2]
            assert len(items[0]) == 10


@pytest.mark.real
def test_a_short_run_measures_every_variant() -> None:
    heard: list[str] = []
    report = gateway.run(SETTINGS, heard.append)
    assert len(report["trials"]) == len(heard) == 12
    assert set(report["variants"]) == {variant.name for variant in VARIANTS}
    assert all(one["failed"] == 0 and one["per_second"] > 0 for one in report["variants"].values())
