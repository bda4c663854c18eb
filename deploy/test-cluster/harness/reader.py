"""reader.py HOST PORT KEYSPACE SYMBOL

Polls the store ten times a second, at quorum, and prints a line of JSON each time, until its input
ends. It runs in the cluster's network, beside the test. A line has these fields:

- `at`: monotonic seconds when the answer arrived; all processes of a machine share this clock
- `generation`, `bound`, `committed`: of the checkpoint; `bound` and `committed` are epochs
- `epoch`, `start`, `trades`: of the newest minute bar of the symbol, if there is one

If the store does not answer or has no checkpoint, the line has only `at` and `error`.
"""

import json
import select
import sys
import time

from cql import Connection, Refused

EVERY_S = 0.1
MINUTE_MS = 60_000
BUCKET_MS = 14 * 24 * 60 * MINUTE_MS


def poll(connection, keyspace, symbol):
    """The fields of a line, without `at`."""
    found = connection.query(
        f"SELECT generation, checkpoint FROM {keyspace}.checkpoint WHERE only_one = 1"
    )
    if not found:
        return {"error": "no checkpoint yet"}
    generation, text = found[0]
    checkpoint = json.loads(text)
    committed = checkpoint["committed"]["epoch"]
    bound = [binding["epoch"] for binding in checkpoint["bound"]]
    line = {"generation": generation, "committed": committed, "bound": max([committed] + bound)}
    now = int(time.time() * 1000)
    bucket = now - now % BUCKET_MS
    bars = connection.query(
        f"SELECT epoch, start, trades FROM {keyspace}.bars"
        f" WHERE symbol = '{symbol}' AND size = '1m' AND bucket = {bucket} PER PARTITION LIMIT 1"
    )
    if bars:
        line.update(zip(("epoch", "start", "trades"), bars[0]))
    return line


def main(host, port, keyspace, symbol):
    connection = None
    while not select.select([sys.stdin], [], [], EVERY_S)[0]:
        try:
            connection = connection or Connection(host, int(port))
            line = poll(connection, keyspace, symbol)
        except Refused as error:
            line = {"error": str(error)}
        except OSError as error:
            connection, line = None, {"error": str(error)}
        print(json.dumps({"at": time.monotonic(), **line}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
