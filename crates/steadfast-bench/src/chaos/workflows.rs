//! The mix of workflows, and what each of them must come to.
//!
//! Invariant: an instance's id tells its kind and number, and with them its result; orchestrations touch the world through
//! activities only, and every activity writes its begin and end into the ledger.

use std::sync::Arc;
use std::time::Duration;

use duroxide::runtime::registry::ActivityRegistry;
use duroxide::{ActivityContext, OrchestrationContext, OrchestrationRegistry};
use serde::{Deserialize, Serialize};

use super::ledger::{Ask, Fact, Ledger};

/// What an instance does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Five activities at once.
    Fan,
    /// Four activities, one after the other.
    Chain,
    /// Two timers, then an activity.
    Timers,
    /// Collects what comes in its queue until told to end.
    Signals,
    /// Three children of two activities each.
    Sub,
    /// Five executions, an activity in each.
    Loop,
    /// Three activities of one session.
    Session,
    /// Counts to six in a key-value, over two executions.
    Count,
    /// Waits with a child until it is cancelled.
    Cancelled,
    /// An activity that fails twice, then succeeds.
    Retry,
    /// Waits with children until it is deleted.
    Doomed,
    /// Eight executions, pruned meanwhile.
    Pruned,
}

/// All kinds, with how often each is started.
pub(crate) const KINDS: [(Kind, &str, usize); 12] = [
    (Kind::Fan, "fan", 4),
    (Kind::Chain, "chain", 4),
    (Kind::Timers, "timers", 3),
    (Kind::Signals, "signals", 4),
    (Kind::Sub, "sub", 3),
    (Kind::Loop, "loop", 2),
    (Kind::Session, "session", 2),
    (Kind::Count, "count", 3),
    (Kind::Cancelled, "cancelled", 1),
    (Kind::Retry, "retry", 2),
    (Kind::Doomed, "doomed", 1),
    (Kind::Pruned, "pruned", 1),
];

/// Executions of [`Kind::Loop`].
const ROUNDS: u64 = 5;
/// Executions of [`Kind::Pruned`].
const PRUNED_ROUNDS: u64 = 8;
/// What ends the collecting.
pub(crate) const END: &str = "end";
/// The queue's name.
const QUEUE: &str = "orders";

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        KINDS
            .iter()
            .find(|(kind, ..)| *kind == self)
            .map_or("", |(_, name, _)| name)
    }

    /// The kind that an id of a root instance tells, and its number.
    pub(crate) fn of(instance: &str) -> Option<(Self, u64)> {
        let mut parts = instance.split('-');
        let (_client, number, name) = (parts.next()?, parts.next()?, parts.next()?);
        let kind = KINDS.iter().find(|(_, known, _)| *known == name)?.0;
        (parts.next().is_none() && !instance.contains("::")).then_some((kind, number.parse().ok()?))
    }

    /// What clients do with it, in order.
    pub(crate) fn script(self, number: u64) -> Vec<(Ask, String)> {
        let mut script = vec![(Ask::Start, String::new())];
        match self {
            Self::Signals => {
                let count = 2 + number % 4;
                script.extend((0..count).map(|n| (Ask::Signal, format!("order {n}"))));
                script.push((Ask::Signal, END.to_owned()));
            }
            Self::Cancelled => script.push((Ask::Cancel, String::new())),
            Self::Doomed => script.push((Ask::Delete, String::new())),
            Self::Pruned => script.extend((0..2).map(|n| (Ask::Prune, n.to_string()))),
            _ => {}
        }
        script
    }

    /// What it must come to; `None` where that is not one text.
    pub(crate) fn output(self, number: u64) -> Option<String> {
        let sum = |count: u64| (0..count).map(|n| value(number, n)).sum::<u64>().to_string();
        Some(match self {
            Self::Fan => sum(5),
            Self::Chain => sum(4),
            Self::Timers => sum(1),
            Self::Sub => (3 * (value(number, 0) + value(number, 1))).to_string(),
            Self::Loop => sum(ROUNDS),
            Self::Session => sum(3),
            Self::Count => "6".to_owned(),
            Self::Retry => sum(1),
            Self::Pruned => sum(PRUNED_ROUNDS),
            Self::Signals | Self::Cancelled | Self::Doomed => return None,
        })
    }
}

