//! A private server around one command; the invariant: the command gets the same variables whichever task runs it.

use std::process::Command;

use anyhow::{Context, Result, bail};
use private_postgres::{Binaries, Cluster, Error, Options};

use crate::{
    signals::Guard,
    workspace::{exit_code, target},
};

/// The server programs of this machine; installs them where they are missing and can be.
pub(crate) fn binaries() -> Result<Binaries> {
    if matches!(Binaries::find(), Err(Error::NotFound)) {
        eprintln!("xtask: no PostgreSQL server programs found; trying to install them by apt-get");
    }
    Ok(Binaries::find_or_install()?)
}

/// Starts a durable server: the tests crash it, and look for what was acknowledged.
pub(crate) fn start(binaries: Binaries) -> Result<Cluster> {
    let options = Options {
        max_connections: 400,
        ..Options::under(target().join("postgres"))
    };
    let cluster = Cluster::start_with(binaries, options.setting("shared_buffers", "128MB"))?;
    eprintln!("xtask: PostgreSQL {} at {}", cluster.server_version(), cluster.url());
    Ok(cluster)
}

/// Tells the command about the server.
pub(crate) fn tell(command: &mut Command, cluster: &Cluster) {
    let bin = cluster.binaries().dir();
    command
        .env("DATABASE_URL", cluster.url())
        .env("STEADFAST_POSTGRES_BIN", bin)
        // Whoever starts a cluster of its own below us gets the same version.
        .env("POSTGRES_BIN", bin);
}

/// `xtask postgres -- COMMAND`.
pub(crate) fn run_command(words: &[String]) -> Result<u8> {
    let Some((program, arguments)) = words.split_first() else {
        bail!("no command given")
    };
    let guard = Guard::install()?;
    let cluster = start(binaries()?)?;
    let mut command = Command::new(program);
    command.args(arguments);
    tell(&mut command, &cluster);
    let mut child = guard.start(&mut command)?;
    let status = guard.wait(&mut child).with_context(|| format!("{program} is lost"))?;
    Ok(exit_code(status))
}
