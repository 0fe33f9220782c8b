//! Kind 1: A Tokio runtime that is dropped with calls under way ends without abort, hang or panic.
