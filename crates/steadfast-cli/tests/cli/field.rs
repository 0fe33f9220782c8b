//! What the field found in the command: one file a kind of fault, named after its number in the list of faults.

mod kind_02_missing_rights;
mod kind_15_names_in_sql;
mod kind_17_reading_never_writes;
mod kind_19_pending_start;
mod kind_20_pgbouncer;
mod kind_21_acts_unasked;
mod kind_23_output;
