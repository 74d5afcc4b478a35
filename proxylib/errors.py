"""What can go wrong in this package, by whose fault it is.

::

    ProxylibError
    ├── ProtocolError      the peer's bytes are no message of the protocol
    ├── SavedStateError    a file (rules, cache) is not one that this version wrote
    └── PublishError       the kernel did not take an answer's addresses
"""

from __future__ import annotations


class ProxylibError(Exception):
    """The root of this package's errors."""


class ProtocolError(ProxylibError):
    """The peer sent what the protocol does not allow. The only error that a parser raises."""


class SavedStateError(ProxylibError):
    """A file's content can't be trusted. The message says where it goes wrong."""


class PublishError(ProxylibError):
    """Addresses could not be made known to the datapath, so the answer that named them must not be released."""
