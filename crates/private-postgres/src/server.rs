//! One run of the server process; its invariant: `postgres` itself is our child, so its end is seen and its id is ours.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    net::{Ipv4Addr, TcpStream},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{Binaries, Error, account::Account, home::Home, keeper::Keeper};

const READY_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
/// What a server says in its log when it cannot start yet.
const BUSY: [&str; 3] = [
    "could not create any TCP/IP sockets",
    "Address already in use",
    "pre-existing shared memory block",
];
const TAIL_BYTES: usize = 4_000;

/// Why a start failed, as far as the caller acts on it.
pub(crate) enum Failure {
    /// Another process has the port, or a killed server's last processes still have its memory: that passes.
    Busy(Error),
    /// All else.
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Runs `initdb`: trust authentication, UTF-8, C locale, superuser `postgres`.
pub(crate) fn initdb(binaries: &Binaries, account: Account, home: &Home) -> Result<(), Error> {
    let mut command = Command::new(binaries.dir().join("initdb"));
    command
        .arg("--pgdata")
        .arg(home.data())
        .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale"])
        // Nobody keeps this folder: only what the server itself writes later needs to be durable.
        .args(["--no-sync", "--no-instructions"])
        .stdin(Stdio::null())
        .current_dir(home.dir());
    clean_environment(&mut command);
    account.apply(&mut command);
    let output = command.output().map_err(Error::io("run initdb"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Initdb(format!(
        "{}\n{}",
        output.status,
        tail(&[output.stdout, output.stderr].concat())
    )))
}

/// Starts `postgres` and waits until it takes connections.
pub(crate) fn start(
    binaries: &Binaries,
    account: Account,
    home: &Home,
    keeper: &Keeper,
    environment: &[(String, String)],
    port: u16,
) -> Result<Child, Failure> {
    let log_path = home.log();
    let naming = || Error::io(format!("open {}", log_path.display()));
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)
        .map_err(naming())?;
    let log_start = log.metadata().map_err(naming())?.len();
    let mut command = server_command(binaries, home, port);
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(naming())?)
        .stderr(log)
        .current_dir(home.dir());
    // A group of its own: Ctrl-C is for the owner, who stops the server when its clients are done.
    command.process_group(0);
    clean_environment(&mut command);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    account.apply(&mut command);
    let mut child = keeper.spawn(command).map_err(Error::io("start postgres"))?;
    match wait_until_ready(&mut child, home, port) {
        Ok(()) => Ok(child),
        Err(NotReady::Ended(status)) => {
            let log = log_since(&log_path, log_start);
            let busy = BUSY.iter().any(|message| log.contains(message));
            let error = Error::Startup { status, log };
            Err(if busy {
                Failure::Busy(error)
            } else {
                Failure::Other(error)
            })
        }
        Err(NotReady::Slow) => {
            let _ = child.kill();
            let _ = child.wait();
            let log = log_since(&log_path, log_start);
            Err(Failure::Other(Error::StartupTimeout {
                seconds: READY_WITHIN.as_secs(),
                log,
            }))
        }
    }
}

/// Sends the signal and waits; `Ok(None)` when the time is over.
pub(crate) fn stop(child: &mut Child, signal: Signal, within: Duration) -> Result<Option<ExitStatus>, Error> {
    let waiting = || Error::io("wait for postgres");
    // Whoever has been waited for has no process id any more: signal only what still runs.
    if let Some(status) = child.try_wait().map_err(waiting())? {
        return Ok(Some(status));
    }
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
    let end = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait().map_err(waiting())? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// Takes away what would lead a PostgreSQL program elsewhere, and makes its messages English.
pub(crate) fn clean_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("PG")) {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C");
}

/// The end of an output, for an error.
pub(crate) fn tail(output: &[u8]) -> String {
    let start = output.len().saturating_sub(TAIL_BYTES);
    String::from_utf8_lossy(output.get(start..).unwrap_or_default())
        .trim()
        .to_owned()
}

fn server_command(binaries: &Binaries, home: &Home, port: u16) -> Command {
    let postgres = binaries.dir().join("postgres");
    let arguments: [OsString; 4] = ["-D".into(), home.data().into(), "-p".into(), port.to_string().into()];
    // setpriv asks the kernel for the signal and becomes postgres: the process id stays. SIGINT is a fast shutdown.
    let setpriv = if cfg!(target_os = "linux") {
        which::which("setpriv").ok()
    } else {
        None
    };
    let mut command = match setpriv {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "INT"]).arg(postgres);
            command
        }
        None => Command::new(postgres),
    };
    command.args(arguments);
    command
}

enum NotReady {
    Ended(String),
    Slow,
}

fn wait_until_ready(child: &mut Child, home: &Home, port: u16) -> Result<(), NotReady> {
    let pid_file = home.data().join("postmaster.pid");
    let end = Instant::now() + READY_WITHIN;
    while Instant::now() < end {
        match child.try_wait() {
            Ok(Some(status)) => return Err(NotReady::Ended(status.to_string())),
            Err(error) => return Err(NotReady::Ended(error.to_string())),
            Ok(None) => {}
        }
        if says_ready(&pid_file, child.id()) && TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(());
        }
        thread::sleep(POLL);
    }
    Err(NotReady::Slow)
}

/// The first line of `postmaster.pid` is the process id (a crashed server leaves its own behind), the eighth the state.
fn says_ready(pid_file: &Path, pid: u32) -> bool {
    let Ok(text) = fs::read_to_string(pid_file) else {
        return false;
    };
    let mut lines = text.lines();
    lines.next().and_then(|line| line.parse().ok()) == Some(pid) && lines.nth(6).is_some_and(|s| s.trim() == "ready")
}

fn log_since(path: &Path, start: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_or_else(
        |error| format!("(cannot read {}: {error})", path.display()),
        |bytes| tail(&bytes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_believed_only_from_the_running_server() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("postmaster.pid");
        let text = |state: &str| format!("42\n/data\n1700000000\n20001\n/tmp\n127.0.0.1\n  1 2\n{state}\n");
        fs::write(&file, text("starting")).unwrap();
        assert!(!says_ready(&file, 42));
        fs::write(&file, text("ready   ")).unwrap();
        assert!(says_ready(&file, 42));
        assert!(!says_ready(&file, 43));
    }

    #[test]
    fn a_tail_is_short() {
        assert_eq!(tail(b" two words \n"), "two words");
        assert_eq!(tail(&vec![b'x'; 2 * TAIL_BYTES]).len(), TAIL_BYTES);
    }
}
