//! Kind 15: Nothing unquoted reaches SQL that is printed for psql.
