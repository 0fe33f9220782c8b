//! Kind 22: Connecting refuses what libpq refuses, and says why.
