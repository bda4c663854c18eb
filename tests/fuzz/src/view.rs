//! The state cell of a view.

use tapeflow_schemas::ViewState;
use xxhash_rust::xxh3::xxh3_64;

/// A cell, or all of one but its checksum.
pub(crate) fn check(bytes: &[u8]) {
    check_cell(bytes);
    check_cell(&[bytes, &xxh3_64(bytes).to_le_bytes()].concat());
}

fn check_cell(cell: &[u8]) {
    let Ok(state) = ViewState::from_cell(cell) else {
        return;
    };
    assert_eq!(state.to_cell(), cell, "one cell for one content");
    for entry in state.entries.iter().chain(&state.reserve.entries) {
        let _ = (entry.vwap_e8(), entry.change_pct_e8());
    }
}
