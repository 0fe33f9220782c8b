//! The two forms of these tests: short among all others, long by `cargo xtask field`, which wants a report.

/// Whether the long form runs (`STEADFAST_FIELD_FORM=long`).
pub(crate) fn is_long() -> bool {
    std::env::var("STEADFAST_FIELD_FORM").is_ok_and(|form| form == "long")
}

/// Says it, and adds it to the report (`STEADFAST_FIELD_REPORT`) where one is wanted.
pub(crate) fn report(text: &str) {
    use std::io::Write as _;
    eprintln!("{text}");
    if let Ok(path) = std::env::var("STEADFAST_FIELD_REPORT") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        writeln!(file.expect("open the report"), "{text}").expect("report");
    }
}
