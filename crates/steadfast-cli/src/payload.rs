//! A payload given on the command line: as it is, from a file, or from standard input.
//!
//! Invariants: it is passed on as it is, except that one line break at the end of a file is dropped; what is no file is
//! refused, and not waited for.

use std::{
    fs::OpenOptions,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::fs::OFlags;

use crate::error::CliError;

/// `-` is standard input, `@file` a file, anything else the payload itself.
pub(crate) fn read(argument: &str) -> Result<String, CliError> {
    let text = if argument == "-" {
        io::read_to_string(io::stdin()).map_err(CliError::while_trying("read standard input"))?
    } else if let Some(path) = argument.strip_prefix('@') {
        read_file(Path::new(path)).map_err(CliError::while_trying(format!("read {path}")))?
    } else {
        return Ok(argument.to_owned());
    };
    Ok(without_line_break(text))
}

fn read_file(path: &Path) -> io::Result<String> {
    // Opening a pipe would wait for somebody who writes to it.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let mut file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        let text = "it is not a file (what comes through a pipe is given as -)";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

fn without_line_break(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_stays_as_it_is() {
        assert_eq!(read("{\"a\": 1}\n").unwrap(), "{\"a\": 1}\n");
        assert_eq!(read("").unwrap(), "");
    }

    #[test]
    fn a_file_loses_one_line_break() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("input.json");
        std::fs::write(&path, "[1]\r\n").unwrap();
        assert_eq!(read(&format!("@{}", path.display())).unwrap(), "[1]");
        assert_eq!(without_line_break("a\n\n".to_owned()), "a\n");
        let missing = read("@/no/such/file").unwrap_err().to_string();
        assert!(missing.starts_with("cannot read /no/such/file: "), "{missing}");
    }
}
