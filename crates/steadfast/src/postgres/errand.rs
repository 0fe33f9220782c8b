//! Work on a connection of its own, outside the pool: opening, cleaning up.
//!
//! Invariant: it ends. Every wait has a limit by the clock, which a server that sends notices for ever does not extend, and
//! whatever way the work ends, dropped futures included, its connection is closed.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio_util::task::AbortOnDropHandle;

use super::builder::{OpenError, OpenErrorKind};
use super::connector::Connector;
use super::error::StoreError;
use super::store::later;
use super::target::{Connected, Messages};

/// How long a server may take to say good-bye.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long the steps of opening may take once a server has let us in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    limit: Duration,
    /// When the server must have answered everything that is asked, until an install begins or since one has ended.
    checks: Instant,
    /// How long an install may take, waiting for another installer included.
    pub(crate) install: Duration,
}

impl Patience {
    /// The clock of the checks starts now.
    pub(crate) fn begin(limit: Duration, install: Duration) -> Self {
        Self {
            limit,
            checks: later(limit),
            install,
        }
    }

    /// A step of the checks.
    pub(crate) async fn check<T>(&self, step: impl Future<Output = Result<T, OpenError>>) -> Result<T, OpenError> {
        match tokio::time::timeout_at(self.checks.into(), step).await {
            Ok(result) => result,
            Err(_) => Err(silent(self.limit, "the connection was opened")),
        }
    }

    /// An install, which knows how long it may take. What is checked after it has a time of its own.
    pub(crate) async fn installing<T>(
        &mut self,
        step: impl Future<Output = Result<T, OpenError>>,
    ) -> Result<T, OpenError> {
        // Where the server answers, its word comes first.
        let installed = tokio::time::timeout(self.install.saturating_add(self.limit), step).await;
        self.checks = later(self.limit);
        match installed {
            Ok(result) => result,
            Err(_) => Err(silent(self.install, "an install had begun")),
        }
    }

    /// All of opening after the server has let us in. The steps end earlier by themselves, with better words; this is for
    /// what forgets its own limit.
    pub(crate) fn whole(limit: Duration, install: Duration) -> Duration {
        limit.saturating_add(limit).saturating_add(install)
    }
}

fn silent(limit: Duration, after: &str) -> OpenError {
    OpenError::new(
        OpenErrorKind::Unreachable,
        format!(
            "{after}, then the server gave no answer within {} s",
            limit.as_secs_f64()
        ),
    )
}

/// Polls a connection in the background, for as long as the handle lives.
pub(crate) fn drive(mut messages: Messages) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(
        async move { while let Some(Ok(_)) = messages.next().await {} },
    ))
}

/// Runs `work` on a connection of its own, for `limit` at most.
pub(crate) async fn with_connection<T, E: From<StoreError>>(
    connector: &Connector,
    limit: Duration,
    work: impl AsyncFnOnce(&mut tokio_postgres::Client) -> Result<T, E>,
) -> Result<T, E> {
    let Connected {
        mut client, messages, ..
    } = connector.connect().await?;
    let driver = drive(messages);
    let result = match tokio::time::timeout(limit, work(&mut client)).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::Timeout(limit).into()),
    };
    drop(client);
    // The driver ends when the server has been told good-bye; after this, whatever the server does.
    let _ = tokio::time::timeout(GOODBYE, driver).await;
    result
}
