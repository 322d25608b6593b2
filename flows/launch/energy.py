"""The energy a training takes, by codecarbon where it is installed (the ``energy`` extra).

It reads the processor's counters (RAPL) and the GPUs' where the system lets it; elsewhere it multiplies the load by the
power in its table of processors. What of memory, disks and cooling is not known is left out. Nothing is sent and
nothing is asked for: its offline tracker runs without any output, and the carbon of a kWh, which it would look up,
is given.
"""

from __future__ import annotations

import importlib.util
import logging
from typing import Literal

from gptcore.train.measure import EnergyMeter

_COUNTERS = {"intel_rapl", "intel_power_gadget", "windows_emi"}
"""codecarbon's modes that read a processor's own counter."""

log = logging.getLogger(__name__)


def energy_meter() -> EnergyMeter | None:
    """A meter for one training, or None where codecarbon is not installed."""
    return CodecarbonMeter() if importlib.util.find_spec("codecarbon") else None


class CodecarbonMeter:
    """codecarbon's offline tracker of this machine's processors and GPUs."""

    source: Literal["measured", "estimated"] = "estimated"

    def start(self) -> None:
        """Begin to count; a thread of codecarbon's own takes a sample each second."""
        from codecarbon import OfflineEmissionsTracker

        logging.getLogger("codecarbon").setLevel(logging.ERROR)  # its own level counts only once the tracker is made
        self._tracker = OfflineEmissionsTracker(
            output_methods=[],
            emissions_endpoint=False,  # None would be replaced by what a configuration file says
            electricitymaps_api_token=False,
            force_carbon_intensity_g_co2e_kwh=1.0,
            allow_multiple_runs=True,  # else it takes over the handlers of Ctrl-C and SIGTERM
            tracking_mode="machine",
            log_level="error",
        )
        self._tracker.start()
        parts = getattr(self._tracker, "_hardware", [])
        modes = [part._mode for part in parts if type(part).__name__ == "CPU"]
        self.source = "measured" if modes and set(modes) <= _COUNTERS else "estimated"

    def stop(self) -> float | None:
        """The kWh of processors and GPUs since ``start``; None, and a warning, if codecarbon could not measure it."""
        self._tracker.stop()
        found = getattr(self._tracker, "final_emissions_data", None)
        if found is None:
            log.warning("codecarbon could not measure the energy of this run")
            return None
        return float(found.cpu_energy + found.gpu_energy)
