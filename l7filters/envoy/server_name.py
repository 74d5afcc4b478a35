"""Server name patterns of TLS policy as regular expressions.

Owns: the meaning of ``*`` and ``**`` in a server name. Follows Cilium's ``serverNames``: ``*`` within a label stands for any
run of characters but dots, ``**`` as a whole label for one or more labels, anywhere; a lone ``*`` or ``**`` for any name at
all; case does not count. The empty name (no SNI) matches no pattern.
"""

from __future__ import annotations

import re

_LABEL = "[^.]+"
_WITHIN_LABEL = "[^.]*"
_LABELS = rf"{_LABEL}(?:\.{_LABEL})*"


def server_name_regex(pattern: str) -> str:
    """Return a regular expression for the whole server name."""
    if pattern in ("*", "**"):
        return ".+"
    return "(?i:" + r"\.".join(_label(label) for label in pattern.split(".")) + ")"


def _label(label: str) -> str:
    match label:
        case "**":
            return _LABELS
        case "*":
            return _LABEL
        case _:
            return _WITHIN_LABEL.join(re.escape(part) for part in label.split("*"))
