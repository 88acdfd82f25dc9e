"""What bytes mean, whatever the format, and however they are cut into chunks."""

import codecs
import gzip
import tracemalloc
import zlib
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.identifiers import Item
from syncer.sources.formats import LONGEST_LINE, MOST_LINES, BrokenGzip, InputError, Parser

A, B, C = "pac-AAAAAAAAAAAA1", "pac-BBBBBBBBBBBB2", "pac-CCCCCCCCCCCC3"
ARN = f"arn:aws:partnercentral:us-east-1::catalog/AWS/connection/{A}"


def items(data: str | bytes | Iterable[bytes], name: str = "ids") -> list[Item]:
    """The items of an input, which may be given in chunks."""
    if isinstance(data, str):
        data = data.encode()
    parser = Parser(name, "AWS")
    found = [
        item
        for chunk in ([data] if isinstance(data, bytes) else data)
        for some in parser.feed(chunk)
        for item in some
    ]
    found += [item for some in parser.end() for item in some]
    assert [item.position for item in found] == list(range(len(found)))
    return found


def read(data: str | bytes | Iterable[bytes], name: str = "ids") -> list[str]:
    """The IDs of an input, as ``line:ID``; what is none begins with an exclamation mark."""
    return [
        f"{'!' if item.problem else ''}{item.where.removeprefix(name + ':')}:{item.identifier}"
        for item in items(data, name)
    ]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (f"{A}\n{B}\n", [f"1:{A}", f"2:{B}"]),
        (f"{A}\n{B}", [f"1:{A}", f"2:{B}"]),
        (f"{A}\r\n{B}\r\n", [f"1:{A}", f"2:{B}"]),
        (f"{A}\r{B}\r", [f"1:{A}", f"2:{B}"]),
        (f"\n  {A}\t\n\n \n{B}\n\n", [f"2:{A}", f"5:{B}"]),
        (f"# all\n{A}  # this\n{B}\t#that\n  #{C}\n", [f"2:{A}", f"3:{B}"]),
        (f"{A}#{B}\n", [f"!1:{A}#{B}"]),
        (f"{ARN}\n", [f"1:{A}"]),
        (f"{ARN.replace('/AWS/', '/aws/')}\n", [f"1:{A}"]),
        (f"{ARN.replace('/AWS/', '/Sandbox/')}\n", [f"!1:{ARN.replace('/AWS/', '/Sandbox/')}"]),
        (f"{A.lower()}\n{A}x\npac-1;drop table\n", [f"1:{A.lower()}", f"!2:{A}x", "!3:pac-1;drop table"]),
        (f"{A[:-1]}\N{FULLWIDTH DIGIT ONE}\n", [f"!1:{A[:-1]}\N{FULLWIDTH DIGIT ONE}"]),
        (codecs.BOM_UTF8 + f"{A}\n".encode(), [f"1:{A}"]),
        (f"{A}\r\n{B}".encode("utf-16"), [f"1:{A}", f"2:{B}"]),
        (codecs.BOM_UTF16_BE + f"{A}\n{B}\n".encode("utf-16-be"), [f"1:{A}", f"2:{B}"]),
        (A.encode() + b"\xff\n" + B.encode(), [f"!1:{A}\\xff", f"2:{B}"]),
        ("", []),
        ("x", ["!1:x"]),
        ("\n# nothing\n\n", []),
        (codecs.BOM_UTF8, []),
    ],
)
def test_text_is_one_id_per_line(data: str | bytes, expected: list[str]) -> None:
    assert read(data) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (f"id\n{A}\n{B}", [f"2:{A}", f"3:{B}"]),
        (f"name,Connection_ID\nx,{A}\n", [f"2:{A}"]),
        (f"IDENTIFIER;name\n{A};x, y\n", [f"2:{A}"]),
        (f"name\tid\nx\t{A}\n", [f"2:{A}"]),
        (f'"name", "Id"\n"x ""y"" z", "{A}"\n', [f"2:{A}"]),
        (f'name,id\n"two\nlines, and\n\n#three",{A}\ny,{B}\n', [f"2:{A}", f"6:{B}"]),
        (f'"first\nname",id\ny,{A}\n', [f"3:{A}"]),
        (f"\n# exported\nid,name\n\n# {A}\n{A},x\n", [f"6:{A}"]),
        ("name,id\nx\n", ["!2:x"]),
        ("name,id\nx,\n", ["!2:"]),
        (f'name,id\n5" disks,{A}\nJim "Jimmy" B,{B}\n\'x\',{C}\n', [f"2:{A}", f"3:{B}", f"4:{C}"]),
        (f'name,id\n"Jim" B,{A}\n', [f"2:{A}"]),
        # An `id` beside a `connection_id` is something else.
        (f"id,connection_id\n17,{A}\n", [f"2:{A}"]),
        ("id,name\n", []),
    ],
)
def test_csv_has_a_header_with_a_column_of_ids(data: str, expected: list[str]) -> None:
    assert read(data, "ids.csv") == expected
    # Without a name to tell by, it is told by its header, where that is on one line.
    if "first\n" not in data:
        assert read(data, "stdin") == expected
    assert read("\ufeff" + data.replace("\n", "\r\n"), "ids.csv") == expected


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # To the end of the input.
        (f'"x,{A}\ny,{B}', [f'!2:"x,{A}', f"3:{B}"]),
        # Into a quote that was meant as another's beginning.
        (f'"x,{A}\n"y",{B}\n"z",{C}\n', [f'!2:"x,{A}', f"3:{B}", f"4:{C}"]),
        (f'x,"{A}\ny,"{B}"\n', [f'!2:x,"{A}', f"3:{B}"]),
        # Two of them.
        (f'"x,{A}\n"y,{B}\nz,{C}\n', [f'!2:"x,{A}', f'!3:"y,{B}', f"4:{C}"]),
    ],
)
def test_a_quote_left_open_costs_its_own_line_only(rows: str, expected: list[str]) -> None:
    assert read("name,id\n" + rows, "ids.csv") == expected


