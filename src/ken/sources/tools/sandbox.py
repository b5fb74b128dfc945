"""The inside of the Python sandbox: a script that locks itself in, then runs code it does not trust.

`python.py` starts it as `python -I -S sandbox.py`, alone in a process; it imports nothing of Ken. A request comes in as
JSON on standard input. What the code prints leaves on standard output and error; JSON lines about what became of it
leave on the file descriptor the request names.

The order matters: limits, then a look at the syntax, then the imports the code asks for (they come from us), then the
locks that cannot be opened again from inside (namespaces, Landlock, seccomp), then the code.
"""

import ast
import builtins
import contextlib
import ctypes
import io
import json
import os
import platform
import resource
import struct
import sys
import time
import types
from collections.abc import Callable, Sequence
from typing import Any

# --- 1. limits -------------------------------------------------------------------------------------------------------


def limit(memory: int, cpu: int) -> None:
    """Address space in bytes, processor seconds; no core files, no growing files, few descriptors, no new processes
    (the last does not bind root, whom seccomp stops)."""
    for kind, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bound, bound))


# --- 2. syntax -------------------------------------------------------------------------------------------------------

_NODES = """
    Module Expr Assign AugAssign AnnAssign Delete For While If With Raise Try Assert Import ImportFrom Global
    Nonlocal Pass Break Continue FunctionDef ClassDef Return BoolOp NamedExpr BinOp UnaryOp Lambda IfExp Dict
    Set ListComp SetComp DictComp GeneratorExp Yield YieldFrom Compare Call FormattedValue JoinedStr Constant
    Attribute Subscript Starred Name List Tuple Slice Load Store Del And Or Add BitAnd BitOr BitXor Div FloorDiv
    LShift Mod Mult MatMult Pow RShift Sub Invert Not UAdd USub Eq Gt GtE In Is IsNot Lt LtE NotEq NotIn
    comprehension ExceptHandler arguments arg keyword alias withitem
""".split()  # noqa: SIM905
_FRAMES = {
    *("gi_frame", "gi_code", "gi_yieldfrom", "f_back", "f_builtins", "f_code", "f_globals", "f_locals", "tb_frame"),
    *("tb_next", "mro", "ctypes", "ctypeslib"),
}
_PRIVATE = {"__init__", "__name__"}


def refusal(tree: ast.AST, modules: Sequence[str]) -> str:
    """Why this syntax tree is not run, or ''."""
    for node in ast.walk(tree):
        kind, line = type(node).__name__, getattr(node, "lineno", 0)
        if kind not in _NODES:
            return f"{kind} is not allowed (line {line})"
        if isinstance(node, ast.ImportFrom) and node.level:
            return f"relative imports are not allowed (line {line})"
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            for name in names:
                if name.split(".")[0] not in modules:
                    return f"importing {name} is not allowed; allowed: {', '.join(modules)} (line {line})"
        used = ""
        if isinstance(node, ast.Attribute):
            used = node.attr
        elif isinstance(node, ast.Name) and node.id.startswith("__"):
            used = node.id
        elif isinstance(node, ast.alias):
            used = next((part for part in node.name.split(".") if part.startswith("_")), "")
        if (used.startswith("_") or used in _FRAMES) and used not in _PRIVATE:
            return f"the name {used} is not allowed (line {line})"
    return ""


# --- 3. imports ------------------------------------------------------------------------------------------------------

_BUILTINS = """
    abs all any ascii bin bool bytearray bytes callable chr complex dict divmod enumerate filter float format
    frozenset hash hex id int isinstance issubclass iter len list map max min next object oct ord pow print
    property range repr reversed round set slice sorted staticmethod classmethod str sum super tuple type zip
    __build_class__ True False None Ellipsis NotImplemented
""".split()  # noqa: SIM905


