//! What the benches need of the inside, and nobody else: see `benches/`.

use tapeflow_schemas::RowWrite;

use super::mirrors::Columns;

/// Makes a row's columns, as a write does.
pub fn columns(row: &RowWrite) {
    std::hint::black_box(Columns::of(row, "1m"));
}
