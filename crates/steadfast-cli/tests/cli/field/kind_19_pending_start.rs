//! Kind 19: A start that no worker has taken is listed, shown, cancelled, deleted, and refused a second time.
