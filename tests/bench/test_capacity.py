"""`deploy/docs/capacity.md`: its tables are the arithmetic's, and the arithmetic is near a small real system."""

import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest

from realtime_service.settings import Settings
from tests.bench.capacity import page, units
from tests.bench.capacity.check import Shape, check
from tests.bench.capacity.model import Load, Site, plan
from tests.bench.processes import ROOT, WORK

UNITS, MEASURED, CHECKS = units.load()
TEXT = page.PAGE.read_text()


def test_the_tables_are_those_of_the_unit_costs() -> None:
    assert page.fresh(TEXT, UNITS, MEASURED, CHECKS) == TEXT, "python -m tests.bench.capacity page"


def test_the_page_says_when_and_with_what_it_was_measured() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", MEASURED["on"])
    assert MEASURED.keys() >= {"Python", "RabbitMQ", "processors"}


def test_every_setting_that_the_page_names_exists() -> None:
    named = set(re.findall(r"REALTIME_([A-Z_]+)", TEXT))
    assert named
    assert named <= {name.upper() for name in Settings.model_fields}


def test_more_clients_never_need_less() -> None:
    sizes = (1_000, 10_000, 100_000, 1_000_000)
    for load in (Load(0), Load(0, per_diagnosis=5, named=0.4)):
        for site in (Site(), Site(hashed=False)):
            plans = [plan(replace(load, clients=size), site, UNITS) for size in sizes]
            for less, more in pairwise(plans):
                assert more.replicas >= less.replicas
                assert more.nodes >= less.nodes
                assert more.broker_gib > less.broker_gib


def test_a_replica_is_never_planned_beyond_what_it_may_hold() -> None:
    for hashed in (True, False):
        site = Site(hashed=hashed)
        found = plan(Load(250_000, per_diagnosis=5, events_per_hour=200), site, UNITS)
        assert found.replica_clients <= site.replica_clients
        assert found.replica_cpu <= site.busy
        assert found.replicas >= 2


def test_a_balancer_that_does_not_hash_costs_relays() -> None:
    load = Load(100_000, per_diagnosis=5)
    together, apart = (plan(load, Site(hashed=hashed), UNITS) for hashed in (True, False))
    assert apart.channels > together.channels
    assert apart.replica_cpu * apart.replicas > together.replica_cpu * together.replicas


def test_a_plan_is_printed() -> None:
    words = [sys.executable, "-m", "tests.bench.capacity", "--clients", "100000", "--named", "0.5"]
    printed = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "replicas because" in printed


@pytest.mark.slow
async def test_the_arithmetic_is_near_a_real_system() -> None:
    """Memory within a factor of two: no claim about this machine's speed."""
    WORK.mkdir(parents=True, exist_ok=True)
    found = {each.what: each for each in await check(Shape(400, per_diagnosis=2, named=1), UNITS)}
    for each in found.values():
        assert each.measured > 0
        if "MiB" in each.what:
            assert 0.5 < each.ratio < 2, each
