"""Work on independent items in processes that never import TensorFlow."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool

from segkit.errors import DataError


def run_parallel(function, items, *, workers):
    """Yields `(index, function(items[index]))` in order of completion.

    If the consumer stops early, a worker fails, or Ctrl-C is pressed, the workers are ended at
    once; what they left behind is the caller's to remove.

    Args:
        function: Picklable callable of one argument.
        items: Sequence of picklable arguments.
        workers: Number of processes; with 1 the work is done in this one.

    Raises:
        DataError: A worker process died, say for lack of memory.
    """
    if workers == 1 or len(items) < 2:
        yield from ((index, function(item)) for index, item in enumerate(items))
        return
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(workers, len(items)), _context(), initializer=_start_worker)
    try:
        futures = {pool.submit(function, item): index for index, item in enumerate(items)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process died: memory ran out, or a decoder crashed on a damaged "
            "file. Run the same command again with --workers 1: finished shards are kept."
        ) from error
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _context():
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Imported once by the server instead of once per worker.
    context.set_forkserver_preload(["data_prep.convert", "segkit.io.nifti"])
    return context


def _start_worker():
    """Leaves Ctrl-C to the parent, which says how to go on, and never outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)
