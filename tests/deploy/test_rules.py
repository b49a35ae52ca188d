"""deploy/prometheus: rules that fire when they must, a runbook for each, and one truth for compose and Kubernetes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import ROOT, build, named, of_kind

PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
ALERTS = [rule for group in RULES for rule in group["rules"] if "alert" in rule]
TESTS = sorted(PROMETHEUS.glob("*_test.yml"))
CONFIG = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
with_promtool = pytest.mark.skipif(
    not shutil.which("promtool") and "CI" not in os.environ,
    reason="needs promtool, which is in Debian's package prometheus; .ci/run installs it",
)


def promtool(*arguments: str) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@with_promtool
def test_prometheus_takes_the_rules_and_the_configuration() -> None:
    assert f"{sum(len(group['rules']) for group in RULES)} rules found" in promtool(
        "check", "rules", f"{PROMETHEUS}/rules.yml"
    )
    promtool("check", "config", "--syntax-only", f"{PROMETHEUS}/prometheus.yml")


@with_promtool
@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_alerts_fire_when_they_must_and_only_then(file: os.PathLike[str]) -> None:
    assert "SUCCESS" in promtool("test", "rules", str(file))


def test_every_alert_is_tested() -> None:
    fired = {
        name
        for file in TESTS
        for case in yaml.safe_load(file.read_text())["tests"]
        for expected in case["promql_expr_test"]
        for sample in expected.get("exp_samples", [])
        for name in re.findall(r'alertname="(\w+)"', sample["labels"])
    }
    assert fired == {alert["alert"] for alert in ALERTS}


def anchors(page: str) -> set[str]:
    """As GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_how_bad_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"]["summary"]
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert anchor in anchors(page)


def test_kubernetes_has_the_same_rules() -> None:
    assert named(build("cpu"), "PrometheusRule", "tandem")["spec"]["groups"] == RULES, "run: make generated"


def test_both_kinds_of_scraping_know_the_jobs_by_the_same_names() -> None:
    ports = {
        f"tandem-{one['metadata']['name']}": one["spec"]["ports"][0]["port"]
        for one in of_kind(build("cpu"), "Service")
        if one["metadata"]["name"] != "redis"
    }
    scraped = {one["job_name"]: one["dns_sd_configs"][0] for one in CONFIG["scrape_configs"]}
    assert {job: where["port"] for job, where in scraped.items()} == ports
    assert {job: f"tandem-{where['names'][0]}" for job, where in scraped.items()} == {job: job for job in ports}
