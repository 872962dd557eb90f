//! Tasks, immutable adapter versions, desired and serving versions.
