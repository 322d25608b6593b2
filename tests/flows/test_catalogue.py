"""The catalogue: verified bytes from a folder or a download, and errors that say how to go on."""

from __future__ import annotations

import functools
import hashlib
import re
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flows.sources.catalogue import DATA_SETS, DataSet, fetch, fetch_data_set
from gptcore.errors import ConfigError, DataError

TEXT = b"ham\tcall me\nspam\tcall now\n"


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without a word on the terminal."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        """Say nothing."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "site"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    thread.join()
    server.server_close()


def described(url: str, *, member: str = "", sha256: str | None = None) -> DataSet:
    digest = sha256 or hashlib.sha256(TEXT).hexdigest()
    return DataSet("sms", "sms.tsv", url, digest, len(TEXT), "CC BY 4.0", "https://example.org", member)


def test_every_catalogued_file_is_what_it_says(shared_data: Path, tmp_path: Path) -> None:
    for name, data_set in DATA_SETS.items():
        found = fetch(name, data_dir=shared_data, cache=tmp_path / "unused")
        assert found == shared_data / data_set.file_name
        assert found.stat().st_size == data_set.size
        assert data_set.url.startswith("https://")
        assert data_set.licence
    assert not (tmp_path / "unused").exists()


def test_a_missing_file_names_file_url_and_option(tmp_path: Path) -> None:
    message = (
        rf"{tmp_path}/the-verdict\.txt does not exist; --data-dir .*\(from https://raw\.github.*leave --data-dir out"
    )
    with pytest.raises(DataError, match=message):
        fetch("the-verdict", data_dir=tmp_path, cache=tmp_path)


def test_a_file_with_other_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "SMSSpamCollection").write_bytes(TEXT)
    digest = hashlib.sha256(TEXT).hexdigest()
    with pytest.raises(
        DataError, match=rf"SMSSpamCollection: expected sha256 7d039a24.* of sms-spam, got {digest}.*archive\.ics"
    ):
        fetch("sms-spam", data_dir=tmp_path, cache=tmp_path)


def test_an_unknown_name_is_told_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no data set 'sms-spm' in the catalogue; did you mean 'sms-spam'"):
        fetch("sms-spm", data_dir=None, cache=tmp_path)


def test_a_download_happens_once_and_is_verified(site: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = site
    (folder / "sms.tsv").write_bytes(TEXT)
    data_set = described(f"{url}/sms.tsv")
    path = fetch_data_set(data_set, data_dir=None, cache=tmp_path / "cache")
    assert path.read_bytes() == TEXT
    (folder / "sms.tsv").unlink()
    assert fetch_data_set(data_set, data_dir=None, cache=tmp_path / "cache") == path
    path.write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"404.*check the network, or put the file into a folder.*--data-dir"):
        fetch_data_set(data_set, data_dir=None, cache=tmp_path / "cache")


def test_one_member_of_an_archive_is_taken_and_nothing_else(site: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = site
    with zipfile.ZipFile(folder / "sms.zip", "w") as archive:
        archive.writestr("../escaped.txt", "out")
        archive.writestr("SMS", TEXT)
    path = fetch_data_set(described(f"{url}/sms.zip", member="SMS"), data_dir=None, cache=tmp_path / "cache")
    assert path.read_bytes() == TEXT
    assert [found.name for found in (tmp_path / "cache").iterdir()] == ["sms.tsv"]
    assert not (tmp_path / "escaped.txt").exists()


@pytest.mark.parametrize(
    ("member", "contents", "message"),
    [
        ("Other", TEXT, "is not a zip archive with Other inside"),
        ("SMS", TEXT + b"more", "SMS in .* is longer than its 26 bytes"),
        (
            "SMS",
            b"xxx" + TEXT[3:],
            r"expected sha256 \w+, got \w+: .*the source has changed; try again, or give a folder",
        ),
    ],
)
def test_a_wrong_archive_is_refused_and_leaves_nothing(
    site: tuple[str, Path], tmp_path: Path, member: str, contents: bytes, message: str
) -> None:
    url, folder = site
    with zipfile.ZipFile(folder / "sms.zip", "w") as archive:
        archive.writestr("SMS", contents)
    with pytest.raises(DataError, match=message):
        fetch_data_set(described(f"{url}/sms.zip", member=member), data_dir=None, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_network_names_file_url_and_option(tmp_path: Path) -> None:
    data_set = described("http://127.0.0.1:9/sms.tsv")
    with pytest.raises(DataError) as caught:
        fetch_data_set(data_set, data_dir=None, cache=tmp_path)
    text = str(caught.value)
    assert text.startswith("sms.tsv could not be downloaded from http://127.0.0.1:9/sms.tsv (ConnectionError")
    assert re.search(r"give that by --data-dir$", text)
    assert list(tmp_path.iterdir()) == []
