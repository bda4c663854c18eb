//! Real Kafka and Cassandra for tests, and how tests that need them are run, skipped or failed.

pub mod certificates;
pub mod servers;
pub mod trials;
