//! A store in trouble: who waits on it, what is sent meanwhile, and how it looks when it rests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use duroxide::providers::TagFilter;
use faulty_proxy::Proxy;
use private_postgres::{Cluster, Options};
use steadfast::embedded::EmbeddedProvider;
use steadfast::feed::{Feed, Level};
use steadfast::inspect::Inspect;
use steadfast::postgres::PostgresProvider;
use tokio::task::JoinHandle;

use super::PATIENCE;
use super::trouble::Trouble;
use crate::field::kind_07_feed_last_word::child::{Place, now};
use crate::field::kind_07_feed_last_word::reader::Reader;
use crate::op::scene::{activity, client, start, started};

const SCHEMA: &str = "silence";
const POOL: usize = 3;

/// The store and its surroundings.
pub(super) struct Ground {
    server: Option<(Cluster, Proxy)>,
    folder: tempfile::TempDir,
    waiter: Arc<dyn Inspect>,
    writer: Arc<dyn Inspect>,
    feed: Feed,
}

impl Ground {
    pub(super) async fn prepare(trouble: Trouble) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        if trouble.in_a_file() {
            let path = folder.path().join("store.db");
            let open = async || {
                let builder = EmbeddedProvider::builder(&path).feed(Level::History);
                builder.open().await.expect("open the file")
            };
            let (waiter, writer) = (open().await, open().await);
            let feed = EmbeddedProvider::open_feed(&path).await.expect("open the feed");
            return Self {
                server: None,
                folder,
                waiter: Arc::new(waiter),
                writer: Arc::new(writer),
                feed,
            };
        }
        let started = tokio::task::spawn_blocking(|| {
            Cluster::start(Options::under(std::env::temp_dir().join("steadfast-silence")).setting("fsync", "off"))
        });
        let cluster = started.await.expect("no panic").expect("a server of its own");
        let proxy = Proxy::start(&cluster.url()).await;
        let url = proxy.url(&cluster.url());
        let open = async |name: &str| {
            let builder = PostgresProvider::builder(&url).schema(SCHEMA).pool_size(POOL);
            let builder = builder.feed(Level::History).application_name(name);
            builder.connect().await.expect("open the schema")
        };
        let (waiter, writer) = (open("waiter").await, open("writer").await);
        let reader = PostgresProvider::builder(&url)
            .schema(SCHEMA)
            .pool_size(POOL)
            .application_name("reader");
        Self {
            server: Some((cluster, proxy)),
            folder,
            waiter: Arc::new(waiter),
            writer: Arc::new(writer),
            feed: reader.open_feed().await.expect("open the feed"),
        }
    }

    pub(super) fn has_server(&self) -> bool {
        self.server.is_some()
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.server.as_ref().expect("a server").0
    }

    pub(super) fn proxy(&self) -> &Proxy {
        &self.server.as_ref().expect("a server").1
    }

    pub(super) fn schema(&self) -> &'static str {
        SCHEMA
    }

    pub(super) fn raw_file(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.folder.path().join("store.db")).expect("open the file for raw SQL")
    }

    pub(super) fn place(&self) -> Place {
        match &self.server {
            Some((cluster, _)) => Place::Postgres {
                url: cluster.url(),
                schema: SCHEMA.to_owned(),
            },
            None => Place::Embedded(self.folder.path().join("store.db")),
        }
    }

    /// Those who wait for a turn, an activity and the feed; returns when they sleep.
    pub(super) async fn wait(&self) -> Waiting {
        let waiting = Waiting {
            turn: tokio::spawn(take_turn(Arc::clone(&self.waiter))),
            work: tokio::spawn(take_work(Arc::clone(&self.waiter))),
            reader: Reader::follow("reader", self.feed.clone()),
        };
        if let Some((cluster, _)) = &self.server {
            let sql = client(&cluster.url()).await;
            let sleeping = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted";
            while sql.query_one(sleeping, &[]).await.expect("look").get::<_, i64>(0) < 3 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        waiting
    }

    /// What comes while the trouble lasts; returns when all is acknowledged and what was opening has opened.
    pub(super) async fn input(&self, trouble: Trouble) {
        let sent = until(async || self.writer.enqueue_for_orchestrator(start("sent"), None).await.is_ok());
        let queued = until(async || self.writer.enqueue_for_worker(activity("queued", 2)).await.is_ok());
        let written = until(async || {
            let history = vec![started("written", 1)];
            match self.writer.append_with_execution("written", 1, history).await {
                Ok(()) => true,
                // It was in doubt, and is there.
                Err(error) => !error.is_retryable() && error.message.contains("exist"),
            }
        });
        let opened = until(async || self.opens().await);
        let all = async { tokio::join!(sent, queued, written, opened) };
        let done = tokio::time::timeout(PATIENCE, all).await;
        done.unwrap_or_else(|_| panic!("{trouble:?}: what is sent is not acknowledged, or opening does not end"));
    }

    /// Opens a provider, on the server in a schema of its own. Opening ends, well or not.
    async fn opens(&self) -> bool {
        let opened: Arc<dyn Inspect> = match &self.server {
            Some((cluster, proxy)) => {
                let builder = PostgresProvider::builder(&proxy.url(&cluster.url())).schema("opened_in_trouble");
                match builder.pool_size(POOL).connect().await {
                    Ok(provider) => Arc::new(provider),
                    Err(_) => return false,
                }
            }
            None => match EmbeddedProvider::open(self.folder.path().join("store.db")).await {
                Ok(provider) => Arc::new(provider),
                Err(_) => return false,
            },
        };
        opened.close().await;
        true
    }

    /// Nothing runs, waits or hangs, and nobody has more connections than it may.
    pub(super) async fn rests(&self, trouble: Trouble) {
        let status = eventually(async || {
            let status = self.feed.status().await.expect("the feed's state");
            if status.pending == 0 {
                Ok(())
            } else {
                Err(format!("{status:?}"))
            }
        });
        status
            .await
            .unwrap_or_else(|what| panic!("{trouble:?}: pending: {what}"));
        let Some((cluster, _)) = &self.server else { return };
        let sql = client(&cluster.url()).await;
        let rest = eventually(async || {
            let busy =
                "SELECT coalesce(string_agg(format('%s %s %s: %s', pid, application_name, state, query), '; '), '')
                FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
                AND (state <> 'idle' OR application_name NOT IN ('waiter', 'writer', 'reader'))";
            let busy: String = sql.query_one(busy, &[]).await.expect("look").get(0);
            let many = "SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM pg_stat_activity
                WHERE application_name IN ('waiter', 'writer', 'reader') GROUP BY application_name) c";
            let many: i64 = sql.query_one(many, &[]).await.expect("look").get(0);
            // The pool, and one that listens.
            let most = i64::try_from(POOL + 1).expect("few");
            if busy.is_empty() && many <= most {
                Ok(())
            } else {
                Err(format!("{many} backends; {busy}"))
            }
        });
        rest.await.unwrap_or_else(|what| panic!("{trouble:?}: no rest: {what}"));
    }

    pub(super) async fn close(self) {
        self.feed.close().await;
        self.waiter.close().await;
        self.writer.close().await;
    }
}

