"""Python as a tool: code runs in a process of its own that has locked itself in.

What is guaranteed on Linux (x86-64 and ARM64, kernel 3.17 or newer, no root needed), whatever the code does, native
crashes and broken-out interpreters included, because the kernel holds it (`sandbox.py`, seccomp filter and limits):
no other process is started, signalled or traced; no program is executed; no socket is opened; no file is created,
changed, renamed or removed; memory, processor time, wall time and output are bounded; nothing survives the call.
Where the kernel has Landlock (5.13), only Python's own library folders can be read; where it has not, no file can be
opened at all once the code runs (modules that import more of themselves late then fail). User and network namespaces
are added where the system permits them.

What is not guaranteed: the white-list of syntax, builtins and modules keeps code honest and gives it clear errors, but
libraries such as sympy evaluate strings, so it alone contains nobody. Code can read its own interpreter's memory and
the text of installed libraries, spend its whole budget of time and memory, and learn the time. Flaws of the kernel
itself, and timing side channels, are out of scope.

Elsewhere (macOS, Windows, other processors) calls raise `Unsupported`, unless `weak` accepts a process with nothing but
limits and the white-list.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar

from pydantic import JsonValue

from ken.core import BadInput, Unsupported
from ken.sources.tools.tool import ERROR, Arguments, Tool, ToolResult, cut

MODULES = ("math", "numpy", "cmath", "statistics", "random", "decimal", "fractions", "sympy")
UNPRINTED = "[WARNING] Nothing was printed; use print(...) to see a result."
LONGEST = 10_000  # characters of code
START_SECONDS = 20.0  # for the interpreter and the imports; the time limit counts from there
_KEPT = 16_384  # bytes of the head and of the tail of a stream


class PythonTool(Tool):
    """The tool `code`: runs Python and gives back what it printed (card 22, Method).

    seconds: wall time of the code itself. memory: bytes of address space; numpy and sympy together need about 300 MB.
    characters: of the observation, head and tail kept. modules: top-level names that may be imported. concurrency:
    processes at once (default: one per processor). weak: run also where the kernel cannot contain the code.

    Code that crashes, is refused or runs out of time or memory gives an observation that begins with `[ERROR]`; only a
    system that cannot contain it raises (`Unsupported`).
    """

    name: ClassVar[str] = "code"
    description: ClassVar[str] = "Run Python code and read what it prints."
    parameters: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "properties": {"code": {"type": "string", "description": "Python code that prints its result"}},
        "required": ["code"],
        "additionalProperties": False,
    }

    def __init__(
        self,
        *,
        seconds: float = 2.0,
        memory: int = 512 * 2**20,
        characters: int = 1024,
        modules: Sequence[str] = MODULES,
        budget: int | None = None,
        concurrency: int | None = None,
        weak: bool = False,
    ) -> None:
        if not seconds > 0 or memory < 64 * 2**20:
            raise BadInput("the Python tool needs some time (seconds > 0) and at least 64 MiB of memory")
        self.seconds, self.memory, self.characters, self.modules = seconds, memory, characters, tuple(modules)
        self.budget, self.weak = budget, weak
        self.locks: tuple[str, ...] = ()  # of the latest call: which of namespaces, landlock and seccomp held
        self._threads = ThreadPoolExecutor(concurrency or os.cpu_count() or 1, thread_name_prefix="ken-python")

    async def call(self, arguments: Arguments) -> ToolResult:
        code = str(arguments["code"])
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.run, code)

    async def close(self) -> None:
        self._threads.shutdown(wait=False)

    def run(self, code: str) -> ToolResult:
        """Run `code` and wait for it; safe from any thread. Raises `Unsupported` where it cannot be contained."""
        return self._run(code, check=True)

    def _run(self, code: str, *, check: bool) -> ToolResult:
        """check: False leaves out the white-lists, so that tests can show what the kernel holds by itself."""
        code = code.encode(errors="replace").decode().replace("\0", "")
        if len(code) > LONGEST:
            return ToolResult(f"{ERROR} the code has {len(code)} characters; at most {LONGEST} are run", ok=False)
        try:
            run = self._process(code.strip("\n"), check=check)
        except OSError as error:
            return ToolResult(f"{ERROR} the interpreter did not start ({error.strerror})", ok=False, down=True)
        self.locks = run.locks
        if run.started and "seccomp" not in run.locks and not self.weak:
            raise Unsupported(
                "this system cannot contain untrusted Python (it has no seccomp); run on Linux, or accept the risk "
                "with PythonTool(weak=True)"
            )
        printed = cut(f"{run.out.text.strip()}\n{run.err.text.strip()}".strip(), self.characters)
        if run.problem is None:
            return ToolResult(printed if run.out.total else "\n".join(filter(None, (printed, UNPRINTED))))
        down = not run.started and not run.refused
        text = "\n".join(filter(None, (printed, f"{ERROR} {cut(run.problem, 600)}")))
        return ToolResult(text, ok=False, down=down)

    def _process(self, code: str, *, check: bool) -> _Run:
        """Start the interpreter, drain what it writes, and end it when it is done or out of time."""
        reader, writer = os.pipe()
        with tempfile.TemporaryDirectory(prefix="ken-python-") as folder, tempfile.TemporaryFile() as request:
            try:
                about = {"code": code, "status": writer, "check": check, "weak": self.weak, "modules": self.modules}
                about |= {"memory": self.memory, "seconds": math.ceil(self.seconds) + 1, **_places()}
                request.write(json.dumps(about).encode())
                request.seek(0)
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-X", "utf8", str(Path(__file__).with_name("sandbox.py"))],
                    stdin=request,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=(writer,),
                    cwd=folder,
                    env=_environment(),
                    start_new_session=True,
                )
            except BaseException:
                os.close(reader)
                raise
            finally:
                os.close(writer)
            assert process.stdout is not None
            assert process.stderr is not None
            run = _Run(seconds=self.seconds)
            with process, os.fdopen(reader, "rb") as status:
                try:
                    run.watch(process.stdout, process.stderr, status)
                finally:
                    _kill(process)
            run.code = process.returncode
        return run


@dataclass(slots=True)
class _Stream:
    """The head and the tail of what a pipe carried; the middle is counted only."""

    head: bytes = b""
    tail: bytes = b""
    total: int = 0

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = _KEPT - len(self.head)
        self.head += data[:room]
        self.tail = (self.tail + data[room:])[-_KEPT:] if len(data) > room else self.tail

    @property
    def text(self) -> str:
        missing = self.total - len(self.head) - len(self.tail)
        gap = f"\n… [{missing} bytes cut] …\n".encode() if missing else b""
        return (self.head + gap + self.tail).decode(errors="replace")


@dataclass(slots=True)
class _Run:
    """One run of the sandbox, watched from outside. What comes from inside is data, well-formed or not."""

    seconds: float
    out: _Stream = field(default_factory=_Stream)
    err: _Stream = field(default_factory=_Stream)
    said: _Stream = field(default_factory=_Stream)
    code: int | None = None
    expired: bool = False

    def watch(self, out: IO[bytes], err: IO[bytes], status: IO[bytes]) -> None:
        """Drain the pipes until all are closed or time is up. The clock of the code starts when the locks are shut."""
        with selectors.DefaultSelector() as selector:
            for pipe, stream in ((out, self.out), (err, self.err), (status, self.said)):
                selector.register(pipe, selectors.EVENT_READ, stream)
            deadline, running = time.monotonic() + START_SECONDS, False
            while selector.get_map():
                left = deadline - time.monotonic()
                if left <= 0:
                    self.expired = True
                    return
                for key, _ in selector.select(left):
                    data = os.read(key.fd, 65536)
                    key.data.add(data)
                    if not data:
                        selector.unregister(key.fileobj)
                if not running and b"\n" in self.said.head:
                    deadline, running = time.monotonic() + self.seconds, True

    def _told(self, key: str) -> Any:
        """What the sandbox said about itself, if it did; the first time counts, which is before the code runs."""
        for line in self.said.head.splitlines():
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict) and key in entry:
                return entry[key]
        return None

    @property
    def locks(self) -> tuple[str, ...]:
        told = self._told("locks")
        return tuple(map(str, told)) if isinstance(told, list) else ()

    @property
    def started(self) -> bool:
        """Did the code itself run?"""
        return self._told("locks") is not None

    @property
    def refused(self) -> bool:
        """Was the code turned away before it ran?"""
        return not self.started and self._told("error") is not None

    @property
    def problem(self) -> str | None:
        """What went wrong, in a line; None when the code ran to its end."""
        if self.expired:
            return f"the code ran longer than {self.seconds:g} s" if self.started else "the interpreter did not start"
        if (error := self._told("error")) is not None:
            return " ".join(str(error).split())
        if self._told("done") is not None:
            return None
        if self.code is not None and self.code < 0:
            try:
                name = signal.Signals(-self.code).name
            except ValueError:
                name = str(-self.code)
            return f"the interpreter was ended by {name}"
        return "the code ended the interpreter" if self.started else "the interpreter did not start"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever shares its session, before its number can be given to another."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            process.kill()
    process.wait()


def _environment() -> dict[str, str]:
    """No secrets; one thread each for numpy's libraries, which may not start more; where they look for others."""
    one = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**one, **{name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}}


def _places() -> dict[str, JsonValue]:
    """Where libraries are imported from, and what can be read."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = dict.fromkeys(path for name in names if (path := sysconfig.get_path(name)))
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"]
    if (library := sysconfig.get_config_var("LIBDIR")) and library not in system:
        system.append(str(library))
    site = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    return {"path": list(dict.fromkeys(site)), "readable": [*folders, *system]}
