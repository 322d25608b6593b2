"""Where the tasks of a flow run: threads of this process, a Dask cluster, or a Ray cluster.

The trials of a sweep, the batches of texts that are prepared, the models whose answers are scored. The ranks of one
training do not belong here; those are torchrun's (``flows/launch/launcher.py``).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

from gptcore.errors import ConfigError

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner

Runner = Literal["threads", "dask", "ray"]
DASK_ADDRESS = "GPTWORKS_DASK"
"""Environment variable: a Dask scheduler, as in tcp://head:8786; without it a cluster of this machine is started."""
RAY_ADDRESS = "GPTWORKS_RAY"
"""Environment variable: a Ray cluster, as in ray://head:10001; without it one of this machine is started."""


def task_runner(kind: Runner, *, workers: int) -> TaskRunner[Any]:
    """What runs ``workers`` tasks at once; a running cluster decides by itself how many.

    The workers of a cluster need this project installed, and ``GPTWORKS_HOME`` on a file system that all of them share.

    Raises:
        ConfigError: the extra is not installed; threads need none.
    """
    if kind == "threads":
        from prefect.task_runners import ThreadPoolTaskRunner

        return ThreadPoolTaskRunner(max_workers=workers)
    try:
        return _dask(workers) if kind == "dask" else _ray(workers)
    except ImportError as error:
        raise ConfigError(
            f"the {kind} runner is not installed ({error}); pip install 'gptworks[{kind}]', or use threads"
        ) from error


def _dask(workers: int) -> TaskRunner[Any]:
    from prefect_dask.task_runners import DaskTaskRunner

    address = os.environ.get(DASK_ADDRESS)
    if address:
        return DaskTaskRunner(address=address)
    local = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None, "host": "127.0.0.1"}
    return DaskTaskRunner(cluster_kwargs=local)


def _ray(workers: int) -> TaskRunner[Any]:
    from prefect_ray import RayTaskRunner

    address = os.environ.get(RAY_ADDRESS)
    if address:
        return RayTaskRunner(address=address)  # type: ignore[no-any-return]
    return RayTaskRunner(init_kwargs={"num_cpus": workers, "include_dashboard": False})  # type: ignore[no-any-return]
