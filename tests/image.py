"""The image without a container engine: each step of the Dockerfile, carried out in a root of its own.

A stage's root is an overlay on this machine's, which stands in for the base image: what a step writes is
seen in there only, under the very paths that the Dockerfile names. All of it is in a mount namespace, and
gone with it. The program is then started as an engine would start it: PID 1, no rights, the image's user, a
root that nobody can write to.
"""

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent
DOCKERFILE = CHECKOUT / "deploy/Dockerfile"
# How the steps reach the package index here; an engine has build arguments for that.
PASSED_ON = re.compile(r"PIP_\w+|\w+_proxy|SSL_CERT_FILE", re.IGNORECASE)

# Arguments: the folder to mount in, then a name per stage. Lives until its stdin is closed.
HOLD = r"""
set -eu
mount -t tmpfs -o mode=755 none "$1"
cd "$1"; shift
for stage; do
    mkdir "$stage" "$stage/upper" "$stage/work" "$stage/root"
    mount -t overlay -o "lowerdir=/,upperdir=$PWD/$stage/upper,workdir=$PWD/$stage/work" overlay "$stage/root"
    mount --rbind /dev "$stage/root/dev"
    mount --rbind /proc "$stage/root/proc"
done
echo ready
exec cat
"""
# Arguments: the root, user, group, then the command. What runs it becomes it: PID 1 is the program.
START = r"""
set -eu
mount -o remount,ro "$1"
mount -t proc -o ro proc "$1/proc"
mount -t tmpfs -o mode=1777 none "$1/tmp"
exec chroot "$1" setpriv --reuid="$2" --regid="$3" --clear-groups \
    --bounding-set=-all --inh-caps=-all --no-new-privs -- "${@:4}"
"""


@dataclass(frozen=True, slots=True)
class Instruction:
    keyword: str
    rest: str


@dataclass(slots=True)
class Stage:
    name: str
    instructions: list[Instruction] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    entrypoint: tuple[str, ...] = ()


def stages(text: str) -> list[Stage]:
    """The stages of a Dockerfile, of the few instructions that ours is made of."""
    found: list[Stage] = []
    joined = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    for line in filter(None, map(str.strip, joined.splitlines())):
        keyword, _, rest = line.partition(" ")
        if keyword == "FROM":
            name = rest.partition(" AS ")[2] or "final"
            found.append(Stage(name, environment={"PATH": "/usr/local/bin:/usr/bin:/bin"}))
        elif found:
            found[-1].instructions.append(Instruction(keyword, rest.strip()))
    return found


class Image:
    """The built image; `start` runs it."""

    def __init__(self, holder: int, folder: Path, stage: Stage) -> None:
        self._holder = holder
        self._root = folder / stage.name / "root"
        self.stage = stage

    async def start(self, *arguments: str, **variables: str) -> tuple[asyncio.subprocess.Process, int]:
        """The program with `arguments`, as PID 1; and its process ID as seen from here."""
        environment = [f"{name}={value}" for name, value in (self.stage.environment | variables).items()]
        process = await asyncio.create_subprocess_exec(
            *_inside(self._holder),
            "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child",
            "bash", "-c", START, "start", str(self._root), *self.stage.user.split(":"),
            "env", "-i", "-C", self.stage.folder, *environment, *self.stage.entrypoint, *arguments,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        while not (children := _children(process.pid)):  # noqa: ASYNC110  (the kernel tells nobody of it)
            await asyncio.sleep(0.001)
        return process, children[0]

    def run(self, *command: str) -> str:
        """What `command` prints, as root in the image's root."""
        return _run(self._holder, self._root, {"PATH": "/usr/bin:/bin"}, "/", command)


@contextmanager
def built(folder: Path) -> Iterator[Image]:
    """Carry out all steps of the Dockerfile, in namespaces that last as long as the context."""
    plan = stages(DOCKERFILE.read_text())
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "bash", "-c", HOLD, "hold", str(folder)]
        + [stage.name for stage in plan],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin
    assert holder.stdout
    try:
        assert holder.stdout.readline() == "ready\n"
        for stage in plan:
            root = folder / stage.name / "root"
            _lend_python(holder.pid, root)
            for instruction in stage.instructions:
                _carry_out(instruction, stage, holder.pid, folder)
        yield Image(holder.pid, folder, plan[-1])
    finally:
        holder.stdin.close()
        holder.wait()
        holder.stdout.close()


def _carry_out(instruction: Instruction, stage: Stage, holder: int, folder: Path) -> None:
    root = folder / stage.name / "root"
    rest = instruction.rest
    match instruction.keyword:
        case "RUN":
            _run(holder, root, stage.environment | _passed_on(), stage.folder, ["/bin/sh", "-c", rest])
        case "COPY":
            _copy(shlex.split(rest), stage, holder, folder)
        case "ENV":
            for word in shlex.split(rest):
                name, _, value = word.partition("=")
                stage.environment[name] = re.sub(r"\$(\w+)", lambda m: stage.environment[m[1]], value)
        case "WORKDIR":
            stage.folder = rest
            _run(holder, root, stage.environment, "/", ["mkdir", "-p", rest])
        case "USER":
            stage.user = rest
        case "ENTRYPOINT":
            stage.entrypoint = tuple(json.loads(rest))
        case "CMD" | "VOLUME":
            pass
        case other:
            raise AssertionError(f"{other}: teach this file what it means")


def _copy(words: Sequence[str], stage: Stage, holder: int, folder: Path) -> None:
    """COPY: a folder's contents, or files; from the checkout or from another stage's root."""
    given = re.fullmatch(r"--from=(\w+)", words[0])
    source = folder / given[1] / "root" if given else CHECKOUT
    *names, target = words[1:] if given else words
    into = folder / stage.name / "root" / os.path.join(stage.folder, target).lstrip("/")  # noqa: PTH118  (a target can be absolute)
    for name in names:
        path = source / name.lstrip("/")
        whole = path.is_dir() or given is not None
        copied = f"{path}/." if whole else str(path)
        wanted = into if whole or target.endswith("/") else into.parent
        _run(holder, Path("/"), dict(os.environ), "/", ["mkdir", "-p", str(wanted)])
        _run(holder, Path("/"), dict(os.environ), "/", ["cp", "-a", copied, str(into)])


def _lend_python(holder: int, root: Path) -> None:
    """The base image's Python is this one: `python` on the path, and within reach of every user."""
    real = Path(sys.base_prefix).resolve() / "bin" / f"python3.{sys.version_info.minor}"
    # No link: below /usr/local it would take the system's library for its own.
    script = (
        f"printf '#!/bin/sh\\nexec {real} \"$@\"\\n' >/usr/local/bin/python\nchmod 755 /usr/local/bin/python"
    )
    for parent in [*real.parents][:-1]:
        script += f"\nchmod o+x {parent}"
    _run(holder, root, {"PATH": "/usr/bin:/bin"}, "/", ["/bin/sh", "-euc", script])


def _run(holder: int, root: Path, environment: dict[str, str], folder: str, command: Sequence[str]) -> str:
    done = subprocess.run(
        [*_inside(holder), "chroot", str(root), "env", "-i", "-C", folder]
        + [f"{name}={value}" for name, value in environment.items()]
        + [*command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}"
    return done.stdout


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _inside(holder: int) -> list[str]:
    return ["nsenter", "--target", str(holder), "--mount"]


def _passed_on() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
