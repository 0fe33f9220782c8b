//! Kind 14: What is installed is compared with what this version installs, object by object.
