//! Text tables: left-aligned words, right-aligned numbers, no lines.

use std::fmt;

pub use comfy_table::CellAlignment as Align;
use comfy_table::{ContentArrangement, presets};

/// Rows under a heading. The displayed text has neither trailing blanks nor a final line break.
#[derive(Debug)]
pub struct Table(comfy_table::Table);

impl Table {
    /// Creates a table with these columns and no rows.
    pub fn new(columns: &[(&str, Align)]) -> Table {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(columns.iter().map(|(name, _)| name));
        for (column, (_, align)) in table.column_iter_mut().zip(columns) {
            column.set_padding((0, 2));
            column.set_cell_alignment(*align);
        }
        Table(table)
    }

    /// Wraps the cells so that a row is at most this wide.
    pub fn fit(&mut self, width: usize) {
        self.0.set_content_arrangement(ContentArrangement::Dynamic);
        self.0.set_width(width.try_into().unwrap_or(u16::MAX));
    }

    /// Adds a row with one cell for each column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.add_row(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.trim_fmt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_left_aligned_and_numbers_right_aligned() {
        let mut table = Table::new(&[("model", Align::Left), ("msg/s", Align::Right)]);
        table.row(["uring".to_owned(), "110k".to_owned()]);
        table.row(["epoll (edge)".to_owned(), "9.91k".to_owned()]);
        let expected = "\
model         msg/s
uring          110k
epoll (edge)  9.91k";
        assert_eq!(table.to_string(), expected);
    }
}
