"""Run a function on several gloo ranks, each a process of its own."""

import multiprocessing
import queue
import socket
import time
import traceback
from dataclasses import replace

from tttscale.cluster.ranks import Ranks

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.ranks_preload"])


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run_ranks(work, world, *args, timeout_seconds=240):
    """Call `work(ranks, *args)` on every rank; returns the results in rank order.

    An exception of any rank is returned in its place as (type name, message, traceback).
    """
    results = CONTEXT.Queue()
    ranks = Ranks(0, world, 0, world, "127.0.0.1", free_port(), "environment")
    processes = [
        CONTEXT.Process(
            target=_guarded,
            args=(work, replace(ranks, rank=r, local_rank=r), args, results),
            daemon=True,
        )
        for r in range(world)
    ]
    for process in processes:
        process.start()
    found, deadline = {}, time.monotonic() + timeout_seconds
    try:
        while len(found) < world:
            try:
                rank, result = results.get(timeout=0.5)
                found[rank] = result
            except queue.Empty:
                for r, process in enumerate(processes):
                    if r not in found and not process.is_alive() and results.empty():
                        found[r] = ("Died", f"exit code {process.exitcode}", "")
                assert time.monotonic() < deadline, f"ranks {set(range(world)) - set(found)} hang"
    finally:
        for process in processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
    return [found[r] for r in range(world)]


def values(results):
    """The results, after checking that no rank failed."""
    for rank, result in enumerate(results):
        if isinstance(result, tuple) and len(result) == 3 and isinstance(result[2], str):
            raise AssertionError(f"rank {rank}: {result[0]}: {result[1]}\n{result[2]}")
    return results


def _guarded(work, ranks, args, results):
    import torch

    torch.set_num_threads(1)
    try:
        results.put((ranks.rank, work(ranks, *args)))
    except BaseException as error:
        results.put((ranks.rank, (type(error).__name__, str(error), traceback.format_exc())))
