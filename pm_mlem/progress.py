"""A progress bar as PyMC's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(title: str, *, enabled: bool) -> Iterator[Callable[[int, float], None]]:
    """Yields ``observe(iteration, value)``; shows the iteration and the objective while a fit runs."""
    if not enabled:
        yield lambda iteration, value: None
        return
    from pymc.progress_bar import create_simple_progress

    with create_simple_progress(True) as bar:
        task = bar.add_task(title, total=None)

        def observe(iteration: int, value: float) -> None:
            bar.update(task, description=f"{title}: iteration {iteration}, {value:.4f}")

        yield observe
