//! Opens the provider that a command works with.
//!
//! Invariant: only `schema install` and the demo change a schema; everything else refuses one that is not as expected.

use std::sync::Arc;

use duroxide::Client;
use steadfast::postgres::{InstanceDetail, Migrations, PostgresProvider};

use crate::{cli::Globals, error::CliError};

/// A command makes one call after the other, or a few at once.
const POOL_SIZE: usize = 2;

/// The store that the options name; its schema must be installed.
pub(crate) async fn open(globals: &Globals) -> Result<Store, CliError> {
    open_with(globals, Migrations::Verify).await
}

/// As [`open`], or installing the schema.
pub(crate) async fn open_with(globals: &Globals, migrations: Migrations) -> Result<Store, CliError> {
    let provider = PostgresProvider::builder(globals.database_url()?)
        .schema(&globals.schema)
        .pool_size(POOL_SIZE)
        .migrations(migrations)
        .application_name("steadfast")
        .connect()
        .await?;
    Ok(Store { provider })
}

/// An open store.
pub(crate) struct Store {
    pub(crate) provider: PostgresProvider,
}

impl Store {
    /// duroxide's client on this store.
    pub(crate) fn client(&self) -> Client {
        Client::new(Arc::new(self.provider.clone()))
    }

    /// The instance, or [`CliError::NoInstance`].
    pub(crate) async fn instance(&self, id: &str) -> Result<InstanceDetail, CliError> {
        let found = self.provider.instance(id).await?;
        found.ok_or_else(|| CliError::NoInstance(id.to_owned(), self.provider.schema().to_owned()))
    }

    /// Ends the connections.
    pub(crate) async fn close(self) {
        self.provider.close().await;
    }
}
