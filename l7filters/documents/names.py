"""Names that Kubernetes and DNS define: object names, label keys and values, port names, domain names and patterns.

Owns: their syntax. Sources: Kubernetes' apimachinery validation (names, labels), RFC 6335 5.1 (port names), Cilium's CRD
schema (domain names and patterns, which is stricter than its Go code). Must not know which field a name stands in.
"""

from __future__ import annotations

import re

from l7filters.documents.reader import Node
from l7filters.labels import NAMESPACE_LABELS_PREFIX, RESERVED_PREFIX, canonical_key

NAME_CHARS_MAX = 253
LABEL_CHARS_MAX = 63
LABELS_MAX = 512
"""Entries of one mapping of labels."""
PORT_NAME_CHARS_MAX = 15
DOMAIN_CHARS_MAX = 255

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?\Z")
_PORT_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")
_DOMAIN_LABEL = re.compile(r"[-a-zA-Z0-9_]+\Z")
_PATTERN_LABEL = re.compile(r"[-a-zA-Z0-9_*]+\Z")
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]+\Z")


def object_name(node: Node) -> str:
    """Read an object's name (a DNS subdomain); "" after an error."""
    text = node.string(chars_max=NAME_CHARS_MAX)
    if text and not _SUBDOMAIN.match(text):
        node.error(f'"{text}" is not a valid name', "lower-case letters, digits, '-' and '.'")
        return ""
    return text


def namespace_name(node: Node) -> str:
    """Read a namespace's name (a DNS label); "" after an error."""
    text = node.string(chars_max=LABEL_CHARS_MAX)
    if text and not _DNS_LABEL.match(text):
        node.error(f'"{text}" is not a valid namespace', "lower-case letters, digits and '-', at most 63")
        return ""
    return text


def label_key_problem(key: str) -> str | None:
    """Return why ``key`` (in any source form) is no label key; None if it is one."""
    canonical = canonical_key(key)
    if canonical.startswith(RESERVED_PREFIX):
        canonical = canonical[len(RESERVED_PREFIX) :]
    elif ":" in canonical:
        return f'label source "{canonical.split(":", 1)[0]}" is not known here (k8s, any and reserved are)'
    if canonical.startswith(NAMESPACE_LABELS_PREFIX):
        canonical = canonical[len(NAMESPACE_LABELS_PREFIX) :]
    prefix, slash, name = canonical.rpartition("/")
    if slash and (not _SUBDOMAIN.match(prefix) or len(prefix) > NAME_CHARS_MAX):
        return "the part of a label key before the slash must be a DNS name"
    if not _LABEL_NAME.match(name):
        return "is not a valid label key"
    return None


def label_key(node: Node) -> str:
    """Read a label key into canonical form; "" after an error."""
    text = node.string(chars_max=NAME_CHARS_MAX + LABEL_CHARS_MAX + 64)
    if not text:
        return ""
    problem = label_key_problem(text)
    if problem is not None:
        node.error(problem)
        return ""
    return canonical_key(text)


def label_value(node: Node) -> str:
    """Read a label value, which may be empty."""
    text = node.string(empty=True, chars_max=LABEL_CHARS_MAX)
    if text and not _LABEL_NAME.match(text):
        node.error(f'"{text}" is not a valid label value', "letters, digits, '-', '_', '.'; letter or digit at both ends")
    return text


def label_map(node: Node) -> dict[str, str]:
    """Read ``{key: value}`` labels; keys become canonical."""
    labels: dict[str, str] = {}
    for key, value in node.pairs(LABELS_MAX):
        problem = label_key_problem(key)
        if problem is not None:
            value.error(problem)
            continue
        canonical = canonical_key(key)
        if canonical in labels:
            value.error(f'label "{canonical}" is given twice', "k8s: and any: mean the same here")
        labels[canonical] = label_value(value)
    return labels


def port_name_problem(text: str) -> str | None:
    """Return why ``text`` is no IANA service name; None if it is one."""
    if len(text) > PORT_NAME_CHARS_MAX:
        return f"a port name has at most {PORT_NAME_CHARS_MAX} characters"
    if not _PORT_NAME.match(text) or "--" in text or not any(char.isalpha() for char in text):
        return f'"{text}" is neither a port number nor a port name'
    return None


def domain_name(node: Node) -> str:
    """Read a full domain name into lower case without its trailing dot; "" after an error."""
    return _domain(node, _DOMAIN_LABEL, "domain name", "letters, digits, '-', '_' between single dots")


def domain_pattern(node: Node) -> str:
    """Read a domain pattern (``*`` in labels) into lower case without its trailing dot; "" after an error."""
    return _domain(node, _PATTERN_LABEL, "domain pattern", "letters, digits, '-', '_', '*' between single dots")


def _domain(node: Node, label: re.Pattern[str], what: str, hint: str) -> str:
    text = node.string(chars_max=DOMAIN_CHARS_MAX)
    if not text:
        return ""
    labels = text.removesuffix(".").split(".")
    if not all(label.match(part) for part in labels):
        node.error(f'"{text}" is not a valid {what}', hint)
        return ""
    if any(len(part) > LABEL_CHARS_MAX for part in labels):
        node.error(f"a label of a domain name has at most {LABEL_CHARS_MAX} characters")
        return ""
    return text.removesuffix(".").lower()


def data_key(node: Node) -> str:
    """Read the name of a key in a Secret; "" after an error."""
    text = node.string(chars_max=NAME_CHARS_MAX)
    if text and not _DATA_KEY.match(text):
        node.error(f'"{text}" is not a valid key of a Secret', "letters, digits, '-', '_', '.'")
        return ""
    return text
