//! Our own rules about files; the invariant: pure, so what it says depends on the given texts alone.
//!
//! An exception is one line, `path rule why`, in `xtask/tidy-exceptions.txt`. One that nothing needs any more is an error,
//! so that the list only shrinks.

use std::{collections::BTreeMap, path::Path};

/// A file to look at.
pub(crate) struct Source {
    /// From the root of the repository.
    pub(crate) path: String,
    pub(crate) text: String,
}

const RUST_LINES: usize = 600;
const SQL_LINES: usize = 200;
/// Names that say nothing about what is inside.
const VAGUE: [&str; 6] = ["utils", "util", "common", "helpers", "helper", "misc"];
/// Macros for unfinished work, put together here so that this file does not hold them itself.
const UNFINISHED: [&str; 3] = ["todo", "unimplemented", "dbg"];

const RULES: [&str; 6] = [
    "long-rust",
    "long-sql",
    "vague-name",
    "unfinished",
    "ignore-reason",
    "no-header",
];

/// Everything that is wrong, one line each.
pub(crate) fn complaints(sources: &[Source], exceptions: &str) -> Vec<String> {
    let (mut open, mut out) = parse_exceptions(exceptions);
    for source in sources {
        for (rule, what) in findings(source) {
            match open.get_mut(&(source.path.as_str(), rule)) {
                Some(used) => *used = true,
                None => out.push(format!("{}: {rule}: {what}", source.path)),
            }
        }
    }
    let unused = open.into_iter().filter(|(_, used)| !used);
    out.extend(unused.map(|((path, rule), _)| format!("{path}: {rule}: the exception is not needed: remove it")));
    out
}

/// Each exception, with whether it was needed; and what is wrong with the list itself.
fn parse_exceptions(text: &str) -> (BTreeMap<(&str, &str), bool>, Vec<String>) {
    let mut open = BTreeMap::new();
    let mut wrong = Vec::new();
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some(path), Some(rule), Some(_why)) if RULES.contains(&rule) => {
                open.insert((path, rule), false);
            }
            _ => wrong.push(format!(
                "exception not understood (path, rule of {RULES:?}, why): {line}"
            )),
        }
    }
    (open, wrong)
}

/// What one file does wrong: the rule, and the words.
fn findings(source: &Source) -> Vec<(&'static str, String)> {
    if source.path.ends_with(".rs") {
        rust_findings(source)
    } else {
        sql_findings(source)
    }
}

fn rust_findings(Source { path, text }: &Source) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    let lines = text.lines().count();
    if lines > RUST_LINES {
        out.push(("long-rust", format!("{lines} lines, more than {RUST_LINES}")));
    }
    for part in Path::new(path).components() {
        let part = part.as_os_str().to_string_lossy();
        let stem = part.strip_suffix(".rs").unwrap_or(&part);
        if VAGUE.contains(&stem) {
            out.push(("vague-name", format!("`{stem}` does not say what is inside")));
        }
    }
    if needs_header(path) && !text.trim_start().starts_with("//!") {
        out.push((
            "no-header",
            "does not begin with `//!`, its job and its invariant".to_owned(),
        ));
    }
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())) {
        if line.starts_with("//") {
            continue;
        }
        for name in UNFINISHED {
            if calls_macro(line, name) {
                out.push(("unfinished", format!("line {number}: `{name}!`")));
            }
        }
        if line.starts_with("#[ignore]") {
            out.push((
                "ignore-reason",
                format!("line {number}: write why, as in #[ignore = \"…\"]"),
            ));
        }
    }
    out
}

fn sql_findings(Source { path, text }: &Source) -> Vec<(&'static str, String)> {
    let lines = text.lines().count();
    if path.contains("/sql/functions/") && lines > SQL_LINES {
        return vec![("long-sql", format!("{lines} lines, more than {SQL_LINES}"))];
    }
    Vec::new()
}

fn needs_header(path: &str) -> bool {
    path.starts_with("xtask/src/") || (path.starts_with("crates/") && path.split('/').nth(2) == Some("src"))
}

/// Whether the line calls the macro, and not one whose name only ends in it.
fn calls_macro(line: &str, name: &str) -> bool {
    line.match_indices(&format!("{name}!(")).any(|(at, _)| {
        let before = line.get(..at).and_then(|head| head.chars().next_back());
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: impl Into<String>) -> Source {
        Source {
            path: path.to_owned(),
            text: text.into(),
        }
    }

    fn rules(path: &str, text: impl Into<String>) -> Vec<&'static str> {
        findings(&source(path, text))
            .into_iter()
            .map(|(rule, _)| rule)
            .collect()
    }

    #[test]
    fn every_rule_finds_its_fault() {
        let good = "//! Job; invariant.\nfn f() {}\n";
        assert!(rules("crates/a/src/f.rs", good).is_empty());
        assert_eq!(rules("crates/a/src/f.rs", "fn f() {}"), ["no-header"]);
        assert!(rules("crates/a/tests/f.rs", "fn f() {}").is_empty());
        assert_eq!(rules("crates/a/src/common/f.rs", good), ["vague-name"]);
        assert_eq!(rules("crates/a/tests/utils.rs", good), ["vague-name"]);
        assert_eq!(rules("crates/a/tests/f.rs", "\n".repeat(601)), ["long-rust"]);
        assert!(rules("crates/a/tests/f.rs", "\n".repeat(600)).is_empty());
        assert_eq!(rules("crates/a/sql/functions/f.sql", "\n".repeat(201)), ["long-sql"]);
        assert!(rules("crates/a/sql/tables/f.sql", "\n".repeat(201)).is_empty());
        for name in UNFINISHED {
            assert_eq!(rules("a.rs", format!("    {name}!();")), ["unfinished"]);
            assert!(rules("a.rs", format!("// {name}!()\nmy_{name}!();")).is_empty());
        }
        assert_eq!(rules("a.rs", "    #[ignore]\nfn f() {}"), ["ignore-reason"]);
        assert!(rules("a.rs", "    #[ignore = \"slow\"]\nfn f() {}").is_empty());
    }

    #[test]
    fn exceptions_excuse_and_must_be_needed() {
        let long = [source("a.rs", "\n".repeat(601))];
        assert_eq!(complaints(&long, "").len(), 1);
        assert!(complaints(&long, "# list\n\na.rs long-rust generated table\n").is_empty());
        let unused = complaints(&long, "a.rs long-rust why\nb.rs long-rust why\n");
        assert_eq!(unused, ["b.rs: long-rust: the exception is not needed: remove it"]);
        assert_eq!(
            complaints(&[], "a.rs long-rust\n").len(),
            1,
            "an exception without a reason"
        );
        assert_eq!(complaints(&[], "a.rs no-such-rule why\n").len(), 1);
    }
}
