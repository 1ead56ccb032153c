"""Texts of others in a card: as one line, without markup."""

from typing import Any

_ESCAPED = str.maketrans({"<": "&lt;", ">": "&gt;", "|": "\\|", "`": "'", "[": "\\[", "]": "\\]"})


def escaped(value: Any) -> Any:
    """A text of somebody else as one line of a card: no markup, no headings. Of lists and dictionaries every text."""
    if isinstance(value, str):
        return " ".join(value.split()).translate(_ESCAPED)
    if isinstance(value, dict):
        return {key: escaped(item) for key, item in value.items()}
    return [escaped(item) for item in value] if isinstance(value, list) else value
