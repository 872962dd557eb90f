//! Frozen features of a job's examples for heads without adapters, in files that the job owns.
//!
//! Invariant: a file says how many rows are whole, and those are on the disk before it says so; it spares work only, so that whatever is wrong with it, it
//! is begun anew.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::ids::{JobId, TenantId};
use crate::spec::{Digest, Head};

/// Bytes with which every file begins.
const MAGIC: [u8; 8] = *b"fsfeat\x00\x01";
/// Bytes of the header: magic number, key, width of a row, whole rows.
const HEADER: u64 = 8 + 32 + 8 + 8;
/// Rows after which what was written is made durable.
const SYNC: u64 = 1024;

/// Temporal draws of a training clip for heads that read its frames.
const DRAWS: usize = 3;

/// Clips of each training example of which a head without adapters has features. The paper's head reads a mean, which draws of frames hardly change; the
/// others would learn the frames of a single draw by heart.
pub(super) fn draws(head: Head) -> usize {
    match head {
        Head::Mean => 1,
        Head::Frames(_) | Head::Conv | Head::Attention(_) => DRAWS,
    }
}

/// Whose features a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Training examples, as the task's own head reads them.
    Training,
    /// Training examples, as the heads that are tried beside adapters read them.
    Tried,
    /// All views of the validation examples.
    Validation,
}

impl Kind {
    /// Every kind.
    pub(super) const ALL: [Self; 3] = [Self::Training, Self::Tried, Self::Validation];

    /// Returns what the name of a file of this kind ends with.
    fn suffix(self) -> &'static str {
        match self {
            Self::Training => ".features",
            Self::Tried => ".tried",
            Self::Validation => ".views",
        }
    }
}

/// One job's features.
#[derive(Debug)]
pub(super) struct Features {
    file: File,
    width: usize,
    /// Rows that were written, and those that the file says are whole.
    written: u64,
    whole: u64,
}

/// Where a job's features are.
pub(super) fn path(folder: &Path, (tenant, job): (&TenantId, JobId), kind: Kind) -> PathBuf {
    folder.join(format!("{job}.{tenant}{}", kind.suffix()))
}

/// Whose features a file of this name has.
pub(super) fn owner(path: &Path) -> Option<(TenantId, JobId)> {
    let name = path.file_name()?.to_str()?;
    let mut stems = Kind::ALL.iter();
    let name = stems.find_map(|kind| name.strip_suffix(kind.suffix()))?;
    let (job, tenant) = name.split_once('.')?;
    Some((tenant.parse().ok()?, job.parse().ok()?))
}

/// Gives a job the features that another job of its tenant has computed of the same: all of so many rows, or nothing. What the job has itself, a part of them
/// or features of something else, gives way. The file then has two names and takes its room once; it goes with the last of them.
pub(super) fn share(path: &Path, key: Digest, width: usize, rows: u64) -> io::Result<()> {
    let (Some(folder), Some((tenant, _))) = (path.parent(), owner(path)) else {
        return Ok(());
    };
    if rows == 0 || !folder.exists() || holds(path, key, width, rows)? {
        return Ok(());
    }
    for file in fs::read_dir(folder)? {
        let other = file?.path();
        if other == path || owner(&other).is_none_or(|(own, _)| own != tenant) {
            continue;
        }
        if holds(&other, key, width, rows)? {
            match fs::hard_link(&other, path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                // The other job has just ended.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                linked => return linked,
            }
            // The job's own file spares less work than all rows.
            remove(path)?;
            return match fs::hard_link(&other, path) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                linked => linked,
            };
        }
    }
    Ok(())
}