def public(module: types.ModuleType, seen: dict[str, types.ModuleType]) -> types.ModuleType:
    """A stand-in for `module` that shows only what is public, and of modules only those inside of it."""
    if module.__name__ in seen:
        return seen[module.__name__]
    top = module.__name__.split(".")[0]

    class Public(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("_") or name in _FRAMES:
                raise AttributeError(f"module {module.__name__!r} has no public attribute {name!r}")
            value = getattr(module, name)
            if isinstance(value, types.ModuleType):
                if value.__name__.split(".")[0] != top:
                    raise AttributeError(f"module {module.__name__!r} has no public attribute {name!r}")
                return public(value, seen)
            return value

    stand_in = seen[module.__name__] = Public(module.__name__)
    stand_in.__dict__["__all__"] = [n for n in getattr(module, "__all__", dir(module)) if not n.startswith("_")]
    return stand_in


def importer(modules: Sequence[str]) -> Callable[..., types.ModuleType]:
    """An `__import__` for the white-list alone."""
    seen: dict[str, types.ModuleType] = {}

    def import_(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> types.ModuleType:
        if level or name.split(".", maxsplit=1)[0] not in modules:
            raise ImportError(f"importing {name} is not allowed; allowed: {', '.join(modules)}")
        found = builtins.__import__(name, {}, {}, fromlist or (), 0)
        return public(found, seen)

    return import_


# --- 4. locks --------------------------------------------------------------------------------------------------------


def unshare(libc: Any) -> bool:
    """An own user, network, IPC and host-name namespace: a network without any device."""
    return bool(libc.unshare(0x10000000 | 0x40000000 | 0x08000000 | 0x04000000) == 0)


class PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("parent", ctypes.c_int32))


def landlock(libc: Any, readable: Sequence[str]) -> bool:
    """Landlock: files can be read beneath `readable` and nowhere else, none can be written; no TCP, and no signals to
    processes outside (where the kernel knows of these)."""
    abi = libc.syscall(444, None, 0, 1)
    if abi < 1:
        return False
    files = (1 << (13 + (abi >= 2) + (abi >= 3))) - 1 | ((1 << 15) if abi >= 5 else 0)
    network = 0b11 if abi >= 4 else 0
    scoped = 0b11 if abi >= 6 else 0
    attributes = struct.pack("QQQ", files, network, scoped)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = libc.syscall(444, attributes, len(attributes), 0)
    if ruleset < 0:
        return False
    for path in readable:
        try:
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        rule = PathBeneath(0b1100 if os.path.isdir(path) else 0b0100, folder)  # noqa: PTH112
        libc.syscall(445, ruleset, 1, ctypes.byref(rule), 0)
        os.close(folder)
    done = libc.syscall(446, ruleset, 0) == 0
    os.close(ruleset)
    return bool(done)


# What a calculation needs of the kernel, by number. All else gets EPERM: no processes, programs, sockets, signals.
# fmt: off
_CALLS = {
    "x86_64": (0xC000003E, 257, (
        0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 19, 20, 21, 23, 24, 25, 28, 32, 35, 39, 60, 63, 79, 89,
        96, 97, 98, 99, 100, 102, 104, 107, 108, 110, 131, 186, 201, 202, 204, 217, 219, 228, 229, 230, 231, 262, 267,
        269, 273, 318, 332, 334, 439)),
    "aarch64": (0xC00000B7, 56, (
        63, 64, 57, 80, 79, 73, 62, 222, 226, 215, 214, 134, 135, 139, 67, 65, 66, 48, 72, 124, 216, 233, 23, 101, 172,
        93, 160, 17, 78, 169, 163, 165, 179, 153, 174, 176, 175, 177, 173, 132, 178, 98, 123, 61, 128, 113, 114, 115,
        94, 99, 278, 291, 293, 439)),
}
# fmt: on
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def seccomp(libc: Any, *, reading: bool) -> bool:
    """A filter of system calls: those of `_CALLS`, and opening files to read them where `reading`."""
    if platform.machine() not in _CALLS or sys.maxsize < 2**32:
        return False
    architecture, openat, calls = _CALLS[platform.machine()]
    allow, refuse = 0x7FFF0000, 0x00050001  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO | EPERM
    load, equal, any_bit, give = 0x20, 0x15, 0x45, 0x06
    program = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, refuse), (load, 0, 0, 0)]
    if reading:
        program += [(equal, 0, 4, openat), (load, 0, 0, 32), (any_bit, 1, 0, _WRITING)]
        program += [(give, 0, 0, allow), (give, 0, 0, refuse)]
    for call in calls:
        program += [(equal, 0, 1, call), (give, 0, 0, allow)]
    program += [(give, 0, 0, refuse)]
    raw = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(raw, len(raw))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))

    filtered = Program(len(program), ctypes.cast(buffer, ctypes.c_void_p))
    return bool(libc.prctl(22, 2, ctypes.byref(filtered), 0, 0) == 0)


