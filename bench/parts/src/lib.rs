//! The parts of the path of a trade, each a Criterion benchmark in `benches/`: decode a record,
//! combine its trades, views, encode a bar. `cargo bench -p tapeflow-parts`.
//!
//! They are a crate of their own, so that no crate they measure depends on the feed they use.
