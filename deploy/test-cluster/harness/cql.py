"""A small reader of Cassandra's native protocol, version 4: one connection, one query at a time, the types that the tables are read with.

It is here so that the test needs nothing but Python, and so that what it says does not come from the code under test.
"""

import socket
import struct

LOCAL_QUORUM = 6
ERROR, STARTUP, READY, QUERY, RESULT = 0x00, 0x01, 0x02, 0x07, 0x08
ROWS = 2
BIGINT, BLOB, BOOLEAN, INT, TIMESTAMP, TEXT = 0x02, 0x03, 0x04, 0x09, 0x0B, 0x0D
FORMATS = {BIGINT: ">q", INT: ">i", TIMESTAMP: ">q", BOOLEAN: ">?"}


class Refused(Exception):
    """The server's answer is an error: its code and text."""


class Connection:
    """A connection to one node."""

    def __init__(self, host, port, timeout_s=5):
        self.socket = socket.create_connection((host, port), timeout=timeout_s)
        version = b"\x00\x01" + _string("CQL_VERSION") + _string("3.0.0")
        if self._ask(STARTUP, version)[0] != READY:
            raise Refused("the node asks for a password")

    def query(self, text):
        """The rows, as tuples."""
        encoded = text.encode()
        kind, body = self._ask(QUERY, struct.pack(">i", len(encoded)) + encoded + struct.pack(">HB", LOCAL_QUORUM, 0))
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
                raise ConnectionError("the node has closed the connection")
            data += more
        return data


class Body:
    """The body of an answer, read from its beginning."""

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
        raise Refused(f"columns of types {unknown} are not read here")
    return [tuple(_value(kind, body.bytes()) for kind in types) for _ in range(body.int())]


def _value(kind, data):
    if data is None or kind == BLOB:
        return data
    return data.decode() if kind == TEXT else struct.unpack(FORMATS[kind], data)[0]
