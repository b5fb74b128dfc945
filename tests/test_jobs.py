"""A command in a process of its own: its log, its end, and what it leaves behind."""

from __future__ import annotations

import asyncio
import os
import select
import signal

import pytest

from ken.serving import jobs
from ken.serving.jobs import Busy, Job, Jobs

SECONDS = 30


def run_job(monkeypatch: pytest.MonkeyPatch, code: str, grace: float = SECONDS) -> Job:
    """A job whose command is `code`, started."""
    monkeypatch.setattr(jobs, "_LEASH", jobs._LEASH.replace("from ken.cli import main\nmain()", code))
    return Job("test", ("test",), grace=grace)


def test_a_job_that_ignores_an_interrupt_is_killed_with_what_it_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print(child.pid, file=sys.stderr)
signal.pause()
"""

    async def check() -> None:
        job = run_job(monkeypatch, code, grace=0.2)
        await job.start()
        number, line = await anext(aiter(job.events()))  # type: ignore[misc]
        assert number == 0
        child = os.pidfd_open(int(line))
        await job.cancel()
        assert (job.state, job.code) == ("cancelled", -signal.SIGKILL)
        assert select.select([child], [], [], SECONDS)[0]
        os.close(child)

    asyncio.run(check())


def test_a_jobs_log_keeps_its_end_and_tells_how_much_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"""
import sys
for i in range({jobs.LINES} + 500):
    print(i, file=sys.stderr)
print("x" * 100_000, end="", file=sys.stderr)
print("out")
"""

    async def check() -> None:
        job = run_job(monkeypatch, code)
        await job.start()
        seen = [happened async for happened in job.events()]
        assert job.state == seen[-1] == "finished"
        assert job.output == b"out\n"
        assert job.dropped == 501
        assert (job.lines[0], job.lines[-1]) == ("501", "x" * jobs.WIDTH)
        late = [happened async for happened in job.events(after=jobs.LINES + 499)]
        assert late == [(jobs.LINES + 499, str(jobs.LINES + 499)), (jobs.LINES + 500, "x" * jobs.WIDTH), "finished"]

    asyncio.run(check())


def test_two_jobs_at_once_are_refused_and_closing_ends_the_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        run_job(monkeypatch, "import signal; signal.pause()")
        several = Jobs()
        outcomes = await asyncio.gather(*(several.start(f"n{i}", "wait") for i in range(3)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Job, Busy, Busy]
        await several.close()
        assert several.running is None
        assert several.last("n0") is outcomes[0]

    asyncio.run(check())