def lock(readable: Sequence[str]) -> list[str]:
    """Turn all keys there are; returns the names of the locks that hold."""
    if sys.platform != "linux":
        return []
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)  # no new privileges
    libc.prctl(4, 0, 0, 0, 0)  # not dumpable: no other process of this user can trace it or read its memory
    held = []
    if unshare(libc):
        held.append("namespaces")
    if landlock(libc, readable):
        held.append("landlock")
    if seccomp(libc, reading="landlock" in held):
        held.append("seccomp")
    return held


# --- 5. the code -----------------------------------------------------------------------------------------------------


def main() -> None:
    request = json.loads(sys.stdin.buffer.read())
    os.close(0)
    status = request["status"]

    def tell(**what: Any) -> None:
        os.write(status, json.dumps(what).encode()[:4000] + b"\n")

    sys.path += request["path"]
    limit(request["memory"], 60)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8", "replace", write_through=True)
    modules = request["modules"]
    wanted: set[str] = set()
    if request["check"]:
        try:
            tree = ast.parse(request["code"])
            reason = refusal(tree, modules)
        except SyntaxError as error:
            return tell(error=f"SyntaxError: {error.msg} (line {error.lineno})")
        except (RecursionError, MemoryError, ValueError) as error:
            return tell(error=f"{type(error).__name__}: the code cannot be parsed")
        if reason:
            return tell(error=reason)
        for node in ast.walk(tree):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            wanted.update(name.split(".")[0] for name in names if name)
    for name in sorted(wanted):
        with contextlib.suppress(ImportError):  # the code will meet it
            __import__(name)
    scope: dict[str, Any] = {"__name__": "__main__"}
    if request["check"]:
        scope["__builtins__"] = {n: getattr(builtins, n) for n in _BUILTINS}
        scope["__builtins__"].update(
            {n: e for n, e in vars(builtins).items() if isinstance(e, type) and issubclass(e, BaseException)}
        )
        scope["__builtins__"]["__import__"] = importer(modules)
    limit(request["memory"], int(time.process_time()) + 1 + request["seconds"])
    held = lock(request["readable"])
    tell(locks=held)
    if not request["weak"] and "seccomp" not in held:
        return None
    try:
        exec(compile(request["code"], "<code>", "exec", dont_inherit=True), scope)  # noqa: S102
    except SystemExit:
        pass
    except BaseException as error:
        # Taken before anything else: the code's own classes may lie about themselves.
        kind, line, trace = type(error).__name__, 0, error.__traceback__
        while trace is not None:
            line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "<code>" else line
            trace = trace.tb_next
        try:
            message = str(error)[:500]
        except BaseException:
            message = ""
        return tell(error=f"{kind}{': ' if message else ''}{message} (line {line})")
    return tell(done=True)


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}".encode(errors="replace")[:1000])
    finally:
        os._exit(0)  # no exit handlers, no destructors of what the code left behind
