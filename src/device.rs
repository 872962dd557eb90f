//! The device thread: serving and training take turns on it, block by block.
