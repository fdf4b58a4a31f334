"""Says, before anything is downloaded, what this machine lacks for `make run`, and which package brings it.

fastecdsa (a dependency of libp2p) has no wheel for Linux and is compiled: that takes a C compiler, Python's headers and
GMP's. Without this check a newcomer meets the lack as a page of compiler output. Standard library only, and written so
that any Python since 3.7 can run it: it is what tells the user that theirs is too old.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile

OLDEST = (3, 11)
NEWEST = (3, 13)

REMEDIES = {
    "a C compiler": ("gcc", "gcc", "gcc"),
    "Python's headers": ("python3-dev", "python3-devel", "python"),
    "GMP's headers": ("libgmp-dev", "gmp-devel", "gmp"),
    "Python's venv module": ("python3-venv", "python3", "python"),
}

PROGRAMS = {
    "a C compiler": "int main(void) { return 0; }",
    "Python's headers": "#include <Python.h>\nint main(void) { return 0; }",
    "GMP's headers": "#include <gmp.h>\nint main(void) { mpz_t n; mpz_init(n); return 0; }",
}


def compiles(program: str, *libraries: str) -> bool:
    """Whether the compiler that pip will use (CC, else the one Python was built with) makes a program of it."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    flags = [flag for name in ("CPPFLAGS", "CFLAGS", "LDFLAGS") for flag in shlex.split(os.environ.get(name, ""))]
    include = "-I" + sysconfig.get_paths()["include"]
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "probe.c")
        with open(source, "w", encoding="ascii") as file:
            file.write(program)
        command = [*compiler, include, source, "-o", os.path.join(folder, "probe"), *flags, *libraries]
        try:
            return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
        except OSError:  # no such compiler
            return False


def lacking() -> list[str]:
    """What must be installed first; without a compiler nothing can be said about headers."""
    lack = [] if importlib.util.find_spec("ensurepip") else ["Python's venv module"]
    if not compiles(PROGRAMS["a C compiler"]):
        return [*lack, "a C compiler"]
    if not compiles(PROGRAMS["Python's headers"]):
        lack.append("Python's headers")
    if not compiles(PROGRAMS["GMP's headers"], "-lgmp"):
        lack.append("GMP's headers")
    return lack


def advice(lack: list[str]) -> str:
    debian, fedora, homebrew = (" ".join(REMEDIES[thing][column] for thing in lack) for column in range(3))
    return "\n".join(
        [
            "This machine lacks " + ", ".join(lack) + ", without which libp2p cannot be installed. Remedy:",
            "  Debian, Ubuntu:  sudo apt-get install " + debian,
            "  Fedora:          sudo dnf install " + fedora,
            "  Homebrew:        brew install " + homebrew + "  (export CPATH and LIBRARY_PATH from `brew --prefix`)",
        ]
    )


def main() -> int:
    here = sys.version_info[:2]
    if not OLDEST <= here <= NEWEST:
        print(f"gossipnode needs Python 3.11 to 3.13; this is {here[0]}.{here[1]}. Remedy: make PYTHON=python3.12")
        return 1
    lack = lacking()
    if lack:
        print(advice(lack))
    # macOS gets a ready-made fastecdsa, so there the advice is only for when the install does stop.
    return 1 if lack and sys.platform != "darwin" else 0


if __name__ == "__main__":
    sys.exit(main())
