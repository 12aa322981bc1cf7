//! Text tables: left-aligned words, right-aligned numbers, no lines.

use std::fmt;

use comfy_table::{Cell, CellAlignment, ContentArrangement, presets};

/// The alignment of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// The alignment of words.
    Left,
    /// The alignment of numbers.
    Right,
}

/// Rows under a heading. The displayed text has neither trailing blanks nor a final line break.
#[derive(Debug)]
pub struct Table {
    table: comfy_table::Table,
    aligns: Vec<Align>,
}

impl Table {
    /// Creates a table with these columns and no rows.
    pub fn new(columns: &[(&str, Align)]) -> Table {
        let aligns: Vec<Align> = columns.iter().map(|&(_, align)| align).collect();
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
        let mut whole = Table { table, aligns };
        let heading = whole.cells(columns.iter().map(|&(name, _)| name.to_owned()));
        whole.table.set_header(heading);
        for column in whole.table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        whole
    }

    /// Wraps the cells so that a row is at most this wide.
    pub fn fit(&mut self, width: usize) {
        self.table.set_content_arrangement(ContentArrangement::Dynamic);
        self.table.set_width(width.try_into().unwrap_or(u16::MAX));
    }

    /// Adds a row with one cell for each column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let row = self.cells(cells);
        self.table.add_row(row);
    }

    fn cells(&self, texts: impl IntoIterator<Item = String>) -> Vec<Cell> {
        let aligned = |(text, align): (String, &Align)| {
            Cell::new(text).set_alignment(match align {
                Align::Left => CellAlignment::Left,
                Align::Right => CellAlignment::Right,
            })
        };
        texts.into_iter().zip(&self.aligns).map(aligned).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.table.trim_fmt())
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
