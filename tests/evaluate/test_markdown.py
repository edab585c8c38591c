"""eval.md: every task has a sentence and a table that say what the numbers do."""

import re

import pytest

from tests.evaluate import results
from tttscale.evaluate.markdown import TITLES, markdown, sentence

VERSIONS = {"torch": "2.13", "python": "3.11", "numpy": "2"}


def page(tasks, plots=()):
    report = {
        "tttscale_version": "0.1.0",
        "versions": VERSIONS,
        "model": results.MODEL,
        "tasks": tasks,
    }
    return markdown(report, dict(plots))


def test_all_tasks_are_on_the_page():
    text = page(results.everything(), {"loss": "loss_by_position.png"})
    for title in TITLES.values():
        assert f"## {title}\n" in text
    assert text.count("![") == 1
    assert text.count("```bash\ntttscale eval runs/x\n```") == 7
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_positions_beyond_training_are_marked():
    text = page({"loss": results.loss()})
    assert "| 2,048 to 2,895 * |" in text
    assert "| 1,448 to 2,047 |" in text
    assert "beyond the 2,048 tokens of a sequence in training" in text
    assert "\\*" not in page({"loss": results.loss(length=2048)})


def test_one_sequence_has_no_interval():
    text = page({"loss": results.loss(sequences=1)})
    assert "| none |" in text
    assert sentence("loss", results.loss(sequences=1)).startswith("Loss 2.6 nats per token")


def test_failure_is_said():
    assert "No cell is above chance" in sentence("needle", results.heat("needle", 0.0, 8))
    assert "of 15 cells are above chance" in sentence("passkey", results.heat())


def test_a_few_lucky_cells_are_no_skill():
    """Three of ten at a chance of a tenth come about in one cell of fourteen."""
    result = results.heat("passkey", 0.0)
    for cell in result["cells"]:
        cell["samples"], cell["chosen"] = 10, results.three(0.1)
    result["cells"][3]["chosen"] = results.three(0.3)
    assert "No cell is above chance" in sentence("passkey", result)
    result["cells"][3]["chosen"] = results.three(0.9)
    assert "1 of 15 cells are above chance" in sentence("passkey", result)


@pytest.mark.parametrize("task", results.everything())
def test_sentences_end(task):
    assert sentence(task, results.everything()[task]).endswith(".")


def test_an_inner_loss_that_is_no_number_is_not_lower():
    result = results.inner(layers=1)
    (layer,) = result["layers"]
    assert "in 7 of 7 cells" in sentence("inner", result)
    layer["after"][6] = None  # it has diverged
    layer["before"][5] = None
    assert "in 5 of 7 cells" in sentence("inner", result)


def test_one_sequence_is_singular():
    found = sentence("inner", results.inner() | {"sequences": 1, "length": 4096})
    assert found.endswith("over 1 sequence of 4,096 tokens.")
    assert sentence("loss", results.loss() | {"sequences": 2}).count("2 sequences of") == 1
