//! Suite: a worker in a cage of 512 MiB, and what is sent at it.
