"""What Postgres cannot keep in a text, replaced: NUL, and lone surrogates, which UTF-8 has none of."""

import re

UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def storable(text: str) -> str:
    """`text`, with U+FFFD for every character that cannot be stored."""
    if text.isascii() and "\x00" not in text:  # nearly all; spares the regular expression
        return text
    return UNSTORABLE.sub(REPLACEMENT, text)
