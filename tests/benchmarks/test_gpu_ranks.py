"""Two ranks against one, as the GPU round compares them."""

import pytest

from benchmarks.gpu.ranks import compare
from tttscale.comm.threads import ThreadTransport
from tttscale.scan.schedule import Phase


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize(("layout", "dtype"), [("striped", "bf16"), ("contiguous", "fp32")])
def test_two_ranks_have_the_bits_of_one(kind, layout, dtype):
    found = compare(kind, "cpu", layout, dtype)
    assert found["ok"]
    assert found["messages"] == 5 * 2 * 3 * 2  # boundaries, layers, parts, directions
    assert found["gradient_distance"] < 1e-6


@pytest.mark.parametrize(
    ("phase", "key"),
    [(Phase.FORWARD, "different_states"), (Phase.BACKWARD, "different_state_gradients")],
)
def test_a_last_bit_that_changes_on_its_way_is_found(phase, key, monkeypatch):
    send = ThreadTransport.isend

    def sending(self, key, target, part):
        if (key.phase, key.boundary, key.layer, key.part) == (phase, 2, 1, "state"):
            part = (part[0].nextafter(part[0] + 1), *part[1:])
        send(self, key, target, part)

    monkeypatch.setattr(ThreadTransport, "isend", sending)
    found = compare("linear", "cpu", "striped", "fp32")
    assert not found["ok"]
    assert found[key]
    assert phase is Phase.FORWARD or found["same_losses"]
