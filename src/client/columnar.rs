//! Parquet files, written row group by row group.
//!
//! Invariant: a file has its name only when it is whole, and the rows in memory are bounded in bytes.

mod leaf;
mod shred;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;
use serde_json::Value;
use tempfile::NamedTempFile;

use super::{Error, whole};
use leaf::Leaf;

/// Bytes of rows that are held before they are written as one row group.
const GROUP: usize = 32 << 20;

/// Name of the column that takes numbers as they are; no other column is as wide.
pub(super) const FEATURES: &str = "features";

/// A Parquet file that is being written beside the place that it is for.
pub(super) struct Columns {
    out: PathBuf,
    writer: SerializedFileWriter<NamedTempFile>,
    leaves: Vec<Leaf>,
    /// Rows that are held.
    rows: usize,
    /// Bytes after which rows are written.
    limit: usize,
}

impl Columns {
    /// Begins a file. `schema` is a message of Parquet's own notation, whose fields are those of the rows.
    ///
    /// # Errors
    /// When nothing can be written beside `out`.
    pub(super) fn create(out: &Path, schema: &str) -> Result<Self, Error> {
        Self::with_groups(out, schema, GROUP).map_err(|source| whole::failed(out, source))
    }

    fn with_groups(out: &Path, schema: &str, limit: usize) -> io::Result<Self> {
        let beside = whole::beside(out)?;
        let schema = parse_message_type(schema).map_err(of_parquet)?;
        // Neither equal features nor an order of them are to be expected: a dictionary or a smallest feature would be of no use.
        let wide = ColumnPath::from([FEATURES, "list", "element"].map(str::to_owned).to_vec());
        let properties = WriterProperties::builder()
            .set_created_by(concat!("frameshift ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_column_dictionary_enabled(wide.clone(), false)
            .set_column_statistics_enabled(wide, EnabledStatistics::None)
            .build();
        let writer = SerializedFileWriter::new(beside, Arc::new(schema), Arc::new(properties));
        let writer = writer.map_err(of_parquet)?;
        let leaves = writer.schema_descr().columns().iter();
        let leaves = leaves
            .map(|column| Leaf::of(column))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            out: out.to_owned(),
            writer,
            leaves,
            rows: 0,
            limit,
        })
    }

    /// Adds something that is said of the whole file; all names begin with `frameshift.`.
    pub(super) fn describe(&mut self, key: &str, value: impl Into<String>) {
        let value: String = value.into();
        let own = KeyValue::new(format!("frameshift.{key}"), value);
        self.writer.append_key_value_metadata(own);
    }

    /// Adds a row: an object with the fields of the schema, and the little-endian numbers of its features where the schema has these.
    ///
    /// # Errors
    /// When a field is absent or of another type than the schema's, or a row group cannot be written.
    pub(super) fn add(&mut self, row: &Value, features: &[u8]) -> Result<(), Error> {
        self.put(row, features)
            .map_err(|source| whole::failed(&self.out, source))
    }

    fn put(&mut self, row: &Value, features: &[u8]) -> io::Result<()> {
        let schema = self.writer.schema_descr().root_schema_ptr();
        let mut leaves = self.leaves.as_mut_slice();
        for field in schema.get_fields() {
            if field.name() == FEATURES {
                let [own, ..] = leaves else {
                    return Err(shred::unlike(field));
                };
                own.numbers(features)?;
                leaves = &mut leaves[1..];
            } else {
                leaves = shred::put(field, &row[field.name()], (0, 0), leaves)?;
            }
        }
        self.rows += 1;
        let held: usize = self.leaves.iter().map(Leaf::bytes).sum();
        if held >= self.limit {
            self.write_group()?;
        }
        Ok(())
    }

    fn write_group(&mut self) -> io::Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut group = self.writer.next_row_group().map_err(of_parquet)?;
        for leaf in &mut self.leaves {
            let column = group.next_column().map_err(of_parquet)?;
            let mut column = column.ok_or_else(|| io::Error::other("a column is missing"))?;
            leaf.write(&mut column).map_err(of_parquet)?;
            column.close().map_err(of_parquet)?;
        }
        group.close().map_err(of_parquet)?;
        self.rows = 0;
        Ok(())
    }

    /// Writes what is held and gives the file its name.
    ///
    /// # Errors
    /// When that fails; nothing is left then.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        let out = std::mem::take(&mut self.out);
        self.close(&out)
            .map_err(|source| whole::failed(&out, source))
    }

    fn close(mut self, out: &Path) -> io::Result<()> {
        self.write_group()?;
        let mut file = self.writer.into_inner().map_err(of_parquet)?;
        file.flush()?;
        whole::named(file, out)
    }
}

/// The system's error when there is one, else Parquet's.
fn of_parquet(error: ParquetError) -> io::Error {
    if let ParquetError::External(source) = error {
        return match source.downcast::<io::Error>() {
            Ok(source) => *source,
            Err(source) => io::Error::other(source),
        };
    }
    io::Error::other(error)
}

#[cfg(test)]
mod tests;
