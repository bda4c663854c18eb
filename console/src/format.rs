//! Bars as text: the columns of a bar, CSV and JSON. `GET /bars`, `tapeflow bars` and
//! `tapeflow top` print the same values because they share these functions.

pub mod bar;
pub mod text;
