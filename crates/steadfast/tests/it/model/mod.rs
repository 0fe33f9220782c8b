//! The model test: random sequences of calls on an engine and on a reference in memory, compared step by step; and
//! histories of concurrent calls, searched for an order in which they could have happened one after the other.
//!
//! Invariant: a case is a function of its seed. A failure shrinks to the shortest sequence that still fails, and prints it.
//!
//! Longer: `STEADFAST_MODEL_CASES=5000 STEADFAST_MODEL_SEED=7 cargo xtask test -- -p steadfast --test it model::`.

mod command;
mod concurrent;
mod mutants;
mod reference;
mod sequences;
mod trial;

/// How many cases each test makes.
fn cases(by_default: u32) -> u32 {
    setting("STEADFAST_MODEL_CASES").map_or(by_default, |cases| u32::try_from(cases).expect("a number of cases"))
}

/// What everything random comes from.
fn seed() -> u64 {
    setting("STEADFAST_MODEL_SEED").unwrap_or(1)
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}
