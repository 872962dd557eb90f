//! Videos and labelled data sets.
