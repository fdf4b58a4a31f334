"""The one exception that means "the operator can fix this": the CLI prints it as `error: ...` and exits with code 2.

Its text is one line that names the file or option at fault and what to do about it. Anything a peer did wrong is data
(an offence), and anything we did wrong is an assertion: neither is ever an OperatorError.
"""

from __future__ import annotations


class OperatorError(Exception):
    """One line: what is wrong, where, and the remedy."""

    def __init__(self, text: str) -> None:
        super().__init__(" ".join(text.split()))  # a file name may hold a newline; the line stays one


def reason(error: OSError) -> str:
    """`Permission denied` rather than `[Errno 13] Permission denied: '...'`: our lines name the file themselves."""
    return error.strerror or str(error)
