"""A small client for Cassandra's native protocol, version 4: one connection, one query at a time,
and only the types of the columns that the test reads.

With it the test needs only Python, and its observations do not depend on the code under test.
"""

import socket
import struct

LOCAL_QUORUM = 6
ERROR, STARTUP, READY, QUERY, RESULT = 0x00, 0x01, 0x02, 0x07, 0x08
ROWS = 2
BIGINT, BLOB, BOOLEAN, INT, TIMESTAMP, TEXT = 0x02, 0x03, 0x04, 0x09, 0x0B, 0x0D
FORMATS = {BIGINT: ">q", INT: ">i", TIMESTAMP: ">q", BOOLEAN: ">?"}


class Refused(Exception):
    """The server answered with an error. The text has the code and the message."""


class Connection:
    """A connection to one node, without a password."""

    def __init__(self, host, port, timeout_s=5):
        self.socket = socket.create_connection((host, port), timeout=timeout_s)
        version = b"\x00\x01" + _string("CQL_VERSION") + _string("3.0.0")
        if self._ask(STARTUP, version)[0] != READY:
            raise Refused("the node requires a password")

    def query(self, text):
        """Runs a statement at LOCAL_QUORUM. Returns its rows as tuples, or an empty list."""
        encoded = text.encode()
        request = struct.pack(">i", len(encoded)) + encoded + struct.pack(">HB", LOCAL_QUORUM, 0)
        kind, body = self._ask(QUERY, request)
        if kind != RESULT or body.int() != ROWS:
            return []
        return _rows(body)

    def _ask(self, kind, body):
        self.socket.sendall(struct.pack(">BBhBi", 4, 0, 0, kind, len(body)) + body)
        _, _, _, answer, length = struct.unpack(">BBhBi", self._exactly(9))
        content = Body(self._exactly(length))
        if answer == ERROR:
            code = content.int()
            raise Refused(f"{code:#06x}: {content.string()}")
        return answer, content

    def _exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise ConnectionError("the node closed the connection")
            data += more
        return data


class Body:
    """The body of an answer. Each method reads the next value."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        self.at += count
        return self.data[self.at - count : self.at]

    def int(self):
        return struct.unpack(">i", self.take(4))[0]

    def short(self):
        return struct.unpack(">H", self.take(2))[0]

    def string(self):
        return self.take(self.short()).decode()

    def bytes(self):
        length = self.int()
        return None if length < 0 else self.take(length)


def _string(text):
    return struct.pack(">H", len(text)) + text.encode()


def _rows(body):
    flags, columns = body.int(), body.int()
    if flags & 2:
        body.bytes()
    if flags & 1:
        body.string(), body.string()
    types = []
    for _ in range(columns):
        if not flags & 1:
            body.string(), body.string()
        body.string()
        types.append(body.short())
    if unknown := set(types) - set(FORMATS) - {TEXT, BLOB}:
        raise Refused(f"cannot read columns of the types {unknown}")
    return [tuple(_value(kind, body.bytes()) for kind in types) for _ in range(body.int())]


def _value(kind, data):
    if data is None or kind == BLOB:
        return data
    return data.decode() if kind == TEXT else struct.unpack(FORMATS[kind], data)[0]
