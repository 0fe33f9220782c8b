//! What goes to the terminal: text and tables for people, one JSON document for programs.
//!
//! Invariant: everything that is printed passes here, and no text from the store, the system or the arguments can steer
//! the terminal or hide in it: lines are made [`printable`], JSON keeps such characters as escapes. Writing never panics.

use std::{
    fmt,
    io::{self, BufWriter, IsTerminal, Stdout, Write},
    sync::atomic::{AtomicBool, Ordering},
};

use comfy_table::{Attribute, Cell, ColumnConstraint, ContentArrangement, Table, TableComponent, presets};
use rustix::event::{PollFd, PollFlags};
use serde::Serialize;
use tokio::sync::oneshot;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};
use unicode_width::UnicodeWidthChar;

use crate::error::CliError;

/// Whether complaints are read by a program as well.
static JSON: AtomicBool = AtomicBool::new(false);

/// From now on complaints are JSON, or text.
pub(crate) fn complain_in_json(json: bool) {
    JSON.store(json, Ordering::Relaxed);
}

/// Standard output, buffered.
pub(crate) struct Output {
    stdout: BufWriter<Stdout>,
    json: bool,
}

/// A colour for a part of a line, where the output is a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    Green,
    Red,
    Cyan,
    Yellow,
    Magenta,
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
        writeln!(self.stdout, "{}", printable(&text.to_string())).map_err(CliError::Output)
    }

    /// A text of several lines.
    pub(crate) fn lines(&mut self, text: &str) -> Result<(), CliError> {
        text.lines().try_for_each(|line| self.line(line))
    }

    /// One line, cut where the terminal ends; `coloured` of its bytes have a colour.
    pub(crate) fn cut_line(
        &mut self,
        text: &str,
        coloured: std::ops::Range<usize>,
        colour: Option<Colour>,
    ) -> Result<(), CliError> {
        // Escapes would move what comes behind them: the caller has made it printable.
        let shown = printable(text);
        let shown = terminal_width().map_or_else(|| shown.clone(), |width| cut(&shown, width));
        let colour = colour.filter(|_| io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none());
        let parts = (
            shown.get(..coloured.start),
            shown.get(coloured.clone()),
            shown.get(coloured.end..),
        );
        let written = match (colour, parts) {
            (Some(colour), (Some(before), Some(inside), Some(after))) => {
                let code = match colour {
                    Colour::Red => 31,
                    Colour::Green => 32,
                    Colour::Yellow => 33,
                    Colour::Magenta => 35,
                    Colour::Cyan => 36,
                };
                writeln!(self.stdout, "{before}\u{1b}[{code}m{inside}\u{1b}[0m{after}")
            }
            _ => writeln!(self.stdout, "{shown}"),
        };
        written.map_err(CliError::Output)
    }

    /// One JSON document.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        self.raw_json(serde_json::to_string_pretty(value))
    }

    /// One JSON document on a line of its own.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        self.raw_json(serde_json::to_string(value))
    }

    fn raw_json(&mut self, text: Result<String, serde_json::Error>) -> Result<(), CliError> {
        let text = text.map_err(|error| CliError::Output(io::Error::from(error)))?;
        writeln!(self.stdout, "{}", escape_json(&text)).map_err(CliError::Output)
    }

    /// The JSON document, or, for people, the line.
    pub(crate) fn say(&mut self, value: &impl Serialize, text: impl fmt::Display) -> Result<(), CliError> {
        if self.json { self.json(value) } else { self.line(text) }
    }

    /// A table.
    pub(crate) fn table(&mut self, grid: &Grid) -> Result<(), CliError> {
        // Its cells are printable; what else is in it are our own attributes.
        grid.0
            .lines()
            .try_for_each(|line| writeln!(self.stdout, "{}", line.trim_end()))
            .map_err(CliError::Output)
    }

    /// Hands over what is buffered.
    pub(crate) fn finish(&mut self) -> Result<(), CliError> {
        self.stdout.flush().map_err(CliError::Output)
    }
}

/// Ready when nobody reads standard output any more, also while nothing is written to it.
pub(crate) fn reader_gone() -> oneshot::Receiver<()> {
    let (tell, told) = oneshot::channel();
    // Where there is no thread, the next line finds out.
    let watcher = std::thread::Builder::new().name("stdout".to_owned()).spawn(move || {
        let stdout = io::stdout();
        let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
        loop {
            match rustix::event::poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(0) => {}
                Ok(_) | Err(_) => break,
            }
        }
        let ended = PollFlags::ERR | PollFlags::HUP;
        if fds.iter().any(|fd| fd.revents().intersects(ended)) {
            // Nobody may be left to hear it.
            let _ = tell.send(());
        } else {
            std::mem::forget(tell);
        }
    });
    drop(watcher);
    told
}

/// Writes the error to stderr: `error: …`, or a JSON document on one line; when that is closed too, nobody is left to tell.
pub(crate) fn complain(text: &str, exit_code: u8) {
    if JSON.load(Ordering::Relaxed) {
        let value = serde_json::json!({ "error": { "message": text, "exit_code": exit_code } });
        let _ = writeln!(io::stderr(), "{}", escape_json(&value.to_string()));
        return;
    }
    headed("error:", "31", text);
}

