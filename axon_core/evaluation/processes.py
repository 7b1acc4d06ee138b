"""A comparison over several processes: each takes case after case, with methods of its own.

Records are written by whoever computes them (see `compare`), so that a run that is stopped, or killed, loses at most
the units at work.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any

import torch

from axon_core.evaluation.cases import EvalCase
from axon_core.evaluation.compare import (
    Comparison,
    Failure,
    Record,
    Settings,
    Told,
    common_window,
    evaluate_case,
    evaluate_cases,
)
from axon_core.evaluation.methods import Method
from axon_core.intensity import HuWindow

Opener = Callable[[], Sequence[Method]]  # a function of the module's level, or a partial of one: it travels


def evaluate_in_processes(
    methods: Sequence[Method],
    open_methods: Opener,
    cases: Sequence[EvalCase],
    folder: str | Path,
    settings: Settings,
    processes: int = 2,
    told: Told = lambda outcome: None,
) -> Comparison:
    """The same as `evaluate_cases`, with the cases divided among processes, each with methods of its own.

    Args:
        methods: as here.
        open_methods: makes the same methods, once in each of the other processes.
        cases, folder, settings, told: see `evaluate_cases`; `told` is called here, after each case.
        processes: one computes here.

    Errors:
        As `evaluate_cases`.
    """
    window = common_window(methods, settings.window)
    processes = min(processes, len(cases))
    if processes <= 1:
        return evaluate_cases(methods, cases, folder, settings, told)
    comparison = Comparison()

    def take(outcomes: Sequence[Record | Failure]) -> None:
        for outcome in outcomes:
            comparison.add(outcome)
            told(outcome)

    left = list(cases)
    while left:
        try:
            for case, outcomes in _in_pool(open_methods, left, folder, settings, window, processes):
                take(outcomes)
                left.remove(case)
        except BrokenProcessPool:  # a single process works in order: the case that kills it is the first one left
            if processes == 1:
                case = left.pop(0)
                reason = "Its process was killed, probably because memory ran out."
                take([Failure(case.name, m.label, v, reason) for m in methods for v in settings.views])
            processes = 1
    order = {case.name: place for place, case in enumerate(cases)}
    comparison.records.sort(key=lambda record: order[record["case"]])
    return comparison


def _in_pool(
    open_methods: Opener,
    cases: Sequence[EvalCase],
    folder: str | Path,
    settings: Settings,
    window: HuWindow,
    processes: int,
) -> Iterator[tuple[EvalCase, list[Record | Failure]]]:
    """Each case with its outcomes, as they come."""
    strangers = set(active_children())
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _start, (open_methods,))
    try:
        tasks: dict[Future[list[Record | Failure]], EvalCase] = {
            pool.submit(_all_of, case, Path(folder), settings, window): case for case in cases
        }
        for task in as_completed(tasks):
            yield tasks[task], task.result()
    except BaseException:  # nobody waits for what is not wanted any more
        for child in set(active_children()) - strangers:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


class _Worker:
    """What a process of the pool keeps between cases."""

    open_methods: Opener
    methods: Sequence[Method] | None = None
    busy = False


def _start(open_methods: Opener) -> None:
    _Worker.open_methods = staticmethod(open_methods)
    torch.set_num_threads(1)  # the processes share the cores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches them too, but it is the parent that answers
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_follow, args=(parent_process(),), daemon=True).start()


def _leave(*_: object) -> None:
    """End, but not in the middle of writing: the exception cleans up on its way out."""
    if _Worker.busy:
        raise KeyboardInterrupt
    os._exit(0)


def _follow(parent: Any) -> None:
    """A killed parent leaves no process behind."""
    parent.join()
    os._exit(1)


def _all_of(case: EvalCase, folder: Path, settings: Settings, window: HuWindow) -> list[Record | Failure]:
    _Worker.busy = True
    try:
        if _Worker.methods is None:
            _Worker.methods = _Worker.open_methods()
        return list(evaluate_case(_Worker.methods, case, folder, settings, window))
    except KeyboardInterrupt:  # cleaned up; the pool would go on with the next case, which it has handed over already
        os._exit(0)
    finally:
        _Worker.busy = False
