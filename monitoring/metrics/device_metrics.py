"""What the graphics cards of this machine say of themselves, read at each scrape through NVIDIA's NVML.

Without such a card, its driver, or a value that this card knows, the metric is absent: that is no error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pynvml
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from monitoring.metrics.series import Labels, family_of
from monitoring.metrics.spec import Declared

MOST_DEVICES = 16

_TEMPERATURE = Declared(
    "manyhands_device_temperature_celsius",
    "gauge",
    "Temperature of the GPU. `device` is its number in nvidia-smi.",
    {"device": ()},
)
_POWER = Declared("manyhands_device_power_watts", "gauge", "Power that the GPU draws now.", {"device": ()})
_ENERGY = Declared(
    "manyhands_device_energy_joules_total",
    "counter",
    "Energy that the GPU has drawn since its driver was loaded, by whatever program.",
    {"device": ()},
)
_MEMORY_USED = Declared(
    "manyhands_device_memory_used_bytes",
    "gauge",
    "Memory of the GPU that is in use.",
    {"device": ()},
)
_MEMORY = Declared("manyhands_device_memory_bytes", "gauge", "Memory of the GPU in all.", {"device": ()})
_UTILIZATION = Declared(
    "manyhands_device_utilization_ratio",
    "gauge",
    "Share of the driver's last sampling period in which the GPU ran anything.",
    {"device": ()},
)

DEVICE_DECLARED = (_TEMPERATURE, _POWER, _ENERGY, _MEMORY_USED, _MEMORY, _UTILIZATION)


class DeviceCollector(Collector):
    """Asks every card at each scrape."""

    def __init__(self, nvml: Any = pynvml) -> None:
        """Look which cards there are. `nvml` has the functions of the module `pynvml`."""
        self._nvml = nvml
        self._devices: list[tuple[str, Any]] = []
        try:
            nvml.nvmlInit()
            count = min(nvml.nvmlDeviceGetCount(), MOST_DEVICES)
            self._devices = [
                (str(number), nvml.nvmlDeviceGetHandleByIndex(number)) for number in range(count)
            ]
        except nvml.NVMLError:
            pass  # no driver, or no card: nothing to tell

    def collect(self) -> Iterable[Metric]:
        """Yield what is known of the cards; nothing at all where there is none."""
        for declared, read in self._readings():
            values: dict[Labels, float] = {}
            for name, handle in self._devices:
                try:
                    values[(name,)] = float(read(handle))
                except self._nvml.NVMLError:
                    continue  # this card does not know, or is gone
            if values:
                yield family_of(declared, values)

    def _readings(self) -> tuple[tuple[Declared, Callable[[Any], float]], ...]:
        nvml = self._nvml
        return (
            (
                _TEMPERATURE,
                lambda handle: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            ),
            (_POWER, lambda handle: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
            (_ENERGY, lambda handle: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000),
            (_MEMORY_USED, lambda handle: nvml.nvmlDeviceGetMemoryInfo(handle).used),
            (_MEMORY, lambda handle: nvml.nvmlDeviceGetMemoryInfo(handle).total),
            (_UTILIZATION, lambda handle: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
        )
