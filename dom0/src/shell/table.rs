//! Tables for a person: columns as wide as what is in them, numbers to the right.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// A table that is being filled.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
    /// Whether each column is aligned to the right.
    right: Vec<bool>,
}

impl Table {
    /// A table with these column heads; those that start with `>` are aligned to the right.
    pub fn new(heads: &[&str]) -> Table {
        let right = heads.iter().map(|head| head.starts_with('>')).collect();
        Table { rows: alloc::vec![heads.iter().map(|head| head.trim_start_matches('>').into()).collect()], right }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// The whole table.
    pub fn text(&self) -> String {
        let columns = self.right.len();
        let width =
            |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, &width), &right) in row.iter().zip(&widths).zip(&self.right) {
                let gap = if line.is_empty() { "" } else { "  " };
                // Writing into a String cannot fail.
                let _ = match right {
                    true => write!(line, "{gap}{cell:>width$}"),
                    false => write!(line, "{gap}{cell:<width$}"),
                };
            }
            out += line.trim_end();
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["Name", ">ID", "State"]);
        table.row(["dom0".into(), "0".into(), "r-----".into()]);
        table.row(["grün".into(), "128".into(), "".into()]);
        assert_eq!(table.text(), "Name   ID  State\ndom0    0  r-----\ngrün  128\n");
    }
}
