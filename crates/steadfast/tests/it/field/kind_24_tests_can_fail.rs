//! Kind 24: Documents agree with the code.

use std::path::PathBuf;

/// A file of the repository.
fn text_of(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What docs/operations.md grants to a role that only follows the feed, in this schema.
pub(super) fn feed_reader_grants(schema: &str) -> String {
    let operations = text_of("docs/operations.md");
    let blocks = operations
        .split("```sql\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    let mut grants = blocks.filter(|block| block.contains("TO feed_reader;"));
    let found = grants.next().expect("the grants of feed_reader");
    assert!(grants.next().is_none(), "they are in one place");
    found
        .replace("steadfast.", &format!("{schema}."))
        .replace("SCHEMA steadfast", &format!("SCHEMA {schema}"))
}
