"""Files, pipes and stdin as a source: real ones."""

import gzip
import os
import random
import sys
import tempfile
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import anyio
import pytest

from syncer.identifiers import Item
from syncer.sources.files import CHUNK, Files, InputError, digest, open_files
from tests.conftest import PATIENCE, until

NOBODY = 65534


def ids(number: int, start: int = 0) -> list[str]:
    return [f"pac-{at:013}" for at in range(start, start + number)]


def lines(number: int, start: int = 0) -> str:
    return "".join(f"{each}\n" for each in ids(number, start))


async def read(*paths: str | Path) -> list[Item]:
    return [item async for item in await open_files([str(path) for path in paths], "AWS")]


@contextmanager
def as_stdin(descriptor: int) -> Iterator[None]:
    """Let `descriptor` be stdin."""
    before, sys.stdin = sys.stdin, os.fdopen(descriptor)
    try:
        yield
    finally:
        sys.stdin.close()
        sys.stdin = before


@pytest.fixture
def stdin() -> Iterator[int]:
    """The other end of the pipe that is stdin; to be closed by the test."""
    reading, writing = os.pipe()
    with as_stdin(reading):
        yield writing


async def following(items: AsyncIterator[Item]) -> str:
    """The next ID; it must come without the input going on or ending."""
    with anyio.fail_after(PATIENCE):
        return (await anext(items)).identifier


async def test_several_inputs_are_one_source(tmp_path: Path, stdin: int) -> None:
    (tmp_path / "a.csv").write_text(f"name,id\nx,{ids(1)[0]}\nx,bad")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(f'{{"id": "{ids(1, 5)[0]}"}}'.encode()))
    os.write(stdin, lines(2, 7).encode())
    os.close(stdin)
    a, empty, b = (tmp_path / name for name in ("a.csv", "empty.txt", "b.jsonl.gz"))
    items = await read(a, empty, "-", b)
    assert [(item.position, item.identifier, item.where) for item in items] == [
        (0, "pac-0000000000000", f"{a}:2"),
        (1, "bad", f"{a}:3"),
        (2, "pac-0000000000007", "stdin:1"),
        (3, "pac-0000000000008", "stdin:2"),
        (4, "pac-0000000000005", f"{b}:1"),
    ]


async def test_large_files_come_whole(tmp_path: Path) -> None:
    (tmp_path / "ids").write_text(lines(20_000))
    (tmp_path / "ids.gz").write_bytes(gzip.compress(lines(20_000, 20_000).encode()))
    items = await read(tmp_path / "ids", tmp_path / "ids.gz")
    assert [item.identifier for item in items] == ids(40_000)
    assert [item.position for item in items] == list(range(40_000))


async def test_a_pipe_hands_on_each_line_as_it_comes(stdin: int) -> None:
    files = await open_files(["-"], "AWS")  # returns, although nothing was said yet
    async with aclosing(aiter(files)) as items:  # type: ignore[type-var]  # it is an async generator
        os.write(stdin, b"# the header is on its way\n")
        os.write(stdin, b"name,id\nx,pac-00000000")
        os.write(stdin, b"00000\nx,pac-0")
        assert await following(items) == "pac-0000000000000"
        os.write(stdin, b"000000000001\n")
        assert await following(items) == "pac-0000000000001"
        os.write(stdin, b"x,pac-0000000000002")
        os.close(stdin)
        assert await following(items) == "pac-0000000000002"
        with pytest.raises(StopAsyncIteration):
            await anext(items)


async def test_waiting_for_a_silent_pipe_can_be_cut_short(stdin: int) -> None:
    arrived: list[str] = []

    async def take() -> None:
        async for item in await open_files(["-"], "AWS"):
            arrived.append(item.identifier)  # noqa: PERF401  (each is to be seen as it comes)

    os.write(stdin, lines(1).encode())
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            await until(lambda: arrived == ids(1))
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    os.close(stdin)


