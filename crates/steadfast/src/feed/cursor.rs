//! Named cursors: a place that the store keeps.
//!
//! Invariant: a cursor is moved only by `commit`, to what had been handed out before; so what was handed out and not
//! committed comes again (at least once).

use super::error::FeedError;
use super::event::Batch;
use super::poller::ChangePoller;
use super::source::{CursorStatus, Feed};

/// Longest name in bytes.
const LONGEST_NAME: usize = 512;

/// A poller whose place is kept in the store under a name. Two readers of one name both get everything.
#[derive(Debug)]
pub struct NamedCursor {
    name: String,
    poller: ChangePoller,
}

impl NamedCursor {
    /// Where the cursor stands; one that nobody has committed yet begins where `fresh` stands. To be kept, trimming
    /// respects it from its first `commit` on.
    ///
    /// # Errors
    /// [`FeedError::CursorName`], or when the store cannot be read.
    pub async fn open(feed: &Feed, name: &str, fresh: ChangePoller) -> Result<Self, FeedError> {
        if name.is_empty() || name.len() > LONGEST_NAME || name.contains('\0') {
            return Err(FeedError::CursorName(name.to_owned()));
        }
        let status = feed.0.status(Some(name)).await?;
        let poller = match status.cursors.first() {
            Some(kept) => ChangePoller::from_token(feed, kept.token),
            None => fresh,
        };
        Ok(Self {
            name: name.to_owned(),
            poller,
        })
    }

    /// The poller: its limit, its filter, waiting.
    pub fn poller(&mut self) -> &mut ChangePoller {
        &mut self.poller
    }

    /// What comes next. To be called again only after the last batch was processed: [`commit`](Self::commit) keeps all
    /// that was handed out.
    ///
    /// # Errors
    /// As [`ChangePoller::poll`].
    pub async fn poll(&mut self) -> Result<Batch, FeedError> {
        self.poller.poll().await
    }

    /// Keeps the place: all that was handed out has been processed.
    ///
    /// # Errors
    /// [`FeedError::ReadOnly`] for a role that may not write cursors, or when the store cannot be written to.
    pub async fn commit(&mut self) -> Result<(), FeedError> {
        match self.poller.token() {
            Some(token) => self.poller.feed().0.commit(&self.name, token).await,
            None => Ok(()),
        }
    }

    /// Where the cursor stands in the store, and how far behind the end; `None` before its first `commit`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn status(&self) -> Result<Option<CursorStatus>, FeedError> {
        let status = self.poller.feed().0.status(Some(&self.name)).await?;
        Ok(status.cursors.into_iter().next())
    }
}
