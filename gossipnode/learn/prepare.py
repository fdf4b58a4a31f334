"""`gossipnode prepare`: what a task wants done once a machine, before its nodes start. Most tasks want nothing."""

from __future__ import annotations

from gossipnode.learn.task import load_task


def prepare_task(spec: str) -> str:
    """Run the task's `prepare()`, if it has one; a line for the operator. Raises TaskError."""
    prepare = getattr(load_task(spec), "prepare", None)
    if prepare is None:
        return f"{spec} needs no preparation"
    prepare()
    return f"{spec} is ready"
