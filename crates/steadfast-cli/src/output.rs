//! What goes to the terminal: text and tables for people, one JSON document for programs.
//!
//! Invariant: writing never panics, and no text from the store can steer the terminal (see [`printable`]).

use std::{
    fmt,
    io::{self, BufWriter, IsTerminal, Stdout, Write},
};

use comfy_table::{Attribute, Cell, ColumnConstraint, ContentArrangement, Table, TableComponent, presets};
use serde::Serialize;

use crate::error::CliError;

/// Standard output, buffered.
pub(crate) struct Output {
    stdout: BufWriter<Stdout>,
    json: bool,
}

impl Output {
    /// Standard output, as JSON or for people.
    pub(crate) fn new(json: bool) -> Self {
        Self {
            stdout: BufWriter::new(io::stdout()),
            json,
        }
    }

    /// Whether the output is read by a program.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// One line.
    pub(crate) fn line(&mut self, text: impl fmt::Display) -> Result<(), CliError> {
        writeln!(self.stdout, "{text}").map_err(CliError::Output)
    }

    /// One JSON document.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        serde_json::to_writer_pretty(&mut self.stdout, value)
            .map_err(|error| CliError::Output(io::Error::from(error)))?;
        self.line("")
    }

    /// One JSON document on a line of its own.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        serde_json::to_writer(&mut self.stdout, value).map_err(|error| CliError::Output(io::Error::from(error)))?;
        self.line("")
    }

    /// The JSON document, or, for people, the line.
    pub(crate) fn say(&mut self, value: &impl Serialize, text: impl fmt::Display) -> Result<(), CliError> {
        if self.json { self.json(value) } else { self.line(text) }
    }

    /// A table.
    pub(crate) fn table(&mut self, table: &Table) -> Result<(), CliError> {
        table.lines().try_for_each(|line| self.line(line.trim_end()))
    }

    /// Hands over what is buffered.
    pub(crate) fn finish(&mut self) -> Result<(), CliError> {
        self.stdout.flush().map_err(CliError::Output)
    }
}

/// Writes `error: …` to stderr; when that is closed too, nobody is left to tell.
pub(crate) fn complain(text: &str) {
    let text = printable(text);
    let _ = if io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        writeln!(io::stderr(), "\u{1b}[1;31merror:\u{1b}[0m {text}")
    } else {
        writeln!(io::stderr(), "error: {text}")
    };
}

/// A table with these headings, as wide as the terminal; bold headings only there.
pub(crate) fn table<const N: usize>(headings: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_style(TableComponent::HeaderLines, '─')
        .set_style(TableComponent::MiddleHeaderIntersections, '─')
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(headings.map(|text| Cell::new(text).add_attribute(Attribute::Bold)));
    table
}

/// Never wraps these columns: ids and numbers stay whole as long as others can give way.
pub(crate) fn keep_whole(table: &mut Table, columns: &[usize]) {
    for column in columns {
        if let Some(column) = table.column_mut(*column) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
}

/// The text with every control character shown as an escape: what a workflow stored must not steer a terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || is_bidi_control(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Characters that make a terminal show the text in another order than it is stored.
fn is_bidi_control(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// As [`printable`], cut after `limit` characters.
pub(crate) fn shorten(text: &str, limit: usize) -> String {
    let shown = printable(text);
    if shown.chars().count() <= limit {
        return shown;
    }
    let head: String = shown.chars().take(limit.saturating_sub(1)).collect();
    format!("{head}…")
}

/// `1 key`, `2 keys`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// The text, or a dash.
pub(crate) fn or_dash(text: Option<&str>) -> String {
    text.map_or_else(|| "-".to_owned(), printable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_not_sent() {
        assert_eq!(printable("a\u{1b}[2Jb\n\0"), "a\\u{1b}[2Jb\\n\\u{0}");
        assert_eq!(printable("Grüße\u{202e}x"), "Grüße\\u{202e}x");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(shorten("äöü", 3), "äöü");
        assert_eq!(shorten("äöüß", 3), "äö…");
    }

    #[test]
    fn a_table_without_a_terminal_holds_no_escapes() {
        let mut table = table(["ID", "STATUS"]);
        table.add_row(["a", "Running"]);
        table.force_no_tty();
        assert!(!table.to_string().contains('\u{1b}'));
    }
}
