"""Devices: what a plan must know of a GPU, and a table of known ones.

Rates are the makers' peaks without sparsity; bandwidths count one direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gptcore.errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]
"""Numbers of the matrix products; master weights, gradients and moments are fp32."""


@dataclass(frozen=True)
class Gpu:
    """What a plan must know of a device."""

    title: str
    """Its name."""
    memory: float
    """GB."""
    half_tflops: float | None
    """Dense peak in bf16 and fp16 (fp32 sums), TFLOP/s; None where it is not known."""
    fp32_tflops: float | None
    """Peak in fp32, without TF32 (torch's default), TFLOP/s."""
    memory_bandwidth: float | None = None
    """GB/s."""
    link: float | None = None
    """GB/s that it sends to the other GPUs of its machine (one direction)."""
    network: float | None = None
    """GB/s that its whole machine sends to others (one direction)."""
    bf16: bool = True
    """Whether it computes in bf16."""

    def tflops(self, precision: Precision) -> float:
        """Peak rate, TFLOP/s.

        Raises:
            ConfigError: it is not known.
        """
        peak = self.fp32_tflops if precision == "fp32" else self.half_tflops
        if peak is None:
            raise ConfigError(f"the peak rate of {self.title} in {precision} is not known; give it by --tflops")
        return peak


# The networks of the two SXM types are those of NVIDIA's DGX servers (eight cards of 200 and of 400 Gbit/s); the others
# are assumed to have one card of 100 Gbit/s. NVLink and PCIe figures are half of the datasheets' two-way sums.
GPUS: dict[str, Gpu] = {
    # https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf
    # NVLink 600 GB/s; the 40 GB type: https://images.nvidia.com/aem-dam/en-zz/Solutions/data-center/nvidia-ampere-architecture-whitepaper.pdf
    "a100-40": Gpu("A100 40 GB SXM", 40, 312, 19.5, 1555, 300, 200),
    "a100-80": Gpu("A100 80 GB SXM", 80, 312, 19.5, 2039, 300, 200),
    # https://www.nvidia.com/en-us/data-center/h100/ : 1,979 TFLOP/s with sparsity; NVLink 900 GB/s
    "h100": Gpu("H100 SXM", 80, 989, 67, 3350, 450, 400),
    # https://www.nvidia.com/en-us/data-center/l4/ : 242 TFLOP/s with sparsity; PCIe 4.0 x16 64 GB/s
    "l4": Gpu("L4", 24, 121, 30.3, 300, 32, 12.5),
    # https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf, appendix A; no NVLink
    "rtx4090": Gpu("RTX 4090", 24, 165.2, 82.6, 1008, 32, 12.5),
    # https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/tesla-t4/t4-tensor-core-datasheet-951643.pdf
    # PCIe 3.0 x16 32 GB/s; Turing's tensor cores know fp16, not bf16
    "t4": Gpu("T4", 16, 65, 8.1, 320, 16, 12.5, bf16=False),
    # Peak and memory are what the reader gives: a processor's rate in matrix products is best measured.
    "cpu": Gpu("CPU", 0, None, None),
}
"""Known devices."""
