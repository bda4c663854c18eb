"""corrupt.py HOST PORT KEYSPACE

Overwrites the state of one bar with that of another, to check that `tapeflow verify` finds the
difference. The job must not write while this runs.
"""

import sys

from cql import Connection


def main(host, port, keyspace):
    connection = Connection(host, int(port))
    columns = "symbol, size, bucket, start, state"
    bars = connection.query(f"SELECT {columns} FROM {keyspace}.bars LIMIT 50")
    symbol, size, bucket, start, state = bars[0]
    other = next(bar[4] for bar in bars if bar[4] != state)
    connection.query(
        f"UPDATE {keyspace}.bars SET state = 0x{other.hex()} WHERE symbol = '{symbol}'"
        f" AND size = '{size}' AND bucket = {bucket} AND start = {start}"
    )
    print(f"symbol {symbol}, size {size}, start {start}")


if __name__ == "__main__":
    main(*sys.argv[1:])
