"""From bytes to items, without I/O: what a file's chunks mean, however they are cut.

bytes → gunzip → text → lines → records → items. Each step takes what has arrived and keeps what is not whole
yet, bounded: a line longer than `LONGEST_LINE` is one bad item, and what is left of it is skipped.
"""

import codecs
import csv
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from syncer.identifiers import Item, item

# What no text has: control characters, but for breaks of line and page, tab, and what colours a terminal.
CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")

LONGEST_LINE = 64 * 1024
# A quoted field may hold line breaks, but a quote that is still open after so many lines is a mistake.
MOST_LINES = 100
# Gunzipped by the piece: a few hundred bytes can stand for gigabytes.
PIECE = 64 * 1024
GZIP = b"\x1f\x8b"
# So many bytes tell gzip from text, and UTF-16 from UTF-8.
TELLING = 2
BYTE_ORDER_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
# So many characters are looked at to tell text from other things.
LOOKED_AT = 8 * 1024

# In order of preference: beside a `connection_id`, the `id` is that of the exported table's row.
COLUMNS = ("connection_id", "id", "identifier")
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


class Plain:
    """Gunzips what begins as gzip, and hands on what does not."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._held = b""
        self._begun = False
        self._gunzip: Gunzip | None = None

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The plain data of `chunk`, by the piece. Raises `InputError`, `BrokenGzip`."""
        if not self._begun:
            chunk = self._held + chunk
            if len(chunk) < TELLING:
                self._held = chunk
                return
            self._held = b""
            self._begin(chunk)
        yield from self._gunzip.feed(chunk) if self._gunzip else (chunk,)

    def end(self) -> bytes:
        """The plain data that is left. Raises `InputError`, `BrokenGzip`."""
        if not self._begun and self._held:
            self._begin(self._held)
        if self._gunzip:
            self._gunzip.end()
        return self._held

    def _begin(self, beginning: bytes) -> None:
        self._begun = True
        if beginning.startswith(GZIP):
            self._gunzip = Gunzip()
        elif self._name.endswith(".gz"):
            raise InputError("is named .gz, but it holds no gzip data")


class Text:
    """Decodes to text with bare newlines: UTF-8, or UTF-16 if a byte order mark says so.

    What cannot be decoded becomes an escape: it spoils its line, which is recorded as invalid, and no other.
    """

    def __init__(self) -> None:
        self._held = b""
        self._decoder: io.IncrementalNewlineDecoder | None = None
        self._to_look_at = LOOKED_AT

    def feed(self, data: bytes) -> str:
        """The text of `data`. Raises `InputError` when it shows not to be text."""
        if self._decoder is None:
            data = self._held + data
            if len(data) < TELLING:
                self._held = data
                return ""
            self._held = b""
        return self._decoded(data, final=False)

    def end(self) -> str:
        """The text that is left. Raises `InputError`."""
        return self._decoded(self._held, final=True)

    def _decoded(self, data: bytes, *, final: bool) -> str:
        if self._decoder is None:
            encoding = BYTE_ORDER_MARKS.get(data[:TELLING], "utf-8-sig")
            decoder = codecs.getincrementaldecoder(encoding)(errors="backslashreplace")
            self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
        text = self._decoder.decode(data, final=final)
        if self._to_look_at:
            if CONTROL.search(text[: self._to_look_at]):
                raise InputError("is a binary file, not a list of connection IDs")
            self._to_look_at = max(0, self._to_look_at - len(text))
        return text


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
    if speaks(line):
        text, _, _ = line.strip().partition(" #")
        yield Candidate(number, text.partition("\t#")[0])


def parse_json_lines(number: int, line: str) -> Iterator[Candidate]:
    """One JSON value per line: a string, or an object with one of `KEYS`."""
    if not speaks(line):
        return
    stripped = line.strip()
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
    """CSV with a header. A quoted field may hold line breaks, so a record may take several lines.

    A quote opened by mistake must not swallow the lines after it: if it is not closed as it should be, only
    its own line is invalid, and reading goes on with the next one.
    """

    def __init__(self) -> None:
        self._column: int | None = None
        self._delimiter = ","
        # The numbered lines of a record that is not complete yet.
        self._held: list[tuple[int, str]] = []

    def __call__(self, number: int, line: str) -> Iterator[Candidate]:
        self._held.append((number, line))
        # Only a quote can complete a record that is not complete after its first line.
        if len(self._held) == 1 or '"' in line or self._full():
            yield from self._candidates(final=False)

    def end(self) -> Iterator[Candidate]:
        """The last records, should a quote be left open."""
        yield from self._candidates(final=True)

    def _full(self) -> bool:
        return len(self._held) >= MOST_LINES or sum(len(line) for _, line in self._held) >= LONGEST_LINE

    def _candidates(self, *, final: bool) -> Iterator[Candidate]:
        while self._held:
            candidate, taken = self._next(final=final or self._full())
            if not taken:
                return
            del self._held[:taken]
            if candidate is not None:
                yield candidate

    def _next(self, *, final: bool) -> tuple[Candidate | None, int]:
        """What the first lines held say, and how many it takes to say it; 0 if more have to come first."""
        lines = [line for _, line in self._held]
        number = self._held[0][0]
        if not speaks(lines[0]):
            return None, 1
        if self._column is None:
            return None, self._header(lines, final=final)
        try:
            record = first_record(lines, self._delimiter)
        except csv.Error as error:
            return Candidate(number, lines[0], f"not CSV: {error}"), 1
        if record is None:
            return (
                (Candidate(number, lines[0], "a quote is opened and not closed"), 1) if final else (None, 0)
            )
        row, taken = record
        if self._column < len(row):
            return Candidate(number, row[self._column]), taken
        return Candidate(
            number, "\n".join(lines[:taken]), "the row ends before the column with the ID"
        ), taken

    def _header(self, lines: Sequence[str], *, final: bool) -> int:
        """How many of `lines` the header takes; 0 if more have to come first. Raises `InputError`."""
        header = _header(lines, final=final)
        if header is None:
            return 0
        self._delimiter, self._column, taken = header
        return taken


