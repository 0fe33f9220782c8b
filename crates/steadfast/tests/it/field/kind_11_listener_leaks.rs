//! Kind 11: A listener that gives up leaves nothing behind in the server.
