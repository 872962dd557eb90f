//! Videos become clips, in a separate process.