async def test_a_named_pipe_need_not_have_a_writer_yet(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with anyio.fail_after(PATIENCE):
        files = await open_files([str(pipe)], "AWS")
        async with aclosing(aiter(files)) as items, anyio.create_task_group() as tasks:  # type: ignore[type-var]  # as above
            first: list[str] = []

            async def take() -> None:
                first.append(await following(items))

            tasks.start_soon(take)
            await anyio.wait_all_tasks_blocked()
            await anyio.to_thread.run_sync(pipe.write_text, lines(2))
        assert first == ids(1)


async def test_stdin_may_be_a_file_read_from_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("\0" + lines(2, 1))
    descriptor = os.open(tmp_path / "ids", os.O_RDONLY)
    os.read(descriptor, 1)
    with as_stdin(descriptor):
        assert [item.identifier for item in await read("-")] == ids(2, 1)


async def test_devices_are_files_too() -> None:
    assert await read(os.devnull) == []
    with as_stdin(os.open(os.devnull, os.O_RDONLY)):
        assert await read("-") == []


async def test_what_cannot_be_used_is_refused_before_the_first_item(tmp_path: Path) -> None:
    good = tmp_path / "good.txt"
    good.write_text(lines(1))
    (tmp_path / "binary").write_bytes(b"\x7fELF\0\0")
    (tmp_path / "no-column.csv").write_text("name,mail")
    (tmp_path / "not.gz").write_text(lines(1))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(lines(9).encode())[:-9])
    (tmp_path / "document.json").write_text("[\n")
    for name, said in {
        "nothing": "nothing: no such file",
        "": "is a folder: name the files in it",
        "good.txt/x": "good.txt/x cannot be read: Not a directory",
        "binary": "binary is a binary file",
        "no-column.csv": "no-column.csv has no column connection_id, id or identifier; its header is: name,",
        "not.gz": "not.gz is named .gz, but",
        "cut.gz": "cut.gz: its gzip data ends in the middle: get the file again",
        "document.json": "document.json is one JSON document",
    }.items():
        with pytest.raises(InputError) as refused:
            await open_files([str(good), str(tmp_path / name)], "AWS")
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.fixture
def without_rights() -> Iterator[Path]:
    """A folder of a user who may not do everything: root may."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    finally:
        os.seteuid(user)


async def test_a_file_without_the_right_to_read_it(without_rights: Path) -> None:
    path = without_rights / "ids"
    path.touch(mode=0o000)
    with pytest.raises(InputError, match="ids cannot be read: Permission denied"):
        await open_files([str(path)], "AWS")


async def test_stdin_can_be_read_only_once_and_not_when_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="named twice"):
        await open_files(["-", "ids.txt", "-"], "AWS")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="stdin cannot be read: it is closed"):
        await open_files(["-"], "AWS")


async def test_what_turns_bad_later_says_where_and_keeps_what_came_before(tmp_path: Path) -> None:
    # Noise, so that it is more than one chunk gzipped, too.
    noise = random.Random(1)
    numbers = [f"pac-{noise.randrange(10**13):013}" for _ in range(40_000)]
    path = tmp_path / "ids.gz"
    path.write_bytes(gzip.compress("\n".join(numbers).encode())[:-100])
    assert path.stat().st_size > 2 * CHUNK
    files, taken = await open_files([str(path)], "AWS"), []

    async def take() -> None:
        async for item in files:
            taken.append(item.identifier)  # noqa: PERF401  (an error comes, and these are to stay)

    with pytest.raises(InputError, match=r"ids.gz: its gzip data ends in the middle, after line \d+:") as bad:
        await take()
    assert taken == numbers[: len(taken)]
    assert f"after line {len(taken)}:" in str(bad.value)
    assert len(taken) > 30_000


async def test_how_many_there_will_be_is_estimated_from_the_part_that_was_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(lines(20_000))
    files = await open_files([str(tmp_path / "a"), str(tmp_path / "b")], "AWS")
    before = files.expected()
    read = 0
    async for _ in files:
        read += 1
        if read == 10_000:
            expected = files.expected()
            assert expected is not None
            assert 39_000 <= expected <= 41_000
    assert (before, files.expected()) == (None, 40_000)


async def test_of_a_pipe_nobody_knows_how_many_there_will_be(stdin: int) -> None:
    os.write(stdin, lines(2).encode())
    os.close(stdin)
    files = await open_files(["-"], "AWS")
    async for _ in files:
        assert files.expected() is None or files.expected() == 2


async def test_what_an_earlier_run_settled_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "ids").write_text(lines(3))
    files: Files = await open_files([str(tmp_path / "ids")], "AWS")
    files.skip_below = 2
    assert [item.skip async for item in files] == [True, True, False]


async def test_a_digest_tells_inputs_apart(tmp_path: Path, stdin: int) -> None:
    os.close(stdin)
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text(lines(2))
    b.write_text(lines(1, 2))
    assert await digest([str(a)]) == await digest([str(a)])
    assert len({await digest([str(path) for path in paths]) for paths in ([a], [b], [a, b], [b, a])}) == 4
    assert await digest([str(a), "-"]) is None
    with pytest.raises(InputError, match="nothing cannot be read"):
        await digest([str(tmp_path / "nothing")])


async def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    async def peak(number: int) -> int:
        path = tmp_path / f"{number}.csv"
        path.write_text("id\n" + lines(number))
        tracemalloc.start()
        try:
            async for _ in await open_files([str(path)], "AWS"):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # Both are more than a chunk; the rest of the room is for the interpreter's own caches.
    assert await peak(100_000) <= 1.15 * await peak(10_000)
