"""The energy of a training, by codecarbon where it is installed."""

from __future__ import annotations

import importlib.util
import signal
import socket
from pathlib import Path

import pytest

from flows.launch.energy import CodecarbonMeter, energy_meter

HAS_CODECARBON = importlib.util.find_spec("codecarbon") is not None


def test_there_is_a_meter_where_codecarbon_is_installed() -> None:
    assert (energy_meter() is not None) == HAS_CODECARBON


@pytest.mark.skipif(not HAS_CODECARBON, reason="codecarbon is not installed: pip install 'gptworks[energy]'")
def test_codecarbon_tells_energy_without_the_network_files_or_signal_handlers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A configuration file in the working folder asks for all of them, and changes nothing."""
    monkeypatch.chdir(tmp_path)
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    wishes = {"save_to_api": "true", "save_to_file": "true", "allow_multiple_runs": "false", "api_call_interval": "1",
              "api_endpoint": url, "emissions_endpoint": url, "electricitymaps_api_token": "x"}  # fmt: skip
    lines = ["[codecarbon]", *(f"{name} = {value}" for name, value in wishes.items())]
    (tmp_path / ".codecarbon.config").write_text("\n".join(lines))
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    meter = CodecarbonMeter()
    meter.start()
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    total = 0
    for i in range(3_000_000):  # something that takes energy
        total += i
    found = meter.stop()
    assert found is not None
    assert 0 < found < 0.01
    assert meter.source in ("measured", "estimated")
    assert [path.name for path in tmp_path.iterdir()] == [".codecarbon.config"]
    assert capfd.readouterr().err == ""
    listener.setblocking(False)
    with listener, pytest.raises(BlockingIOError):  # nobody has called
        listener.accept()
