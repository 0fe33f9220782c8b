//! The cluster as its user sees it; its invariant: at most one server runs on its data, always on the same port.

use std::{
    fs::OpenOptions,
    hash::{BuildHasher, RandomState},
    io::Write,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Child,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{
    Binaries, Error, Options,
    account::Account,
    home::Home,
    keeper::Keeper,
    server::{self, Failure},
};

/// Below the range that Linux gives to outgoing connections: while the server is down between two runs, none of those
/// can take its port.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const TRIES: u32 = 20;
/// A fast shutdown writes a checkpoint first, which a slow disk may take its time for.
const FAST_WITHIN: Duration = Duration::from_secs(60);
const DROP_WITHIN: Duration = Duration::from_secs(10);
const IMMEDIATE_WITHIN: Duration = Duration::from_secs(10);

/// A running PostgreSQL server on data of its own, stopped and removed when this is dropped.
///
/// It can be shared between threads: all methods take `&self`, and those that stop or start the server take turns.
#[derive(Debug)]
pub struct Cluster {
    binaries: Binaries,
    account: Account,
    home: Home,
    keeper: Keeper,
    environment: Vec<(String, String)>,
    port: u16,
    /// `None` while the server is stopped.
    server: Mutex<Option<Child>>,
}

impl Cluster {
    /// Makes and starts a cluster with the programs of [`Binaries::find_or_install`].
    pub fn start(options: Options) -> Result<Self, Error> {
        Self::start_with(Binaries::find_or_install()?, options)
    }

    /// Makes and starts a cluster with these programs.
    pub fn start_with(binaries: Binaries, options: Options) -> Result<Self, Error> {
        let account = Account::for_server()?;
        if !account.can_reach(binaries.dir()) {
            let reason = "the user that the server runs as cannot reach it".to_owned();
            return Err(Error::NotBinaries {
                dir: binaries.dir().to_owned(),
                reason,
            });
        }
        let home = Home::create(&options.parent_dir, account)?;
        server::initdb(&binaries, account, &home)?;
        configure(&home, &options.configuration(&binaries, home.socket())?)?;
        let keeper = Keeper::new().map_err(Error::io("start a thread"))?;
        let mut tries = 1;
        loop {
            let port = free_port()?;
            match server::start(&binaries, account, &home, &keeper, &options.environment, port) {
                Ok(child) => {
                    return Ok(Self {
                        binaries,
                        account,
                        home,
                        keeper,
                        environment: options.environment,
                        port,
                        server: Mutex::new(Some(child)),
                    });
                }
                Err(Failure::Busy(_)) if tries < TRIES => tries += 1,
                Err(Failure::Busy(error) | Failure::Other(error)) => return Err(error),
            }
        }
    }

    /// A fast shutdown (SIGINT): transactions are rolled back, everything is written. Nothing to do when stopped.
    pub fn stop_fast(&self) -> Result<(), Error> {
        end(
            &mut self.server(),
            &[(Signal::SIGINT, FAST_WITHIN), (Signal::SIGQUIT, IMMEDIATE_WITHIN)],
        )
    }

    /// An immediate shutdown (SIGQUIT), as in a crash: the next start recovers from the log. Nothing to do when stopped.
    pub fn stop_immediate(&self) -> Result<(), Error> {
        end(&mut self.server(), &[(Signal::SIGQUIT, IMMEDIATE_WITHIN)])
    }

    /// Kills the server (SIGKILL), which then cannot even tell its backends. Nothing to do when stopped.
    pub fn kill(&self) -> Result<(), Error> {
        end(&mut self.server(), &[])
    }

    /// Starts the server again after a stop, on the same data and port. Nothing to do when it runs.
    pub fn start_again(&self) -> Result<(), Error> {
        let mut server = self.server();
        if is_running(&mut server) {
            return Ok(());
        }
        let mut tries = 1;
        loop {
            match server::start(
                &self.binaries,
                self.account,
                &self.home,
                &self.keeper,
                &self.environment,
                self.port,
            ) {
                Ok(child) => {
                    *server = Some(child);
                    return Ok(());
                }
                // The port is known to the clients: wait for it instead of taking another. The same for the backends of a
                // killed server, which end when they notice.
                Err(Failure::Busy(_)) if tries < TRIES => {
                    tries += 1;
                    thread::sleep(Duration::from_millis(250));
                }
                Err(Failure::Busy(error) | Failure::Other(error)) => return Err(error),
            }
        }
    }

    /// [`stop_fast`](Self::stop_fast), then [`start_again`](Self::start_again).
    pub fn restart(&self) -> Result<(), Error> {
        self.stop_fast()?;
        self.start_again()
    }

    /// The URL of the database `postgres`, by TCP, as the superuser `postgres`.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// The URL of another database; its name goes into the URL as it is.
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The TCP port on 127.0.0.1; it stays the same over restarts, and names the socket too.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of the Unix socket.
    pub fn socket_dir(&self) -> &Path {
        self.home.socket()
    }

    /// The data folder.
    pub fn data_dir(&self) -> PathBuf {
        self.home.data()
    }

    /// The server's log, which goes on over restarts.
    pub fn log_path(&self) -> PathBuf {
        self.home.log()
    }

    /// The process id of the server; `None` while it does not run.
    pub fn pid(&self) -> Option<u32> {
        let mut server = self.server();
        if is_running(&mut server) {
            server.as_ref().map(Child::id)
        } else {
            None
        }
    }

    /// The server's version, such as `15.18`.
    pub fn server_version(&self) -> &str {
        self.binaries.version()
    }

    /// The programs it runs.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    fn server(&self) -> MutexGuard<'_, Option<Child>> {
        // A panic elsewhere leaves the value whole: it is one assignment.
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let signals = [(Signal::SIGINT, DROP_WITHIN), (Signal::SIGQUIT, IMMEDIATE_WITHIN)];
        // Nothing is left to do for a process that even SIGKILL does not end.
        let _ = end(&mut self.server(), &signals);
    }
}

/// Sends one signal after the other, SIGKILL last, until the server has ended.
fn end(server: &mut Option<Child>, signals: &[(Signal, Duration)]) -> Result<(), Error> {
    let Some(child) = server else { return Ok(()) };
    for (signal, within) in signals.iter().chain(&[(Signal::SIGKILL, IMMEDIATE_WITHIN)]) {
        if server::stop(child, *signal, *within)?.is_some() {
            *server = None;
            return Ok(());
        }
    }
    Err(Error::DoesNotEnd(child.id()))
}

/// Also notices a server that ended by itself.
fn is_running(server: &mut Option<Child>) -> bool {
    if let Some(child) = server
        && matches!(child.try_wait(), Ok(None))
    {
        return true;
    }
    *server = None;
    false
}

fn configure(home: &Home, lines: &str) -> Result<(), Error> {
    let path = home.data().join("postgresql.conf");
    OpenOptions::new()
        .append(true)
        .open(&path)
        .and_then(|mut file| file.write_all(lines.as_bytes()))
        .map_err(Error::io(format!("write {}", path.display())))
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16, Error> {
    let random = RandomState::new();
    let span = u64::from(PORTS.end - PORTS.start);
    for attempt in 0..100u32 {
        let offset = u16::try_from(random.hash_one(attempt) % span).unwrap_or_default();
        let port = PORTS.start + offset;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    // All of those taken by chance: let the system choose from its own range.
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(Error::io("find a free port"))
}
