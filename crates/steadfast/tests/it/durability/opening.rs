//! Files that are refused: named for what they are, and left as they were.

use std::path::Path;

use steadfast::embedded::{EmbeddedProvider, OpenErrorKind};

/// Opens, which must fail so, and must change nothing in the folder.
async fn refused(path: &Path, kind: OpenErrorKind, words: &str) {
    let look = || {
        let folder = path.parent().expect("a folder");
        let files = std::fs::read_dir(folder).expect("list the folder").map(|entry| {
            let path = entry.expect("an entry").path();
            let content = std::fs::read(&path).expect("read");
            (path, content)
        });
        let mut files: Vec<_> = files.collect();
        files.sort();
        files
    };
    let before = look();
    let error = EmbeddedProvider::open(path).await.expect_err("it opened");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(words), "{error}");
    assert!(error.to_string().contains("store.db"), "which file? {error}");
    assert!(before == look(), "the refused file, or its folder, was changed");
}

async fn made() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let opened = EmbeddedProvider::open(folder.path().join("store.db")).await;
    opened.expect("make a store").close().await;
    folder
}

fn sql(folder: &tempfile::TempDir, text: &str) {
    let file = rusqlite::Connection::open(folder.path().join("store.db")).expect("open");
    file.execute_batch(text).expect("change the file");
    file.close().expect("close the file");
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_refused() {
    let folder = made().await;
    sql(
        &folder,
        "INSERT INTO sf_ledger VALUES (99, '0099_future', 'x', '9.9.9', 0)",
    );
    refused(&folder.path().join("store.db"), OpenErrorKind::TooNew, "9.9.9").await;
}

#[tokio::test]
async fn a_migration_with_another_text_is_refused() {
    let folder = made().await;
    sql(&folder, "UPDATE sf_ledger SET checksum = 'other'");
    refused(&folder.path().join("store.db"), OpenErrorKind::Changed, "0001_store").await;
}

#[tokio::test]
async fn somebody_else_s_database_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    sql(&folder, "CREATE TABLE accounts (id INTEGER)");
    refused(
        &folder.path().join("store.db"),
        OpenErrorKind::Foreign,
        "not a Steadfast store",
    )
    .await;
}

#[tokio::test]
async fn what_is_no_database_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    std::fs::write(&path, "Dear diary, ".repeat(50)).expect("write");
    refused(&path, OpenErrorKind::Foreign, "not an SQLite file").await;
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    let folder = made().await;
    let path = folder.path().join("store.db");
    let mut content = std::fs::read(&path).expect("read");
    content[100..4096].fill(0xEE);
    std::fs::write(&path, content).expect("damage");
    refused(&path, OpenErrorKind::Corrupt, "malformed").await;
    std::fs::write(&path, b"SQLite format 3\0 and no more").expect("damage");
    refused(&path, OpenErrorKind::Corrupt, "header").await;
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_unreachable() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = EmbeddedProvider::open(folder.path().join("no/store.db"))
        .await
        .expect_err("it opened");
    assert_eq!(error.kind(), OpenErrorKind::Unreachable, "{error}");
}
