-- The tables of the first form, as the binary made them that knew no views; never edited.
CREATE TABLE schema (format INTEGER NOT NULL) STRICT;
CREATE TABLE bars (
    symbol   TEXT NOT NULL,
    size     TEXT NOT NULL,
    start    INTEGER NOT NULL,
    epoch    INTEGER NOT NULL,
    stamp    INTEGER NOT NULL,
    open     REAL,
    high     REAL,
    low      REAL,
    close    REAL,
    vwap     TEXT,
    volume   TEXT NOT NULL,
    notional TEXT NOT NULL,
    trades   INTEGER NOT NULL,
    state    BLOB NOT NULL,
    start_utc TEXT GENERATED ALWAYS AS (strftime('%Y-%m-%dT%H:%M:%SZ', start / 1000, 'unixepoch')) VIRTUAL,
    PRIMARY KEY (symbol, size, start)
) STRICT, WITHOUT ROWID;
CREATE TABLE job_head (
    only_one   INTEGER PRIMARY KEY CHECK (only_one = 1),
    job        TEXT NOT NULL,
    generation INTEGER NOT NULL,
    version    INTEGER NOT NULL,
    owner      TEXT NOT NULL,
    head       TEXT NOT NULL
) STRICT;
CREATE TABLE history (
    epoch         INTEGER PRIMARY KEY,
    stamp         INTEGER NOT NULL,
    cuts          TEXT NOT NULL,
    records       INTEGER NOT NULL,
    accepted      INTEGER NOT NULL,
    rejected      INTEGER NOT NULL,
    duplicates    INTEGER NOT NULL,
    price_updates INTEGER NOT NULL,
    gaps          INTEGER NOT NULL,
    late          INTEGER NOT NULL
) STRICT;
CREATE TABLE symbols (
    symbol TEXT NOT NULL,
    size   TEXT NOT NULL,
    bucket INTEGER NOT NULL,
    class  TEXT NOT NULL,
    PRIMARY KEY (symbol, size, bucket)
) STRICT, WITHOUT ROWID;
CREATE TABLE rejects (
    partition     INTEGER NOT NULL,
    "offset"      INTEGER NOT NULL,
    trade_index   INTEGER NOT NULL,
    reason        TEXT NOT NULL,
    detail        TEXT NOT NULL,
    payload       BLOB NOT NULL,
    PRIMARY KEY (partition, "offset", trade_index)
) STRICT;
CREATE TABLE log_meta (
    only_one   INTEGER PRIMARY KEY CHECK (only_one = 1),
    cluster    TEXT NOT NULL,
    topic      TEXT NOT NULL,
    topic_id   TEXT NOT NULL,
    partitions INTEGER NOT NULL
) STRICT;
CREATE TABLE log_partitions (
    partition    INTEGER PRIMARY KEY,
    first_offset INTEGER NOT NULL,
    next_offset  INTEGER NOT NULL
) STRICT;
CREATE TABLE log (
    appended     INTEGER PRIMARY KEY,
    partition    INTEGER NOT NULL,
    "offset"     INTEGER NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    key          TEXT NOT NULL,
    payload      BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX log_by_offset ON log (partition, "offset");
CREATE TABLE log_sessions (
    session   TEXT NOT NULL,
    partition INTEGER NOT NULL,
    sequence  INTEGER NOT NULL,
    PRIMARY KEY (session, partition)
) STRICT, WITHOUT ROWID;
INSERT INTO schema (format) VALUES (1);
