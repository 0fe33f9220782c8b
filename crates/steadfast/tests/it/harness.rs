//! What every room needs: a fresh schema or file per store, providers that open it, and raw SQL beside them.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use duroxide::providers::Provider;
use steadfast::embedded::EmbeddedProvider;
use steadfast::inspect::Inspect;
use steadfast::postgres::{LongPoll, PostgresProvider};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use crate::proxy::Proxy;

/// Connections of each provider's pool; hundreds of tests share one server.
const POOL_SIZE: usize = 3;

/// Where a store lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// In a schema of the test server.
    Postgres,
    /// In a file of its own.
    Embedded,
}

/// How `fetch_*` treats its poll timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It blocks inside the provider until work exists or the timeout has passed.
    LongPoll,
    /// It answers at once.
    ShortPoll,
}

/// The server's address, as `cargo xtask test` sets it.
pub(crate) fn database_url() -> String {
    std::env::var("DATABASE_URL").expect("DATABASE_URL is not set; run: cargo xtask test")
}

/// Network delay of a round trip that every store is to have, for the long run by hand:
/// `STEADFAST_TEST_DELAY_MS=250 cargo xtask test -- -p steadfast --test it e2e::`.
fn network_delay() -> Option<Duration> {
    let text = std::env::var("STEADFAST_TEST_DELAY_MS").ok()?;
    Some(Duration::from_millis(
        text.parse()
            .expect("STEADFAST_TEST_DELAY_MS is a number of milliseconds"),
    ))
}

/// Goes before statements of one batch that change who may do what in the server's own database: of two at once one fails
/// ("tuple concurrently updated").
pub(crate) const ONE_AT_A_TIME: &str = "SELECT pg_advisory_xact_lock(hashtextextended('rights of the database', 0));";

/// A schema name that no other test, run or process uses.
pub(crate) fn fresh_schema() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let counter = COUNTER.fetch_add(1, Ordering::Relaxed);
    // Each RandomState has keys of its own: the hash of nothing is a random number.
    let random = RandomState::new().build_hasher().finish();
    format!("it_{}_{counter}_{random:016x}", std::process::id())
}

/// A connection of its own for raw SQL, without any provider.
pub(crate) async fn raw() -> Client {
    let (client, connection) = tokio_postgres::connect(&database_url(), NoTls)
        .await
        .expect("connect to DATABASE_URL for raw SQL");
    tokio::spawn(async move {
        // An error here also fails the statement that the test is waiting for.
        let _ = connection.await;
    });
    client
}

/// One schema and the providers that were opened on it.
///
/// Its schema stays behind: it vanishes with the throw-away server.
pub(crate) struct Store {
    mode: Mode,
    schema: String,
    url: String,
    delaying: OnceCell<Proxy>,
    opened: Mutex<Vec<Arc<PostgresProvider>>>,
    /// The folder of its file, for a store of the embedded engine.
    file: Option<EmbeddedFile>,
}

/// A file of the embedded engine and the providers that were opened on it.
struct EmbeddedFile {
    directory: tempfile::TempDir,
    opened: Mutex<Vec<Arc<EmbeddedProvider>>>,
}

impl EmbeddedFile {
    fn path(&self) -> PathBuf {
        self.directory.path().join("store.db")
    }

    async fn open(&self, mode: Mode) -> Arc<EmbeddedProvider> {
        let provider = EmbeddedProvider::builder(self.path())
            .long_poll(steadfast::embedded::LongPoll {
                enabled: mode == Mode::LongPoll,
                ..steadfast::embedded::LongPoll::default()
            })
            .open()
            .await
            .unwrap_or_else(|error| panic!("open {}: {error}", self.path().display()));
        let provider = Arc::new(provider);
        self.opened.lock().unwrap().push(Arc::clone(&provider));
        provider
    }

    /// Raw SQL on the file, behind the providers' backs.
    fn raw(&self) -> rusqlite::Connection {
        let connection = rusqlite::Connection::open(self.path()).expect("open the file for raw SQL");
        connection
            .busy_timeout(Duration::from_secs(5))
            .expect("set the busy timeout");
        connection
    }
}

impl Store {
    /// A store in a fresh schema; nothing is installed before the first [`open`](Self::open).
    pub(crate) fn new(mode: Mode) -> Self {
        Self::at(mode, database_url())
    }

    /// A store reached through another address, such as a proxy's.
    pub(crate) fn at(mode: Mode, url: String) -> Self {
        Self {
            mode,
            schema: fresh_schema(),
            url,
            delaying: OnceCell::new(),
            opened: Mutex::new(Vec::new()),
            file: None,
        }
    }

