"""Policy documents -> model: one parser per kind, errors as values. Pure."""

from l7filters.documents.kubernetes import EndpointSlice, Namespace
from l7filters.documents.metadata import DocumentKey
from l7filters.documents.parse import (
    KINDS,
    POLICY_WORDS,
    DocumentValue,
    ParsedDocument,
    ParsedFile,
    parse_documents,
    parse_object,
    with_slices,
)
from l7filters.documents.reader import DocumentError
from l7filters.documents.regex import RE2_PROGRAM_SIZE_MAX, regex_problem
from l7filters.documents.secrets import Secret, SecretStore

__all__ = [
    "KINDS",
    "POLICY_WORDS",
    "RE2_PROGRAM_SIZE_MAX",
    "DocumentError",
    "DocumentKey",
    "DocumentValue",
    "EndpointSlice",
    "Namespace",
    "ParsedDocument",
    "ParsedFile",
    "Secret",
    "SecretStore",
    "parse_documents",
    "parse_object",
    "regex_problem",
    "with_slices",
]
