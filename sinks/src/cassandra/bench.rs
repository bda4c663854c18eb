//! What the benches need of the inside, and nobody else: see `benches/`.

use tapeflow_schemas::BarWrite;

use super::display_columns::Columns;

/// Makes a row's columns, as a write does.
pub fn columns(row: &BarWrite) {
    std::hint::black_box(Columns::of(row, "1m"));
}
