"""Which resources of a refused response were the bad ones, as far as Envoy's message says.

Owns: the reading of Envoy's error texts. Pure. Envoy 1.40 applies the good listeners and clusters of a response and lists the
others (lds_api.cc, cds_api_helper.cc)::

    Error adding/updating listener(s) NAME: REASON\\nNAME: REASON\\n
    Error adding/updating cluster(s) NAME: REASON, NAME: REASON

For every other type, and when a resource can't be decoded at all, the text names no resource in a fixed place, and nothing
may be concluded from a name that happens to occur in it.
"""

from __future__ import annotations

from collections.abc import Collection

from xds_server.snapshot import TypeUrl

_LIST_FORMS = {
    TypeUrl.LISTENER: ("Error adding/updating listener(s) ", "\n"),
    TypeUrl.CLUSTER: ("Error adding/updating cluster(s) ", ", "),
}


def refused_names(type_url: TypeUrl, message: str, sent: Collection[str]) -> dict[str, str]:
    """The names of ``sent`` that the message refuses, each with its own reason. Empty if it names none."""
    form = _LIST_FORMS.get(type_url)
    if form is None:
        return {}
    prefix, separator = form
    _, found, body = message.partition(prefix)
    if not found:
        return {}
    starts: list[tuple[int, str]] = []
    for name in sent:
        label = f"{name}: "
        at = 0 if body.startswith(label) else body.find(separator + label)
        if at >= 0:
            starts.append((at if at == 0 else at + len(separator), name))
    starts.sort()
    reasons: dict[str, str] = {}
    for index, (start, name) in enumerate(starts):
        end = starts[index + 1][0] if index + 1 < len(starts) else len(body)
        reasons[name] = body[start + len(name) + 2 : end].removesuffix(separator).strip()
    return reasons
