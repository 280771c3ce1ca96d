//! Tables that look like those of `sluiced`.

use comfy_table::{CellAlignment, LineStyle, Table, presets};

/// An empty table.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none())).set_header(header);
    table
}

/// An empty table whose columns but the first are numbers.
pub(crate) fn numbers(header: &[&str]) -> Table {
    let mut table = table(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A row of a name and numbers.
pub(crate) fn row(name: String, numbers: &[u64]) -> Vec<String> {
    std::iter::once(name).chain(numbers.iter().map(u64::to_string)).collect()
}
