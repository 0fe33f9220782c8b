//! Kind 1: whose runtime is it? A Tokio runtime that is dropped with calls under way ends without abort, hang or panic,
//! and takes nothing with it that was acknowledged or that others wait for.

mod guests;
mod storm;