    /// A fresh store of this engine.
    pub(crate) fn on(engine: Engine, mode: Mode) -> Self {
        match engine {
            Engine::Postgres => Self::new(mode),
            Engine::Embedded => Self {
                file: Some(EmbeddedFile {
                    directory: tempfile::tempdir().expect("a folder for the file"),
                    opened: Mutex::new(Vec::new()),
                }),
                ..Self::at(mode, String::new())
            },
        }
    }

    /// Another provider on the same store, as another process would have.
    pub(crate) async fn open(&self) -> Arc<dyn Provider> {
        match &self.file {
            Some(file) => file.open(self.mode).await,
            None => self.open_postgres().await,
        }
    }

    /// As [`open`](Self::open), with what tools may see.
    pub(crate) async fn open_to_inspect(&self) -> Arc<dyn Inspect> {
        match &self.file {
            Some(file) => file.open(self.mode).await,
            None => self.open_postgres().await,
        }
    }

    /// As [`open`](Self::open), with its own type.
    pub(crate) async fn open_postgres(&self) -> Arc<PostgresProvider> {
        let url = match network_delay() {
            None => self.url.clone(),
            Some(delay) => {
                let start = async {
                    let proxy = Proxy::start(&self.url).await;
                    proxy.delay(delay / 2);
                    proxy
                };
                self.delaying.get_or_init(|| start).await.url(&self.url)
            }
        };
        let provider = PostgresProvider::builder(&url)
            .schema(&self.schema)
            .long_poll(LongPoll {
                enabled: self.mode == Mode::LongPoll,
                ..LongPoll::default()
            })
            .pool_size(POOL_SIZE)
            .connect()
            .await
            .unwrap_or_else(|error| panic!("open a provider on schema {}: {error}", self.schema));
        let provider = Arc::new(provider);
        self.opened.lock().unwrap().push(Arc::clone(&provider));
        provider
    }

    /// The name of its schema.
    pub(crate) fn schema(&self) -> &str {
        &self.schema
    }

    /// Raw SQL on the file of a store of the embedded engine.
    pub(crate) fn raw_file(&self) -> rusqlite::Connection {
        self.file.as_ref().expect("a store in a file").raw()
    }

    /// Raw SQL whose unqualified names are this schema's.
    pub(crate) async fn raw(&self) -> Client {
        let client = raw().await;
        client
            .batch_execute(&format!("SET search_path TO \"{}\"", self.schema))
            .await
            .expect("set the search path");
        client
    }

    /// Makes an instance's whole history undecodable, behind the providers' backs.
    pub(crate) async fn corrupt_history(&self, instance: &str) {
        if let Some(file) = &self.file {
            let changed = file.raw().execute(
                "UPDATE sf_event SET payload = CAST('not json' AS BLOB)
                 WHERE instance_key = (SELECT instance_key FROM sf_instance WHERE instance_id = ?1)",
                [instance],
            );
            assert!(
                changed.expect("corrupt the history") > 0,
                "{instance:?} has no history to corrupt"
            );
            return;
        }
        let changed = self
            .raw()
            .await
            .execute(
                "UPDATE sf_event SET payload = 'not json'::bytea
                 WHERE instance_key = (SELECT instance_key FROM sf_instance WHERE instance_id = $1)",
                &[&instance],
            )
            .await
            .expect("corrupt the history");
        assert!(changed > 0, "instance {instance:?} has no history to corrupt");
    }

    /// The highest attempt count among an instance's queued messages; 0 without any.
    pub(crate) async fn max_attempt_count(&self, instance: &str) -> u32 {
        if let Some(file) = &self.file {
            let count = file.raw().query_row(
                "SELECT coalesce(max(m.attempt_count), 0)
                 FROM sf_message m JOIN sf_instance i USING (instance_key) WHERE i.instance_id = ?1",
                [instance],
                |row| row.get(0),
            );
            return count.expect("read the attempt counts");
        }
        let row = self
            .raw()
            .await
            .query_one(
                "SELECT coalesce(max(m.attempt_count), 0)::bigint
                 FROM sf_message m JOIN sf_instance i USING (instance_key) WHERE i.instance_id = $1",
                &[&instance],
            )
            .await
            .expect("read the attempt counts");
        u32::try_from(row.get::<_, i64>(0)).expect("attempt counts are small and not negative")
    }

    /// Closes every provider that was opened, and with them their connections.
    pub(crate) async fn close(&self) {
        let opened = std::mem::take(&mut *self.opened.lock().unwrap());
        for provider in opened {
            provider.close().await;
        }
        if let Some(file) = &self.file {
            let opened = std::mem::take(&mut *file.opened.lock().unwrap());
            for provider in opened {
                provider.close().await;
            }
        }
    }
}
