"""Makes a child process end with its parent, whatever either of them is doing.

A thread that watches a pipe is not enough: it needs the interpreter's lock, which a library may hold while it waits (a
rank that waits for the others, for days). So the kernel does it: PR_SET_PDEATHSIG, SIGKILL. The kernel sends it when
the *thread* that started the process ends, so that thread must live as long as the process is needed.

    python -m rlvr.processes.lifeline PARENT_PID MODULE [ARGUMENT ...]  runs MODULE, tied to its parent from the start
"""

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent_pid: int) -> None:
    """Has the kernel kill this process when its parent ends; if the parent has already ended, ends it now.

    Linux only; elsewhere this does nothing, and a closed pipe must suffice.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # the parent ended before the line above took effect
            os._exit(0)


def bound_command(module: str, *arguments: str) -> list[str]:
    """The command that runs one of our modules in a process that ends with this one."""
    return [sys.executable, "-m", "rlvr.processes.lifeline", str(os.getpid()), module, *arguments]


def main() -> None:
    """Runs a module as `python -m` does, in a process that ends with its parent."""
    end_with_parent(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
