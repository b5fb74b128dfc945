"""What Ken adds to a model's time: `ken serve` beside the model that it serves, side by side in one run.

    python bench/serving.py [--write] [--clients 100] [--pause 1.0] [--rounds 9] [--questions 10000]

The model is a stub that answers every request after 50 ms. Clients keep a connection each and ask the stub directly,
and Ken in front of it (`ken/direct`), in turns; what Ken adds is the difference of the medians and of the 99th
percentiles.
First with a pause between the questions of a client, as people and most programs ask; then without any, which measures
throughput: latency is then what queueing makes of it. Every answer must carry the number of its question. Stub, server
and clients are processes of one machine and share its processors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
STUB_SECONDS = 0.05
GOAL_P50, GOAL_P99 = 5.0, 25.0  # milliseconds added

NUMBER = re.compile(rb"number (\d+)\?")
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


# --- the model ------------------------------------------------------------------------------------------------------


class Stub(asyncio.Protocol):
    """Answers a chat completion after `STUB_SECONDS` with the number that was asked for."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        while (end := self.data.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self.data, 0, end)
            stop = end + 4 + (int(length[1]) if length else 0)
            if len(self.data) < stop:
                return
            body, self.data = self.data[end + 4 : stop], self.data[stop:]
            number = NUMBER.findall(body)[-1].decode()
            asyncio.get_running_loop().call_later(STUB_SECONDS, self.answer, number)

    def answer(self, number: str) -> None:
        message = {"role": "assistant", "content": f"<think> it is {number} </think><answer> {number} </answer>"}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        usage = {"prompt_tokens": 90, "completion_tokens": 12, "total_tokens": 102}
        reply = {"id": "c", "object": "chat.completion", "created": 0, "model": "stub", "choices": [choice]}
        body = json.dumps({**reply, "usage": usage}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        if not self.transport.is_closing():
            self.transport.write(head.encode() + body)


async def serve_stub() -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


# --- the clients ----------------------------------------------------------------------------------------------------


@dataclass
class Asked:
    """Milliseconds of each question, and what went wrong."""

    times: list[float] = field(default_factory=list)
    lost: int = 0
    mixed_up: int = 0

    def p(self, percent: int) -> float:
        return statistics.quantiles(self.times, n=100)[percent - 1]


class Client:
    """One connection, and one question at a time on it."""

    def __init__(self, port: int, path: str, model: str) -> None:
        self.port, self.path, self.model = port, path, model

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, number: int, asked: Asked) -> None:
        messages = [{"role": "system", "content": "x" * 200}] if self.model == "stub" else []
        question = {"role": "user", "content": f"What is number {number}?"}
        body = json.dumps({"model": self.model, "messages": [*messages, question]}).encode()
        head = f"POST {self.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        started = time.perf_counter()
        try:
            self.writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            reply_head = await self.reader.readuntil(b"\r\n\r\n")
            length = LENGTH.search(reply_head)
            reply = json.loads(await self.reader.readexactly(int(length[1]) if length else 0))
        except (OSError, EOFError):
            asked.lost += 1
            await self.open()
            return
        asked.times.append(1000 * (time.perf_counter() - started))
        if "choices" not in reply:
            asked.lost += 1
        elif str(number) not in re.findall(r"\d+", reply["choices"][0]["message"]["content"]):
            asked.mixed_up += 1


async def load(
    port: int, model: str, *, clients: int, each: int, pause: float, note: Callable[[int], None] = lambda _: None
) -> Asked:
    """`clients` clients that ask `each` questions, each with a number of its own."""
    asked, done = Asked(), 0
    numbers = iter(random.sample(range(10**8, 10**9), clients * each))

    async def one(place: int) -> None:
        nonlocal done
        client = Client(port, "/v1/chat/completions", model)
        await client.open()
        await asyncio.sleep(pause * place / clients)  # not all in step
        for _ in range(each):
            began = time.perf_counter()
            await client.ask(next(numbers), asked)
            done += 1
            note(done)
            if pause:
                await asyncio.sleep(max(0.0, pause * random.uniform(0.8, 1.2) - (time.perf_counter() - began)))
        client.writer.close()

    await asyncio.gather(*map(one, range(clients)))
    return asked


# --- the run --------------------------------------------------------------------------------------------------------


