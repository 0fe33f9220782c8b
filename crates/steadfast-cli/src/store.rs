//! Opens the provider that a command works with, on either engine.
//!
//! Invariant: only `schema install` and the demo make a store; everything else refuses one that is not as expected.

use std::{fmt, path::PathBuf, sync::Arc};

use duroxide::{Client, providers::Provider};
use steadfast::{
    embedded::EmbeddedProvider,
    feed::{Feed, Level},
    inspect::{Inspect, InstanceDetail},
    postgres::{Access, Migrations, PostgresProvider},
};

use crate::{cli::Globals, error::CliError};

/// A command makes one call after the other, or a few at once.
const POOL_SIZE: usize = 2;

/// Where a store is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a schema of a database.
    Database { url: String, schema: String },
    /// In a file.
    File(PathBuf),
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A URL may hold a password.
        f.write_str(&self.describe())
    }
}

impl Place {
    /// For people.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Database { schema, .. } => format!("schema {schema:?}"),
            Self::File(path) => format!("file {}", path.display()),
        }
    }
}

/// The store that the options name; it must be there. `access`: whether the role must be able to write.
pub(crate) async fn open(globals: &Globals, access: Access) -> Result<Store, CliError> {
    open_for(
        globals.place()?,
        Migrations::Verify,
        "steadfast",
        Some(POOL_SIZE),
        Level::default(),
        access,
    )
    .await
}

/// As [`open`], to work with it, or making it; `records`: what is done through it goes into the change feed at this level.
pub(crate) async fn open_with(
    place: Place,
    migrations: Migrations,
    application: &str,
    pool_size: Option<usize>,
    records: Level,
) -> Result<Store, CliError> {
    open_for(place, migrations, application, pool_size, records, Access::Work).await
}

/// As [`open_with`], for this purpose.
pub(crate) async fn open_for(
    place: Place,
    migrations: Migrations,
    application: &str,
    pool_size: Option<usize>,
    records: Level,
    access: Access,
) -> Result<Store, CliError> {
    let provider: Arc<dyn Inspect> = match &place {
        Place::Database { url, schema } => {
            let builder = PostgresProvider::builder(url)
                .schema(schema)
                .migrations(migrations)
                .feed(records)
                .access(access)
                .application_name(application);
            let builder = match pool_size {
                Some(size) => builder.pool_size(size),
                None => builder,
            };
            Arc::new(builder.connect().await?)
        }
        Place::File(path) => {
            if !matches!(migrations, Migrations::Apply) && !path.exists() {
                return Err(CliError::NoFile(path.clone()));
            }
            Arc::new(EmbeddedProvider::builder(path).feed(records).open().await?)
        }
    };
    Ok(Store { provider, place })
}

/// The change feed of the store that the options name; `writes`: what is done to it needs more than reading.
pub(crate) async fn open_feed(globals: &Globals, writes: bool) -> Result<Feed, CliError> {
    match globals.place()? {
        Place::Database { url, schema } => {
            let builder = PostgresProvider::builder(&url)
                .schema(schema)
                .application_name("steadfast")
                .pool_size(POOL_SIZE);
            Ok(builder.open_feed().await?)
        }
        Place::File(path) if !path.exists() => Err(CliError::NoFile(path)),
        Place::File(path) if writes => Ok(EmbeddedProvider::open(path).await?.feed()?),
        Place::File(path) => Ok(EmbeddedProvider::open_feed(path).await?),
    }
}

/// An open store.
pub(crate) struct Store {
    pub(crate) provider: Arc<dyn Inspect>,
    place: Place,
}

impl Store {
    /// The store as duroxide sees it.
    pub(crate) fn for_runtime(&self) -> Arc<dyn Provider> {
        Arc::clone(&self.provider) as Arc<dyn Provider>
    }

    /// duroxide's client on this store.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.for_runtime())
    }

    /// The instance, or [`CliError::NoInstance`].
    pub(crate) async fn instance(&self, id: &str) -> Result<InstanceDetail, CliError> {
        let found = self.provider.instance(id).await?;
        found.ok_or_else(|| CliError::NoInstance(id.to_owned(), self.place.describe()))
    }

    /// Ends the connections.
    pub(crate) async fn close(self) {
        self.provider.close().await;
    }
}
