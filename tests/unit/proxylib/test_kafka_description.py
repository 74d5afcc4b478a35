"""The description of Kafka's messages against what it generates, and against a codec that others made."""

from __future__ import annotations

import dataclasses
import importlib
import typing
from pathlib import Path
from types import NoneType

import pytest
from kio.schema.index import api_key_map, schema_name_map
from kio.static.constants import EntityType

from proxylib.kafka import generate, page
from proxylib.kafka.authorization import AUTHORIZATIONS
from proxylib.kafka.description import Api, DescriptionError, Field, Role, parse, read

APIS = read()
KIO_FIELDS = {"timedelta_i32": "int32", "timedelta_i64": "int64", "datetime_i64": "int64", "error_code": "int16"}


def test_drift_rust_tables_are_what_the_description_generates() -> None:
    assert generate.RUST.read_text() == generate.rust(APIS), "run: python -m proxylib.kafka.generate"


def test_drift_python_list_is_what_the_description_generates() -> None:
    assert generate.PYTHON.read_text() == generate.python(APIS), "run: python -m proxylib.kafka.generate"


def test_every_api_has_a_row_of_authorization_and_no_other_has() -> None:
    assert [api.number for api in APIS] == sorted(AUTHORIZATIONS)


def test_rows_of_authorization_name_their_api() -> None:
    text = Path("proxylib/kafka/authorization.py").read_text()
    for api in APIS:
        assert f"    {api.number}: " in text
        row = next(line for line in text.splitlines() if line.startswith(f"    {api.number}: "))
        assert row.endswith(f"# {api.name}")


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
def test_scopes_are_those_whose_fields_the_request_has(api: Api) -> None:
    roles = {field.role for field in _all(api.request)}
    scope = AUTHORIZATIONS[api.number].scope
    named = {Role.TOPIC, Role.TOPIC_ID} & roles
    for flag in scope:
        wanted = {
            "TOPIC": bool(named),
            "GROUP": Role.GROUP in roles or api.name == "ListGroups",
            "TRANSACTION": Role.TRANSACTIONAL_ID in roles or api.name == "ListTransactions",
            "RESOURCE": Role.RESOURCE_NAME in roles,
            "COORDINATOR": Role.COORDINATOR_KEY in roles,
        }
        assert wanted[flag.name or ""], flag


def _all(fields: tuple[Field, ...]) -> list[Field]:
    return [found for field in fields for found in (field, *_all(field.fields))]


@pytest.mark.parametrize("number, name", api_key_map.items(), ids=api_key_map.values())
def test_every_message_has_the_fields_that_kio_knows(number: int, name: str) -> None:
    """kio generates its classes from Kafka's definitions with code of its own."""
    api = next(api for api in APIS if api.number == number)
    for version in schema_name_map[name]:
        if version not in api.versions:
            pytest.fail(f"{name} v{version} is unknown to the description")
        for direction, fields in (("request", api.request), ("response", api.response)):
            entity = {"request": EntityType.request, "response": EntityType.response}[direction]
            path = schema_name_map[name][version][entity]
            module, _, class_name = path.partition(":")
            theirs = getattr(importlib.import_module(module), class_name)
            assert theirs.__flexible__ == (version in api.flexible)
            assert _ours(fields, version) == _theirs(theirs), f"{name} v{version} {direction}"


Shape = tuple[tuple[str, str, bool, bool, int | None, typing.Any], ...]


def _ours(fields: tuple[Field, ...], version: int) -> Shape:
    return tuple(
        (
            _plain(field.name),
            field.kind,
            field.is_array,
            version in field.nullable,
            field.tag,
            _ours(field.fields, version),
        )
        for field in fields
        if version in field.versions
    )


def _theirs(message: typing.Any) -> Shape:
    found = []
    hints = typing.get_type_hints(message)
    for field in dataclasses.fields(message):
        hint = hints[field.name]
        arguments = typing.get_args(hint)
        nullable = NoneType in arguments
        if nullable:
            hint = next(argument for argument in arguments if argument is not NoneType)
        is_array = typing.get_origin(hint) is tuple
        kafka_type = field.metadata.get("kafka_type")
        inner: Shape = ()
        if kafka_type is None:
            kind = "struct"
            inner = _theirs(typing.get_args(hint)[0] if is_array else hint)
        else:
            kind = KIO_FIELDS.get(kafka_type, kafka_type)
        if kind in ("uuid", "int64"):
            nullable = nullable and is_array  # kio reads the zero UUID and time -1 as None
        found.append((_plain(field.name), kind, is_array, nullable, field.metadata.get("tag"), inner))
    return tuple(found)


def _plain(name: str) -> str:
    """kio renames what Python reserves and drops the unit of durations; 4.4 renamed two fields since kio 0.6.5."""
    name = {"generation_id_or_member_epoch": "generation_id", "acceptable_recovery_lag_legacy": "acceptable_recovery_lag"}.get(
        name, name
    )
    return name.rstrip("_").removesuffix("_ms").replace("_", "")


@pytest.mark.parametrize(
    "text, why",
    [
        ("api 0 X 0-1 flexible none at broker\n request\n response\n  a strin 0+", "unknown type"),
        ("api 0 X 0-1 flexible none at broker\n request\n", "no response"),
        ("api 0 X 0-1 flexible none at broker\n request\n  a [] 0+\n response\n", "a struct has fields"),
        ("api 0 X 0-1 flexible none at broker\n request\n    a int8 0+\n response\n", "not a field at this depth"),
        ("apis 0 X", "not the first line"),
    ],
)
def test_a_description_in_another_form_is_refused(text: str, why: str) -> None:
    with pytest.raises(DescriptionError, match=why):
        parse(text)


def test_drift_the_page_has_the_table_of_authorization() -> None:
    text = page.PAGE.read_text()
    assert text == page.page(text), "run: python -m proxylib.kafka.page"
