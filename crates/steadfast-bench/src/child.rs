//! The measured process: takes orders from its standard input until it is told to close or the input ends.
//!
//! Invariant: nothing but answers goes to the standard output.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use duroxide::providers::Provider;
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};

use crate::protocol::{Answer, Order, Scenario, Task};
use crate::scenario::Stage;

/// Orchestrations of a warm-up.
const WARM_UP: usize = 20;

/// Serves one store: `open` makes the provider from a URL or path and a schema.
///
/// # Errors
/// When the input is no order, or the output is closed.
pub async fn serve<F, O>(open: F) -> Result<()>
where
    F: Fn(String, String) -> O,
    O: Future<Output = Result<Arc<dyn Provider>>>,
{
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    let Some(Order::Open {
        store,
        schema,
        slots,
        warm_up,
    }) = next(&mut orders).await?
    else {
        bail!("the first order must be to open a store");
    };
    let stage = match open(store, schema).await {
        Ok(provider) => Stage::start(provider, slots).await,
        Err(error) => return answer(&failed(&error)),
    };
    let mut activities = 0;
    if warm_up {
        let task = Task {
            scenario: Scenario::FanOut { payload: 0 },
            count: WARM_UP,
        };
        match stage.run(&task).await {
            Ok(measure) => activities = measure.activities,
            Err(error) => return answer(&failed(&error)),
        }
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    answer(&Answer::Ready { activities })?;
    while let Some(order) = next(&mut orders).await? {
        match order {
            Order::Run(task) => match stage.run(&task).await {
                Ok(measure) => answer(&Answer::Done(measure))?,
                Err(error) => answer(&failed(&error))?,
            },
            Order::Close => {
                stage.stop().await;
                return answer(&Answer::Closed);
            }
            Order::Open { .. } => bail!("a store is open already"),
        }
    }
    Ok(())
}

async fn next(orders: &mut Lines<BufReader<Stdin>>) -> Result<Option<Order>> {
    let Some(line) = orders.next_line().await? else {
        return Ok(None);
    };
    serde_json::from_str(&line).map(Some).context("not an order")
}

fn failed(error: &anyhow::Error) -> Answer {
    Answer::Failed {
        reason: format!("{error:#}"),
    }
}

fn answer(answer: &Answer) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, answer)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}
