import pytest

from tttscale.bench.cost_fit import Samples, fit
from tttscale.observe.spans import Span
from tttscale.plan.costs import Line


def spans(tokens, chunk=2, run="forward", project=(0.1, 0.3), send=0.01):
    """One layer's run: PROJECT in two pieces around a part, an advance that grows with the tokens."""
    seconds = [
        ("project", project[0], ""),
        ("wait", 5.0, "tail"),
        ("send", send, "tail"),
        ("project", project[1], ""),
        ("wait", 7.0, "state"),
        ("advance", 1.0 + 0.5 * tokens, ""),
        ("send", send, "state"),
        ("finish", 0.25 * tokens, ""),
    ]
    found, now = [], 0.0
    for activity, duration, part in seconds:
        found.append(Span(now, now + duration, activity, run, 0, chunk, 0, part))
        now += duration
    return [*found, Span(now, now + 2.0, "head", run, 0, chunk), Span(now + 2.0, 99.0, "other")]


@pytest.mark.parametrize(
    ("means", "line"),
    [
        ({10: 2.0, 20: 3.0, 40: 5.0}, (1.0, 0.1)),
        ({10: 1.0, 20: 2.0}, (0.0, 0.1)),
        ({16: 4.0}, (0.0, 0.25)),  # of one length nothing is known but the rate
        ({0: 0.5}, (0.5, 0.0)),  # a message
        ({10: 3.0, 20: 3.0}, (3.0, 0.0)),
        ({10: 1.0, 20: 4.0}, (0.0, 0.12)),  # nothing costs less than nothing
    ],
)
def test_lines(means, line):
    found = Line.through(means)
    assert found.fixed == pytest.approx(line[0], abs=1e-9)
    assert found.per_token == pytest.approx(line[1])


def test_short_chunks_count_as_much_as_long_ones():
    found = Line.through({10: 2.2, 100: 11.0, 1000: 101.0})
    assert abs(found.seconds(10) / 2.2 - 1) < 0.1


def test_costs_of_activities_are_found():
    samples = Samples()
    for tokens in (8, 16, 32):
        samples.add(spans(tokens), {2: tokens}, ("layer",))
        samples.add(spans(tokens, chunk=0), {2: tokens}, ("layer",))  # an end of the sequence
        samples.add(spans(tokens, send=0.03), {2: tokens}, ("layer",), "alone.")
    found = fit(samples)
    assert found.lines["layer", "forward.advance"].fixed == pytest.approx(1.0)
    assert found.lines["layer", "forward.advance"].per_token == pytest.approx(0.5)
    assert found.lines["layer", "forward.project"].seconds(8) == pytest.approx(0.4)
    assert found.lines["layer", "forward.send"] == Line(pytest.approx(0.01), 0.0)
    assert found.lines["layer", "alone.forward.send"].fixed == pytest.approx(0.03)
    assert found.lines["", "forward.head"].seconds(16) == pytest.approx(2.0)
    assert samples.shares["forward", "tail"] == pytest.approx([0.25] * 6)
    assert ("forward", "state") not in samples.shares  # after all of PROJECT
    assert max(map(abs, found.residuals.values())) < 1e-9
    assert found.totals == pytest.approx({8: 0, 16: 0, 32: 0}, abs=1e-9)


def test_residuals_tell_of_a_bad_fit():
    samples = Samples()
    for tokens, project in ((8, 0.1), (16, 4.0), (32, 0.1)):
        samples.add(spans(tokens, project=(project, project)), {2: tokens}, ("layer",))
    found = fit(samples)
    assert abs(found.residuals["layer", "forward.project"]) > 0.5
    assert abs(found.residuals["layer", "forward.advance"]) < 1e-9
    assert found.totals[16] < -0.2


def test_what_disturbed_one_run_counts():
    """It is in the step with which the costs are compared, too."""
    samples = Samples()
    for tokens in (8, 16):
        for disturbed in (0.0, 0.0, 3.0):
            samples.add(spans(tokens, project=(0.1, 0.3 + disturbed)), {2: tokens}, ("layer",))
    assert fit(samples).lines["layer", "forward.project"].seconds(8) == pytest.approx(1.4)
