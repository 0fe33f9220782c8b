//! Kind 17: Reading never writes: each verb that reads leaves a file, its folder and a database as they are, and needs no
//! right to change them.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use steadfast::feed::Level;

use crate::place::{Place, run, sql, steadfast, work_on};

/// Every verb that reads, with an instance `r-1` to look at.
const READS: [&[&str]; 9] = [
    &["list"],
    &["show", "r-1"],
    &["history", "r-1"],
    &["queues"],
    &["watch", "--until-caught-up"],
    &["feed", "status"],
    &["feed", "rotate-epoch"],
    &["schema", "verify"],
    &["queues", "--json"],
];

/// Names, permissions and digests of all that is in a folder.
fn everything(folder: &Path) -> BTreeMap<PathBuf, (u32, u64)> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let mut hasher = DefaultHasher::new();
            std::fs::read(&path).unwrap().hash(&mut hasher);
            let mode = path.metadata().unwrap().permissions().mode();
            (path, (mode, hasher.finish()))
        })
        .collect()
}

/// With the instance `r-1`, and closed in order.
fn filled(place: &Place) {
    place.run(&["schema", "install"]).ok();
    let (runtime, worker) = work_on(place, Level::History);
    place.run(&["start", "Greet", "r-1", "--input", "ann"]).ok();
    place.until(&["show", "r-1"], |show| show["custom_status"] == "waiting");
    runtime.block_on(worker.shutdown(Some(500)));
    drop(runtime);
}

#[test]
fn each_verb_that_reads_leaves_a_file_as_it_is() {
    let place = Place::in_file();
    filled(&place);
    let folder = place.file().unwrap().parent().unwrap();
    // The worker's provider may not have been closed, only dropped; this closes it in order.
    place.run(&["start", "Greet", "r-2"]).ok();
    let before = everything(folder);
    assert_eq!(before.len(), 1, "{before:?}");
    for arguments in READS {
        place.run(arguments).ok();
        assert_eq!(everything(folder), before, "{arguments:?}");
    }
    assert!(place.run(&["list"]).ok().contains("r-1"));
}

/// Root may write anywhere: somebody else looks, where the test is root.
#[test]
fn a_file_that_may_only_be_read_is_looked_into() {
    let place = Place::in_file();
    filled(&place);
    place.run(&["start", "Greet", "r-2"]).ok();
    let path = place.file().unwrap();
    let folder = path.parent().unwrap();
    let set = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    set(path, 0o444);
    set(folder, 0o555);
    let before = everything(folder);
    for arguments in READS {
        let command = place.command(arguments);
        let mut as_nobody = Command::new("setpriv");
        as_nobody
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(command.get_program())
            .args(command.get_args())
            .env_remove("DATABASE_URL");
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
        let reachable = Path::new(command.get_program())
            .ancestors()
            .skip(1)
            .all(|dir| dir.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0));
        let ran = if is_root && reachable {
            run(&mut as_nobody)
        } else {
            eprintln!("NOT AS ANOTHER USER: root {is_root}, the command within reach {reachable}");
            place.run(arguments)
        };
        ran.ok();
    }
    assert_eq!(everything(folder), before);
    set(folder, 0o755);
}

#[test]
fn what_is_no_store_is_not_made_one() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.db");
    std::fs::write(&empty, "").unwrap();
    let missing = folder.path().join("nosuch.db");
    for arguments in READS.iter().copied().chain([
        ["start", "Greet", "x"].as_slice(),
        &["cancel", "x"],
        &["delete", "x"],
        &["prune", "--all", "--keep-last", "1"],
        &["feed", "trim", "--keep", "1"],
    ]) {
        let said = run(steadfast(arguments).arg("--file").arg(&empty));
        assert_eq!(said.code, Some(5), "{arguments:?}: {said:?}");
        assert!(said.stderr.contains("empty"), "{said:?}");
        let said = run(steadfast(arguments).arg("--file").arg(&missing));
        assert_eq!(said.code, Some(5), "{arguments:?}: {said:?}");
        assert!(said.stderr.contains("does not exist"), "{said:?}");
        assert!(!said.stderr.contains("install"), "{said:?}");
    }
    let found: Vec<_> = everything(folder.path()).into_keys().collect();
    assert_eq!(found, std::slice::from_ref(&empty));
    assert_eq!(std::fs::metadata(&empty).unwrap().len(), 0);
}

#[test]
fn a_copy_without_its_log_is_named() {
    let place = Place::in_file();
    place.run(&["schema", "install"]).ok();
    let (runtime, worker) = work_on(&place, Level::default());
    place.run(&["start", "Greet", "r-1"]).ok();
    let copy = place.file().unwrap().with_file_name("copy.db");
    std::fs::copy(place.file().unwrap(), &copy).unwrap();
    let said = run(steadfast(&["list", "--file"]).arg(&copy));
    let text = said.refused(5);
    assert!(text.contains("without its log"), "{text}");
    runtime.block_on(worker.shutdown(Some(500)));
}

/// A role that may only read, in sessions that only read, as on a standby.
#[test]
fn each_verb_that_reads_works_for_a_role_that_only_reads() {
    let place = Place::new();
    filled(&place);
    let role = format!("reader_{}", uuid::Uuid::new_v4().simple());
    let schema = &place.schema;
    let sql = |text: String| sql(&place.url, &text);
    sql(format!(
        "CREATE ROLE {role} LOGIN; ALTER ROLE {role} SET default_transaction_read_only = on;
         GRANT USAGE ON SCHEMA {schema} TO {role};
         GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {role}"
    ));
    let url = place.url.replacen("://postgres@", &format!("://{role}@"), 1);
    assert!(url.contains(&role), "{url}");
    let results: Vec<_> = READS
        .iter()
        .map(|arguments| {
            let mut command = steadfast(arguments);
            (
                arguments,
                run(command.env("DATABASE_URL", &url).env("STEADFAST_SCHEMA", schema)),
            )
        })
        .collect();
    sql(format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    for (arguments, ran) in results {
        assert_eq!(ran.code, Some(0), "{arguments:?}: {ran:?}");
    }
}
