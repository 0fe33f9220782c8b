//! Kind 19: A start that no worker has taken can be seen and touched.
