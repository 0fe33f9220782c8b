//! What the field found: one file a kind of fault, named after its number in the list of faults.
//!
//! Invariant: these tests know the `Provider` traits, the public interface and the server's catalogue, and no table,
//! no function and no lane: they pass unchanged on another heart.

mod cage;
mod errors;
mod form;
mod kind_01_dropped_runtime;
mod kind_02_administrators_mistake;
mod kind_03_neighbours_of_a_crash;
mod kind_04_queue_events;
mod kind_05_refused_first_turn;
mod kind_06_large_start;
mod kind_07_feed_last_word;
mod kind_08_last_hint;
mod kind_09_hanging_connection;
mod kind_10_opening_ends;
mod kind_11_listener_leaks;
mod kind_12_statement_timeout;
mod kind_13_fifo_and_full_volume;
mod kind_14_catalogue;
mod kind_15_names_in_sql;
mod kind_16_printed_sql_rights;
mod kind_17_reading_never_writes;
mod kind_18_strangers_log;
mod kind_19_pending_start;
mod kind_20_pgbouncer;
mod kind_22_tls_and_secrets;
mod kind_24_tests_can_fail;
mod silence;
mod site;