/// Whether a file has all of so many rows of this key.
fn holds(path: &Path, key: Digest, width: usize, rows: u64) -> io::Result<bool> {
    let mut header = [0; HEADER as usize];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut header, 0));
    match read {
        Ok(()) => Ok(header[..48] == Features::header(key, width) && number(&header[48..]) == rows),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Removes a file; one that is not there is no error.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

impl Features {
    /// Opens or begins a file whose rows have `width` values; `key` says what they were computed from.
    pub(super) fn open(path: &Path, key: Digest, width: usize) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path)?;
        let mut header = [0; HEADER as usize];
        let whole = match file.read_exact_at(&mut header, 0) {
            Ok(()) if header[..48] == Self::header(key, width) => number(&header[48..]),
            Ok(()) => 0,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(error),
        };
        let fits = |whole: &u64| {
            file.metadata()
                .is_ok_and(|own| own.len() >= at(*whole, width))
        };
        let whole = Some(whole).filter(fits).unwrap_or(0);
        let features = Self {
            file,
            width,
            written: whole,
            whole,
        };
        if whole == 0 {
            if features.file.metadata()?.len() > 0 {
                // Another job may read the same file under its own name.
                fs::remove_file(path)?;
                return Self::open(path, key, width);
            }
            features.file.write_all_at(&Self::header(key, width), 0)?;
            features.file.write_all_at(&0_u64.to_le_bytes(), 48)?;
        }
        Ok(features)
    }

    fn header(key: Digest, width: usize) -> [u8; 48] {
        let mut header = [0; 48];
        header[..8].copy_from_slice(&MAGIC);
        header[8..40].copy_from_slice(&key.0);
        header[40..].copy_from_slice(&(width as u64).to_le_bytes());
        header
    }

    /// Rows that are there.
    pub(super) fn rows(&self) -> u64 {
        self.written
    }

    /// Adds rows after those that are there.
    pub(super) fn append(&mut self, rows: &[Vec<f32>]) -> io::Result<()> {
        if rows.iter().any(|row| row.len() != self.width) {
            let problem = format!("a row is not of {} values", self.width);
            return Err(io::Error::new(ErrorKind::InvalidInput, problem));
        }
        let values = rows.iter().flatten();
        let bytes: Vec<u8> = values.flat_map(|value| value.to_le_bytes()).collect();
        self.file
            .write_all_at(&bytes, at(self.written, self.width))?;
        self.written += rows.len() as u64;
        if self.written - self.whole >= SYNC {
            self.finish()?;
        }
        Ok(())
    }

    /// Makes every row durable.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.file.write_all_at(&self.written.to_le_bytes(), 48)?;
        self.whole = self.written;
        Ok(())
    }

    /// Reads rows by number.
    pub(super) fn read(&self, rows: &[usize]) -> io::Result<Vec<Vec<f32>>> {
        let mut bytes = vec![0; self.width * size_of::<f32>()];
        let read = |row: &usize| {
            self.file
                .read_exact_at(&mut bytes, at(*row as u64, self.width))?;
            let (quads, _) = bytes.as_chunks();
            Ok(quads.iter().map(|quad| f32::from_le_bytes(*quad)).collect())
        };
        rows.iter().map(read).collect()
    }
}

