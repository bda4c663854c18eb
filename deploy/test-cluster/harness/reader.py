"""reader.py HOST PORT KEYSPACE SYMBOL: looks at the store ten times a second and prints a line of JSON each time, until its input ends.

It runs in the cluster's network, beside the test. A line: `at` (monotonic seconds, the same clock for all processes of a machine, taken when the answer is
there), `generation`, `bound` and `committed` of the head, and `epoch`, `start` and `trades` of the symbol's newest minute row, read at quorum. A
line of a store that does not answer, or has no head yet, has only `at` and `fault`.
"""

import json
import select
import sys
import time

from cql import Connection, Refused

EVERY_S = 0.1
MINUTE_MS = 60_000
BUCKET_MS = 10_000 * MINUTE_MS


def look(connection, keyspace, symbol):
    head = connection.query(f"SELECT generation, head FROM {keyspace}.job_head WHERE only_one = 1")
    if not head:
        return {"fault": "no head yet"}
    generation, text = head[0]
    parsed = json.loads(text)
    committed = parsed["committed"]["epoch"]
    seen = {"generation": generation, "committed": committed, "bound": max([committed] + [binding["epoch"] for binding in parsed["bound"]])}
    now = int(time.time() * 1000)
    bucket = now - now % BUCKET_MS
    rows = connection.query(
        f"SELECT epoch, start, trades FROM {keyspace}.bars WHERE symbol = '{symbol}' AND size = '1m' AND bucket = {bucket} PER PARTITION LIMIT 1"
    )
    if rows:
        seen.update(zip(("epoch", "start", "trades"), rows[0]))
    return seen


def main(host, port, keyspace, symbol):
    connection = None
    while not select.select([sys.stdin], [], [], EVERY_S)[0]:
        try:
            connection = connection or Connection(host, int(port))
            seen = look(connection, keyspace, symbol)
        except Refused as fault:
            seen = {"fault": str(fault)}
        except OSError as fault:
            connection, seen = None, {"fault": str(fault)}
        print(json.dumps({"at": time.monotonic(), **seen}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