/// What an activity makes of its input.
fn value(number: u64, step: u64) -> u64 {
    number * 31 + step * 7 + 1
}

/// What an activity is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Work {
    number: u64,
    /// Tells it from the others of its instance.
    step: u64,
    /// Fails in this attempt.
    fails: bool,
}

/// What an orchestration is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Job {
    number: u64,
    round: u64,
    sum: u64,
}

/// The input of a root instance.
pub(crate) fn input(number: u64) -> String {
    text(&Job {
        number,
        round: 0,
        sum: 0,
    })
}

fn text<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn job(input: &str) -> Result<Job, String> {
    serde_json::from_str(input).map_err(|error| error.to_string())
}

/// The activities, which write to this ledger.
pub(crate) fn activities(ledger: Arc<Ledger>) -> ActivityRegistry {
    let work = move |context: ActivityContext, input: String| {
        let ledger = Arc::clone(&ledger);
        async move {
            let work: Work = serde_json::from_str(&input).map_err(|error| error.to_string())?;
            let instance = context.instance_id().to_owned();
            let activity = format!("{}/{}", context.execution_id(), work.step);
            ledger.note(Fact::Began {
                instance: instance.clone(),
                activity: activity.clone(),
            });
            // Mostly short; now and then longer than a lease, so that it must be renewed.
            let long = work.number.is_multiple_of(97) && work.step == 0;
            let time_ms = if long {
                6_500
            } else {
                1 + (work.number * 13 + work.step * 5) % 30
            };
            tokio::time::sleep(Duration::from_millis(time_ms)).await;
            ledger.note(Fact::Finished { instance, activity });
            if work.fails {
                return Err("not yet".to_owned());
            }
            Ok(value(work.number, work.step % 100).to_string())
        }
    };
    ActivityRegistry::builder().register("Work", work).build()
}

async fn step(context: &OrchestrationContext, number: u64, step: u64) -> Result<u64, String> {
    let work = Work {
        number,
        step,
        fails: false,
    };
    let done = context.schedule_activity("Work", text(&work)).await?;
    done.parse().map_err(|_| format!("not a number: {done}"))
}

async fn steps(context: &OrchestrationContext, number: u64, count: u64) -> Result<String, String> {
    let mut sum = 0;
    for n in 0..count {
        sum += step(context, number, n).await?;
    }
    Ok(sum.to_string())
}

async fn fan(context: OrchestrationContext, input: String) -> Result<String, String> {
    let number = job(&input)?.number;
    let work = |step| {
        text(&Work {
            number,
            step,
            fails: false,
        })
    };
    let futures = (0..5)
        .map(|step| context.schedule_activity("Work", work(step)))
        .collect();
    let mut sum = 0;
    for done in context.join(futures).await {
        sum += done?.parse::<u64>().map_err(|error| error.to_string())?;
    }
    Ok(sum.to_string())
}

async fn chain(context: OrchestrationContext, input: String) -> Result<String, String> {
    steps(&context, job(&input)?.number, 4).await
}

async fn child(context: OrchestrationContext, input: String) -> Result<String, String> {
    steps(&context, job(&input)?.number, 2).await
}

async fn timers(context: OrchestrationContext, input: String) -> Result<String, String> {
    let number = job(&input)?.number;
    context.schedule_timer(Duration::from_millis(20 + number % 300)).await;
    context.schedule_timer(Duration::from_millis(10 + number % 1_100)).await;
    steps(&context, number, 1).await
}

