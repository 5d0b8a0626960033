"""Rates of the devices that `facex plan` knows, from their vendors' data sheets (dense, without sparsity)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """memory in bytes; matrix products in operations a second by operand type; bandwidth of memory and of one direction of the
    link to other devices in bytes a second; what the driver and libraries hold back before the first tensor; how the margin
    softmax cuts the classes there (csrc/margin_softmax)."""

    name: str
    memory: float
    bf16: float
    fp32: float
    bandwidth: float
    link: float
    reserved: float = 0.9e9
    tile_bytes: int = 16 << 20
    least_chunk: int = 1024
    most_chunk: int = 8192

    def rate(self, precision: str) -> float:
        """Operations a second with operands of this precision."""
        return self.fp32 if precision == "fp32" else self.bf16


DEVICES = {
    "h200": Device("H200 SXM", 141e9, 989e12, 67e12, 4.8e12, 450e9),
    "h100": Device("H100 SXM 80 GB", 80e9, 989e12, 67e12, 3.35e12, 450e9),
    "a100": Device("A100 SXM 80 GB", 80e9, 312e12, 19.5e12, 2.04e12, 300e9),
    # two cores with AVX512-BF16, as measured for docs/performance.md; link: one 10 Gbit network
    "cpu": Device("2 CPU cores", 24e9, 0.38e12, 0.13e12, 20e9, 1.25e9, 0.0, least_chunk=256, most_chunk=256),
}
