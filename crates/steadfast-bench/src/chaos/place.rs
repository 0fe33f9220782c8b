//! Where the store of a run is, and how a process opens it.
//!
//! Invariant: every process opens the same store, and records all of its changes in the feed; only its faults are its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use steadfast::embedded::EmbeddedProvider;
use steadfast::feed::{Feed, Level};
use steadfast::inspect::Inspect;
use steadfast::postgres::{LongPoll, PostgresProvider};

/// A store's place.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Place {
    Postgres { url: String, schema: String },
    File(PathBuf),
}

/// What is particular about a process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Cache of histories; a small one makes a process read them again and again.
    pub(crate) cache_bytes: Option<usize>,
    /// Name that the server sees.
    pub(crate) application_name: Option<String>,
    /// How soon lost hints are made good; `None`: the default.
    pub(crate) fallback_ms: Option<u64>,
    /// Every hint is lost from the beginning.
    pub(crate) deaf: bool,
}

/// What can be done to an open store from inside the process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Inner {
    /// The process believes that it is so much later.
    SkewMs(i64),
    LoseHints(bool),
    DropListener,
}

/// An open store.
pub(crate) struct Opened {
    pub(crate) provider: Arc<dyn Inspect>,
    #[cfg(feature = "faults")]
    faults: steadfast::fault::Faults,
}

impl Opened {
    /// Makes the process fail from inside; without the feature `faults` nothing can be done.
    pub(crate) fn inflict(&self, inner: &Inner) {
        #[cfg(feature = "faults")]
        match inner {
            Inner::SkewMs(skew_ms) => self.faults.set_clock_skew_ms(*skew_ms),
            Inner::LoseHints(on) => self.faults.lose_hints(*on),
            Inner::DropListener => self.faults.drop_listener(),
        }
        #[cfg(not(feature = "faults"))]
        let _ = inner;
    }
}

impl Place {
    /// Opens the store once.
    pub(crate) async fn open(&self, settings: &Settings) -> Result<Opened> {
        #[cfg(feature = "faults")]
        let faults = {
            let faults = steadfast::fault::Faults::new();
            faults.lose_hints(settings.deaf);
            faults
        };
        let provider: Arc<dyn Inspect> = match self {
            Self::Postgres { url, schema } => {
                let mut builder = PostgresProvider::builder(url)
                    .schema(schema)
                    .pool_size(4)
                    // A run may plant a defect, which the checker must find by what it does.
                    .accept_changed_schema(true)
                    .feed(Level::History);
                if let Some(bytes) = settings.cache_bytes {
                    builder = builder.history_cache_bytes(bytes);
                }
                if let Some(name) = &settings.application_name {
                    builder = builder.application_name(name);
                }
                if let Some(ms) = settings.fallback_ms {
                    builder = builder.long_poll(LongPoll {
                        fallback_poll_interval: Duration::from_millis(ms),
                        ..LongPoll::default()
                    });
                }
                #[cfg(feature = "faults")]
                let builder = builder.faults(faults.clone());
                Arc::new(builder.connect().await?)
            }
            Self::File(path) => {
                let mut builder = EmbeddedProvider::builder(path)
                    .accept_changed_schema(true)
                    .feed(Level::History);
                if let Some(bytes) = settings.cache_bytes {
                    builder = builder.history_cache_bytes(bytes);
                }
                #[cfg(feature = "faults")]
                let builder = builder.faults(faults.clone());
                Arc::new(builder.open().await?)
            }
        };
        Ok(Opened {
            provider,
            #[cfg(feature = "faults")]
            faults,
        })
    }

    /// Opens the store's change feed alone, to read it.
    pub(crate) async fn open_feed(&self) -> Result<Feed> {
        Ok(match self {
            Self::Postgres { url, schema } => {
                let builder = PostgresProvider::builder(url).schema(schema).pool_size(1);
                let builder = builder.accept_changed_schema(true);
                builder.open_feed().await?
            }
            Self::File(path) => EmbeddedProvider::open_feed(path).await?,
        })
    }

    /// Opens the store, again and again until it is there.
    pub(crate) async fn open_patiently(&self, settings: &Settings) -> Result<Opened> {
        let mut tries = 0;
        loop {
            match self.open(settings).await {
                Ok(opened) => return Ok(opened),
                Err(error) if tries >= 600 => return Err(error),
                Err(_) => tries += 1,
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
