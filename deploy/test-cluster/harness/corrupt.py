"""spoil.py HOST PORT KEYSPACE: gives one row the contents of another, which `tapeflow verify` must find. For a job that is not writing."""

import sys

from cql import Connection


def main(host, port, keyspace):
    connection = Connection(host, int(port))
    rows = connection.query(f"SELECT symbol, size, bucket, start, state FROM {keyspace}.bars LIMIT 50")
    symbol, size, bucket, start, state = rows[0]
    other = next(row[4] for row in rows if row[4] != state)
    connection.query(
        f"UPDATE {keyspace}.bars SET state = 0x{other.hex()} WHERE symbol = '{symbol}' AND size = '{size}' AND bucket = {bucket} AND start = {start}"
    )
    print(f"the row of {symbol}, {size}, {start}")


if __name__ == "__main__":
    main(*sys.argv[1:])
