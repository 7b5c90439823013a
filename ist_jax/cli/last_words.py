"""What a process of a run of several says last if it ends before the run does, whoever ends it.

When another process is gone, JAX may end this one from a thread of its own, at once, so that nothing here can speak any more.
So a small process stands beside it, waits for its end, and speaks unless it was told that all is well. It runs this file and
nothing else of the project.
"""

import pathlib
import signal
import subprocess
import sys

_DONE = "done"


def last_words(process: str, processes: str, checkpoints: str) -> str:
    """The line, which names what a new start goes on from.

    Args:
      process: the number of the process that has ended.
      processes: how many the run has.
      checkpoints: their folder.
    """
    rounds = [
        int(file.stem) for file in pathlib.Path(checkpoints).glob("*.sha256") if file.stem.isdigit()
    ]
    saved = (
        f"it goes on from its checkpoint of round {max(rounds)}"
        if rounds
        else "nothing is saved yet"
    )
    return (
        f"error: process {process} of {processes} has ended before the run did, as it does when another one is gone (what was "
        f"said before this says why): start the same command again everywhere; {saved}"
    )


class Beside:
    """The process beside this one.

    Args: as of `last_words`.
    """

    def __init__(self, process: int, processes: int, checkpoints: pathlib.Path):
        command = [
            sys.executable,
            "-I",
            "-S",
            __file__,
            str(process),
            str(processes),
            str(checkpoints),
        ]
        # in a group of its own: a Ctrl-C is for the run
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, process_group=0)

    def all_is_well(self) -> None:
        """This process ends with words of its own."""
        self._process.communicate(_DONE)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.read() != _DONE:
        print(last_words(*sys.argv[1:]), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
