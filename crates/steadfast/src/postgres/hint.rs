//! What a hint is on its way: the channel, the words, and the statement that sends them, if anybody waits.
//!
//! Invariant: a hint is sent in a transaction of its own, which nobody waits for to become durable.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::listen::Topic;

/// Where the processes of one schema hear of each other.
#[derive(Debug, Clone)]
pub(crate) struct Channel {
    pub(crate) name: String,
    /// First key of the advisory locks that say who waits.
    pub(crate) lock_class: i32,
}

impl Channel {
    pub(crate) fn of(quoted_schema: &str) -> Self {
        let digest = Sha256::digest(quoted_schema.as_bytes());
        let hex: String = digest.iter().take(12).map(|b| format!("{b:02x}")).collect();
        Self {
            name: format!("steadfast_{hex}"),
            lock_class: i32::from_be_bytes([digest[12], digest[13], digest[14], digest[15]]),
        }
    }
}

/// Something that others should look at.
#[derive(Debug)]
pub(crate) struct Hint {
    channel: Channel,
    lock_ids: Vec<i32>,
    words: Vec<String>,
}

impl Hint {
    /// Of these topics, each due after its delay.
    pub(crate) fn of(channel: &Channel, topics: impl IntoIterator<Item = (Topic, Duration)>) -> Self {
        let (lock_ids, words) = topics
            .into_iter()
            .map(|(topic, delay)| (topic.lock_id(), format!("{}{}", topic.letter(), delay.as_millis())))
            .unzip();
        Self {
            channel: channel.clone(),
            lock_ids,
            words,
        }
    }

    /// Tells the others who wait, in one statement and only if there are any: an exclusive try-lock fails exactly
    /// when another connection holds the topic's lock shared. (A topic without a lock is for everybody.) Returns how many
    /// words went out.
    pub(crate) async fn send(&self, client: &Client) -> Result<usize, tokio_postgres::Error> {
        let rows = client
            .query_typed(
                "SELECT pg_notify($1, w.word)::text, set_config('synchronous_commit', 'off', true) \
                 FROM unnest($2::int[], $3::text[]) AS w(id, word) \
                 WHERE w.id = 0 OR NOT pg_try_advisory_xact_lock($4, w.id)",
                &[
                    (&self.channel.name, Type::TEXT),
                    (&self.lock_ids, Type::INT4_ARRAY),
                    (&self.words, Type::TEXT_ARRAY),
                    (&self.channel.lock_class, Type::INT4),
                ],
            )
            .await?;
        metrics::counter!("steadfast_hints_sent_total").increment(rows.len() as u64);
        Ok(rows.len())
    }
}

/// A hint that follows a call at once, on the same connection and in the same flight: whoever has the call's answer may end
/// without another word.
#[derive(Debug)]
pub(crate) struct Behind {
    pub(crate) hint: Hint,
    sent: AtomicBool,
}

impl Behind {
    pub(crate) fn new(hint: Hint) -> Self {
        Self {
            hint,
            sent: AtomicBool::new(false),
        }
    }

    pub(crate) async fn send(&self, client: &Client) {
        match self.hint.send(client).await {
            Ok(_) => self.sent.store(true, Ordering::Release),
            // The call's own answer says what there is to say; the listener tries again.
            Err(error) => tracing::debug!(target: "steadfast", %error, "a hint was not sent along with its call"),
        }
    }

    /// Whether others have been told.
    pub(crate) fn was_sent(&self) -> bool {
        self.sent.load(Ordering::Acquire)
    }
}