def first_record(lines: Sequence[str], delimiter: str) -> tuple[list[str], int] | None:
    """The first record and how many of `lines` it takes; None if a quote is still open after the last one.

    Raises `csv.Error`. On one line quotes are read leniently. A record of several lines has to keep the
    rules: text right after a closing quote shows that the quote was never meant to reach so far.
    """
    if '"' not in lines[0]:
        return lines[0].split(delimiter), 1
    for strict in (False, True):
        # The reader goes on to one more line only if a quote is open.
        ended = [*(line + "\n" for line in (lines if strict else lines[:1])), ""]
        reader = csv.reader(ended, delimiter=delimiter, skipinitialspace=True, strict=strict)
        try:
            row = next(reader)
        except csv.Error:
            if reader.line_num < len(ended):
                raise
        else:
            if reader.line_num < len(ended):
                return row, reader.line_num
    return None


def _header(lines: Sequence[str], *, final: bool) -> tuple[str, int, int] | None:
    """Delimiter, position of the column with the IDs, and how many of `lines` the header takes.

    None if more lines have to come first. Raises `InputError` when there is no such column.
    """
    incomplete = False
    for delimiter in DELIMITERS:
        try:
            record = first_record(lines, delimiter)
        except csv.Error:
            continue
        if record is None:
            incomplete = True
            continue
        names = [name.strip().strip('"').lower() for name in record[0]]
        for column in COLUMNS:
            if column in names:
                return delimiter, names.index(column), record[1]
    if incomplete and not final:
        return None
    shown = lines[0].strip()[:SHOWN]
    raise InputError(f"has no column {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}; its header is: {shown}")


def is_header(line: str) -> bool:
    """Whether `line` can be the header of a CSV file with a column of IDs."""
    try:
        return _header([line], final=False) is not None
    except InputError:
        return False


def format_of(name: str, first: str) -> str:
    """``text``, ``csv`` or ``json lines``: by the file's name, or else by the first line that says something.

    Raises `InputError` for a JSON document that is not one value per line.
    """
    name, first = name.lower().removesuffix(".gz"), first.strip()
    if first in ("[", "{") or (first.startswith("[") and not name.endswith((".csv", ".tsv", ".txt"))):
        raise InputError("is one JSON document, not one JSON value per line: make it so with jq -c '.[]'")
    if name.endswith((".csv", ".tsv")):
        return "csv"
    if name.endswith((".jsonl", ".ndjson", ".json")):
        return "json lines"
    # Spreadsheets write a table as .txt, too.
    if is_header(first):
        return "csv"
    return "json lines" if first.startswith(("{", '"')) else "text"


def speaks(line: str) -> bool:
    """Whether `line` is neither blank nor a comment."""
    return bool(line.strip()) and not line.lstrip().startswith("#")


class Parser:
    """One input from its chunks to its items.

    name: as people know it. position: of its next item.
    """

    def __init__(self, name: str, catalog: str, position: int = 0) -> None:
        self.position = position
        self._name = name
        self._catalog = catalog
        self._plain = Plain(name)
        self._text = Text()
        self._lines = Lines()
        self._csv = CsvRecords()
        # Known when a line says something.
        self._parse: Parse | None = None

    @property
    def line(self) -> int:
        """The number of the last line read."""
        return self._lines.number

    def feed(self, chunk: bytes) -> Iterator[list[Item]]:
        """The items that `chunk` completes, by the piece.

        Raises `InputError` as soon as the input shows to be unusable, and `BrokenGzip`.
        """
        for plain in self._plain.feed(chunk):
            yield self._items(self._lines.feed(self._text.feed(plain)))

    def end(self) -> Iterator[list[Item]]:
        """The items that the end of the input completes. Raises `InputError`, `BrokenGzip`."""
        yield self._items(self._lines.feed(self._text.feed(self._plain.end()) + self._text.end()))
        yield self._items(self._lines.end())
        yield [self._item(candidate) for candidate in self._csv.end()]

    def _items(self, lines: Iterator[tuple[int, str]]) -> list[Item]:
        items: list[Item] = []
        for number, line in lines:
            if self._parse is None:
                if not speaks(line):
                    continue
                self._parse = self._parse_for(line)
            items += [self._item(candidate) for candidate in self._parse(number, line)]
        return items

    def _parse_for(self, first: str) -> Parse:
        match format_of(self._name, first):
            case "csv":
                return self._csv
            case "json lines":
                return parse_json_lines
            case _:
                return parse_text

    def _item(self, candidate: Candidate) -> Item:
        position, self.position = self.position, self.position + 1
        where = f"{self._name}:{candidate.line}"
        return item(position, candidate.text, self._catalog, where, wrong=candidate.problem)
