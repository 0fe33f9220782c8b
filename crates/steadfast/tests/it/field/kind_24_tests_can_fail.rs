//! Kind 24: Documents agree with the code.

use std::collections::BTreeSet;
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

/// The files below a folder of the repository whose names end so: path and text.
fn files_below(folder: &str, ending: &str) -> Vec<(PathBuf, String)> {
    let mut folders = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("read a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                files.push((path.clone(), std::fs::read_to_string(path).expect("read a file")));
            }
        }
    }
    assert!(!files.is_empty(), "{folder} holds files");
    files
}

/// The words of a text that begin so.
fn words(text: &str, start: &str) -> BTreeSet<String> {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !inside(c))
        .filter(|word| word.starts_with(start) && word.len() > start.len())
        .map(ToOwned::to_owned)
        .collect()
}

fn stems(folder: &str) -> BTreeSet<String> {
    let stem = |path: &PathBuf| format!("sf_{}", path.file_stem().expect("a name").to_string_lossy());
    files_below(folder, ".sql").iter().map(|(path, _)| stem(path)).collect()
}

#[test]
fn every_function_is_documented_and_every_documented_one_is_there() {
    let named = words(&text_of("docs/sql.md"), "sf_");
    let functions = stems("crates/steadfast/sql/functions");
    let missing: Vec<_> = functions.difference(&named).collect();
    assert!(missing.is_empty(), "docs/sql.md does not name {missing:?}");
    // Tables, views, sequences and triggers stand in the golden schema, as do functions.
    let there = words(&text_of("crates/steadfast/sql/schema.golden.sql"), "sf_");
    let gone: Vec<_> = named.difference(&there).collect();
    assert!(gone.is_empty(), "docs/sql.md names {gone:?}, which are not there");
}

#[test]
fn every_metric_is_documented_and_every_documented_one_is_there() {
    let documented = words(&text_of("docs/metrics.md"), "steadfast_");
    let mut used = BTreeSet::new();
    for (_, text) in files_below("crates/steadfast/src", ".rs") {
        for call in text.split("metrics::").skip(1) {
            let mut parts = call.split('"');
            let (name_of_macro, metric) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
            if ["counter!(", "gauge!(", "histogram!("].contains(&name_of_macro.trim()) {
                used.insert(metric.to_owned());
            }
        }
    }
    assert!(used.len() > 10, "{used:?}");
    assert_eq!(
        used, documented,
        "docs/metrics.md, on the right, is not what the code has"
    );
}

/// What docs/sql.md says of search paths: whatever is called from outside pins it; inner parts run under such a one.
#[tokio::test]
async fn what_is_called_from_outside_has_its_search_path_pinned() {
    let store = crate::harness::Store::new(crate::harness::Mode::LongPoll);
    store.open_postgres().await;
    let sql = store.raw().await;
    let functions = "SELECT p.proname::text, coalesce(p.proconfig::text, '') LIKE '%search_path=%', p.prosecdef,
            EXISTS (SELECT FROM pg_trigger t WHERE t.tgfoid = p.oid), p.prosrc
        FROM pg_proc p WHERE p.pronamespace = (SELECT n.oid FROM pg_namespace n WHERE n.nspname = $1)";
    let functions = sql.query(functions, &[&store.schema()]).await.expect("the functions");
    let mut outside = BTreeSet::new();
    for (_, text) in files_below("crates/steadfast/src/postgres", ".rs") {
        outside.extend(words(&text, "sf_"));
    }
    let mut inner = 0;
    for row in &functions {
        let (name, pinned, definer, trigger): (String, bool, bool, bool) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let body: String = row.get(4);
        assert!(!definer, "{name} runs with the caller's rights");
        // What names nothing of ours needs no path.
        let names_ours = !words(&body, "sf_").is_empty();
        if (outside.contains(&name) || trigger) && names_ours {
            assert!(pinned, "{name} is called from outside and pins no search path");
        }
        inner += usize::from(!pinned);
    }
    assert!(
        functions.len() > 50 && inner > 0,
        "{} functions, {inner} inner parts",
        functions.len()
    );
    store.close().await;
}
