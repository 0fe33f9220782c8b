//! Kind 24: Documents agree with the code.
