//! Kind 5: An instance whose first turn is refused can be seen, and removed.
