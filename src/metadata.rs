//! Records and the transactions on them.
