//! What `bench/parts` measures of the inside.

use tapeflow_schemas::BarWrite;

use super::display_columns::BarColumns;

/// Makes the columns of a bar, as a write does.
pub fn columns(bar: &BarWrite) {
    std::hint::black_box(BarColumns::of(bar, "1m"));
}
