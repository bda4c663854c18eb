//! One target under libFuzzer: the one that the variable `TAPEFLOW_FUZZ_TARGET` names.
//! `tests/fuzz/fuzz.py` builds this with coverage and runs it.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use tapeflow_fuzz::{Target, target};

static CHOSEN: OnceLock<&Target> = OnceLock::new();

fn chosen() -> &'static Target {
    CHOSEN.get_or_init(|| {
        let name = std::env::var("TAPEFLOW_FUZZ_TARGET").expect("TAPEFLOW_FUZZ_TARGET is set");
        target(&name).unwrap_or_else(|| panic!("there is no target {name:?}"))
    })
}

fuzz_target!(|bytes: &[u8]| {
    (chosen().check)(bytes);
});