def resident(pid: int) -> float:
    """MiB of memory that a process holds."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def processor(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def merged(parts: list[Asked]) -> Asked:
    whole = Asked()
    for part in parts:
        whole.times += part.times
        whole.lost += part.lost
        whole.mixed_up += part.mixed_up
    return whole


def compare(stub: int, ken: int, *, clients: int, each: int, pause: float, rounds: int) -> tuple[Asked, Asked, float]:
    """Stub and Ken in turns, and how many questions a second Ken answered."""
    direct, through, seconds = [], [], 0.0
    for number in range(rounds):
        for target in ("stub", "ken") if number % 2 == 0 else ("ken", "stub"):
            port, model = (stub, "stub") if target == "stub" else (ken, "ken/direct")
            started = time.perf_counter()
            done = asyncio.run(load(port, model, clients=clients, each=each, pause=pause))
            if target == "ken":
                seconds += time.perf_counter() - started
                through.append(done)
            else:
                direct.append(done)
    return merged(direct), merged(through), clients * each * rounds / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="rewrite bench/SERVING.md")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds from question to question of a client")
    parser.add_argument("--each", type=int, default=10, help="questions of a client in a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--questions", type=int, default=10_000, help="of the run without pauses")
    parser.add_argument("--stub", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stub:
        asyncio.run(serve_stub())
        return
    ken = Path(sys.executable).with_name("ken")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "KEN_"))}
    before = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory() as folder,
        (Path(folder) / "log").open("w") as log,
        subprocess.Popen([sys.executable, __file__, "--stub"], stdout=subprocess.PIPE, text=True) as model,
    ):
        try:
            assert model.stdout is not None
            stub = int(model.stdout.readline())
            arguments = ["--model", "openai/stub", "--base-url", f"http://127.0.0.1:{stub}/v1", "--port", "0"]
            arguments += ["--concurrency", str(2 * options.clients), "--queue", "1000"]
            with subprocess.Popen(
                [str(ken), "serve", *arguments],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            ) as server:
                try:
                    assert server.stdout is not None
                    found = re.search(r":(\d+)/", server.stdout.readline())
                    assert found, (Path(folder) / "log").read_text()
                    lines = measure(options, stub, int(found[1]), server.pid, before)
                finally:
                    server.terminate()
        finally:
            model.kill()
    print("\n".join(lines))
    if options.write:
        (HERE / "SERVING.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def measure(options: argparse.Namespace, stub: int, ken: int, pid: int, before: float) -> list[str]:
    """Both runs, as the lines of a report."""
    asyncio.run(load(ken, "ken/direct", clients=options.clients, each=2, pause=0.0))  # warm: connections, imports
    used = processor(pid)
    direct, through, rate = compare(
        stub, ken, clients=options.clients, each=options.each, pause=options.pause, rounds=options.rounds
    )
    paced = (f"every {options.pause:g} s", direct, through, rate, 1000 * (processor(pid) - used) / len(through.times))
    each = max(1, options.questions // options.clients)
    direct = asyncio.run(load(stub, "stub", clients=options.clients, each=each, pause=0.0))
    memory: list[str] = []
    marks = {each * options.clients * part // 5 for part in range(1, 6)} | {options.clients}

    def note(done: int) -> None:
        if done in marks:
            memory.append(f"{resident(pid):.0f} MiB after {done:,}")

    used, started = processor(pid), time.perf_counter()
    through = asyncio.run(load(ken, "ken/direct", clients=options.clients, each=each, pause=0.0, note=note))
    rate = len(through.times) / (time.perf_counter() - started)
    flat_out = ("without pause", direct, through, rate, 1000 * (processor(pid) - used) / len(through.times))
    return report(options, before, paced, flat_out, memory)


Row = tuple[str, Asked, Asked, float, float]


def report(options: argparse.Namespace, before: float, paced: Row, flat_out: Row, memory: list[str]) -> list[str]:
    command = f"python bench/serving.py --clients {options.clients} --pause {options.pause:g} --each {options.each}"
    command += f" --rounds {options.rounds} --questions {options.questions}"
    versions = ", ".join(f"{name} {version(name)}" for name in ("uvicorn", "fastapi", "openai"))
    lines = [
        "# Serving: what Ken adds to a model's time",
        "",
        f"`{command}`, {time.strftime('%Y-%m-%d')}: {os.cpu_count()} processors ({platform.machine()}), load "
        f"{before:.1f} when it began and {os.getloadavg()[0]:.1f} when it ended (its own processes "
        f"make about 2), Python {platform.python_version()}, {versions}.",
        "",
        f"A stub answers after {1000 * STUB_SECONDS:g} ms; {options.clients} clients ask it, and Ken (`ken/direct`) in "
        "front of it, in turns. Milliseconds from the first byte sent to the last one read.",
        "",
        "| clients ask | whom | p50 | p90 | p99 | questions/s | Ken's processor time a question |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, direct, through, rate, cost in (paced, flat_out):
        for whom, asked, last in (("stub", direct, " | "), ("Ken", through, f"{rate:.0f} | {cost:.2f} ms")):
            times = " | ".join(f"{asked.p(q):.1f}" for q in (50, 90, 99))
            lines.append(f"| {name} | {whom} | {times} | {last} |")
    if before > (os.cpu_count() or 1):
        lines += [
            "",
            "**The machine was busy with other work while this ran.** The processor time a question needs carries "
            "over to a quiet one; the milliseconds and the rate do not: they hold what Ken waited for a processor.",
        ]
    lost, mixed = (sum(getattr(row[2], what) for row in (paced, flat_out)) for what in ("lost", "mixed_up"))
    met = {True: "met", False: "**missed**"}
    return [
        *lines,
        "",
        *(
            f"- Added when clients ask {name}: p50 {through.p(50) - direct.p(50):+.1f} ms (goal ≤ {GOAL_P50:g}: "
            f"{met[through.p(50) - direct.p(50) <= GOAL_P50]}), p99 {through.p(99) - direct.p(99):+.1f} ms (goal ≤ "
            f"{GOAL_P99:g}: {met[through.p(99) - direct.p(99) <= GOAL_P99]})."
            for name, direct, through, _, _ in (paced, flat_out)
        ),
        "- The goals are read with pauses: what Ken adds can be told from a wait only while Ken is not saturated. "
        f"Without pauses {options.clients} questions are always under way, which is more than the one process can do "
        f"({flat_out[3]:.0f} a second): what a client then sees is mostly waiting for its turn, a measure of "
        "throughput. Whoever reads the goals that way must call them missed.",
        f"- Of {len(paced[2].times) + len(flat_out[2].times):,} questions put to Ken, {lost} were lost and {mixed} got "
        "the answer of another.",
        f"- Memory of Ken's process without pauses: {', '.join(memory)} questions.",
    ]


if __name__ == "__main__":
    main()
