//! Real clusters, started, stopped, restarted and killed; needs PostgreSQL's server programs.
#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in test functions, not in what they call"
)]

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use private_postgres::{Binaries, Cluster, Options};

fn parent() -> tempfile::TempDir {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// What one statement answers; `None` where this installation has no psql.
fn query(cluster: &Cluster, host: &str, sql: &str) -> Option<String> {
    let psql = cluster.binaries().program("psql")?;
    let port = cluster.port().to_string();
    let output = Command::new(psql)
        .args([
            "-X",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            host,
            "-p",
            &port,
            "-U",
            "postgres",
            "-c",
            sql,
        ])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{sql}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

fn answers(cluster: &Cluster, sql: &str, expected: &str) {
    if let Some(answer) = query(cluster, "127.0.0.1", sql) {
        assert_eq!(answer, expected, "{sql}");
    }
}

/// Whether the process runs; one that has ended and waits for its parent does not.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().next())
        .is_some_and(|state| state != "Z")
}

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !check() {
        assert!(Instant::now() < end, "not within 20 s: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_cluster_has_what_it_was_asked_for_and_leaves_nothing() {
    let parent = parent();
    let options = Options {
        max_connections: 37,
        ..Options::under(parent.path())
    }
    .setting("application_name", "it's a \\ test")
    .setting("work_mem", "5MB");
    let cluster = Cluster::start(options).unwrap();
    let pid = cluster.pid().unwrap();
    let (data, sockets) = (cluster.data_dir(), cluster.socket_dir().to_owned());
    assert!(runs(pid) && data.starts_with(parent.path()) && cluster.log_path().is_file());
    TcpStream::connect((Ipv4Addr::LOCALHOST, cluster.port())).unwrap();
    assert_eq!(
        cluster.url(),
        format!("postgres://postgres@127.0.0.1:{}/postgres", cluster.port())
    );

    answers(&cluster, "show max_connections", "37");
    answers(&cluster, "show work_mem", "5MB");
    answers(&cluster, "show fsync", "on");
    answers(&cluster, "show server_encoding", "UTF8");
    answers(
        &cluster,
        "select datcollate from pg_database where datname = 'postgres'",
        "C",
    );
    answers(
        &cluster,
        "select current_setting('server_version_num')::int / 10000",
        &cluster.binaries().major().to_string(),
    );
    if cluster.binaries().has_library("pg_stat_statements") {
        answers(&cluster, "show shared_preload_libraries", "pg_stat_statements");
    }
    let by_socket = query(&cluster, sockets.to_str().unwrap(), "show unix_socket_directories");
    assert!(by_socket.is_none_or(|answer| Path::new(&answer) == sockets));
    assert!(sockets.join(".s.PGSQL.00000").as_os_str().len() < 107);

    drop(cluster);
    assert!(!runs(pid) && !data.exists() && !sockets.exists());
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
}

#[test]
fn data_survives_every_kind_of_restart() {
    let parent = parent();
    let options = Options {
        durable: true,
        stat_statements: false,
        ..Options::under(parent.path())
    };
    let cluster = Cluster::start(options).unwrap();
    let (port, first) = (cluster.port(), cluster.pid());
    query(&cluster, "127.0.0.1", "create table kept as select 7 as n");
    cluster.restart().unwrap();
    assert_ne!(cluster.pid(), first);
    answers(&cluster, "select n from kept", "7");

    query(&cluster, "127.0.0.1", "update kept set n = 8");
    cluster.stop_immediate().unwrap();
    assert_eq!(cluster.pid(), None);
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    cluster.stop_fast().unwrap();
    cluster.start_again().unwrap();
    cluster.start_again().unwrap();
    answers(&cluster, "select n from kept", "8");

    cluster.kill().unwrap();
    assert_eq!(cluster.pid(), None);
    cluster.start_again().unwrap();

    // A server that ended by itself is noticed, and can be started again.
    let pid = cluster.pid().unwrap();
    assert!(
        Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
    eventually("the end is noticed", || cluster.pid().is_none());
    cluster.start_again().unwrap();
    assert_eq!(cluster.port(), port);
    answers(&cluster, "select n from kept", "8");
}

#[test]
fn settings_can_give_up_durability_and_bad_ones_are_told() {
    let parent = parent();
    let cluster = Cluster::start(Options {
        durable: false,
        ..Options::under(parent.path())
    })
    .unwrap();
    for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
        answers(&cluster, &format!("show {setting}"), "off");
    }
    let unknown = Cluster::start(Options::under(parent.path()).setting("no_such_setting", "1")).unwrap_err();
    assert!(unknown.to_string().contains("no_such_setting"), "{unknown}");
    let not_a_name = Cluster::start(Options::under(parent.path()).setting("a = b", "1")).unwrap_err();
    assert!(matches!(not_a_name, private_postgres::Error::SettingName(_)));
    drop(cluster);
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
}

/// The parent-death signal comes when a thread ends, so a server started by a test's own thread would stop here.
#[test]
fn a_cluster_survives_the_thread_that_made_it() {
    let parent = parent();
    let dir = parent.path().to_owned();
    let cluster = thread::spawn(move || Cluster::start(Options::under(dir)).unwrap())
        .join()
        .unwrap();
    thread::sleep(Duration::from_millis(300));
    assert!(cluster.pid().is_some());
    answers(&cluster, "select 1", "1");
}

#[test]
fn a_killed_owner_takes_its_server_along() {
    if !cfg!(target_os = "linux") || !Path::new("/usr/bin/setpriv").exists() {
        return;
    }
    let parent = parent();
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owner_to_be_killed", "--ignored", "--nocapture"])
        .env("OWNER_PARENT_DIR", parent.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let line = lines
        .find_map(|line| line.unwrap().split_once("SERVER ").map(|(_, rest)| rest.to_owned()))
        .unwrap();
    let mut words = line.split(' ');
    let pid: u32 = words.next().unwrap().parse().unwrap();
    let sockets = PathBuf::from(words.next().unwrap());
    assert!(runs(pid));
    owner.kill().unwrap();
    owner.wait().unwrap();
    eventually("the server ends", || !runs(pid));

    // Its folders are left, and the next cluster beside them removes them.
    eventually("the folders are swept", || {
        let next = Cluster::start(Options::under(parent.path())).unwrap();
        let alone = std::fs::read_dir(parent.path()).unwrap().count() == 1;
        drop(next);
        alone && !sockets.exists()
    });
}

#[test]
#[ignore = "is run, and killed, by a_killed_owner_takes_its_server_along"]
fn owner_to_be_killed() {
    let Some(dir) = std::env::var_os("OWNER_PARENT_DIR") else {
        return;
    };
    let cluster = Cluster::start(Options::under(dir)).unwrap();
    println!("SERVER {} {}", cluster.pid().unwrap(), cluster.socket_dir().display());
    thread::sleep(Duration::from_secs(600));
}

#[test]
fn a_parent_out_of_the_servers_reach_is_replaced() {
    let closed = tempfile::tempdir_in("/tmp").unwrap();
    let cluster = Cluster::start(Options::under(closed.path().join("target"))).unwrap();
    if private_postgres::server_can_reach(closed.path()) {
        assert!(cluster.data_dir().starts_with(closed.path()));
    } else {
        assert!(cluster.data_dir().starts_with("/tmp") && !cluster.data_dir().starts_with(closed.path()));
    }
    answers(&cluster, "select 1", "1");
}

#[test]
fn binaries_are_found() {
    let binaries = Binaries::find_or_install().unwrap();
    assert!(binaries.version().starts_with(&binaries.major().to_string()));
    assert!(binaries.program("postgres").is_some() && binaries.program("no-such-program").is_none());
    assert!(!binaries.has_library("no_such_library"));
}
