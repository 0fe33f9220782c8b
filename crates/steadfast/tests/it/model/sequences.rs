//! Sequences of calls, one after the other, by several callers.

use std::cell::RefCell;
use std::sync::Arc;

use duroxide::providers::Provider;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use steadfast::postgres::PostgresProvider;
use tokio::runtime::Runtime;

use super::command::{CALLERS, Step, steps};
use super::trial::{Difference, Trial};
use crate::harness::{Engine, Mode, Store};

/// Steps of the longest sequence.
const LONGEST: usize = 60;

/// Opens a store and its callers.
pub(super) type Open<'a> = &'a dyn Fn(&Runtime) -> Bench;

/// A store with its callers, used by one trial after the other as long as they find nothing.
pub(super) struct Bench {
    pub(super) store: Store,
    pub(super) callers: Vec<Arc<dyn Provider>>,
    /// A caller that was not opened by the store.
    pub(super) apart: Option<Arc<PostgresProvider>>,
}

impl Bench {
    pub(super) async fn close(self) {
        if let Some(provider) = &self.apart {
            provider.close().await;
        }
        self.store.close().await;
    }

    pub(super) fn on(engine: Engine) -> impl Fn(&Runtime) -> Self {
        move |runtime| {
            runtime.block_on(async {
                let store = Store::on(engine, Mode::LongPoll);
                let mut callers = Vec::new();
                for _ in 0..CALLERS {
                    callers.push(store.open().await);
                }
                Self {
                    store,
                    callers,
                    apart: None,
                }
            })
        }
    }
}

/// Makes so many trials; the shortest sequence that shows a difference, if any does.
pub(super) fn search(open: Open<'_>, cases: u32, seed: u64) -> Option<(Difference, Vec<Step>)> {
    let runtime = Runtime::new().expect("a runtime");
    let bench: RefCell<Option<Bench>> = RefCell::new(None);
    let trials = RefCell::new(0_u64);
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 400,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let outcome = runner.run(&steps(LONGEST), |steps| {
        let mut bench = bench.borrow_mut();
        let ready = bench.take().unwrap_or_else(|| open(&runtime));
        *trials.borrow_mut() += 1;
        let mut trial = Trial::new(ready.callers.clone(), format!("t{}", trials.borrow()));
        let outcome = runtime.block_on(async {
            trial.run(&steps).await?;
            trial.clear().await
        });
        match outcome {
            Ok(()) => {
                *bench = Some(ready);
                Ok(())
            }
            Err(difference) => {
                // What it left behind would confuse the next.
                runtime.block_on(ready.close());
                Err(TestCaseError::fail(difference))
            }
        }
    });
    if let Some(bench) = bench.into_inner() {
        runtime.block_on(bench.close());
    }
    match outcome {
        Ok(()) => None,
        Err(TestError::Fail(reason, steps)) => Some((reason.message().to_owned(), steps)),
        Err(TestError::Abort(reason)) => panic!("aborted: {reason}"),
    }
}

fn agrees(engine: Engine) {
    let seed = super::seed();
    if let Some((difference, steps)) = search(&Bench::on(engine), super::cases(120), seed) {
        let steps: Vec<String> = steps.iter().map(|step| format!("  {step:?}")).collect();
        panic!(
            "{engine:?} differs from the reference (seed {seed}): {difference}\n{}",
            steps.join("\n")
        );
    }
}

#[test]
fn postgres_agrees_with_the_reference() {
    agrees(Engine::Postgres);
}

#[test]
fn embedded_agrees_with_the_reference() {
    agrees(Engine::Embedded);
}
