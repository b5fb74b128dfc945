"""The Python tool: what it observes, and that nothing gets out of it.

Attempts to escape are made as a model would (`run`), and with the white-lists left out (`kernel`), so that what the
kernel holds is shown by itself. None would do harm if it succeeded.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from ken.core import BadInput, Unsupported
from ken.sources.tools.python import UNPRINTED, PythonTool
from ken.sources.tools.tool import Toolbox, ToolResult

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="code is contained on Linux only")

TOOL = PythonTool(seconds=10.0)  # of patience, on a busy machine
SHORT = PythonTool(seconds=0.4)


def run(code: str, tool: PythonTool = TOOL) -> ToolResult:
    return tool.run(code)


def kernel(code: str, tool: PythonTool = TOOL) -> ToolResult:
    return tool._run(code, check=False)


# --- what a model sees ---


def test_what_is_printed_is_the_observation() -> None:
    assert run("a = 1234\nprint(a * 5678)\nprint('done')") == ToolResult("7006652\ndone")


def test_code_that_prints_nothing_is_told_so() -> None:
    assert run("1 + 1") == ToolResult(UNPRINTED)
    assert "print" in UNPRINTED


def test_the_white_list_of_the_card_can_be_imported() -> None:
    code = """
import cmath, decimal, random, statistics
import numpy as np
import numpy.linalg as la
from fractions import Fraction
from math import *
print(Fraction(1, 3) + 1, floor(pi), statistics.mean([1, 2, 3]), cmath.sqrt(-1), decimal.Decimal("0.1") * 3)
print(la.det(np.eye(2)), np.random.default_rng(0).integers(5, 6), 0 <= random.random() < 1)
class A:
    def __init__(self, x): self.x = x
print([A(i).x for i in range(3)], f"{3.14159:.2f}", __name__)
"""
    assert run(code).text == "4/3 3 2 1j 0.3\n1.0 5 True\n[0, 1, 2] 3.14 __main__"


def test_sympy_works_where_it_is_installed() -> None:
    pytest.importorskip("sympy")
    assert run("from sympy import *\nx = symbols('x')\nprint(solve(x**2 - 4, x))").text == "[-2, 2]"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("print('so far')\n1 / 0", "so far\n[ERROR] ZeroDivisionError: division by zero (line 2)"),
        ("def f(n):\n    return f(n + 1)\nf(0)", "[ERROR] RecursionError: maximum recursion depth exceeded (line 2)"),
        ("print(1", "[ERROR] SyntaxError: '(' was never closed (line 1)"),
        ("raise SystemExit(1)", UNPRINTED),
        ("raise KeyboardInterrupt", "[ERROR] KeyboardInterrupt (line 1)"),
        ("assert 1 == 2, 'no'", "[ERROR] AssertionError: no (line 1)"),
    ],
)
def test_errors_are_observations(code: str, says: str) -> None:
    assert run(code).text == says


@pytest.mark.parametrize(
    "code", ["(" * 5000, "-" * 9999 + "1", "1+" * 4000 + "1", "x = " + "[" * 90 + "]" * 90, "\0\ud800é"]
)
def test_code_that_cannot_be_parsed_harms_nobody(code: str) -> None:
    assert not run(code).down


def test_long_output_keeps_head_and_tail() -> None:
    result = run("print('head')\nprint('x' * 10**6)\nprint('tail')")
    assert len(result.text) <= 1024
    assert result.text.startswith("head\n")
    assert result.text.endswith("tail")
    assert "cut" in result.text


def test_code_longer_than_the_limit_is_not_run() -> None:
    assert run("#" * 10_001).text.startswith("[ERROR] the code has 10001 characters")


def test_many_calls_run_at_once_and_none_is_mixed_up() -> None:
    async def many() -> list[ToolResult]:
        box = Toolbox([PythonTool()])
        return await asyncio.gather(*(box.call("code", {"code": f"print({i})"}) for i in range(16)))

    assert [result.text for result in asyncio.run(many())] == [str(i) for i in range(16)]


def test_the_tool_is_down_and_not_the_code_wrong_when_no_interpreter_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    result = run("print(1)")
    assert (result.ok, result.down) == (False, True)
    assert result.text == "[ERROR] the interpreter did not start (No such file or directory)"
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert run("print(1)").down


def test_where_the_kernel_cannot_contain_it_no_code_is_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import ken.sources.tools.python as home

    there = (
        Path(home.__file__)
        .with_name("sandbox.py")
        .read_text()
        .replace('"x86_64":', '"x":')
        .replace('"aarch64":', '"y":')
    )
    (tmp_path / "sandbox.py").write_text(there)
    monkeypatch.setattr(home, "__file__", str(tmp_path / "python.py"))
    with pytest.raises(Unsupported, match="weak=True"):
        run("print(1)")
    assert run("print(1)", PythonTool(weak=True)).text == "1"


def test_limits_must_make_sense() -> None:
    with pytest.raises(BadInput, match="some time"):
        PythonTool(seconds=0)


# --- time, memory, output ---


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "while True: print('x' * 1000)",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "x = 9 ** 9 ** 9",
        "import statistics\nfor i in iter(int, 1): pass",
    ],
)
def test_an_endless_loop_is_ended(code: str) -> None:
    started = time.perf_counter()
    result = run(code, SHORT)
    assert result.text.endswith("[ERROR] the code ran longer than 0.4 s")
    assert len(result.text) <= 1024 + 100
    assert time.perf_counter() - started < 5


def test_sleeping_and_ignoring_signals_does_not_help() -> None:
    code = """
