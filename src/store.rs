//! Immutable blobs by key.
