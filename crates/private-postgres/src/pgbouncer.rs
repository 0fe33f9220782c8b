//! A real PgBouncer before a cluster; its invariant: it never outlives its owner, and is as Debian ships it but for what the
//! options say.

use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    net::{Ipv4Addr, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::{
    Cluster, Error,
    account::Account,
    cluster::free_port,
    home::Home,
    install,
    keeper::Keeper,
    server::{self, clean_environment, tail},
};

const READY_WITHIN: Duration = Duration::from_secs(30);
const STOP_WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);
const TRIES: u32 = 20;

/// For how long a client keeps the server that it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    /// As long as it is connected.
    Session,
    /// One transaction.
    Transaction,
    /// One statement; transactions are refused.
    Statement,
}

/// How to run a [`PgBouncer`].
#[derive(Clone, Debug)]
pub struct PgBouncerOptions {
    /// `pool_mode`.
    pub pool_mode: PoolMode,
    /// `default_pool_size`: most servers for one user and database.
    pub default_pool_size: u32,
    /// Further settings of the section `[pgbouncer]`; they win over the above.
    pub extra_settings: Vec<(String, String)>,
}

impl PgBouncerOptions {
    /// This mode, with PgBouncer's own 20 servers.
    pub fn new(pool_mode: PoolMode) -> Self {
        Self {
            pool_mode,
            default_pool_size: 20,
            extra_settings: Vec::new(),
        }
    }
}

/// A running PgBouncer that passes every database of a cluster on; stopped and removed when this is dropped.
#[derive(Debug)]
pub struct PgBouncer {
    program: PathBuf,
    account: Account,
    home: Home,
    keeper: Keeper,
    port: u16,
    child: Mutex<Option<Child>>,
}

impl PgBouncer {
    /// Starts one before `cluster`, with its folder under `parent_dir`. Installs Debian's package `pgbouncer` where there is
    /// none and we are root on a Debian system.
    pub fn start(cluster: &Cluster, parent_dir: &Path, options: &PgBouncerOptions) -> Result<Self, Error> {
        Self::start_before(cluster.port(), parent_dir, options)
    }

    /// As [`start`](Self::start), before whatever takes connections on this port of 127.0.0.1.
    pub fn start_before(server: u16, parent_dir: &Path, options: &PgBouncerOptions) -> Result<Self, Error> {
        let program = find_or_install()?;
        // PgBouncer refuses to run as root, too.
        let account = Account::for_server()?;
        let home = Home::create(parent_dir, account)?;
        let keeper = Keeper::new().map_err(Error::io("start a thread"))?;
        let mut bouncer = Self {
            program,
            account,
            home,
            keeper,
            port: 0,
            child: Mutex::new(None),
        };
        bouncer.write("userlist.txt", "\"postgres\" \"\"\n")?;
        let mut tries = 1;
        loop {
            bouncer.port = free_port()?;
            bouncer.write(
                "pgbouncer.ini",
                &configuration(bouncer.home.dir(), server, bouncer.port, options)?,
            )?;
            match bouncer.start_again() {
                // Somebody else was faster with the port.
                Err(Error::Pooler(log)) if tries < TRIES && log.contains("address already in use") => tries += 1,
                Err(error) => return Err(error),
                Ok(()) => return Ok(bouncer),
            }
        }
    }

    /// Kills it (SIGKILL): its clients lose their connections, the server's backends end when they notice.
    pub fn kill(&self) -> Result<(), Error> {
        self.end(&[(Signal::SIGKILL, STOP_WITHIN)])
    }

    /// Starts it again after a kill, on the same port. Nothing to do when it runs.
    pub fn start_again(&self) -> Result<(), Error> {
        let mut child = self.child();
        if let Some(running) = child.as_mut()
            && matches!(running.try_wait(), Ok(None))
        {
            return Ok(());
        }
        *child = None;
        let started = self.spawn()?;
        let running = child.insert(started);
        let end = Instant::now() + READY_WITHIN;
        while Instant::now() < end {
            match running.try_wait() {
                Ok(None) if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() => return Ok(()),
                Ok(None) => thread::sleep(POLL),
                Ok(Some(_)) | Err(_) => break,
            }
        }
        Err(Error::Pooler(tail(&fs::read(self.log_path()).unwrap_or_default())))
    }

    /// The URL of the database `postgres`, as the superuser `postgres`.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// The URL of another database; its name goes into the URL as it is.
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its log.
    pub fn log_path(&self) -> PathBuf {
        self.home.dir().join("pgbouncer.log")
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.home.dir().join(name);
        fs::write(&path, text).map_err(Error::io(format!("write {}", path.display())))?;
        self.account.own(&path)
    }

    fn spawn(&self) -> Result<Child, Error> {
        let log_path = self.log_path();
        let naming = || Error::io(format!("open {}", log_path.display()));
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .map_err(naming())?;
        let mut command = match which::which("setpriv") {
            Ok(setpriv) if cfg!(target_os = "linux") => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL"]).arg(&self.program);
                command
            }
            _ => Command::new(&self.program),
        };
        command
            .arg(self.home.dir().join("pgbouncer.ini"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(naming())?)
            .stderr(log)
            .current_dir(self.home.dir())
            .process_group(0);
        clean_environment(&mut command);
        self.account.apply(&mut command);
        self.keeper.spawn(command).map_err(Error::io("start pgbouncer"))
    }

    fn end(&self, signals: &[(Signal, Duration)]) -> Result<(), Error> {
        let mut child = self.child();
        let Some(running) = child.as_mut() else { return Ok(()) };
        for (signal, within) in signals {
            if server::stop(running, *signal, *within)?.is_some() {
                *child = None;
                return Ok(());
            }
        }
        Err(Error::DoesNotEnd(running.id()))
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // Nothing is left to do for a process that even SIGKILL does not end.
        let _ = self.end(&[(Signal::SIGTERM, STOP_WITHIN), (Signal::SIGKILL, STOP_WITHIN)]);
    }
}

fn configuration(dir: &Path, server: u16, port: u16, options: &PgBouncerOptions) -> Result<String, Error> {
    let pool_mode = match options.pool_mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
        PoolMode::Statement => "statement",
    };
    // Roles that the file of users lacks are asked for at the server.
    let mut text = format!(
        "[databases]\n* = host=127.0.0.1 port={server} auth_user=postgres\n\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {users}\n\
         auth_query = SELECT rolname, coalesce(rolpassword, '') FROM pg_catalog.pg_authid WHERE rolname = $1\n\
         admin_users = postgres\nmax_client_conn = 1000\nserver_login_retry = 1\npool_mode = {pool_mode}\n\
         default_pool_size = {size}\n",
        users = dir.join("userlist.txt").display(),
        size = options.default_pool_size,
    );
    for (name, value) in &options.extra_settings {
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') || value.contains('\n') {
            return Err(Error::SettingName(name.clone()));
        }
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name} = {value}");
    }
    Ok(text)
}

fn find() -> Option<PathBuf> {
    // Debian keeps it where only root's PATH looks.
    which::which("pgbouncer")
        .ok()
        .or_else(|| Some(PathBuf::from("/usr/sbin/pgbouncer")).filter(|path| path.is_file()))
}

fn find_or_install() -> Result<PathBuf, Error> {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _one = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(program) = find() {
        return Ok(program);
    }
    install::pgbouncer()?;
    find().ok_or(Error::PoolerNotFound)
}
