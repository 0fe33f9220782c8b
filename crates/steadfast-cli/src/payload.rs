//! A payload given on the command line: as it is, from a file, or from standard input.
//!
//! Invariant: it is passed on as it is, except that one line break at the end of a file is dropped.

use std::{fs, io};

use crate::error::CliError;

/// `-` is standard input, `@file` a file, anything else the payload itself.
pub(crate) fn read(argument: &str) -> Result<String, CliError> {
    let text = if argument == "-" {
        io::read_to_string(io::stdin()).map_err(CliError::while_trying("read standard input"))?
    } else if let Some(path) = argument.strip_prefix('@') {
        fs::read_to_string(path).map_err(CliError::while_trying(format!("read {path}")))?
    } else {
        return Ok(argument.to_owned());
    };
    Ok(without_line_break(text))
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
        fs::write(&path, "[1]\r\n").unwrap();
        assert_eq!(read(&format!("@{}", path.display())).unwrap(), "[1]");
        assert_eq!(without_line_break("a\n\n".to_owned()), "a\n");
        let missing = read("@/no/such/file").unwrap_err().to_string();
        assert!(missing.starts_with("cannot read /no/such/file: "), "{missing}");
    }
}
