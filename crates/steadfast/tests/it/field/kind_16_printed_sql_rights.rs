//! Kind 16: Printed SQL needs no more rights than the documented admin has.
