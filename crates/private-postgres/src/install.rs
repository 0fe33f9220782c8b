//! Installs Debian's packages; its invariant: it only adds programs, and starts nothing of the system's own.

use std::{fs, io::Write, os::unix::fs::PermissionsExt, path::Path, process::Command};

use nix::unistd::geteuid;

use crate::{Error, server::tail};

/// Debian's settings for the clusters that its packages create.
const CREATE_CLUSTER: &str = "/etc/postgresql-common/createcluster.conf";

/// Installs `postgresql`; [`Error::NotFound`] where we cannot.
pub(crate) fn by_apt() -> Result<(), Error> {
    if !geteuid().is_root() || which::which("apt-get").is_err() {
        return Err(Error::NotFound);
    }
    if !is_installed("postgresql-common") {
        refuse_main_cluster(Path::new(CREATE_CLUSTER)).map_err(Error::io(format!("write {CREATE_CLUSTER}")))?;
    }
    apt("apt-get update", &["-q", "update"])?;
    let install = [
        "-q",
        "-y",
        "-o",
        "DPkg::Lock::Timeout=300",
        "install",
        "--no-install-recommends",
        "postgresql",
    ];
    apt("apt-get install", &install)
}

/// Installs `pgbouncer`; [`Error::PoolerNotFound`] where we cannot.
pub(crate) fn pgbouncer() -> Result<(), Error> {
    if !geteuid().is_root() || which::which("apt-get").is_err() {
        return Err(Error::PoolerNotFound);
    }
    let _quiet = NoServices::begin(Path::new(POLICY)).map_err(Error::io(format!("write {POLICY}")))?;
    apt("apt-get update", &["-q", "update"])?;
    let install = [
        "-q",
        "-y",
        "-o",
        "DPkg::Lock::Timeout=300",
        "install",
        "--no-install-recommends",
        "pgbouncer",
    ];
    apt("apt-get install", &install)
}

/// Where Debian's packages ask whether they may start a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// While this lives, no package that is installed starts its service; an administrator's own policy stays as it is.
struct NoServices<'a>(Option<&'a Path>);

impl<'a> NoServices<'a> {
    fn begin(policy: &'a Path) -> std::io::Result<Self> {
        let mut file = match fs::File::create_new(policy) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(Self(None)),
            Err(error) => return Err(error),
        };
        let made = Self(Some(policy));
        file.write_all(b"#!/bin/sh\n# Written by private-postgres while it installs a package.\nexit 101\n")?;
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
        Ok(made)
    }
}

impl Drop for NoServices<'_> {
    fn drop(&mut self) {
        if let Some(policy) = self.0 {
            let _ = fs::remove_file(policy);
        }
    }
}

/// Tells Debian's packages to create no cluster `main`, which they would start, on port 5432, at every boot.
///
/// Only an administrator of this machine can want that cluster, and has then said so in this file: an existing file
/// stays as it is.
fn refuse_main_cluster(config: &Path) -> std::io::Result<()> {
    if let Some(dir) = config.parent() {
        fs::create_dir_all(dir)?;
    }
    match fs::File::create_new(config) {
        Ok(mut file) => {
            file.write_all(b"# Written by private-postgres: its clusters are its own.\ncreate_main_cluster = false\n")
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["--show", "--showformat=${Status}", package])
        .output()
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).ends_with(" installed"))
}

fn apt(step: &'static str, arguments: &[&str]) -> Result<(), Error> {
    let output = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Our own createcluster.conf is not a conflict to ask about.
        .env("UCF_FORCE_CONFFOLD", "1")
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(Error::io(format!("run {step}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(Error::Install {
        step,
        detail: format!("{}\n{}", output.status, tail(&said)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_cluster_configuration_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("postgresql-common/createcluster.conf");
        refuse_main_cluster(&config).unwrap();
        assert!(
            fs::read_to_string(&config)
                .unwrap()
                .contains("\ncreate_main_cluster = false\n")
        );
        fs::write(&config, "mine").unwrap();
        refuse_main_cluster(&config).unwrap();
        assert_eq!(fs::read_to_string(&config).unwrap(), "mine");
    }
}
