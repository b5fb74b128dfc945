"""A row of pure functions, in seconds what real rows do in hours. `install` makes it the row of a paper without one.

What it does besides is told by the environment: FAKE_FAIL="method:1" fails that arm on that seed; FAKE_WAIT="method:1"
says "here" on standard output and waits there, so that a kill or an interrupt always strikes the same moment;
FAKE_LOG names a file that gets a line for every arm that is run and every bench that is prepared; FAKE_HOLD a file in
which the first process that comes by leaves its id, and waits to be killed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from capitals import environment

from ken.core import ModelError
from ken.core.frozen import Frozen
from ken.papers import Arm, Claim, Metrics, Paper, entry

SLUG = "introspective-growth"


class Config(Frozen):
    questions: int = 1000
    gain: float = 0.4


@dataclass(frozen=True)
class Bench:
    seed: int
    base: float
    gain: float


def log(text: str) -> None:
    if "FAKE_LOG" in os.environ:
        with Path(os.environ["FAKE_LOG"]).open("a", encoding="utf-8") as file:
            file.write(f"{text} {os.getpid()}\n")


def prepare(config: Config, seed: int) -> Bench:
    log(f"bench:{seed}")
    if os.environ.get("FAKE_FAIL") == f"bench:{seed}":
        raise ModelError("the base model is not built; run `ken lab build`")
    return Bench(seed, base=0.30 + 0.01 * seed, gain=config.gain)


def arm(name: str, gain: float) -> Callable[[Bench], Metrics]:
    def run(bench: Bench) -> Metrics:
        here = f"{name}:{bench.seed}"
        log(here)
        if os.environ.get("FAKE_WAIT") == here:
            print("here", flush=True)
            sys.stdin.read()
        hold = Path(os.environ.get("FAKE_HOLD", "/"))
        if not hold.exists():
            hold.with_suffix(".new").write_text(str(os.getpid()), encoding="utf-8")
            hold.with_suffix(".new").rename(hold)
            signal.pause()
        if os.environ.get("FAKE_FAIL") == here:
            raise ZeroDivisionError("no\nquestions")
        em = bench.base + gain * bench.gain
        draws = [random.random(), float(np.random.random())]
        return {"em": em, "curve": [0.0, em / 2, em], "draws": draws, "knows": float("nan")}

    return run


paper = Paper(
    entry=entry(SLUG),
    summary="Nothing is learnt here: the method is better than the base by what the config says.",
    full=Config(),
    smoke=Config(questions=5),
    prepare=prepare,
    arms=(
        Arm("base", "untrained", arm("base", 0.0)),
        Arm("method", "with the gain", arm("method", 1.0)),
        Arm("half", "with half of the gain", arm("half", 0.5), optional=True),
    ),
    claims=(
        Claim("the method gains 0.35", "hard", 0.35, lambda arms: arms["method"]["em"] - arms["base"]["em"]),
        Claim("the method gains 0.45", "hard", 0.45, lambda arms: arms["method"]["em"] - arms["base"]["em"]),
        Claim("the method is right on 0.71", "soft", 0.71, lambda arms: arms["method"]["em"], note="a note"),
        Claim("half gains half", "soft", 0.1, lambda arms: arms["half"]["em"] - arms["base"]["em"]),
        Claim("the curve ends higher", "soft", 0.3, lambda arms: arms["method"]["curve"][-1]),
    ),
    columns=("em", "knows"),
)


MAIN = """
import ken.papers, sys
ken.papers.__path__.insert(0, {folder!r})
from ken.cli import main
main()
"""


class FakeKen:
    """The command line in processes of its own, with this row installed; its working directory is `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rows = folder / "rows"
        rows.mkdir(exist_ok=True)
        (rows / "54_introspective_growth.py").write_text("from fake_paper import paper\n", encoding="utf-8")
        self.code = MAIN.format(folder=str(rows))

    def start(self, *arguments: object, **changes: str) -> subprocess.Popen[str]:
        path = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
        changes = {"PYTHONPATH": path, "FAKE_LOG": str(self.folder / "log"), **changes}
        return subprocess.Popen(
            [sys.executable, "-c", self.code, *map(str, arguments)],
            cwd=self.folder,
            env=environment(**changes),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def run(self, *arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **changes)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def logged(self) -> list[str]:
        """What was run, in order."""
        path = self.folder / "log"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [line.split()[0] for line in lines]
