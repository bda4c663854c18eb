//! Fuzz targets: every decoder of bytes that come from outside, each with what must hold of the
//! values that it accepts.
//!
//! ```text
//!  bytes ──decoder──▶ refused, or a value ──▶ encoded again: the same bytes, or the same value
//!                                         ──▶ the second implementation: the same value
//!                                         ──▶ what the job does next with it: no panic
//! ```
//!
//! A target is a function of bytes that panics if something does not hold. It knows nothing of
//! libFuzzer: `tests/libfuzzer.rs` hands it what the fuzzer makes up, `tests/fuzz_seeds.rs` what is
//! committed in `seeds/`.

mod bar;
mod baskets;
mod checkpoint;
mod decimal;
mod filters;
mod frame;
mod hello;
mod record;
mod recording;
mod session_entry;
mod spool;
mod value;
mod view;

/// A decoder, and what must hold of what it accepts.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of its folder in `seeds/`.
    pub name: &'static str,
    /// The longest input that tells it anything, in bytes.
    pub max_len: usize,
    /// Panics if something does not hold.
    pub check: fn(&[u8]),
}

/// All targets.
pub const TARGETS: [Target; 13] = [
    Target {
        name: "frame",
        max_len: 4_096,
        check: frame::check,
    },
    Target {
        name: "recording",
        max_len: 4_096,
        check: recording::check,
    },
    Target {
        name: "record",
        max_len: 4_096,
        check: record::check,
    },
    Target {
        name: "bar",
        max_len: 512,
        check: bar::check,
    },
    Target {
        name: "view",
        max_len: 2_048,
        check: view::check,
    },
    Target {
        name: "checkpoint",
        max_len: 8_192,
        check: checkpoint::check,
    },
    Target {
        name: "filters",
        max_len: 2_048,
        check: filters::check,
    },
    Target {
        name: "hello",
        max_len: 4_200,
        check: hello::check,
    },
    Target {
        name: "session_entry",
        max_len: 1_024,
        check: session_entry::check,
    },
    Target {
        name: "spool",
        max_len: 2_048,
        check: spool::check,
    },
    Target {
        name: "baskets",
        max_len: 4_096,
        check: baskets::check,
    },
    Target {
        name: "decimal",
        max_len: 256,
        check: decimal::check,
    },
    Target {
        name: "value",
        max_len: 128,
        check: value::check,
    },
];

/// The target of that name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
