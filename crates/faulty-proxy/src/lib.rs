//! A TCP proxy between a test and PostgreSQL that delays, loses and cuts, and counts what passes.
//!
//! It reads the frontend protocol, so that a fault can wait for a request by its SQL text even when that text went
//! over the wire long before, as a prepared statement. It cannot look into TLS: its URLs switch TLS off.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a tool for tests: what cannot go on panics"
)]

mod upstream;
mod wire;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::upstream::Upstream;
use self::wire::{Backend, Frontend, Unit};

/// What happens to the next request that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends before the server has seen the request.
    DropRequest,
    /// The server answers in full, the answer is lost, then the connection ends.
    DropAnswer,
    /// The server has the request, and the connection ends while it still works on it.
    CutMidway,
}

/// What does not flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frozen {
    Nothing,
    Everything,
    /// Connections on which somebody listens for notifications, of the first so many.
    Listeners(u64),
}

/// Waits for one fault to happen.
pub struct Sprung(watch::Receiver<bool>);

impl Sprung {
    /// Whether it has happened.
    pub fn happened(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once it has happened: the connection is over.
    pub async fn wait(&mut self) {
        self.0
            .wait_for(|sprung| *sprung)
            .await
            .expect("the proxy is gone, and the fault never happened");
    }
}

/// A fault that waits for its request.
struct Trap {
    pattern: String,
    fault: Fault,
    sprung: watch::Sender<bool>,
}

#[derive(Default)]
struct Counters {
    connections: AtomicU64,
    open: AtomicU64,
    hung: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    round_trips: AtomicU64,
}

/// What all connections share.
struct Shared {
    upstream: Upstream,
    counters: Counters,
    /// How often each SQL text was executed.
    executed: Mutex<HashMap<String, u64>>,
    traps: Mutex<Vec<Trap>>,
    delay_up: AtomicU64,
    delay_down: AtomicU64,
    refusing: AtomicBool,
    /// Connections with a higher number are accepted and hang.
    welcome: AtomicU64,
    frozen: watch::Sender<Frozen>,
    /// Counts the half-closings: no connection delivers answers any more when this changes.
    halves: watch::Sender<u64>,
    /// Counts the times that hanging connections are ended.
    hangs: watch::Sender<u64>,
    /// Counts the cuts: a connection ends when this changes.
    cuts: watch::Sender<u64>,
}

impl Shared {
    fn delay(direction: &AtomicU64) -> Duration {
        Duration::from_micros(direction.load(Ordering::Relaxed))
    }

