"""From bytes to items, without I/O: what a file's chunks mean, however they are cut.

bytes → gunzip → text → lines → records → items. Each step takes what has arrived and keeps what is not whole
yet, bounded: a line longer than `LONGEST_LINE` is one bad item, and what is left of it is skipped.
"""

import codecs
import csv
import io
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from syncer.identifiers import Item, item

LONGEST_LINE = 64 * 1024
# Gunzipped by the piece: a few hundred bytes can stand for gigabytes.
PIECE = 256 * 1024
GZIP = b"\x1f\x8b"
BYTE_ORDER_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}

COLUMNS = ("id", "connection_id", "identifier")
KEYS = (*COLUMNS, "arn", "connectionid")
DELIMITERS = ",;\t"
SHOWN = 120


class InputError(Exception):
    """The input cannot be used: what is wrong with it, where, and what to do. One line for a person."""


class BrokenGzip(Exception):
    """The gzip data is damaged, or ends in its middle."""


class Gunzip:
    """Gunzips data that arrives in chunks; several members in a row are one text, as gzip has it."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The plain data of `chunk`, by the piece. Raises `BrokenGzip`."""
        try:
            while chunk:
                if self._member.eof:
                    if not chunk.strip(b"\0"):
                        return  # padding after the last member, as tapes have it
                    self._member = zlib.decompressobj(wbits=31)
                piece = self._member.decompress(chunk, PIECE)
                if piece:
                    yield piece
                chunk = self._member.unconsumed_tail or self._member.unused_data
        except zlib.error as error:
            raise BrokenGzip(f"its gzip data is damaged ({error})") from None

    def end(self) -> None:
        """There is no more. Raises `BrokenGzip` when there should be."""
        if not self._member.eof:
            raise BrokenGzip("its gzip data ends in the middle")


def decoder(beginning: bytes) -> io.IncrementalNewlineDecoder:
    """A decoder to text with bare newlines, for a file that begins so.

    What is not UTF-8 becomes an escape: it spoils its line, which is recorded as invalid, and no other.
    """
    encoding = BYTE_ORDER_MARKS.get(beginning[:2], "utf-8-sig")
    decode = codecs.getincrementaldecoder(encoding)(errors="backslashreplace")
    return io.IncrementalNewlineDecoder(decode, translate=True)