def test_a_quote_left_open_is_noticed_long_before_the_end() -> None:
    parser = Parser("ids.csv", "AWS")
    data = f'name,id\n"x,{A}\n' + f"y,{B}\n" * MOST_LINES
    found = [item for some in parser.feed(data.encode()) for item in some]
    assert [item.problem is None for item in found] == [False] + [True] * MOST_LINES
    # Nor does it take longer when the lines are long.
    found = items(f'name,id\n"x,{A}\n' + f"{'y' * LONGEST_LINE},{B}\nz,{C}\n", "ids.csv")
    assert [item.where for item in found if item.problem is None] == ["ids.csv:4"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f'"{A}"', A),
        (f'"{ARN}"', A),
        (f'{{"id": "{A}", "name": "ü"}}', A),
        (f'{{"ID": "{A}"}}', A),
        (f'{{"connection_id": "{A}"}}', A),
        (f'{{"identifier": "{A}"}}', A),
        (f'{{"id": null, "arn": "{ARN}"}}', A),
        (f'{{"id": 17, "connection_id": "{A}"}}', A),
        (f'{{"id": " {A}"}}', A),
        ('{"id": 17}', None),
        ('{"id": ["x"]}', None),
        ('{"name": "x"}', None),
        ("17", None),
        ("null", None),
        (A, None),
        ('{"id": ', None),
        ('{"id": "\\ud800"}', None),
        ("9" * 5000, None),
        ("[" * LONGEST_LINE, None),
        ('{"id":' * 10_000, None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_json_lines_are_strings_or_objects(line: str, expected: str | None) -> None:
    _, this, after = items(f'"{C}"\n# comment\n\n{line}\n{{"id": "{B}"}}', "ids.jsonl")
    assert (this.where, this.identifier if this.problem is None else None) == ("ids.jsonl:4", expected)
    assert (after.where, after.identifier) == ("ids.jsonl:5", B)


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("stdin", f'# x\n\n{{"id": "{A}"}}', [f"3:{A}"]),
        ("stdin", f'"{A}"', [f"1:{A}"]),
        ("stdin", f'"id","name"\n"{A}","x"', [f"2:{A}"]),
        ("export.txt", f"Name\tID\nx\t{A}", [f"2:{A}"]),
        ("ids.TXT", A, [f"1:{A}"]),
        ("ids.txt", f"[{A}]", [f"!1:[{A}]"]),
        ("ids.CSV.gz", gzip.compress(f"id\n{A}".encode(), mtime=0), [f"2:{A}"]),
        ("ids.json", f'{{"id": "{A}"}}\n{{"id": "{B}"}}', [f"1:{A}", f"2:{B}"]),
        # Whatever its name says, gzip is gzip.
        ("ids.txt", gzip.compress(A.encode(), mtime=0), [f"1:{A}"]),
    ],
)
def test_the_format_is_told_by_the_name_or_by_the_first_line(
    name: str, data: str | bytes, expected: list[str]
) -> None:
    assert read(data, name) == expected


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("ids.csv", "name,mail\n", "no column connection_id, id or identifier; its header is: name,mail"),
        ("ids.csv", A, "no column"),
        ("ids.csv", '"id\n' * 3, "no column"),
        ("ids", f'[\n  "{A}"\n]', "one JSON document"),
        ("ids.json", f'["{A}"]', "one JSON document"),
        ("ids.json", f'{{\n"id": "{A}"\n}}', "one JSON document"),
        ("ids.txt.gz", A, "no gzip data"),
        ("ids.gz", "x", "no gzip data"),
        ("ids", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary"),
        ("ids", A.encode("utf-16-le"), "binary"),
        ("ids", A.encode("utf-32"), "binary"),
        ("ids.gz", gzip.compress(b"\0", mtime=0), "binary"),
    ],
)
def test_what_is_no_list_of_ids_is_refused(name: str, data: str | bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        items(data, name)


def test_a_nul_far_inside_spoils_its_line_only() -> None:
    found = items([*[f"{A}\n".encode()] * 1000, f"{B}\0\n{C}\n".encode()])
    assert [item.problem is None for item in found] == [True] * 1000 + [False, True]


@pytest.mark.parametrize("chunk", [1000, 10**9])
@pytest.mark.parametrize("name", ["ids.txt", "ids.csv", "ids.jsonl"])
def test_a_line_that_is_too_long_is_one_bad_item(name: str, chunk: int) -> None:
    head = '{"id": "x"}' if name == "ids.jsonl" else "id"
    good = f'"{B}"' if name == "ids.jsonl" else B
    data = f"{head}\n{'x' * 3 * LONGEST_LINE}\n{good}\n".encode()
    found = items((data[at : at + chunk] for at in range(0, len(data), chunk)), name)
    assert [(item.where, item.problem is None) for item in found[-2:]] == [
        (f"{name}:2", False),
        (f"{name}:3", True),
    ]
    assert len(found[-2].identifier) < 300


def test_gzip_members_in_a_row_are_one_text_and_padding_is_nothing() -> None:
    data = gzip.compress(A.encode() + b"\n" + B[:5].encode()) + gzip.compress(B[5:].encode() + b"\n", mtime=0)
    assert read(data) == read(data + bytes(512)) == [f"1:{A}", f"2:{B}"]
    assert read([*(bytes([byte]) for byte in data), bytes(512)]) == [f"1:{A}", f"2:{B}"]


@pytest.mark.parametrize("damage", ["cut", "cut in the trailer", "cut in the header", "changed", "followed"])
def test_damaged_gzip_is_noticed(damage: str) -> None:
    whole = gzip.compress(f"{A}\n".encode() * 1000, mtime=0)
    broken = {
        "cut": whole[:40],
        "cut in the trailer": whole[:-1],
        "cut in the header": whole[:5],
        "changed": whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:],
        "followed": whole + b"by something else",
    }[damage]
    with pytest.raises(BrokenGzip, match="damaged" if damage in ("changed", "followed") else "ends in the"):
        items(broken)


