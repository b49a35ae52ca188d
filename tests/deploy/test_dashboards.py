"""Every query of the dashboard, of the rules and of the adapter names metrics and labels that the services expose."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple, get_args

import promql_parser as promql
import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from services.gateway import app as gateway
from services.gateway.settings import GatewaySettings
from services.gateway.stores import NoHistories
from services.loading import batcher
from services.ranking import app as ranking
from services.ranking.settings import RankingSettings
from services.retrieval import app as retrieval
from services.retrieval.settings import RetrievalSettings
from shared.wire.base import Degradation, Rung
from shared.wire.rollout import RolloutChange
from tests import fakes
from tests.deploy.manifests import ROOT
from tests.services.asgi import client
from tests.services.test_metrics_doc import PAGE, Metric, documented

pytestmark = pytest.mark.anyio
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "tandem.json").read_text())
GROUPS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ADAPTER = yaml.safe_load((ROOT / "deploy" / "prometheus" / "adapter.yml").read_text())["rules"]["custom"]
TARGET = {"job", "instance", "namespace", "pod"}
"""Labels that Prometheus adds to what it scrapes."""
ITS_OWN = {"up": frozenset[str](), "ALERTS": frozenset({"alertname", "alertstate", "severity"})}
SUFFIXES = ("_bucket", "_sum", "_count")
VARIABLES = {"$__rate_interval": "5m", "$__range": "6h"}
RECORDED = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}


class Query(NamedTuple):
    where: str
    expression: str
    legend: str = ""


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> Iterator[Query]:
    for panel in panels():
        for target in panel["targets"]:
            yield Query(f"panel: {panel['title']}", target["expr"], target["legendFormat"])
    for annotation in DASHBOARD["annotations"]["list"]:
        yield Query(f"annotation: {annotation['name']}", annotation["expr"])
    for rule in RULES:
        yield Query(f"rule: {rule.get('record') or rule['alert']}", rule["expr"])
    for rule in ADAPTER:
        filled = rule["metricsQuery"].replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'pod="a"')
        yield Query(f"adapter: {rule['name']['as']}", filled)
        yield Query(f"adapter: {rule['name']['as']}, series", rule["seriesQuery"])


every_query = pytest.mark.parametrize("query", list(queries()), ids=lambda query: query.where)


def parse(expression: str) -> Any:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return promql.parse(expression)


def nodes(expression: str) -> list[Any]:
    found: list[Any] = []

    def visit(node: Any) -> None:
        found.append(node)

    promql.walk(parse(expression), visit)
    return found


def selectors(expression: str) -> list[Any]:
    return [node for node in nodes(expression) if isinstance(node, promql.VectorSelector)]


@cache
def every_metric() -> dict[str, Metric]:
    return documented("all", "gateway", "retrieval", "ranking", "releases")


def labels_of(name: str) -> frozenset[str] | None:
    """None where there is no such series."""
    if name in ITS_OWN:
        return ITS_OWN[name]
    if name in RECORDED:
        grouped = [node.modifier for node in nodes(RECORDED[name]) if isinstance(node, promql.AggregateExpr)]
        return frozenset(label for one in grouped if one for label in one.labels) - {"le"}
    for suffix in SUFFIXES:
        base = every_metric().get(name.removesuffix(suffix))
        if name.endswith(suffix) and base and base.type == "histogram":
            return base.labels | ({"le"} if suffix == "_bucket" else set())
    found = every_metric().get(name)
    return found.labels if found and found.type != "histogram" else None


@every_query
def test_a_query_names_series_and_labels_that_exist(query: Query) -> None:
    assert selectors(query.expression)
    for selector in selectors(query.expression):
        labels = labels_of(selector.name)
        assert labels is not None, f"nobody exposes {selector.name}"
        assert {matcher.name for matcher in selector.matchers.matchers} <= labels | TARGET, selector.name


@every_query
def test_a_query_groups_by_labels_that_are_there(query: Query) -> None:
    for node in nodes(query.expression):
        if isinstance(node, promql.AggregateExpr) and node.modifier:
            below = selectors(node.expr.prettify())
            for selector in below:
                assert set(node.modifier.labels) <= (labels_of(selector.name) or set()) | TARGET
        if isinstance(node, promql.Call) and node.func.name == "histogram_quantile":
            [over] = [one for one in node.args if isinstance(one, promql.AggregateExpr)]
            assert "le" in over.modifier.labels


@every_query
def test_a_legend_names_labels_that_are_left(query: Query) -> None:
    shown = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
    grouped = [node for node in nodes(query.expression) if isinstance(node, promql.AggregateExpr)]
    for node in grouped:
        assert shown <= set(node.modifier.labels if node.modifier else ())
    if not grouped:
        for selector in selectors(query.expression):
            assert shown <= (labels_of(selector.name) or set()) | TARGET


@every_query
def test_a_query_asks_for_values_that_a_label_can_have(query: Query) -> None:
    known = {
        "rung": get_args(Rung),
        "reason": get_args(Degradation),
        "what": get_args(RolloutChange.model_fields["what"].annotation),
        "by": get_args(RolloutChange.model_fields["by"].annotation),
    }
    for selector in selectors(query.expression):
        for matcher in selector.matchers.matchers:
            for value in matcher.value.split("|"):
                if matcher.name in known:
                    assert value in known[matcher.name]
                if matcher.name == "outcome":
                    [row] = re.findall(rf"^\| `{selector.name}` .*$", PAGE, re.MULTILINE)
                    assert re.search(rf"\b{value}\b", row), value


async def test_what_is_queried_is_exposed_by_the_running_services() -> None:
    items, registry, settings = fakes.catalog(), CollectorRegistry(), RankingSettings()
    apps = [
        gateway.create(GatewaySettings(log_level="error"), NoHistories()),
        retrieval.create(RetrievalSettings(), fakes.retrieval_service(items)),
        ranking.create(settings, fakes.ranking_service(items, batcher=batcher(settings, registry)), registry),
    ]
    found = set()
    for app in apps:
        async with client(app) as http:
            found |= exposed((await http.get("/metrics")).text)
    assert queried() <= found


def exposed(page: str) -> set[str]:
    """The series of a page of metrics, those too that have no sample yet."""
    found = set()
    for family in text_string_to_metric_families(page):
        suffixes = {"counter": ("_total",), "histogram": SUFFIXES}.get(family.type, ("",))
        found |= {family.name + suffix for suffix in suffixes}
    return found


def queried() -> set[str]:
    """The series that dashboard, rules and adapter ask the services for."""
    asked = {selector.name for query in queries() for selector in selectors(query.expression)}
    return asked - set(RECORDED) - set(ITS_OWN)


def test_the_check_would_object() -> None:
    assert labels_of("tandem_recommendations") is None
    assert labels_of("tandem_rank_queue_bucket") is None
    assert labels_of("tandem_stage_seconds") is None
    assert labels_of("tandem_stage_seconds_bucket") == {"stage", "le"}


def test_panels_have_a_title_a_place_of_their_own_and_the_chosen_source() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert len({panel["title"] for panel in panels()}) == len(panels())
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    sources = [target["datasource"]["uid"] for panel in panels() for target in panel["targets"]]
    assert set(sources) == {"${datasource}"}


def test_every_recorded_figure_is_looked_at() -> None:
    asked = {selector.name for query in queries() for selector in selectors(query.expression)}
    assert set(RECORDED) <= asked
