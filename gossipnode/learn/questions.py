"""A file becomes the input of a task's model, and the model's scores become words: the same for answerer and asker.

What peers sent is held to the limits before the task sees it. Invariant: whatever the bytes, `read_question` raises
Unanswerable or LearnerError and nothing else. A task that has no `question` and `answer` of its own gets the defaults.
"""

from __future__ import annotations

import torch

from gossipnode.learn.encoding import Vector
from gossipnode.learn.names import last_line
from gossipnode.learn.task import Batch, Task, TaskError
from protocols import limits
from protocols.learner import LearnerError, Unanswerable


def read_question(task: Task, data: bytes) -> Batch:
    """Inputs of the model, (B, ...) each. Raises Unanswerable, LearnerError."""
    own = getattr(task, "question", None)
    try:
        inputs: Batch = own(data) if own is not None else Task.question(task, data)
    except TaskError as error:  # what the task needs is not on this machine
        raise LearnerError(str(error)) from error
    except Unanswerable:
        raise
    except Exception as error:  # the operator's own code, given a stranger's bytes
        raise Unanswerable(f"the task cannot read it: {last_line(error)}") from error
    if not 0 < len(inputs[0]) <= limits.QUESTION_ROWS:
        raise Unanswerable(f"{len(inputs[0])} examples in one question: 1 to {limits.QUESTION_ROWS} are allowed")
    return inputs


def in_words(task: Task, scores: Vector) -> list[str]:
    """One line for each example; scores are (B, C)."""
    own = getattr(task, "answer", None)
    return [str(own(row) if own is not None else Task.answer(task, row)) for row in torch.from_numpy(scores)]
