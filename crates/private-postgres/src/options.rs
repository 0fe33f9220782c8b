//! What a cluster is made with, and the configuration that follows; its invariant: the caller's settings come last, so
//! they win over ours.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use crate::{Binaries, Error};

/// How to make a [`Cluster`](crate::Cluster).
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster's folder is made under this one (`/tmp` where the server's user cannot reach it).
    pub parent_dir: PathBuf,
    /// `max_connections`.
    pub max_connections: u32,
    /// Whether commits are durable: `fsync`, `synchronous_commit` and `full_page_writes` all on, or all off.
    pub durable: bool,
    /// Preload `pg_stat_statements` where the installation has it.
    pub stat_statements: bool,
    /// Further settings, as for `postgresql.conf`; they win over the above.
    pub extra_settings: Vec<(String, String)>,
    /// Variables for the server's environment, such as `LD_PRELOAD`; `initdb` does not get them.
    pub environment: Vec<(String, String)>,
}

impl Options {
    /// The defaults: 300 connections, durable, `pg_stat_statements` loaded where there is one.
    pub fn under(parent_dir: impl Into<PathBuf>) -> Self {
        Self {
            parent_dir: parent_dir.into(),
            max_connections: 300,
            durable: true,
            stat_statements: true,
            extra_settings: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// Adds one setting.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.extra_settings.push((name.into(), value.into()));
        self
    }

    /// Adds one variable to the server's environment.
    #[must_use]
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The lines for `postgresql.conf`. The port is not among them: it is chosen later and given as an argument.
    pub(crate) fn configuration(&self, binaries: &Binaries, socket_dir: &Path) -> Result<String, Error> {
        let durable = if self.durable { "on" } else { "off" };
        let mut settings: Vec<(&str, String)> = vec![
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("unix_socket_directories", socket_dir.display().to_string()),
            ("max_connections", self.max_connections.to_string()),
            ("fsync", durable.to_owned()),
            ("synchronous_commit", durable.to_owned()),
            ("full_page_writes", durable.to_owned()),
            ("timezone", "UTC".to_owned()),
            ("log_timezone", "UTC".to_owned()),
        ];
        if self.stat_statements && binaries.has_library("pg_stat_statements") {
            settings.push(("shared_preload_libraries", "pg_stat_statements".to_owned()));
        }
        let extra = self
            .extra_settings
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()));
        let mut text = String::from("\n# private-postgres\n");
        for (name, value) in settings.into_iter().chain(extra) {
            if name.is_empty()
                || !name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
            {
                return Err(Error::SettingName(name.to_owned()));
            }
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name} = '{}'", quote(&value));
        }
        Ok(text)
    }
}

/// Escapes a value for between single quotes in `postgresql.conf`.
fn quote(value: &str) -> String {
    value.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted() {
        assert_eq!(quote("it's a \\ and\na line"), "it''s a \\\\ and\\na line");
    }
}
