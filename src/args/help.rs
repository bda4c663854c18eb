//! The help of flags that several commands share and that mean something else in some of them.

pub(crate) const INGEST_UNTIL_END: &str =
    "Exit with code 0 when everything up to the end of the recording is in the topic";

pub(crate) const RUN_SYMBOLS: &str = "\
    Symbols to subscribe to with --token-file, or to simulate with --simulate [default with \
    --token-file: AAPL,MSFT,BINANCE:BTCUSDT]";

pub(crate) const RUN_HTTP: &str = "\
    Address of the live page, /metrics, /status, /livez and /readyz, or off [default: \
    127.0.0.1:8080]";
pub(crate) const DATAFLOW_HTTP: &str = "\
    Address of the live page, /metrics, /status, /livez and /readyz, or off [default: 127.0.0.1, \
    at port 8080 plus --process]";
pub(crate) const INGEST_HTTP: &str =
    "Address of /metrics, /status, /livez and /readyz, or off [default: 127.0.0.1:8070]";

pub(crate) const READER_STORE: &str = "\
    Where bars are: sqlite:PATH, or cassandra://HOST:PORT,HOST:PORT/KEYSPACE, ports optional \
    [default: sqlite:tapeflow-data/tapeflow.db]";
pub(crate) const DATAFLOW_STORE: &str = "\
    Where bars go: sqlite:PATH, or cassandra://HOST:PORT,HOST:PORT/KEYSPACE, ports optional \
    [default: the file of --log where that is given]";
pub(crate) const INIT_STORE: &str = "\
    Where bars will be: sqlite:PATH, or cassandra://HOST:PORT,HOST:PORT/KEYSPACE, ports optional";

pub(crate) const LOG_OF_STORE: &str = "\
    An embedded log, sqlite:PATH, instead of a topic [default: the log in the file of the bars, \
    where they come from it]";

pub(crate) const BARS_FROM: &str =
    "First window start, RFC 3339 or a date [default without --to: all bars]";
pub(crate) const VIEWS_FROM: &str = "\
    First window start, RFC 3339 or a date [default without --to: the newest window, or of days \
    those that hold the newest trade]";

pub(crate) const VERIFY_BASKETS: &str = "\
    File of the baskets that the store was made with, lines of basket,symbol,weight [default: \
    those that the store keeps]";