class Lines:
    """Cuts text into numbered lines, from 1. A line that is too long is handed out cut off, once."""

    def __init__(self) -> None:
        self.number = 0
        self._rest = ""
        self._skipping = False

    def feed(self, text: str) -> Iterator[tuple[int, str]]:
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            yield from self._line(line)
        if len(self._rest) > LONGEST_LINE:
            # Hand out its beginning now, and let go of what follows until it ends.
            if not self._skipping:
                yield self.number + 1, self._rest[:LONGEST_LINE]
            self._skipping = True
            self._rest = ""

    def end(self) -> Iterator[tuple[int, str]]:
        if self._rest or self._skipping:
            yield from self._line(self._rest)
        self._rest = ""

    def _line(self, line: str) -> Iterator[tuple[int, str]]:
        self.number += 1
        if self._skipping:
            self._skipping = False
        else:
            yield self.number, line[:LONGEST_LINE]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Text that should be an ID, where it stood, and what is wrong with it if that is known already."""

    line: int
    text: str
    problem: str | None = None


Parse = Callable[[int, str], Iterator[Candidate]]


def parse_text(number: int, line: str) -> Iterator[Candidate]:
    """One ID per line; `#` begins a comment, at the beginning of a line or after a blank."""
    stripped = line.strip()
    if not stripped or stripped.startswith("#"):
        return
    text, _, _ = stripped.partition(" #")
    yield Candidate(number, text.partition("\t#")[0])


def parse_json_lines(number: int, line: str) -> Iterator[Candidate]:
    """One JSON value per line: a string, or an object with one of `KEYS`."""
    stripped = line.strip()
    if not stripped or stripped.startswith("#"):
        return
    try:
        value = json.loads(stripped)
    except (ValueError, RecursionError):
        yield Candidate(number, stripped, "not JSON")
        return
    if isinstance(value, dict):
        by_key = {str(key).lower(): each for key, each in value.items()}
        value = next((by_key[key] for key in KEYS if by_key.get(key) is not None), None)
        if value is None:
            yield Candidate(number, stripped, f"no key {', '.join(COLUMNS)} or arn")
            return
    if isinstance(value, str):
        yield Candidate(number, value)
    else:
        yield Candidate(number, stripped, "not a JSON string or object with an ID")


class CsvRecords:
    """CSV with a header. A quoted field may hold line breaks, so a record may take several lines."""

    def __init__(self) -> None:
        self._column: int | None = None
        self._delimiter = ","
        self._record = ""
        self._began = 0

    def __call__(self, number: int, line: str) -> Iterator[Candidate]:
        if not self._record:
            if not line.strip() or line.startswith("#"):
                return
            self._began = number
        self._record += line + "\n"
        if self._record.count('"') % 2 and len(self._record) < LONGEST_LINE:
            return
        record, self._record = self._record, ""
        yield from self._parsed(record)

    def end(self) -> Iterator[Candidate]:
        """The last record, should a quote be left open in it."""
        if self._record:
            record, self._record = self._record, ""
            yield from self._parsed(record)

    def _parsed(self, record: str) -> Iterator[Candidate]:
        if self._column is None:
            self._delimiter, self._column = _header(record)
            return
        try:
            row = next(csv.reader([record], delimiter=self._delimiter), [])
        except csv.Error as error:
            yield Candidate(self._began, record.strip(), f"not CSV: {error}")
            return
        if self._column < len(row):
            yield Candidate(self._began, row[self._column])
        else:
            yield Candidate(self._began, record.strip(), "the row ends before the column with the ID")


def _header(line: str) -> tuple[str, int]:
    """Delimiter and position of the column with the IDs. Raises `InputError` when there is none."""
    for delimiter in DELIMITERS:
        names = [name.strip().lower() for name in next(csv.reader([line], delimiter=delimiter), [])]
        for column in COLUMNS:
            if column in names:
                return delimiter, names.index(column)
    shown = line.strip()[:SHOWN]
    raise InputError(f"has no column {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}; its header is: {shown}")


def is_header(line: str) -> bool:
    """Whether `line` can be the header of a CSV file with a column of IDs."""
    try:
        _header(line)
    except (InputError, csv.Error):
        return False
    return True


def format_of(name: str, beginning: str) -> str:
    """``text``, ``csv`` or ``json lines``: by the file's name, or else by how it begins.

    Raises `InputError` for a JSON document that is not one value per line.
    """
    name = name.lower().removesuffix(".gz")
    first = next((line.strip() for line in beginning.split("\n") if _speaks(line)), "")
    if first in ("[", "{") or (first.startswith("[") and not name.endswith((".csv", ".tsv", ".txt"))):
        raise InputError("is one JSON document, not one JSON value per line: make it so with jq -c '.[]'")
    if name.endswith((".csv", ".tsv")):
        return "csv"
    if name.endswith((".jsonl", ".ndjson", ".json")):
        return "json lines"
    if name.endswith((".txt", ".text")):
        return "text"
    if first.startswith(("{", '"')):
        return "csv" if is_header(first) else "json lines"
    return "csv" if is_header(first) else "text"


def _speaks(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


class Parser:
    """One input from its chunks to its items.

    name: as people know it. position: of its first item. beginning: its first text, to tell the format by.
    Raises `InputError` as soon as the input shows to be unusable.
    """

    def __init__(self, name: str, catalog: str, beginning: str) -> None:
        self._name = name
        self._catalog = catalog
        self._lines = Lines()
        self._csv: CsvRecords | None = None
        self._parse: Parse
        match format_of(name, beginning):
            case "csv":
                self._parse = self._csv = CsvRecords()
            case "json lines":
                self._parse = parse_json_lines
            case _:
                self._parse = parse_text

    @property
    def line(self) -> int:
        """The number of the last line read."""
        return self._lines.number

    def feed(self, text: str, position: int) -> list[Item]:
        """The items that `text` completes, numbered on from `position`."""
        return self._items(self._lines.feed(text), position)

    def end(self, position: int) -> list[Item]:
        """The items that the end of the input completes."""
        items = self._items(self._lines.end(), position)
        if self._csv is not None:
            items += [
                self._item(candidate, position + len(items) + index)
                for index, candidate in enumerate(self._csv.end())
            ]
        return items

    def _items(self, lines: Iterator[tuple[int, str]], position: int) -> list[Item]:
        items: list[Item] = []
        for number, line in lines:
            for candidate in self._parse(number, line):
                items.append(self._item(candidate, position + len(items)))
        return items

    def _item(self, candidate: Candidate, position: int) -> Item:
        where = f"{self._name}:{candidate.line}"
        return item(position, candidate.text, self._catalog, where, wrong=candidate.problem)
