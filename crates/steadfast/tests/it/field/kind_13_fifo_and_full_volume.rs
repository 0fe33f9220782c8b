//! Kind 13: A path that is no file is refused; a volume that was full works again.
