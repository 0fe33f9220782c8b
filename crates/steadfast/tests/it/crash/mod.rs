//! Several processes on one schema, and what happens when one of them, a connection or the server itself is gone.

mod child;
mod idle;
mod leases;
mod load;
mod wake;