def test_a_few_bytes_that_stand_for_gigabytes_take_little_memory() -> None:
    squeeze = zlib.compressobj(9, wbits=31)
    bomb = b"".join([*(squeeze.compress(b"x" * 2**20) for _ in range(64)), squeeze.flush()])
    tracemalloc.start()
    try:
        assert len(items(bomb)) == 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * LONGEST_LINE + len(bomb)


PIECES = st.sampled_from(
    [A, B, ARN, "id", "name", ",", ";", "\t", '"', "\n", "\r", "\r\n", "#", " ", "{", "}", "[", '"id":', "ü",
     "\ufeff", "\ud800", f'{{"id": "{A}"}}\n', f'x,"{B}"\n', "id,name\n"]
)  # fmt: skip
TEXTS = st.one_of(
    st.lists(PIECES, max_size=30).map("".join).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(PIECES, max_size=30).map("".join).map(lambda text: text.encode("utf-16", "surrogatepass")),
    st.binary(max_size=300),
)
INPUTS = st.one_of(TEXTS, TEXTS.map(gzip.compress), TEXTS.map(lambda data: gzip.compress(data, mtime=0)[:-3]))
NAMES = st.sampled_from(["stdin", "ids.txt", "ids.csv", "ids.jsonl", "ids.gz", "ids.csv.gz"])


def result(chunks: Iterable[bytes], name: str) -> list[Item] | str:
    try:
        return items(chunks, name)
    except (InputError, BrokenGzip) as error:
        return type(error).__name__


@given(INPUTS, NAMES, st.lists(st.integers(0, 400), max_size=8))
def test_however_the_bytes_are_cut_they_mean_the_same(data: bytes, name: str, cuts: list[int]) -> None:
    at = [0, *sorted(cuts), len(data)]
    cut = [data[start:end] for start, end in pairwise(at)]
    whole = result([data], name)
    assert result(cut, name) == whole
    assert result((bytes([byte]) for byte in data), name) == whole


ROWS = st.tuples(
    st.sampled_from(["", "x", '"', '"x', 'x"x', '"x" ']), st.sampled_from([A, f'"{B}"', f'"{C}'])
)


@given(st.lists(ROWS, max_size=2 * MOST_LINES))
def test_whatever_the_quotes_no_line_is_lost_without_a_trace(rows: list[tuple[str, str]]) -> None:
    found = items("name,id\n" + "".join(f"{name}n,{identifier}\n" for name, identifier in rows), "ids.csv")
    assert [item.where for item in found] == [f"ids.csv:{2 + at}" for at in range(len(rows))]
    assert all(
        identifier.strip('"') in item.identifier for item, (_, identifier) in zip(found, rows, strict=True)
    )
