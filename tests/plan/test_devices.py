"""Peak rates by device: known ones by their whole name, all others unknown."""

import pytest

from tttscale.plan.devices import DEVICES, known_device


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H200 NVL", "h200-nvl"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie"),
        ("NVIDIA A100-PCIE-40GB", "a100-pcie-40gb"),
    ],
)
def test_known(name, entry):
    assert known_device(name) is DEVICES[entry]


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GH200 480GB",
        "NVIDIA H20",
        "NVIDIA H800",
        "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
        "NVIDIA H100 80GB HBM3 MIG 2g.20gb",
        "NVIDIA A10",
        "AMD Instinct MI300X",
        "cpu",
        "",
    ],
)
def test_unknown(name):
    assert known_device(name) is None


def test_rates_are_dense_and_in_order():
    for device in DEVICES.values():
        assert device.bf16_flops == pytest.approx(2 * device.tf32_flops, rel=0.01)
        assert device.fp32_flops < device.tf32_flops
        assert device.peak_flops("bf16") == device.bf16_flops
        assert device.peak_flops("fp32") == device.fp32_flops
        assert 1e12 < device.memory_bandwidth < 1e13
        assert device.link_bandwidth < device.memory_bandwidth
    assert DEVICES["h200"].bf16_flops == pytest.approx(1979e12 / 2, rel=1e-3)
