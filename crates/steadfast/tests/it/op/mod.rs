//! Operations under trouble: calls whose outcome is unknown, and what breaks the existing providers.

mod defects;
mod doubt;
pub(crate) mod gate;
pub(crate) mod scene;
