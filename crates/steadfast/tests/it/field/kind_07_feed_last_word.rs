//! Kind 7: The feed's last event becomes visible when nothing else is written.