import signal, time
for number in range(1, 32):
    try: signal.signal(number, signal.SIG_IGN)
    except OSError: pass
time.sleep(60)
"""
    assert "longer than" in kernel(code, SHORT).text


def test_memory_is_bounded() -> None:
    for code in ("x = [0] * 10**10", "x = 'a' * 10**9", "x = []\nwhile True: x.append(' ' * 10**6)"):
        result = run(code)
        assert "MemoryError" in result.text, code
    assert "MemoryError" in kernel("import mmap\nx = bytearray(2 * 10**9)").text


def test_a_crash_of_the_interpreter_is_an_observation() -> None:
    assert kernel("import ctypes\nctypes.string_at(0)").text == "[ERROR] the interpreter was ended by SIGSEGV"
    assert kernel("import os\nos._exit(3)").text == "[ERROR] the code ended the interpreter"


# --- the white-list ---

DUNDER = "().__class__.__bases__[0].__subclasses__()"


@pytest.mark.parametrize(
    "code",
    [
        "import os",
        "import socket",
        "import subprocess",
        "import numpy, sys",
        "from os import system",
        "import os.path as math",
        "from . import x",
        f"print({DUNDER})",
        "print([c for c in object.__subclasses__() if 'Popen' in c.__name__])",
        "(lambda: 0).__globals__",
        "f = lambda: (yield)\nprint(f().gi_frame.f_back)",
        "print(__builtins__)",
        "__import__('os').system('true')",
        "eval('1')",
        "exec('import os')",
        "compile('1', '', 'eval')",
        "open('/etc/passwd')",
        "getattr(1, 'real')",
        "globals()",
        "vars()",
        "breakpoint()",
        "input()",
        "import random\nrandom._os.system('true')",
        "import statistics\nstatistics.sys.modules",
        "import numpy\nnumpy.ctypeslib.load_library('c', '/')",
        "import numpy\nnumpy.f2py.os",
        "from numpy import os",
        "from statistics import sys",
        "async def f(): pass",
        "match 1:\n    case object(__class__=c): print(c)",
        "class A:\n    x = __class__",
        "print(type.mro(int))",
        "try:\n    1/0\nexcept Exception as e:\n    print(e.__traceback__.tb_frame)",
    ],
)
def test_what_is_not_on_the_white_list_is_refused(code: str) -> None:
    result = run(code)
    assert not result.ok
    assert not result.down
    assert result.text.startswith("[ERROR] ")


def test_a_refusal_says_what_is_allowed() -> None:
    assert run("import os").text == (
        "[ERROR] importing os is not allowed; allowed: math, numpy, cmath, statistics, random, decimal, fractions, "
        "sympy (line 1)"
    )


def test_strings_that_format_themselves_reach_no_function() -> None:
    assert "object at" not in run("print('{0.__class__.__subclasses__}'.format(1))").text.replace("type object at", "")
    assert run("print('{0.__class__.__subclasses__()}'.format(1))").text.startswith("[ERROR]")


# --- the kernel, with the white-list left out ---


def test_all_three_locks_hold_here_or_are_named() -> None:
    kernel("pass")
    assert "seccomp" in TOOL.locks
    assert set(TOOL.locks) <= {"namespaces", "landlock", "seccomp"}


@pytest.mark.parametrize(
    "code",
    [
        "import os\nfor _ in range(20): os.fork()",
        "import os\nos.forkpty()",
        "import os\nos.posix_spawn('/bin/sh', ['sh'], {})",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.execv('/bin/echo', ['echo', 'out'])",
        "import threading\nthreading.Thread(target=print).start()",
        "import multiprocessing\np = multiprocessing.Process(target=print)\np.start()",
        "import socket\nsocket.socket()",
        "import socket\nsocket.create_connection(('127.0.0.1', 1))",
        "import socket\nsocket.socketpair()",
        "import os\nos.kill(os.getppid(), 0)",
        "import os\nos.killpg(os.getppid(), 0)",
        "import os\nos.kill(-1, 0)",
        "import os\nos.setsid()",
        "import os\nos.setuid(0)",
        "import os\nos.chroot('/')",
        "import os\nos.mkdir('here')",
        "import os\nos.mkfifo('here')",
        "import os\nos.symlink('/', 'here')",
        "import os\nos.truncate('/no', 0)",
        "import os\nos.utime('/no')",
        "import os\nos.chmod('/no', 0)",
        "import os\nos.listdir('/')",
        "import os\nos.memfd_create('x')",
        "open('/etc/passwd').read()",
        "open('/proc/self/environ').read()",
        "open('/proc/self/mem', 'r+b')",
        "import os\nopen(f'/proc/{os.getppid()}/environ').read()",
        "open('/dev/tty')",
        "open('written', 'w')",
        "open('written', 'a')",
        "open('written', 'x')",
        "import os\nos.open('written', os.O_RDONLY | os.O_CREAT)",
        "import os\nos.open('/tmp', os.O_TMPFILE | os.O_RDWR)",
        "import tempfile\ntempfile.TemporaryFile()",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
        "import fcntl\nfcntl.ioctl(1, 0x5412, b'x')",
        "import signal\nsignal.pidfd_send_signal(0, 9)",
    ],
)
def test_the_kernel_refuses(code: str) -> None:
    result = kernel(f"{code}\nprint('ESCAPED')")
    assert "ESCAPED" not in result.text
    assert re.search("not permitted|Permission denied|not allowed|can't start|No usable", result.text), result.text
    assert not result.down


def test_raw_system_calls_are_refused_too() -> None:
    """Every number, but those that end or stop the process by themselves; none may leave a mark outside."""
    code = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
refused = {NUMBERS}
held = [n for n in refused if libc.syscall(n, 0, 0, 0, 0, 0, 0) == -1 and ctypes.get_errno() == 1]
print(sorted(set(refused) - set(held)))
"""
    import platform

    numbers = {  # socket, connect, fork, execve, kill, ptrace, mount, unshare, setns, bpf, io_uring, clone3 …
        "x86_64": [41, 42, 49, 53, 56, 57, 58, 59, 62, 101, 157, 160, 165, 234, 272, 308, 310, 321, 322, 425, 435],
        "aarch64": [97, 198, 199, 203, 220, 221, 129, 117, 167, 40, 131, 268, 270, 280, 281, 425, 435],
    }[platform.machine()]
    assert kernel(code.replace("{NUMBERS}", str(numbers))).text == "[]"