/// The same for what does not end the command.
pub(crate) fn warn(text: &str) {
    if JSON.load(Ordering::Relaxed) {
        let value = serde_json::json!({ "warning": { "message": text } });
        let _ = writeln!(io::stderr(), "{}", escape_json(&value.to_string()));
        return;
    }
    headed("warning:", "33", text);
}

fn headed(head: &str, colour: &str, text: &str) {
    let text = printable(text);
    let _ = if io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        writeln!(io::stderr(), "\u{1b}[1;{colour}m{head}\u{1b}[0m {text}")
    } else {
        writeln!(io::stderr(), "{head} {text}")
    };
}

/// Progress, for people: one line to stderr; when that is closed, nobody misses it.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{}", printable(text));
}

/// Columns of the terminal that standard output is, if it is one.
fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|width| *width > 0)
}

/// A table, as wide as the terminal at most; what is put into it is made printable.
pub(crate) struct Grid(Table);

impl Grid {
    /// Without headings, for what has names on its left.
    pub(crate) fn bare() -> Self {
        let mut table = Table::new();
        table
            .load_preset(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic);
        Self(table)
    }

    /// With these headings; bold only on a terminal.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let mut grid = Self::bare();
        grid.0
            .set_style(TableComponent::HeaderLines, '─')
            .set_style(TableComponent::MiddleHeaderIntersections, '─')
            .set_header(
                headings
                    .iter()
                    .map(|text| Cell::new(text).add_attribute(Attribute::Bold)),
            );
        grid
    }

    pub(crate) fn add_row<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.0.add_row(cells.into_iter().map(|text| printable(text.as_ref())));
    }

    /// Never wraps these columns: ids and numbers stay whole as long as others can give way.
    pub(crate) fn keep_whole(&mut self, columns: &[usize]) {
        for column in columns {
            if let Some(column) = self.0.column_mut(*column) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
    }
}

/// The text with every character that a terminal obeys, hides, or shows in another order as an escape: what a workflow
/// stored must not steer a terminal, nor look like something else.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_safe(character) {
            shown.push(character);
        } else {
            shown.extend(character.escape_default());
        }
    }
    shown
}

/// Whether a character can be seen as what it is.
fn is_safe(character: char) -> bool {
    if character.is_ascii() {
        return !character.is_ascii_control();
    }
    let unseen = matches!(
        character.general_category(),
        // Control, format (bidi, zero width, tags), separators of lines, and what no font can show.
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
            | GeneralCategory::PrivateUse
            | GeneralCategory::Surrogate
            | GeneralCategory::Unassigned
    );
    // Unicode's other Default_Ignorable_Code_Points: joiners, fillers, variation selectors; and the empty Braille pattern.
    let ignored = matches!(
        character,
        '\u{34f}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{2800}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}'
    );
    !unseen && !ignored
}

/// JSON in which such characters are escapes. What is not safe and stands in a document is within a string, but for the
/// line breaks of its layout.
fn escape_json(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character == '\n' || is_safe(character) {
            escaped.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    escaped
}

/// The text, cut so that it takes at most so many columns.
fn cut(text: &str, width: usize) -> String {
    let columns = |character: char| character.width().unwrap_or(0);
    if text.chars().map(columns).sum::<usize>() <= width {
        return text.to_owned();
    }
    let mut taken = 0;
    let head = text.chars().take_while(|character| {
        taken += columns(*character);
        taken < width
    });
    let mut shown: String = head.collect();
    shown.push('…');
    shown
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
    fn what_cannot_be_seen_is_shown_as_an_escape() {
        for hidden in [
            '\u{7f}',
            '\u{9b}',
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{180e}',
            '\u{200b}',
            '\u{200d}',
            '\u{200e}',
            '\u{2028}',
            '\u{2029}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2800}',
            '\u{3164}',
            '\u{e000}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{fff9}',
            '\u{ffff}',
            '\u{1d173}',
            '\u{e0001}',
            '\u{e0041}',
            '\u{e0100}',
            '\u{10ffff}',
        ] {
            let code = u32::from(hidden);
            assert_eq!(printable(&format!("a{hidden}b")), format!("a\\u{{{code:x}}}b"));
            let json = escape_json(&serde_json::json!(format!("a{hidden}b")).to_string());
            assert!(json.is_ascii(), "{code:x}: {json}");
            let back: String = serde_json::from_str(&json).unwrap();
            assert_eq!(back, format!("a{hidden}b"));
        }
        let seen = "Grüße, 日本語, العربية, עברית, ไทย, e\u{301}, 🦀 €";
        assert_eq!(printable(seen), seen);
        assert_eq!(escape_json(seen), seen);
    }

    #[test]
    fn lines_are_cut_by_columns() {
        assert_eq!(cut("abcd", 4), "abcd");
        assert_eq!(cut("abcde", 4), "abc…");
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("日本語x", 6), "日本…");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(shorten("äöü", 3), "äöü");
        assert_eq!(shorten("äöüß", 3), "äö…");
    }

    #[test]
    fn a_table_without_a_terminal_holds_no_escapes() {
        let mut grid = Grid::new(&["ID", "STATUS"]);
        grid.add_row(["a\u{1b}[2J", "Running"]);
        grid.0.force_no_tty();
        assert!(!grid.0.to_string().contains('\u{1b}'), "{}", grid.0);
    }
}
