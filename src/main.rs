//! The `frameshift` program: parses, loads the configuration, runs, and turns outcomes into exit codes.

fn main() {}