def escaped(attempts: dict[str, str], tool: PythonTool = TOOL) -> list[str]:
    """Which of these pieces of code ran to their end, all tried in one process without the white-lists."""
    code = f"""
import ctypes, os, signal, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), "refused")
    return result
for name, attempt in {attempts!r}.items():
    try:
        exec(attempt)
    except BaseException:
        pass
    else:
        print("ESCAPED", name)
print("tried all")
"""
    lines = kernel(code, tool).text.splitlines()
    assert lines[-1] == "tried all", lines
    return lines[:-1]


def test_the_escapes_below_would_be_seen() -> None:
    assert escaped({"adds": "1 + 1", "fails": "1 / 0", "asks who it is": "call(39)"})[0] == "ESCAPED adds"


def test_no_file_of_ours_can_be_read_by_any_way_through_proc_or_links(tmp_path: Path) -> None:
    """Also not by links that lie there already, by the parent's root, folders and descriptors, or by what the kernel
    keeps as files."""
    (tmp_path / "secret").write_text("sk-secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "passwd").symlink_to("/etc/passwd")
    parent, here = os.getpid(), str(tmp_path)
    library = Path(os.__file__).parent
    paths = [
        *(f"{here}/{name}" for name in ("secret", "link", "passwd")),
        *(f"{root}{here}/secret" for root in ("/proc/self/root", f"/proc/{parent}/root", "/proc/1/root", "//")),
        *(f"/proc/{p}/{name}" for p in ("self", parent, 1) for name in ("environ", "mem", "maps", "cmdline")),
        # of its own descriptors there is only the pipe that its output goes to, which it may read
        *(f"/proc/{p}/fd/{fd}" for p in (parent, 1) for fd in range(3)),
        *("/proc/thread-self/environ", "/proc/sysrq-trigger", "/proc/kcore", "/dev/mem", "/dev/kmsg"),
        *("/dev/shm", "/dev/ptmx", "/etc/shadow", "/etc/hosts", "/", "."),
        *(f"{library}/../../../../../../../..{here}/secret", str(Path.home() / ".netrc"), str(Path.home() / ".bashrc")),
    ]
    assert not escaped({f"reads {path}": f"os.read(os.open({path!r}, os.O_RDONLY), 9)" for path in paths})
    assert not escaped({f"lists {path}": f"os.listdir({path!r})" for path in ("/", "/proc", here, "/proc/self/fd")})
    assert not escaped({f"writes {p}": f"os.open({p!r}, os.O_WRONLY)" for p in (*paths, str(library / "os.py"))})


X86 = sys.platform == "linux" and os.uname().machine == "x86_64"


def test_processes_cannot_be_made_found_or_disturbed() -> None:
    parent = os.getpid()
    by_number = {
        "vfork": "call(58)",
        "clone": "call(56, 17, 0, 0, 0, 0)",
        "exec by descriptor": "call(322, 0, b'/bin/true', 0, 0, 0)",
        "signals by queue": f"call(129, {parent}, 0, 0)",
        "signals a thread": f"call(234, {parent}, {parent}, 0)",
        "traces the parent": f"call(101, 16, {parent}, 0, 0)",
        "reads the parent's memory": f"call(310, {parent}, 0, 0, 0, 0, 0)",
        "writes the parent's memory": f"call(311, {parent}, 0, 0, 0, 0, 0)",
    }
    assert not escaped(
        {
            "fork bomb": "while True: os.fork()",
            "thread bomb": "import threading\nwhile True: threading.Thread(target=input).start()",
            "double fork": "os.fork() or os.setsid() or os.fork()",
            "clone3": "call(435, 0, 0)",
            "exec": "os.execve('/bin/sh', ['sh', '-c', 'true'], {})",
            "kills the parent": f"os.kill({parent}, 0)",
            "kills the group": "os.killpg(os.getpgid(0), 0)",
            "kills everybody": "os.kill(-1, 0)",
            "opens a process": f"os.pidfd_open({parent})",
            "priority": f"os.setpriority(os.PRIO_PROCESS, {parent}, 19)",
            "scheduler": f"os.sched_setaffinity({parent}, {{0}})",
            "limits of the parent": f"import resource; resource.prlimit({parent}, resource.RLIMIT_NOFILE, (1, 1))",
            **(by_number if X86 else {}),
        }
    )


def test_no_way_out_through_sockets_memory_or_the_kernel() -> None:
    by_number = {
        "shared memory": "call(29, 0, 4096, 0o1600)",
        "message queue": "call(68, 0, 0o1600)",
        "keys": "call(248, b'user', b'x', b'y', 1, -2)",
        "bpf": "call(321, 0, 0, 0)",
        "perf": "call(298, 0, 0, -1, -1, 0)",
        "userfaultfd": "call(323, 0)",
        "mount": "call(165, b'none', b'/', b'tmpfs', 0, 0)",
        "new namespaces": "call(272, 0x10000000)",
        "another filter": "call(317, 1, 0, 0)",
        "modules": "call(175, 0, 0, b'')",
    }
    assert not escaped(
        {
            "tcp": "socket.socket(socket.AF_INET)",
            "tcp 6": "socket.socket(socket.AF_INET6)",
            "unix": "socket.socket(socket.AF_UNIX)",
            "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
            "pair": "socket.socketpair()",
            "resolver": "socket.getaddrinfo('localhost', 80)",
            "shared memory file": "import _posixshmem; _posixshmem.shm_open('/x', os.O_CREAT | os.O_RDWR, mode=384)",
            "memory file": "os.memfd_create('x')",
            "io_uring": "call(425, 1, 0)",
            "chroot": "os.chroot('.')",
            "changes folder to the root": "os.chdir('/'); os.listdir('.')",
            "more memory": "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))",
            "more files": "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (10**6, 10**6))",
            "the clock": "import time; time.clock_settime(time.CLOCK_REALTIME, 0)",
            "the host's name": "socket.sethostname('x')",
            **(by_number if X86 else {}),
        }
    )


@pytest.mark.parametrize(
    "code",
    [
        "import os, signal\nos.close(1)\nos.close(2)\nwhile True: pass",
        "import time\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass",
        "import os\nos.read(os.pipe()[0], 1)",
        "import sys\nwhile True: sys.stderr.write('x' * 10**6)",
        "import os\nwhile True: os.write(1, b'\\0' * 10**6)",
    ],
)
def test_waiting_and_flooding_end_with_the_time(code: str) -> None:
    started = time.perf_counter()
    result = kernel(code, SHORT)
    assert not result.ok
    assert "longer than 0.4 s" in result.text or "not permitted" in result.text
    assert len(result.text) <= 1024 + 100
    assert time.perf_counter() - started < 5


def test_nobody_outside_hears_of_it(tmp_path: Path) -> None:
    """A server that listens, a file that could be changed, a parent that could be killed: all as they were."""
    target = tmp_path / "precious"
    target.write_text("mine")
    got: list[object] = []
    handler = signal.signal(signal.SIGUSR1, lambda *_: got.append("signal"))
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(0.2)
            port = server.getsockname()[1]
            attempts = [
                f"import socket\nsocket.create_connection(('127.0.0.1', {port}))",
                f"open({str(target)!r}, 'w').write('yours')",
                f"import os\nos.truncate({str(target)!r}, 0)",
                f"import os\nos.unlink({str(target)!r})",
                f"import os\nos.rename({str(target)!r}, {str(target) + '2'!r})",
                f"import os\nos.link({str(target)!r}, {str(target) + '3'!r})",
                f"print(open({str(target)!r}).read())",
                f"import os, signal\nos.kill({os.getpid()}, signal.SIGUSR1)",
            ]
            for code in attempts:
                result = kernel(code)
                assert "Permission" in result.text or "not permitted" in result.text, (code, result)
                assert "mine" not in result.text
            with pytest.raises(TimeoutError):
                server.accept()
    finally:
        signal.signal(signal.SIGUSR1, handler)
    assert not got
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"precious": "mine"}


