//! Kind 2: Trouble that an administrator can mend fails no workflow.
