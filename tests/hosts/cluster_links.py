"""Slow and late links: what crosses them, striped and contiguous, beside what the carries count."""

import copy
import statistics

import pytest
import yaml

from tests.hosts import run
from tests.hosts.jobs import start, wait_all
from tests.hosts.lab import Lab, shell
from tests.hosts.links import Link, crossing_bytes, joined, sent_bytes
from tttscale.observe import read_metrics

LINKS = {
    "as fast as the machine": Link(None),
    "100 Mbit/s, 1 ms": Link(100, 1e-3),
    "10 Mbit/s": Link(10),
    "10 Mbit/s, 1 ms": Link(10, 1e-3),
}
STEPS = 4
LAYOUTS = ("striped", "contiguous")
MIB = 2**20


def configuration(site, layout, name):
    """16 chunks of 128 tokens, whose carries weigh about as much as the model."""
    config = copy.deepcopy(run.CONFIG)
    config["run"]["name"] = name
    config["model"] |= {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 4}
    config["data"]["sequence_length"] = 2048
    config["parallel"] = {"sequence": 2, "chunk_length": 128, "layout": layout, "threads": 1}
    config["train"]["steps"] = STEPS
    (site.work / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return config


def train(lab, site, name):
    """Run NAME.yaml, a rank a host; return the records of its steps, and the bytes sent per step."""
    before = sum(map(sent_bytes, lab.hosts.values()))
    lines = [
        shell(
            *("bash", "../checkout/launch/torchrun.sh", f"{name}.yaml"),
            **dict(NODES=2, NODE_RANK=rank, MASTER_ADDR="hosta", N=1),
        )
        for rank in (0, 1)
    ]
    jobs = [start(lab[h], line, site.work) for h, line in zip(lab.hosts, lines, strict=True)]
    for job in wait_all(jobs):
        job.passed()
    sent = sum(map(sent_bytes, lab.hosts.values())) - before
    return read_metrics(site.work / "runs" / name / "metrics.jsonl"), sent / STEPS


@pytest.mark.parametrize("name", LINKS)
def test_a_link(name, site, case):
    """Losses do not depend on it; what striped chunks send more is what their carries count more."""
    case.say(link=name)
    losses, sent, computed = {}, {}, {}
    with Lab("hosta", "hostb") as lab, joined(lab, LINKS[name]):
        for layout in LAYOUTS:
            config = configuration(site, layout, f"{case.run}-{layout}")
            computed[layout] = crossing_bytes(config)
            rows, sent[layout] = train(lab, site, config["run"]["name"])
            losses[layout] = rows[0]["loss"]
            for key in ("step_seconds", "exposed_comm_seconds", "bubble_fraction"):
                middle = statistics.median(row[key] for row in rows[1:])
                case.say(**{f"{layout}: {key}": f"{middle:.3f}"})
            case.say(**{f"{layout}: MiB sent per step": f"{sent[layout] / MIB:.2f}"})
            case.say(**{f"{layout}: MiB of carries": f"{computed[layout] / MIB:.2f}"})
    assert losses["striped"].hex() == losses["contiguous"].hex()
    more = computed["striped"] - computed["contiguous"]
    assert 1.0 < (sent["striped"] - sent["contiguous"]) / more < 1.2  # headers, acknowledgements
