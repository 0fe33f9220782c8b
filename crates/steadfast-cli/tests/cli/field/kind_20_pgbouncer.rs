//! Kind 20: The command works through a real PgBouncer in each of its modes.

use std::path::PathBuf;

use private_postgres::{PgBouncer, PgBouncerOptions, PoolMode};
use steadfast::feed::Level;

use crate::place::{Place, database_url, work_on};

fn bouncer(mode: PoolMode) -> PgBouncer {
    let folder: PathBuf = std::env::current_exe()
        .unwrap()
        .ancestors()
        .nth(3)
        .unwrap()
        .join("postgres");
    let url = database_url();
    let port = url
        .rsplit_once(':')
        .unwrap()
        .1
        .split('/')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    PgBouncer::start_before(port, &folder, &PgBouncerOptions::new(mode)).unwrap()
}

#[test]
fn the_command_works_in_every_mode() {
    for (mode, name) in [
        (PoolMode::Session, "session"),
        (PoolMode::Transaction, "transaction"),
        (PoolMode::Statement, "statement"),
    ] {
        let bouncer = bouncer(mode);
        let direct = Place::installed();
        let mut through = Place::on(bouncer.url());
        through.schema.clone_from(&direct.schema);
        let (_runtime, _worker) = work_on(&direct, Level::default());
        let pooler = ["--pooler", name];
        let with = |arguments: &[&'static str]| [arguments, &pooler[..]].concat();
        through.run(&with(&["start", "Greet", "one", "--input", "ada"])).ok();
        through.until(&with(&["show", "one"]), |said| said["custom_status"] == "waiting");
        through.run(&with(&["signal", "one", "go", "--data", "hello"])).ok();
        through.until(&with(&["show", "one"]), |said| said["status"] == "Completed");
        assert!(
            through
                .run(&with(&["schema", "verify"]))
                .ok()
                .contains("is what this version needs")
        );
        // The variable says the same.
        let listed = crate::place::run(through.command(&["list"]).env("STEADFAST_POOLER", name)).ok();
        assert!(listed.contains("one"), "{listed}");
        through.run(&with(&["history", "one"])).ok();
        through.run(&with(&["queues"])).ok();
        through.run(&with(&["delete", "one"])).ok();
    }
}

#[test]
fn installing_works_or_is_refused_by_name() {
    for (mode, name) in [
        (PoolMode::Session, "session"),
        (PoolMode::Transaction, "transaction"),
        (PoolMode::Statement, "statement"),
    ] {
        let bouncer = bouncer(mode);
        let place = Place::on(bouncer.url());
        let ran = place.run(&["schema", "install", "--pooler", name]);
        if mode == PoolMode::Statement {
            let said = ran.refused(2);
            assert!(said.contains("the pooler refuses transactions"), "{said}");
        } else {
            assert!(ran.ok().contains("is installed"));
        }
    }
}
