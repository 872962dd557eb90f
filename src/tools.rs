//! Command-line work on local files, without a server.
