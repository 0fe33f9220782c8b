//! Opens the provider that a command works with, on either engine.
//!
//! Invariants: only `schema install`, the demo and a copy's target make a store; everything else refuses one that is not as
//! expected. What only reads opens a file read-only.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::ValueEnum;
use duroxide::{Client, providers::Provider};
use steadfast::{
    embedded::EmbeddedProvider,
    feed::{Feed, Level},
    inspect::{Inspect, InstanceDetail},
    postgres::{self, Builder, Migrations, PostgresProvider},
};

use crate::{cli::Globals, error::CliError, output};

/// A command makes one call after the other, or a few at once.
const POOL_SIZE: usize = 2;

/// What stands between the command and the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pooler {
    /// Nothing, or what passes everything on
    #[default]
    None,
    /// A pooler that gives each client a server for as long as it is connected
    Session,
    /// A pooler that gives a server for one transaction
    Transaction,
    /// A pooler that gives a server for one statement
    Statement,
}

impl Pooler {
    /// As the option takes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Session => "session",
            Self::Transaction => "transaction",
            Self::Statement => "statement",
        }
    }
}

/// How a database is to be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) pooler: Pooler,
    /// Roles that may own the schema although they are others.
    pub(crate) owners: Vec<String>,
}

/// Where a store is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a schema of a database.
    Database {
        url: String,
        schema: String,
        access: Access,
    },
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
    /// Settings for a provider of a schema.
    pub(crate) fn builder(url: &str, schema: &str, access: &Access) -> Builder {
        let pooled = matches!(access.pooler, Pooler::Transaction | Pooler::Statement);
        let builder = PostgresProvider::builder(url).schema(schema).transaction_pooler(pooled);
        access
            .owners
            .iter()
            .fold(builder, |builder, role| builder.trusted_owner(role))
    }

    /// For people.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Database { schema, .. } => format!("schema {schema:?}"),
            Self::File(path) => format!("file {}", path.display()),
        }
    }
}

/// The store that the options name, to write as well; it must be there.
pub(crate) async fn open(globals: &Globals) -> Result<Store, CliError> {
    open_there(globals.place()?, postgres::Access::Work).await
}

/// A store that must be there, for this purpose.
async fn open_there(place: Place, purpose: postgres::Access) -> Result<Store, CliError> {
    open_for(
        place,
        Migrations::Verify,
        "steadfast",
        Some(POOL_SIZE),
        Level::default(),
        purpose,
    )
    .await
}

/// As [`open`], for what only reads: nothing is written, and no right to write is needed.
pub(crate) async fn open_to_read(globals: &Globals) -> Result<Store, CliError> {
    match globals.place()? {
        Place::File(path) => look_at(path).await,
        place @ Place::Database { .. } => open_there(place, postgres::Access::Read).await,
    }
}

/// A file, to look into it.
pub(crate) async fn look_at(path: PathBuf) -> Result<Store, CliError> {
    let provider = look(&path).await?;
    Ok(Store {
        provider: Arc::new(provider),
        place: Place::File(path),
    })
}

async fn look(path: &Path) -> Result<EmbeddedProvider, CliError> {
    require_store(path)?;
    let provider = EmbeddedProvider::builder(path).open_read_only().await?;
    if provider.health().may_lack_its_log {
        output::warn(&format!(
            "{}: the file was not closed in order, and has no log beside it; a copy of an open file without its -wal lacks \
             the newest work",
            path.display()
        ));
    }
    Ok(provider)
}

/// Refuses what is not there, and an empty file, which would be made a store.
fn require_store(path: &Path) -> Result<(), CliError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(CliError::NoFile(path.to_owned())),
        Ok(meta) if meta.is_file() && meta.len() == 0 => Err(CliError::EmptyFile(path.to_owned())),
        // The library says what is wrong.
        _ => Ok(()),
    }
}

/// As [`open`], to work with it, or making it; `records`: what is done through it goes into the change feed at this level.
pub(crate) async fn open_with(
    place: Place,
    migrations: Migrations,
    application: &str,
    pool_size: Option<usize>,
    records: Level,
) -> Result<Store, CliError> {
    open_for(
        place,
        migrations,
        application,
        pool_size,
        records,
        postgres::Access::Work,
    )
    .await
}

/// As [`open_with`], for this purpose.
pub(crate) async fn open_for(
    place: Place,
    migrations: Migrations,
    application: &str,
    pool_size: Option<usize>,
    records: Level,
    purpose: postgres::Access,
) -> Result<Store, CliError> {
    let provider: Arc<dyn Inspect> = match &place {
        Place::Database { url, schema, access } => {
            let builder = Place::builder(url, schema, access)
                .migrations(migrations)
                .feed(records)
                .access(purpose)
                .application_name(application);
            let builder = match pool_size {
                Some(size) => builder.pool_size(size),
                None => builder,
            };
            Arc::new(builder.connect().await?)
        }
        Place::File(path) => {
            if !matches!(migrations, Migrations::Apply) {
                require_store(path)?;
            }
            Arc::new(EmbeddedProvider::builder(path).feed(records).open().await?)
        }
    };
    Ok(Store { provider, place })
}

/// The change feed of the store that the options name; `writes`: what is done to it needs more than reading.
pub(crate) async fn open_feed(globals: &Globals, writes: bool) -> Result<Feed, CliError> {
    match globals.place()? {
        Place::Database { url, schema, access } => {
            let builder = Place::builder(&url, &schema, &access)
                .application_name("steadfast")
                .pool_size(POOL_SIZE);
            Ok(builder.open_feed().await?)
        }
        Place::File(path) if writes => {
            require_store(&path)?;
            Ok(EmbeddedProvider::open(path).await?.feed()?)
        }
        Place::File(path) => Ok(look(&path).await?.feed()?),
    }
}

/// Removes a store that this command made.
pub(crate) async fn remove(place: &Place) -> Result<(), CliError> {
    match place {
        Place::Database { url, schema, access } => {
            let provider = Place::builder(url, schema, access).pool_size(1).connect().await?;
            let dropped = provider.cleanup_schema().await;
            provider.close().await;
            Ok(dropped?)
        }
        Place::File(path) => {
            // SQLite's companions go with their file; usually they have gone already.
            for suffix in ["-wal", "-shm"] {
                let mut companion = path.clone().into_os_string();
                companion.push(suffix);
                drop(std::fs::remove_file(companion));
            }
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(CliError::io(format!("remove {}", path.display()), error))
                }
                _ => Ok(()),
            }
        }
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
