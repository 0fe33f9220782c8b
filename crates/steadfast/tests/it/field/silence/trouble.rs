//! What is done to a store, and undone.

use std::time::Duration;

use tokio_postgres::Client;

use super::ground::Ground;
use crate::field::kind_07_feed_last_word::child::Process;
use crate::op::scene::client;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The server stops as in a crash, and comes back.
    Restart,
    /// All backends are terminated, again and again.
    Terminated,
    /// A role that may only connect takes every advisory lock that there is.
    AdvisoryLocks,
    /// Nothing goes through any more, and later everything.
    Frozen,
    /// A process is killed in the middle of writing.
    KilledHolder,
    /// Somebody's transaction holds every table.
    TableLocks,
    /// Somebody's transaction holds the file.
    FileLock,
    /// A process is killed in the middle of writing to the file.
    FileHolderKilled,
}

/// Trouble that lasts.
pub(super) enum Begun {
    Nothing,
    Held(#[expect(dead_code, reason = "released when dropped")] Vec<Client>),
    File(rusqlite::Connection),
    Killing(tokio::task::JoinHandle<()>),
    Processes(Vec<Process>),
}

impl Trouble {
    pub(super) const ALL: [Self; 8] = [
        Self::Restart,
        Self::Terminated,
        Self::AdvisoryLocks,
        Self::Frozen,
        Self::KilledHolder,
        Self::TableLocks,
        Self::FileLock,
        Self::FileHolderKilled,
    ];

    pub(super) fn in_a_file(self) -> bool {
        matches!(self, Self::FileLock | Self::FileHolderKilled)
    }

    pub(super) async fn begin(self, ground: &Ground) -> Begun {
        match self {
            Self::Restart => {
                ground.cluster().stop_immediate().expect("stop at once");
                Begun::Nothing
            }
            Self::Terminated => {
                let sql = client(&ground.cluster().url()).await;
                Begun::Killing(tokio::spawn(async move {
                    loop {
                        let all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                            WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";
                        sql.query(all, &[]).await.expect("terminate");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }))
            }
            Self::AdvisoryLocks => Begun::Held(take_advisory_locks(ground).await),
            Self::Frozen => {
                ground.proxy().freeze();
                Begun::Nothing
            }
            Self::TableLocks => {
                let sql = client(&ground.cluster().url()).await;
                let tables = "SELECT string_agg(c.oid::regclass::text, ', ') FROM pg_class c
                    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relkind = 'r'";
                let tables: String = sql.query_one(tables, &[&ground.schema()]).await.expect("tables").get(0);
                let lock = format!("BEGIN; LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE");
                sql.batch_execute(&lock).await.expect("lock the tables");
                Begun::Held(vec![sql])
            }
            Self::FileLock => {
                let connection = ground.raw_file();
                connection.execute_batch("BEGIN IMMEDIATE").expect("hold the file");
                Begun::File(connection)
            }
            Self::KilledHolder | Self::FileHolderKilled => {
                let mut processes = Vec::new();
                for n in 0..2 {
                    let mut process = Process::start(&ground.place()).await;
                    process.tell(&format!("stay write victim{n} 4000"));
                    processes.push(process);
                }
                Begun::Processes(processes)
            }
        }
    }
}

impl Begun {
    pub(super) async fn end(self, ground: &Ground) {
        match self {
            Self::Nothing if ground.has_server() => {
                ground.cluster().start_again().expect("start again");
                ground.proxy().thaw();
            }
            // Their connections end in the middle of whatever they do.
            Self::Nothing | Self::Held(_) => {}
            Self::File(connection) => connection.execute_batch("ROLLBACK").expect("let the file go"),
            Self::Killing(task) => task.abort(),
            Self::Processes(mut processes) => {
                for process in &mut processes {
                    process.kill();
                }
            }
        }
        if ground.has_server() {
            let sql = client(&ground.cluster().url()).await;
            let thieves = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'nobody'";
            sql.query(thieves, &[]).await.expect("the thieves go");
        }
    }
}

/// Each by a connection of its own, which waits for it; then those who hold them are sent away.
async fn take_advisory_locks(ground: &Ground) -> Vec<Client> {
    let sql = client(&ground.cluster().url()).await;
    sql.batch_execute("CREATE ROLE nobody LOGIN").await.expect("a role");
    let locks = "SELECT DISTINCT classid::bigint, objid::bigint, objsubid FROM pg_locks WHERE locktype = 'advisory'";
    let locks = sql.query(locks, &[]).await.expect("the locks");
    assert!(!locks.is_empty(), "those who wait for hints say so by a lock");
    let mut thieves = Vec::new();
    for lock in locks {
        let (class, object, sub): (i64, i64, i16) = (lock.get(0), lock.get(1), lock.get(2));
        let take = match sub {
            1 => format!("SELECT pg_advisory_lock({class}::bigint << 32 | {object})"),
            _ => format!("SELECT pg_advisory_lock({class}::bit(32)::int, {object}::bit(32)::int)"),
        };
        let thief = client(&ground.cluster().url().replace("postgres@", "nobody@")).await;
        tokio::spawn(async move { thief.batch_execute(&take).await.map(|()| thief) });
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let holders = "SELECT pg_terminate_backend(pid) FROM pg_locks
        WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid()";
    sql.query(holders, &[]).await.expect("send the holders away");
    thieves.push(sql);
    thieves
}
