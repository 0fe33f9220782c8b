//! Kind 3: An item that kills its process takes no other with it.

pub(super) mod child;
