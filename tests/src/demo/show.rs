//! How things look.

use std::env;
use std::io::{IsTerminal as _, stdout};

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Row, Table};

/// Columns that are enough for tables with wrapped cells.
const ROOM: u16 = 100;

/// Knows whether colours are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Show {
    colours: bool,
}

impl Show {
    /// Colours on a terminal only, and not against the user's will (<https://no-color.org>).
    pub(super) fn new() -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            colours: stdout().is_terminal() && !refused,
        }
    }

    pub(super) fn heading(self, text: &str) {
        println!("\n{}", self.paint("1;36", text));
    }

    /// Something to know, beside what is shown.
    pub(super) fn note(self, text: &str) {
        println!("{}", self.paint("2", text));
    }

    /// Something bad.
    pub(super) fn failure(self, text: &str) {
        println!("{}", self.paint("1;31", text));
    }

    /// `text` between the escape sequence `code` and its end.
    fn paint(self, code: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// An empty table.
    pub(super) fn new_table(self, header: &[&str]) -> Table {
        let mut table = Table::new();
        table.load_style(NOTHING);
        // Where there is no room at all, the terminal wraps lines better than a table its cells.
        if table.width().is_some_and(|width| width >= ROOM) {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
        if !self.colours {
            table.force_no_tty();
        }
        let header = header.iter().map(|text| {
            let cell = Cell::new(text);
            if self.colours {
                cell.add_attribute(Attribute::Bold)
            } else {
                cell
            }
        });
        table.set_header(Row::from(header.collect::<Vec<_>>()));
        table
    }

    /// How many failed, in a table.
    pub(super) fn failed_cell(self, failed: u64) -> Cell {
        let cell = Cell::new(failed);
        match (self.colours, failed) {
            (false, _) => cell,
            (true, 0) => cell.fg(Color::Green),
            (true, _) => cell.fg(Color::Red),
        }
    }

    pub(super) fn table(self, table: Table) {
        println!("{}", table.trim_fmt());
    }
}
