"""The catalogue of data sets: what each is, where it comes from, under which licence, and its sha256.

A set is taken from a folder that the user names (``--data-dir``), or downloaded once with a progress bar and kept.
Either way its bytes are verified, so that the same name means the same data everywhere.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from gptcore.config import nearest
from gptcore.errors import ConfigError, DataError
from gptcore.files import disk_errors, file_sha256, is_disk_full

_BOOK = "https://github.com/rasbt/LLMs-from-scratch"
_BOOK_RAW = "https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/main"
_TIMEOUT = 30


@dataclass(frozen=True)
class DataSet:
    """One file that can be had by anyone."""

    name: str
    """How the command line and the recipes call it."""
    file_name: str
    """Its file name in ``--data-dir`` and in the cache."""
    url: str
    """Where it is downloaded from."""
    sha256: str
    """Of the file itself, hex; of the member when the download is an archive."""
    size: int
    """Bytes of the file itself."""
    licence: str
    page: str
    """The page that describes it."""
    member: str = ""
    """Name inside the zip archive at ``url``; empty when the url is the file."""


DATA_SETS = {
    data_set.name: data_set
    for data_set in (
        DataSet(
            name="the-verdict",
            file_name="the-verdict.txt",
            url=f"{_BOOK_RAW}/ch02/01_main-chapter-code/the-verdict.txt",
            sha256="b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f",
            size=20_479,
            licence="public domain",
            page="https://en.wikisource.org/wiki/The_Verdict",
        ),
        DataSet(
            name="tiny-shakespeare",
            file_name="tinyshakespeare.txt",
            url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            size=1_115_394,
            licence="public domain",
            page="https://github.com/karpathy/char-rnn",
        ),
        DataSet(
            name="sms-spam",
            file_name="SMSSpamCollection",
            url="https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip",
            sha256="7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d",
            size=477_907,
            licence="CC BY 4.0",
            page="https://archive.ics.uci.edu/dataset/228/sms+spam+collection",
            member="SMSSpamCollection",
        ),
        DataSet(
            name="book-instructions",
            file_name="instruction-data.json",
            url=f"{_BOOK_RAW}/ch07/01_main-chapter-code/instruction-data.json",
            sha256="7e09a9af353722ca15c18bc580f093f9c39d3178335a75177319cb1e1d163944",
            size=203_524,
            licence="Apache-2.0",
            page=_BOOK,
        ),
    )
}
"""Every data set by its name."""


def origin(name: str) -> str:
    """Where a source comes from: its url if it is catalogued; otherwise the name itself, a path or a library."""
    return DATA_SETS[name].url if name in DATA_SETS else name


def fetch(name: str, *, data_dir: Path | None, cache: Path) -> Path:
    """The verified file of a catalogued data set, from the user's folder ``data_dir``, else downloaded to ``cache``.

    Raises:
        ConfigError: the name is not in the catalogue.
        DataError: the file is missing, cannot be downloaded, or has another sha256; names file, url and option.
        OutOfDiskError: the cache's disk is full.
    """
    if name not in DATA_SETS:
        raise ConfigError(f"there is no data set {name!r} in the catalogue{nearest(name, DATA_SETS)}")
    return fetch_data_set(DATA_SETS[name], data_dir=data_dir, cache=cache)


def fetch_data_set(data_set: DataSet, *, data_dir: Path | None, cache: Path) -> Path:
    """As ``fetch``, for a data set that need not be in the catalogue."""
    if data_dir is not None:
        return _from_folder(data_set, data_dir)
    target = cache / data_set.file_name
    if target.is_file() and file_sha256(target) == data_set.sha256:
        return target
    with disk_errors(cache, needed=data_set.size):
        cache.mkdir(parents=True, exist_ok=True)
        _download(data_set, target)
    return target


def _from_folder(data_set: DataSet, folder: Path) -> Path:
    path = folder / data_set.file_name
    if not path.is_file():
        raise DataError(
            f"{path} does not exist; --data-dir {folder} must hold {data_set.file_name} "
            f"(from {data_set.url}), or leave --data-dir out to have it downloaded"
        )
    found = file_sha256(path)
    if found != data_set.sha256:
        raise DataError(
            f"{path}: expected sha256 {data_set.sha256} of {data_set.name}, got {found}; "
            f"download it again from {data_set.url}, or leave --data-dir out"
        )
    return path


def _download(data_set: DataSet, target: Path) -> None:
    import pooch

    beside = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    fetched = beside.with_name(f"{beside.name}.download")
    try:
        downloader = pooch.HTTPDownloader(progressbar=True, timeout=_TIMEOUT)
        downloader(data_set.url, str(fetched), None)
        if data_set.member:
            _extract(data_set, fetched, beside)
        else:
            fetched.replace(beside)
        found = file_sha256(beside)
        if found != data_set.sha256:
            raise DataError(
                f"{data_set.file_name} from {data_set.url}: expected sha256 {data_set.sha256}, got {found}: the "
                f"download was cut or the source has changed; try again, or give a folder by --data-dir"
            )
        beside.replace(target)
    except OSError as error:  # what the HTTP client raises is an OSError too
        if is_disk_full(error):
            raise
        raise DataError(
            f"{data_set.file_name} could not be downloaded from {data_set.url} ({_short(error)}); check the network, "
            f"or put the file into a folder and give that by --data-dir"
        ) from error
    finally:
        beside.unlink(missing_ok=True)
        fetched.unlink(missing_ok=True)


def _extract(data_set: DataSet, archive: Path, target: Path) -> None:
    """Copy the one named member, and no more bytes than it must have: nothing else in the archive is touched."""
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(data_set.member) as member, target.open("wb") as file:
            left = data_set.size
            while left > 0 and (piece := member.read(min(left, 1 << 20))):
                file.write(piece)
                left -= len(piece)
            if member.read(1):
                raise DataError(
                    f"{data_set.member} in {data_set.url} is longer than its {data_set.size:,} bytes; the source has "
                    f"changed; give a folder that holds {data_set.file_name} by --data-dir"
                )
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(
            f"{data_set.url} is not a zip archive with {data_set.member} inside ({error}); try again, or give a folder "
            f"that holds {data_set.file_name} by --data-dir"
        ) from error


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
