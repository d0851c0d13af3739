"""The command line in processes that begin at once: forked from one that has imported everything."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}


class Forked:
    """``with Forked() as run: code, text = run("train", "rlft", ...)``, one command at a time."""

    def __enter__(self) -> Self:
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.forked"],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __call__(
        self, *arguments: str | Path, log: Path, kill_when: Callable[[], None] | None = None
    ) -> tuple[int, str]:
        """Exit code (-9: killed) and all output; SIGKILL comes when ``kill_when`` returns."""
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write(json.dumps([str(log), *map(str, arguments)]) + "\n")
        self.server.stdin.flush()
        pid = int(self.server.stdout.readline())
        if kill_when is not None:
            kill_when()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return int(self.server.stdout.readline()), log.read_text()

    def __exit__(self, *_: object) -> None:
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()


def _serve() -> None:
    import gymnasium  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import benchmarks.taxi.task  # noqa: F401
    import repoagent.transformer  # noqa: F401
    import training.cli
    import training.rlft
    import training.stages
    import training.teacher  # noqa: F401
    from repoagent.cli import main

    for line in sys.stdin:
        log, *arguments = json.loads(line)
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
            continue
        with Path(log).open("wb") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.argv = ["repoagent", *arguments]
        main()


if __name__ == "__main__":
    _serve()