async fn signals(context: OrchestrationContext, _input: String) -> Result<String, String> {
    let mut seen = Vec::new();
    loop {
        let data = context.dequeue_event(QUEUE).await;
        if data == END {
            return Ok(text(&seen));
        }
        seen.push(data);
    }
}

async fn sub(context: OrchestrationContext, input: String) -> Result<String, String> {
    let children = (0..3)
        .map(|_| context.schedule_sub_orchestration("child", input.clone()))
        .collect();
    let mut sum = 0;
    for done in context.join(children).await {
        sum += done?.parse::<u64>().map_err(|error| error.to_string())?;
    }
    Ok(sum.to_string())
}

async fn rounds(context: OrchestrationContext, input: String, count: u64) -> Result<String, String> {
    let Job { number, round, sum } = job(&input)?;
    let sum = sum + step(&context, number, round).await?;
    if round + 1 == count {
        return Ok(sum.to_string());
    }
    context
        .continue_as_new(text(&Job {
            number,
            round: round + 1,
            sum,
        }))
        .await
}

async fn session(context: OrchestrationContext, input: String) -> Result<String, String> {
    let number = job(&input)?.number;
    let session = format!("session-{}", number % 5);
    let mut sum = 0;
    for step in 0..3 {
        let work = text(&Work {
            number,
            step,
            fails: false,
        });
        let done = context
            .schedule_activity_on_session("Work", work, session.clone())
            .await?;
        sum += done.parse::<u64>().map_err(|error| error.to_string())?;
    }
    Ok(sum.to_string())
}

async fn count(context: OrchestrationContext, input: String) -> Result<String, String> {
    let Job { number, round, .. } = job(&input)?;
    for n in 0..3 {
        step(&context, number, round * 3 + n).await?;
        let count = context.get_kv_value("count").map_or(Ok(0), |text| text.parse::<u64>());
        let count = count.map_err(|error| error.to_string())? + 1;
        context.set_kv_value("count", count.to_string());
    }
    if round == 0 {
        return context
            .continue_as_new(text(&Job {
                number,
                round: 1,
                sum: 0,
            }))
            .await;
    }
    Ok(context.get_kv_value("count").unwrap_or_default())
}

async fn waits(context: OrchestrationContext, input: String) -> Result<String, String> {
    let _child = context.schedule_sub_orchestration("waiting", input).await;
    Ok("nobody cancelled it".to_owned())
}

async fn retry(context: OrchestrationContext, input: String) -> Result<String, String> {
    let number = job(&input)?.number;
    for attempt in 0..3 {
        let work = Work {
            number,
            step: attempt * 100,
            fails: attempt < 2,
        };
        match context.schedule_activity("Work", text(&work)).await {
            Ok(done) => return Ok(done),
            Err(error) if error.contains("not yet") => {
                context.schedule_timer(Duration::from_millis(25)).await;
            }
            Err(error) => return Err(error),
        }
    }
    Err("three attempts were not enough".to_owned())
}

/// The orchestrations.
pub(crate) fn orchestrations() -> OrchestrationRegistry {
    let waiting = |context: OrchestrationContext, _input: String| async move {
        Ok::<String, String>(context.dequeue_event("never").await)
    };
    OrchestrationRegistry::builder()
        .register("fan", fan)
        .register("chain", chain)
        .register("child", child)
        .register("timers", timers)
        .register("signals", signals)
        .register("sub", sub)
        .register("loop", |context, input| rounds(context, input, ROUNDS))
        .register("session", session)
        .register("count", count)
        .register("cancelled", waits)
        .register("waiting", waiting)
        .register("retry", retry)
        .register("doomed", waits)
        .register("pruned", |context, input| rounds(context, input, PRUNED_ROUNDS))
        .build()
}

/// Where clients put what [`Kind::Signals`] collects.
pub(crate) fn queue() -> &'static str {
    QUEUE
}