/// Where a row begins.
fn at(row: u64, width: usize) -> u64 {
    HEADER.saturating_add(row.saturating_mul((width * size_of::<f32>()) as u64))
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn rows(range: std::ops::Range<u64>) -> Vec<Vec<f32>> {
        range.map(|i| vec![i as f32, -(i as f32), 0.5]).collect()
    }

    #[test]
    fn rows_survive_a_restart_as_far_as_they_are_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(
            &folder.path().join("below"),
            (&"owner".parse().unwrap(), JobId::generate()),
            Kind::Training,
        );
        let key = Digest([1; 32]);
        let mut features = Features::open(&path, key, 3).unwrap();
        features.append(&rows(0..10)).unwrap();
        features.finish().unwrap();
        features.append(&rows(10..15)).unwrap();
        assert_eq!(features.rows(), 15);
        // A crash: five rows were never said to be whole.
        drop(features);
        let mut features = Features::open(&path, key, 3).unwrap();
        assert_eq!(features.rows(), 10);
        features.append(&rows(10..2000)).unwrap();
        assert_eq!(
            features.read(&[1999, 0, 9, 10]).unwrap(),
            [rows(1999..2000), rows(0..1), rows(9..11)].concat()
        );
        assert!(features.append(&[vec![0.0]]).is_err());
        drop(features);
        assert_eq!(Features::open(&path, key, 3).unwrap().rows(), 2000);
    }

    #[test]
    fn whole_features_of_the_same_are_shared_within_a_tenant_and_outlive_the_first_job() {
        let folder = tempfile::tempdir().unwrap();
        let of = |tenant: &str| {
            let owner = (&tenant.parse().unwrap(), JobId::generate());
            path(folder.path(), owner, Kind::Training)
        };
        let (first, second, other) = (of("one"), of("one"), of("two"));
        let key = Digest([1; 32]);
        let mut features = Features::open(&first, key, 3).unwrap();
        features.append(&rows(0..10)).unwrap();
        share(&second, key, 3, 10).unwrap();
        assert!(!second.exists(), "they are not whole");
        features.finish().unwrap();
        for (path, key, count) in [
            (&other, key, 10),
            (&second, Digest([2; 32]), 10),
            (&second, key, 11),
        ] {
            share(path, key, 3, count).unwrap();
            assert!(!path.exists());
        }
        share(&second, key, 3, 10).unwrap();
        drop(features);
        remove(&first).unwrap();
        let features = Features::open(&second, key, 3).unwrap();
        assert_eq!(features.rows(), 10);
        assert_eq!(features.read(&[9]).unwrap(), rows(9..10));
        // What begins anew under one name leaves the other as it is, and whoever reads it.
        share(&first, key, 3, 10).unwrap();
        assert_eq!(
            Features::open(&second, Digest([3; 32]), 3).unwrap().rows(),
            0
        );
        let whole = Features::open(&first, key, 3).unwrap();
        assert_eq!(whole.rows(), 10);
        assert_eq!(
            Features::open(&first, Digest([3; 32]), 3).unwrap().rows(),
            0
        );
        assert_eq!(whole.read(&[9]).unwrap(), rows(9..10));
    }

    #[test]
    fn a_part_gives_way_to_all_that_another_job_has() {
        let folder = tempfile::tempdir().unwrap();
        let tenant: TenantId = "one".parse().unwrap();
        let of = || path(folder.path(), (&tenant, JobId::generate()), Kind::Training);
        let (first, second, third) = (of(), of(), of());
        let key = Digest([1; 32]);
        let write = |path: &Path, key: Digest, count: u64| {
            let mut features = Features::open(path, key, 3).unwrap();
            features.append(&rows(0..count)).unwrap();
            features.finish().unwrap();
        };
        let count = |path: &Path| Features::open(path, key, 3).unwrap().rows();
        write(&first, key, 6);
        share(&first, key, 3, 10).unwrap();
        assert_eq!(count(&first), 6, "nobody has them all");
        write(&second, key, 10);
        write(&third, Digest([2; 32]), 10);
        for path in [&first, &third] {
            share(path, key, 3, 10).unwrap();
            assert_eq!(count(path), 10);
        }
        // What is whole stays.
        let own = fs::metadata(&second).unwrap().ino();
        share(&second, key, 3, 10).unwrap();
        assert_eq!(fs::metadata(&second).unwrap().ino(), own);
        assert_eq!(fs::metadata(&first).unwrap().ino(), own);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn features_of_something_else_or_a_cut_file_are_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("features");
        let write = |key| {
            let mut features = Features::open(&path, key, 3).unwrap();
            features.append(&rows(0..9)).unwrap();
            features.finish().unwrap();
        };
        let rows = |key, width| Features::open(&path, key, width).unwrap().rows();
        write(Digest([1; 32]));
        assert_eq!(rows(Digest([1; 32]), 3), 9);
        assert_eq!(rows(Digest([2; 32]), 3), 0);
        write(Digest([1; 32]));
        assert_eq!(rows(Digest([1; 32]), 4), 0);
        write(Digest([1; 32]));
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(at(8, 3) + 5).unwrap();
        assert_eq!(rows(Digest([1; 32]), 3), 0);
        fs::write(&path, b"x").unwrap();
        assert_eq!(rows(Digest([1; 32]), 3), 0);
    }

    #[test]
    fn a_file_is_named_by_its_job() {
        let (tenant, job) = ("a.b-c".parse().unwrap(), JobId::generate());
        for kind in Kind::ALL {
            let path = path(Path::new("/x"), (&tenant, job), kind);
            assert_eq!(owner(&path), Some((tenant.clone(), job)));
        }
        assert_eq!(owner(Path::new("/x/y.features")), None);
        assert!(remove(Path::new("/nowhere/at/all")).is_ok());
    }
}
