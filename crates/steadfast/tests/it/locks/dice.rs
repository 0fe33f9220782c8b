//! Random choices that can be made again: the seed is printed, and taken from `STEADFAST_IT_SEED` when that is set.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// The seed of a test.
pub(crate) fn seed(test: &str) -> u64 {
    let seed = std::env::var("STEADFAST_IT_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| RandomState::new().build_hasher().finish());
    eprintln!("{test}: STEADFAST_IT_SEED={seed}");
    seed
}

/// A stream of numbers (SplitMix64); one per task, so that the tasks do not disturb each other's.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64, task: u64) -> Self {
        let mut dice = Self(seed ^ task.wrapping_mul(0xd134_2543_de82_ef95));
        dice.roll();
        dice
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..sides`.
    pub(crate) fn below(&mut self, sides: u64) -> u64 {
        self.roll() % sides
    }

    pub(crate) fn one_in(&mut self, sides: u64) -> bool {
        self.below(sides) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}
