"""What GPUs can do at most, by their makers' data sheets. Others are unknown, never guessed.

Rates are dense (data sheets of NVIDIA often print twice as much, with sparsity). Sources: "NVIDIA H200 Tensor
Core GPU" and "NVIDIA H100 Tensor Core GPU" data sheets (nvidia.com/en-us/data-center/h200, .../h100), "NVIDIA
A100 Tensor Core GPU" data sheet (nvidia.com/en-us/data-center/a100).
"""

import re
from dataclasses import dataclass

_GB = 10**9
_MIB = 2**20


@dataclass(frozen=True)
class Device:
    """One GPU; bandwidths in bytes per second."""

    name: str
    """Name that `--gpu` takes."""
    bf16_flops: float
    """FLOP/s of dense bf16 products summed in fp32."""
    fp32_flops: float
    """FLOP/s of strict fp32 products, which torch takes by default."""
    tf32_flops: float
    """FLOP/s of fp32 products rounded to TF32, if torch is told to."""
    memory_bytes: int
    """Memory as the driver shows it: below the data sheet's, as some is reserved."""
    memory_bandwidth: float
    link_bandwidth: float
    """To another GPU of the host, one way: half of what data sheets print for NVLink."""

    def peak_flops(self, precision: str) -> float:
        """Return the peak FLOP/s of products in `train.precision`, bf16 or fp32."""
        return self.bf16_flops if precision == "bf16" else self.fp32_flops


H200 = Device("h200", 989.4e12, 67e12, 494.7e12, 143_771 * _MIB, 4.8e12, 450 * _GB)
"""SXM: 141 GB of HBM3e; 1,979 TFLOP/s of bf16 with sparsity, NVLink 900 GB/s both ways."""
H200_NVL = Device("h200-nvl", 835.5e12, 60e12, 417.5e12, 143_771 * _MIB, 4.8e12, 450 * _GB)
"""PCIe with bridges: 1,671 TFLOP/s of bf16 with sparsity."""
H100 = Device("h100", 989.4e12, 67e12, 494.7e12, 81_559 * _MIB, 3.35e12, 450 * _GB)
"""SXM: 80 GB of HBM3."""
H100_NVL = Device("h100-nvl", 835.5e12, 60e12, 417.5e12, 95_830 * _MIB, 3.9e12, 300 * _GB)
"""PCIe with bridges: 94 GB of HBM3, NVLink 600 GB/s both ways."""
H100_PCIE = Device("h100-pcie", 756e12, 51e12, 378e12, 81_559 * _MIB, 2.0e12, 64 * _GB)
"""80 GB of HBM2e; PCIe 5 x16, 128 GB/s both ways."""
A100 = Device("a100", 312e12, 19.5e12, 156e12, 81_920 * _MIB, 2.039e12, 300 * _GB)
"""SXM: 80 GB of HBM2e, NVLink 600 GB/s both ways."""
A100_PCIE = Device("a100-pcie", 312e12, 19.5e12, 156e12, 81_920 * _MIB, 1.935e12, 32 * _GB)
"""80 GB of HBM2e; PCIe 4 x16, 64 GB/s both ways."""
A100_40GB = Device("a100-40gb", 312e12, 19.5e12, 156e12, 40_960 * _MIB, 1.555e12, 300 * _GB)
"""SXM: 40 GB of HBM2."""
A100_PCIE_40GB = Device(
    "a100-pcie-40gb", 312e12, 19.5e12, 156e12, 40_960 * _MIB, 1.555e12, 32 * _GB
)
"""40 GB of HBM2."""

DEVICES = {
    device.name: device
    for device in (
        *(H200, H200_NVL, H100, H100_NVL, H100_PCIE),
        *(A100, A100_PCIE, A100_40GB, A100_PCIE_40GB),
    )
}
"""All that are known, by the name that `--gpu` takes."""

_NAMES = (
    (r"NVIDIA H200", H200),
    (r"NVIDIA H200 NVL", H200_NVL),
    (r"NVIDIA H100 80GB HBM3", H100),
    (r"NVIDIA H100 NVL", H100_NVL),
    (r"NVIDIA H100 PCIe", H100_PCIE),
    (r"(NVIDIA )?A100-SXM4?-80GB", A100),
    (r"(NVIDIA )?A100 80GB PCIe", A100_PCIE),
    (r"(NVIDIA )?A100-SXM4?-40GB", A100_40GB),
    (r"(NVIDIA )?A100-PCIE-40GB", A100_PCIE_40GB),
)
"""Whole names: an H200 is no GH200, and a slice of a GPU ("... MIG 1g.10gb") does not have its rates."""


def known_device(name: str) -> Device | None:
    """The entry of a device by what `torch.cuda.get_device_name()` calls it; None if there is none."""
    return next((device for pattern, device in _NAMES if re.fullmatch(pattern, name.strip())), None)
