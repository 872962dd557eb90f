//! The records in one SQLite file.
use super::*;

/// Where the database is.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file; made when it is not there.
    pub path: std::path::PathBuf,
}

/// The SQLite backend.
#[derive(Debug, Clone)]
pub struct Sqlite {}

impl Sqlite {
    /// Opens the database and brings its schema up to date.
    ///
    /// # Errors
    /// When the file cannot be opened or is of a newer schema.
    pub async fn open(_config: Config) -> Result<Self> {
        todo!()
    }
}
