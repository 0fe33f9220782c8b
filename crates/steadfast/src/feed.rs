//! The change feed: what happens to instances, in one dense order, to be followed from any process at its own pace.
//!
//! Invariants: sequences are dense and strictly increasing; a reader that is handed `n` was handed everything before it
//! that its filter admits, or an error that says what is missing; nothing here depends on the engine.
//!
//! A [`Feed`] is opened from a provider, or read-only from a URL or a file; a [`ChangePoller`] reads it from a place of
//! its own.
//!
//! ```no_run
//! # async fn run(provider: steadfast::postgres::PostgresProvider) -> Result<(), steadfast::feed::FeedError> {
//! use std::time::Duration;
//! use steadfast::feed::{ChangePoller, Filter};
//!
//! let feed = provider.feed();
//! let mut poller = ChangePoller::from_now(&feed).await?;
//! poller.with_filter(Filter::new().prefix("order-"));
//! loop {
//!     let batch = poller.poll().await?;
//!     for event in &batch.events {
//!         println!("{} {} {}", event.sequence, event.instance, event.kind);
//!     }
//!     if batch.caught_up {
//!         poller.wait(Duration::from_secs(60)).await;
//!     }
//! }
//! # }
//! ```

mod await_change;
mod bell;
mod cursor;
mod error;
mod event;
mod filter;
mod kind;
mod poller;
mod snapshot;
mod source;
mod token;

pub use await_change::{wait_for_completion, wait_for_custom_status, wait_for_kv};
pub(crate) use bell::Bell;
pub use cursor::NamedCursor;
pub use error::FeedError;
pub use event::{Batch, Event};
pub use filter::Filter;
pub(crate) use kind::recorded;
pub use kind::{Kind, Level};
pub use poller::ChangePoller;
pub use snapshot::snapshot_then_follow;
pub use source::{CursorStatus, Feed, FeedStatus, Retention};
pub(crate) use source::{Page, Request, Row, Source, Stretch};
pub use token::{InvalidFeedToken, Token};
