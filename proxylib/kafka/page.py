"""The table of docs/kafka.md: per API what is judged, by which roles it is covered, and which error a denial gets.

``python -m proxylib.kafka.page`` rewrites the table in the page; a test compares them. Owns: its columns. The facts are
``authorization``'s.
"""

from __future__ import annotations

from pathlib import Path

from proxylib.kafka.apis import APIS
from proxylib.kafka.authorization import AUTHORIZATIONS, GROUPS_FILTERED, TOPICS_FILTERED, Authorization, Roles, Scope

PAGE = Path("docs/kafka.md")
BEGIN, END = "<!-- apis -->\n", "<!-- /apis -->\n"
_JUDGED = {
    Scope.TOPIC: "topics",
    Scope.GROUP: "group",
    Scope.TRANSACTION: "transactional id",
    Scope.RESOURCE: "typed resources",
    Scope.COORDINATOR: "coordinator keys",
}


def table() -> str:
    """Return the table, in the order of API keys."""
    rows = ["| key | API | versions | roles | judged | error of a denial |", "|---|---|---|---|---|---|"]
    for api in APIS:
        row = AUTHORIZATIONS[api.number]
        span = f"{api.version_min}-{api.version_max}" if api.version_min < api.version_max else str(api.version_min)
        rows.append(
            f"| {api.number} | {api.name} | {span} | {_roles(row)} | {_judged(api.number, row)} | {_errors(api.number, row)} |"
        )
    return "\n".join(rows) + "\n"


def _roles(row: Authorization) -> str:
    if not row.judged:
        return "always"
    return ", ".join(str(role.name).lower() for role in Roles.BOTH if role in row.roles)


def _judged(number: int, row: Authorization) -> str:
    if not row.judged:
        return "nothing: negotiation passes"
    names = [_JUDGED[scope] for scope in row.scope]
    if number in TOPICS_FILTERED:
        names.append("all topics: filtered")
    if number in GROUPS_FILTERED:
        names = ["all groups: filtered"]
    return ", ".join(names) or "the API"


def _errors(number: int, row: Authorization) -> str:
    if not row.judged or number in GROUPS_FILTERED:
        return ""
    codes = {int(row.error)} - {0}
    if row.scope & Scope.TOPIC:
        codes.add(29)
    if row.scope & Scope.GROUP:
        codes.add(30)
    if row.scope & Scope.RESOURCE:
        codes |= {29, 30, 31}
    if row.scope & Scope.COORDINATOR:
        codes |= {30, 53}
    if number == 22:
        codes |= {31, 53}
    return ", ".join(map(str, sorted(codes)))


def page(text: str) -> str:
    """Return the page with the table as it should be."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return head + BEGIN + table() + END + tail


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