/// Those who wait.
pub(super) struct Waiting {
    turn: JoinHandle<()>,
    work: JoinHandle<()>,
    reader: Reader,
}

impl Waiting {
    /// Everybody gets what was sent; how late after the last input, in milliseconds.
    pub(super) async fn rest(&mut self, trouble: Trouble) -> [u128; 3] {
        let (silent, since) = (Instant::now(), now());
        let late = async |waiter: &mut JoinHandle<()>, what: &str| {
            let taken = tokio::time::timeout(PATIENCE, waiter).await;
            let taken = taken.unwrap_or_else(|_| panic!("{trouble:?}: nobody takes the {what}"));
            taken.expect("no panic");
            silent.elapsed().as_millis()
        };
        let turn = late(&mut self.turn, "turn").await;
        let work = late(&mut self.work, "activity").await;
        let event = self.reader.has(&[("written".to_owned(), 1)], since, PATIENCE).await;
        [turn, work, u128::from(event)]
    }
}

async fn take_turn(provider: Arc<dyn Inspect>) {
    loop {
        let fetched = provider.fetch_orchestration_item(PATIENCE * 4, PATIENCE, None).await;
        match fetched {
            Ok(Some((item, ..))) if item.instance == "sent" => return,
            Ok(_) => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn take_work(provider: Arc<dyn Inspect>) {
    let tags = TagFilter::default();
    loop {
        match provider.fetch_work_item(PATIENCE * 4, PATIENCE, None, &tags).await {
            Ok(Some(_)) => return,
            Ok(None) => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Again and again, as a runtime does after an error.
async fn until(mut attempt: impl AsyncFnMut() -> bool) {
    while !attempt().await {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Looks until it is as it should be; what it was instead when time is over.
async fn eventually(mut look: impl AsyncFnMut() -> Result<(), String>) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(50)).await,
            done => return done,
        }
    }
}
