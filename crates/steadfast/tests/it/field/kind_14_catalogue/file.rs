//! A file is compared with what this version makes.

use std::path::PathBuf;

use duroxide::providers::Provider;
use steadfast::catalogue::FindingKind;
use steadfast::embedded::{EmbeddedProvider, OpenErrorKind};

use crate::upgrade::place;

async fn made() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let provider = EmbeddedProvider::open(&path).await.expect("make a store");
    place::round(&provider, "first").await;
    provider.close().await;
    (folder, path)
}

fn raw(path: &PathBuf) -> rusqlite::Connection {
    rusqlite::Connection::open(path).expect("open the file")
}

/// Names of some kind, from the file's own catalogue.
fn names(path: &PathBuf, kind: &str) -> Vec<String> {
    let connection = raw(path);
    let mut statement = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = ?1 AND sql IS NOT NULL ORDER BY 1")
        .unwrap();
    let names = statement.query_map([kind], |row| row.get(0)).unwrap();
    names.map(Result::unwrap).collect()
}

#[tokio::test]
async fn a_foreign_trigger_is_refused_by_every_opener() {
    let (_folder, path) = made().await;
    for table in names(&path, "table") {
        let sql = format!(
            "CREATE TRIGGER evil AFTER INSERT ON {table} BEGIN DELETE FROM {table} WHERE rowid = new.rowid; END"
        );
        // A table without row ids has none to delete by.
        if raw(&path).execute_batch(&sql).is_err() {
            let sql = format!("CREATE TRIGGER evil AFTER INSERT ON {table} BEGIN DELETE FROM {table}; END");
            raw(&path).execute_batch(&sql).expect("make a trigger");
        }
        let error = EmbeddedProvider::open(&path).await.expect_err(&table);
        assert_eq!(error.kind(), OpenErrorKind::Changed, "{error}");
        assert!(error.to_string().contains("evil"), "{error}");
        assert!(EmbeddedProvider::open_feed(&path).await.is_err(), "the feed alone, too");
        let findings = EmbeddedProvider::builder(&path).verify_schema().await.expect("verify");
        assert_eq!(findings.len(), 1, "{findings:#?}");
        assert!(findings[0].kind == FindingKind::Foreign && findings[0].stops_opening);
        let repair = EmbeddedProvider::builder(&path).repair_schema().await.expect("repair");
        assert_eq!(repair.left, findings, "it is not ours to remove");
        raw(&path).execute_batch("DROP TRIGGER evil").unwrap();
    }
    let provider = EmbeddedProvider::open(&path).await.expect("without it");
    assert_eq!(provider.read("first").await.unwrap().len(), 3);
    provider.close().await;
}

#[tokio::test]
async fn what_is_dropped_or_changed_is_named_and_put_back() {
    for kind in ["index", "trigger"] {
        let (_folder, path) = made().await;
        let dropped = names(&path, kind);
        assert!(!dropped.is_empty());
        for name in &dropped {
            raw(&path).execute_batch(&format!("DROP {kind} {name}")).unwrap();
        }
        let findings = EmbeddedProvider::builder(&path).verify_schema().await.expect("verify");
        assert_eq!(findings.len(), dropped.len(), "{findings:#?}");
        assert!(findings.iter().all(|f| f.kind == FindingKind::Missing));
        let error = EmbeddedProvider::open(&path)
            .await
            .expect_err("a unique index or a trigger is missing");
        assert_eq!(error.kind(), OpenErrorKind::Changed, "{error}");
        let repair = EmbeddedProvider::builder(&path).repair_schema().await.expect("repair");
        assert_eq!((repair.mended.len(), repair.left.len()), (dropped.len(), 0));
        assert_eq!(
            EmbeddedProvider::builder(&path).verify_schema().await.expect("verify"),
            []
        );
        let provider = EmbeddedProvider::open(&path).await.expect("open");
        place::round(&provider, "second").await;
        provider.close().await;
    }
    let (_folder, path) = made().await;
    let trigger = &names(&path, "trigger")[0];
    let (table, connection) = {
        let connection = raw(&path);
        let sql = "SELECT tbl_name FROM sqlite_schema WHERE name = ?1";
        (
            connection
                .query_row(sql, [trigger], |row| row.get::<_, String>(0))
                .unwrap(),
            connection,
        )
    };
    connection
        .execute_batch(&format!(
            "DROP TRIGGER {trigger}; CREATE TRIGGER {trigger} AFTER UPDATE ON {table} BEGIN SELECT 1; END"
        ))
        .unwrap();
    drop(connection);
    assert!(
        EmbeddedProvider::open(&path).await.is_err(),
        "another trigger of that name"
    );
    let repair = EmbeddedProvider::builder(&path).repair_schema().await.expect("repair");
    assert_eq!((repair.mended.len(), repair.left.len()), (1, 0));
}

#[tokio::test]
async fn a_lost_table_is_named_and_nothing_is_changed() {
    let (_folder, path) = made().await;
    let table = &names(&path, "table")[0];
    raw(&path).execute_batch(&format!("DROP TABLE {table}")).unwrap();
    let error = EmbeddedProvider::builder(&path)
        .repair_schema()
        .await
        .expect_err("rows are lost");
    assert_eq!(error.kind(), OpenErrorKind::Changed, "{error}");
    assert!(error.to_string().contains(table.as_str()), "{error}");
    assert!(EmbeddedProvider::open(&path).await.is_err());
}

#[tokio::test]
async fn things_of_others_and_statistics_are_nobodys_business() {
    let (_folder, path) = made().await;
    raw(&path)
        .execute_batch("CREATE TABLE orders (id INTEGER); CREATE INDEX orders_id ON orders (id); ANALYZE;")
        .unwrap();
    let provider = EmbeddedProvider::open(&path).await.expect("open");
    place::round(&provider, "second").await;
    provider.close().await;
}
