//! The live view of the demo: a bar on a terminal, a line now and then elsewhere.
//!
//! Invariant: everything goes to stderr; stdout is for the report alone.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use crate::output::{note, printable};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The view.
#[derive(Debug)]
pub(crate) struct Progress {
    /// `None` where stderr is not a terminal.
    bar: Option<ProgressBar>,
    total: usize,
    /// The last quarter that was told in a line.
    quarter: usize,
}

impl Progress {
    /// A view of so many files.
    pub(crate) fn new(total: usize) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
            let template = "{msg:20} [{bar:40}] {pos}/{len} files  {elapsed}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { bar, total, quarter: 0 }
    }

    /// So many files are hashed.
    pub(crate) fn set(&mut self, done: usize) {
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            return;
        }
        let quarter = (done * 4).checked_div(self.total).unwrap_or(4);
        if quarter > self.quarter {
            self.quarter = quarter;
            note(&format!("{done} of {} files hashed", self.total));
        }
    }

    /// What is going on now.
    pub(crate) fn stage(&self, text: &'static str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text);
        }
    }

    /// A line that stays.
    pub(crate) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(printable(text)),
            None => note(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
