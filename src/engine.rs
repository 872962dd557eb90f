//! Classification: admission, batches that mix tasks, resident adapter sets.
