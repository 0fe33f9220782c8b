//! Waiting for work: a caller's place at the writer, and what it does with what it gets.
//!
//! Invariant: an item whose caller is gone goes back at once, without spending an attempt.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::claim::RawTurn;
use super::claim::work::RawWork;
use super::error::StoreError;
use super::op::abandon_orchestration_item::AbandonedTurn;
use super::op::abandon_work_item::AbandonedWork;
use super::op::fetch_orchestration_item::{self, ClaimedTurn};
use super::op::fetch_work_item::{self, ClaimedWork};
use super::store::Store;
use super::waiting::{Answer, Caller};
use crate::group::{TurnGroup, WorkGroup};
use crate::item::index_key;

/// Something that is claimed, and can be given back.
trait Claimed: Sized {
    fn give_back(self, store: &Store);
}

impl Claimed for RawTurn {
    fn give_back(self, store: &Store) {
        store.give_back_turn(AbandonedTurn::untouched(self.token));
    }
}

impl Claimed for RawWork {
    fn give_back(self, store: &Store) {
        store.give_back_work(AbandonedWork::untouched(self.token));
    }
}

/// A caller's place. Dropping it gives the place up, and gives back an item that came too late.
struct Ticket<'a, I: Claimed> {
    store: &'a Store,
    answered: oneshot::Receiver<Answer<I>>,
}

impl<I: Claimed> Ticket<'_, I> {
    async fn wait(&mut self, wait: Option<Duration>) -> Answer<I> {
        let Some(wait) = wait else {
            return (&mut self.answered).await.unwrap_or(Err(StoreError::Closed));
        };
        match tokio::time::timeout(wait, &mut self.answered).await {
            Ok(answer) => answer.unwrap_or(Err(StoreError::Closed)),
            // It may have been answered in this very moment.
            Err(_) => match (self.answered.try_recv(), self.store.trouble()) {
                (Ok(answer), _) => answer,
                (Err(_), Some(error)) => Err(error),
                (Err(_), None) => Ok(None),
            },
        }
    }
}

impl<I: Claimed> Drop for Ticket<'_, I> {
    fn drop(&mut self) {
        self.answered.close();
        if let Ok(Ok(Some(item))) = self.answered.try_recv() {
            item.give_back(self.store);
        }
    }
}

/// An instance for this dispatcher: at once or not at all without `wait`, otherwise within `wait`.
pub(crate) async fn turn(
    store: &Store,
    group: TurnGroup,
    wait: Option<Duration>,
) -> Result<Option<ClaimedTurn>, StoreError> {
    until_decoded(wait, async |left| {
        let (answer, answered) = oneshot::channel();
        let caller = Caller {
            group: group.clone(),
            seat: (),
            at_once: left.is_none(),
            keeps: false,
            answer,
        };
        store.want_turn(caller)?;
        let Some(raw) = Ticket { store, answered }.wait(left).await? else {
            return Ok(Fetched::Nothing);
        };
        let token = raw.token;
        Ok(match fetch_orchestration_item::decode(store, raw).await {
            Ok(Some(turn)) => Fetched::Item(turn),
            Ok(None) => Fetched::SetAside,
            Err(error) => {
                tracing::error!(target: "steadfast", %error, "a claimed instance could not be handed over");
                // Not at once: what failed in passing may need a moment.
                store.give_back_turn(AbandonedTurn {
                    delay: Some(Duration::from_millis(200)),
                    ..AbandonedTurn::untouched(token)
                });
                Fetched::SetAside
            }
        })
    })
    .await
}

/// An activity for this worker.
pub(crate) async fn work(
    store: &Store,
    group: WorkGroup,
    owner: &str,
    wait: Option<Duration>,
) -> Result<Option<ClaimedWork>, StoreError> {
    until_decoded(wait, async |left| {
        let (answer, answered) = oneshot::channel();
        let caller = Caller {
            group: group.clone(),
            seat: index_key(owner.as_bytes()),
            at_once: left.is_none(),
            keeps: group.session_lease_ms.is_some() && store.sessions.may_hold(owner),
            answer,
        };
        store.want_work(caller)?;
        let Some(raw) = Ticket { store, answered }.wait(left).await? else {
            return Ok(Fetched::Nothing);
        };
        Ok(
            match fetch_work_item::decode(store, raw, owner, group.session_lease_ms).await {
                Ok(Some(work)) => Fetched::Item(work),
                Ok(None) => Fetched::SetAside,
                // Its lease gives it back.
                Err(error) => {
                    tracing::error!(target: "steadfast", %error, "a claimed activity could not be handed over");
                    Fetched::SetAside
                }
            },
        )
    })
    .await
}

enum Fetched<T> {
    Item(T),
    Nothing,
    /// Something was there that could not be handed over: the caller goes on waiting.
    SetAside,
}

/// Fetches again while something is set aside and there is time.
async fn until_decoded<T, F>(
    wait: Option<Duration>,
    fetch: impl Fn(Option<Duration>) -> F,
) -> Result<Option<T>, StoreError>
where
    F: Future<Output = Result<Fetched<T>, StoreError>>,
{
    let begun = Instant::now();
    loop {
        let left = wait.map(|w| w.saturating_sub(begun.elapsed()));
        match fetch(left).await? {
            Fetched::Item(item) => return Ok(Some(item)),
            Fetched::Nothing => return Ok(None),
            Fetched::SetAside if left.is_none_or(|l| l.is_zero()) => return Ok(None),
            Fetched::SetAside => {}
        }
    }
}