def test_no_secret_of_ours_is_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    seen = kernel("import os, sys\nprint(os.environ, sys.argv)").text
    assert "secret" not in seen
    files = """
import os, stat
for fd in range(3, 64):
    try: print(fd, stat.S_ISFIFO(os.fstat(fd).st_mode))
    except OSError: pass
"""
    lines = kernel(files).text.splitlines()
    assert len(lines) == 1, "one pipe, to say how it went, and no other file of ours"
    assert lines[0].endswith("True")


def test_claims_about_itself_do_not_deceive() -> None:
    """Code that finds the pipe may write to it; it can only spoil the report about itself."""
    code = """
import os
for fd in range(3, 64):
    try:
        os.write(fd, b'{"locks": []}\\n{"done": true}\\n{"error": [[[]]]}\\n\\xff\\n[1]\\n')
    except OSError:
        pass
while True: pass
"""
    assert "longer than" in kernel(code, SHORT).text
    assert "seccomp" in SHORT.locks


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    others = children()  # servers that other tests keep for the session
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for code in ("print(1)", "while True: pass", "1/0", "import os"):
        run(code, SHORT)
    assert not list(tmp_path.iterdir())
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before  # noqa: PTH208
    assert children() <= others


def children() -> set[str]:
    """The processes that this one has started and not waited for."""
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}
