"""How a check runs, and what becomes of one that fails."""

from tttscale.doctor.findings import ok, run_check


def test_a_check_that_fails_is_a_finding():
    def broken():
        yield ok("so far")
        raise RuntimeError("a driver\nis gone")

    first, second = run_check("GPUs", broken)
    assert first == ok("so far")
    assert second.level == "warning"
    assert "GPUs could not be looked at (a driver is gone)" in second.what
