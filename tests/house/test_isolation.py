"""The tests themselves stay on the machine, on one thread, and away from the developer's own settings."""

from __future__ import annotations

import os
import random
import socket
import urllib.request
from pathlib import Path

import pytest
import torch

# RFC 5737 and RFC 3849: addresses that documents may use and nobody owns.
REMOTE = ((socket.AF_INET, ("192.0.2.1", 443)), (socket.AF_INET6, ("2001:db8::1", 443)))


@pytest.mark.parametrize(("family", "address"), REMOTE)
def test_connecting_beyond_loopback_is_refused(family: socket.AddressFamily, address: tuple[str, int]) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as stream:
        stream.settimeout(1)
        with pytest.raises(OSError, match=r"must not use the network.*:443"):
            stream.connect(address)
        with pytest.raises(OSError, match="must not use the network"):
            stream.connect_ex(address)


def test_sending_a_datagram_and_looking_up_a_name_are_refused() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
        pytest.raises(OSError, match="must not use the network"),
    ):
        datagram.sendto(b"x", ("192.0.2.1", 53))
    with pytest.raises(OSError, match=r"looks up example\.org"):
        socket.getaddrinfo("example.org", 443)
    with pytest.raises(OSError, match=r"looks up example\.org"):
        urllib.request.urlopen("http://example.org", timeout=1)


def test_loopback_is_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for host in ("127.0.0.1", "localhost"):
            socket.create_connection((host, port), timeout=5).close()


def test_unix_sockets_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path may not be longer than about 100 characters
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("door")
        server.listen()
        client.connect("door")


@pytest.mark.parametrize("attempt", [1, 2])
def test_every_test_starts_from_the_same_random_numbers_on_one_thread(attempt: int) -> None:
    assert torch.get_num_threads() == 1, attempt
    expected = torch.Generator().manual_seed(20_240_229)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=expected))
    assert random.random() == random.Random(20_240_229).random()


def test_state_goes_to_a_folder_of_the_session() -> None:
    assert "gptworks-tests-" in os.environ["PREFECT_HOME"]
    assert "PREFECT_API_URL" not in os.environ
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