    /// Counts a request, and takes the first trap that waits for one of its texts if it may spring.
    fn on_request(&self, texts: &[Arc<str>], may_spring: bool) -> Option<Trap> {
        self.counters.round_trips.fetch_add(1, Ordering::Relaxed);
        let mut executed = self.executed.lock().unwrap();
        for text in texts {
            *executed.entry(text.to_string()).or_default() += 1;
        }
        drop(executed);
        if !may_spring {
            return None;
        }
        let mut traps = self.traps.lock().unwrap();
        let found = traps
            .iter()
            .position(|trap| texts.iter().any(|text| text.contains(&trap.pattern)))?;
        Some(traps.remove(found))
    }
}

/// The proxy: it listens on a port of its own until it is dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

impl Proxy {
    /// In front of the server that a database URL names, by TCP or by Unix socket.
    pub async fn start(database_url: &str) -> Self {
        let upstream = Upstream::of(database_url);
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("listen on a free port");
        let address = listener.local_addr().expect("the port that was given");
        let shared = Arc::new(Shared {
            upstream,
            counters: Counters::default(),
            executed: Mutex::default(),
            traps: Mutex::default(),
            delay_up: AtomicU64::new(0),
            delay_down: AtomicU64::new(0),
            refusing: AtomicBool::new(false),
            welcome: AtomicU64::new(u64::MAX),
            frozen: watch::Sender::new(Frozen::Nothing),
            halves: watch::Sender::new(0),
            hangs: watch::Sender::new(0),
            cuts: watch::Sender::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            accepting,
        }
    }

    /// The database URL with this proxy for its server.
    pub fn url(&self, database_url: &str) -> String {
        let config: tokio_postgres::Config = database_url.parse().expect("a database URL");
        let mut url = format!("postgresql://{}:{}/", self.address.ip(), self.address.port());
        url.push_str(&escaped(
            config
                .get_dbname()
                .or(config.get_user())
                .unwrap_or("postgres")
                .as_bytes(),
        ));
        url.push_str("?sslmode=disable");
        if let Some(user) = config.get_user() {
            url.push_str(&format!("&user={}", escaped(user.as_bytes())));
        }
        if let Some(password) = config.get_password() {
            url.push_str(&format!("&password={}", escaped(password)));
        }
        url
    }

    /// Delays whatever flows from now on, in each direction. It is a longer line, not a narrower one.
    pub fn delay(&self, each_direction: Duration) {
        self.delay_directions(each_direction, each_direction);
    }

    /// Delays requests and answers by different times.
    pub fn delay_directions(&self, requests: Duration, answers: Duration) {
        let micros = |delay: Duration| u64::try_from(delay.as_micros()).expect("a sensible delay");
        self.shared.delay_up.store(micros(requests), Ordering::Relaxed);
        self.shared.delay_down.store(micros(answers), Ordering::Relaxed);
    }

    /// Prepares a fault for the next request, on any connection, that executes SQL containing `pattern`.
    ///
    /// Preparing a statement does not count; executing it does. Each call is good for one request; several wait side
    /// by side, the oldest first.
    pub fn once(&self, pattern: &str, fault: Fault) -> Sprung {
        let sprung = watch::Sender::new(false);
        let receiver = sprung.subscribe();
        self.shared.traps.lock().unwrap().push(Trap {
            pattern: pattern.to_owned(),
            fault,
            sprung,
        });
        Sprung(receiver)
    }

    /// Forgets the faults that have not happened yet.
    pub fn disarm(&self) {
        self.shared.traps.lock().unwrap().clear();
    }

    /// Nothing flows any more, and nobody is told: connections stay open, new ones are accepted and hang.
    pub fn freeze(&self) {
        self.shared.frozen.send_replace(Frozen::Everything);
    }

    /// As [`freeze`](Self::freeze), for those connections of now only on which somebody listens for notifications: the
    /// listener is dead, and nobody is told.
    pub fn freeze_listeners(&self) {
        self.shared.frozen.send_replace(Frozen::Listeners(self.connections()));
    }

    /// Closes the half of each connection that brings answers; requests still reach the server.
    pub fn half_close(&self) {
        self.shared.halves.send_modify(|halves| *halves += 1);
    }

    /// What was held back by [`freeze`](Self::freeze) flows on.
    pub fn thaw(&self) {
        self.shared.frozen.send_replace(Frozen::Nothing);
    }

    /// Ends all connections now.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// New connections are closed as soon as they are made, until [`accept`](Self::accept).
    pub fn refuse(&self) {
        self.shared.refusing.store(true, Ordering::Relaxed);
    }

    /// New connections are welcome again.
    pub fn accept(&self) {
        self.shared.refusing.store(false, Ordering::Relaxed);
    }

    /// So many more connections work; those made after them are accepted, and hang until [`welcome_all`](Self::welcome_all)
    /// or the proxy's end.
    pub fn welcome(&self, connections: u64) {
        let last = self.connections().saturating_add(connections);
        self.shared.welcome.store(last, Ordering::Relaxed);
    }

    /// New connections work again; those that hang end.
    pub fn welcome_all(&self) {
        self.shared.welcome.store(u64::MAX, Ordering::Relaxed);
        self.shared.hangs.send_modify(|hangs| *hangs += 1);
    }

    /// Connections that were accepted and hang, so far.
    pub fn hung(&self) -> u64 {
        self.shared.counters.hung.load(Ordering::Relaxed)
    }

    /// Connections that were made and not refused, so far.
    pub fn connections(&self) -> u64 {
        self.shared.counters.connections.load(Ordering::Relaxed)
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> u64 {
        self.shared.counters.open.load(Ordering::Relaxed)
    }

    /// Bytes of requests and of answers, so far.
    pub fn bytes(&self) -> (u64, u64) {
        let counters = &self.shared.counters;
        (
            counters.bytes_up.load(Ordering::Relaxed),
            counters.bytes_down.load(Ordering::Relaxed),
        )
    }

    /// Requests for which a client waits: simple queries, and groups of messages that end with a Sync.
    /// The start of a connection does not count.
    pub fn round_trips(&self) -> u64 {
        self.shared.counters.round_trips.load(Ordering::Relaxed)
    }

    /// How often SQL containing `pattern` was executed.
    pub fn executed(&self, pattern: &str) -> u64 {
        let executed = self.shared.executed.lock().unwrap();
        executed
            .iter()
            .filter(|(text, _)| text.contains(pattern))
            .map(|(_, count)| count)
            .sum()
    }
}

/// Percent-encodes all that is not plain.
fn escaped(bytes: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    bytes
        .iter()
        .map(|&byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        if shared.refusing.load(Ordering::Relaxed) {
            continue;
        }
        let number = shared.counters.connections.fetch_add(1, Ordering::Relaxed) + 1;
        shared.counters.open.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // An error is an end of the connection like any other.
            let _ = if number > shared.welcome.load(Ordering::Relaxed) {
                hang(client, &shared).await
            } else {
                connection(client, number, &shared).await
            };
            shared.counters.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// Says nothing, whatever the client says, until one of both has enough.
async fn hang(mut client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let (mut hangs, mut cuts) = (shared.hangs.subscribe(), shared.cuts.subscribe());
    shared.counters.hung.fetch_add(1, Ordering::Relaxed);
    let mut ignored = vec![0; 1 << 10];
    loop {
        tokio::select! {
            length = client.read(&mut ignored) => if length? == 0 { return Ok(()) },
            _ = hangs.changed() => return Ok(()),
            _ = cuts.changed() => return Ok(()),
        }
    }
}

/// Which connection it is, and whether somebody listens on it for notifications.
struct Listener {
    number: u64,
    listens: AtomicBool,
}

/// What travels on a delay line.
enum Cargo {
    Bytes(Vec<u8>),
    /// The connection ends here, and with it the fault has happened.
    End(watch::Sender<bool>),
}

type Line = mpsc::UnboundedSender<(Instant, Cargo)>;

/// The answer that is to be lost on one connection: after so many others.
#[derive(Clone)]
struct Lost {
    after: u64,
    sprung: watch::Sender<bool>,
}

async fn connection(client: TcpStream, number: u64, shared: &Shared) -> std::io::Result<()> {
    let mut cuts = shared.cuts.subscribe();
    client.set_nodelay(true)?;
    let (client_read, client_write) = client.into_split();
    let (mut server_read, mut server_write) = shared.upstream.connect().await?;
    let (up, up_line) = mpsc::unbounded_channel();
    let (down, down_line) = mpsc::unbounded_channel();
    let refusals = down.downgrade();
    let lost = Mutex::new(None);
    let listener = Listener {
        number,
        listens: AtomicBool::new(false),
    };
    let end = tokio::select! {
        end = read_requests(client_read, up, refusals, shared, &lost, &listener) => end,
        end = read_answers(&mut server_read, down, shared, &lost) => end,
        end = write(&mut server_write, up_line, shared, &listener) => end,
        end = deliver(client_write, down_line, shared, &listener) => end,
        _ = cuts.changed() => Ok(()),
    };
    // The client's side is closed by now. The server's is closed behind the last request, and what it still sends is
    // read: otherwise the kernel would answer with a reset, which makes the server lose requests it has not read yet.
    tokio::spawn(async move {
        let _ = server_write.shutdown().await;
        let mut rest = vec![0; 1 << 16];
        while matches!(server_read.read(&mut rest).await, Ok(1..)) {}
    });
    end
}

/// Reads the client's requests, springs traps, and puts the rest on the line to the server.
async fn read_requests(
    mut client: impl AsyncRead + Unpin,
    line: Line,
    refusals: mpsc::WeakUnboundedSender<(Instant, Cargo)>,
    shared: &Shared,
    lost: &Mutex<Option<Lost>>,
    listener: &Listener,
) -> std::io::Result<()> {
    let mut frontend = Frontend::default();
    let mut buffer = vec![0; 1 << 16];
    // The start-up is answered like a request.
    let mut requests = 1;
    loop {
        let length = client.read(&mut buffer).await?;
        let due = Instant::now() + Shared::delay(&shared.delay_up);
        if length == 0 {
            return last(line).await;
        }
        shared.counters.bytes_up.fetch_add(length as u64, Ordering::Relaxed);
        frontend.receive(&buffer[..length]);
        while let Some(unit) = frontend.next() {
            let (bytes, texts) = match unit {
                Unit::Encryption => {
                    // We could not read what follows: "no", says the proxy in the server's place.
                    if let Some(refusals) = refusals.upgrade() {
                        put(&refusals, due, Cargo::Bytes(b"N".to_vec()));
                    }
                    continue;
                }
                Unit::Other(bytes) => {
                    put(&line, due, Cargo::Bytes(bytes));
                    continue;
                }
                Unit::Request { bytes, texts } => (bytes, texts),
            };
            if texts.iter().any(|text| text.contains("LISTEN ")) {
                listener.listens.store(true, Ordering::Relaxed);
            }
            // On a connection that is about to end, no other fault can happen.
            let ending = lost.lock().unwrap().is_some();
            let trap = shared.on_request(&texts, !ending);
            match trap {
                None => put(&line, due, Cargo::Bytes(bytes)),
                Some(Trap {
                    fault: Fault::DropRequest,
                    sprung,
                    ..
                }) => {
                    put(&line, due, Cargo::End(sprung));
                    return last(line).await;
                }
                Some(Trap {
                    fault: Fault::CutMidway,
                    sprung,
                    ..
                }) => {
                    put(&line, due, Cargo::Bytes(bytes));
                    put(&line, due, Cargo::End(sprung));
                    return last(line).await;
                }
                Some(Trap {
                    fault: Fault::DropAnswer,
                    sprung,
                    ..
                }) => {
                    *lost.lock().unwrap() = Some(Lost {
                        after: requests,
                        sprung,
                    });
                    put(&line, due, Cargo::Bytes(bytes));
                }
            }
            requests += 1;
        }
    }
}

/// Reads the server's answers, loses the one that is to be lost, and puts the rest on the line to the client.
async fn read_answers(
    server: &mut (impl AsyncRead + Unpin),
    line: Line,
    shared: &Shared,
    lost: &Mutex<Option<Lost>>,
) -> std::io::Result<()> {
    let mut backend = Backend::default();
    let mut buffer = vec![0; 1 << 16];
    let mut answers = 0;
    loop {
        let length = server.read(&mut buffer).await?;
        let due = Instant::now() + Shared::delay(&shared.delay_down);
        if length == 0 {
            return last(line).await;
        }
        shared.counters.bytes_down.fetch_add(length as u64, Ordering::Relaxed);
        backend.receive(&buffer[..length]);
        while let Some((bytes, ends_answer)) = backend.next() {
            let hit = lost.lock().unwrap().clone().filter(|lost| answers >= lost.after);
            match hit {
                None => put(&line, due, Cargo::Bytes(bytes)),
                Some(lost) if ends_answer => {
                    put(&line, due, Cargo::End(lost.sprung));
                    return last(line).await;
                }
                Some(_) => {}
            }
            answers += u64::from(ends_answer);
        }
    }
}

fn put(line: &Line, due: Instant, cargo: Cargo) {
    // A closed line means that the connection is ending anyway.
    let _ = line.send((due, cargo));
}

/// Nothing more comes from this side: the connection ends when the line has delivered what it holds.
async fn last(line: Line) -> std::io::Result<()> {
    drop(line);
    std::future::pending().await
}

/// Delivers answers, until this half of the connection is closed.
async fn deliver(
    mut to: impl AsyncWrite + Unpin,
    line: mpsc::UnboundedReceiver<(Instant, Cargo)>,
    shared: &Shared,
    listener: &Listener,
) -> std::io::Result<()> {
    let mut halves = shared.halves.subscribe();
    tokio::select! {
        end = write(&mut to, line, shared, listener) => return end,
        _ = halves.changed() => {}
    }
    to.shutdown().await?;
    std::future::pending().await
}

/// Delivers what comes along a line, each piece when it is due.
async fn write(
    mut to: impl AsyncWrite + Unpin,
    mut line: mpsc::UnboundedReceiver<(Instant, Cargo)>,
    shared: &Shared,
    listener: &Listener,
) -> std::io::Result<()> {
    let mut frozen = shared.frozen.subscribe();
    while let Some((due, cargo)) = line.recv().await {
        tokio::time::sleep_until(due).await;
        // It can only fail when the proxy is gone.
        let flows = |frozen: &Frozen| match frozen {
            Frozen::Nothing => true,
            Frozen::Everything => false,
            Frozen::Listeners(first) => listener.number > *first || !listener.listens.load(Ordering::Relaxed),
        };
        let _ = frozen.wait_for(flows).await;
        match cargo {
            Cargo::Bytes(bytes) => {
                to.write_all(&bytes).await?;
                to.flush().await?;
            }
            Cargo::End(sprung) => {
                sprung.send_replace(true);
                return Ok(());
            }
        }
    }
    Ok(())
}
