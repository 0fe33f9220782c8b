//! Kind 4: An acknowledged queue event is seen once, across continue-as-new too.
