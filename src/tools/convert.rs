//! `frameshift convert`: writes any backbone that can be read as one safetensors file in the reference's names.
//!
//! Invariant: the file that is written has the digest of what was read, or it is not left there. It is whole or absent: it is written beside its place
//! and then renamed.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::model::load::{self, Float, Overrides};
use crate::spec::Digest;
use crate::tools::show;

/// Arguments of `frameshift convert`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// A checkpoint's folder, or a safetensors or PyTorch file
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// File to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Replaces the file when it exists
    #[arg(long)]
    pub force: bool,
    /// Values that the files do not say: heads=…,activation=gelu|quick_gelu,eps=…,mean=r/g/b,std=r/g/b
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub backbone_override: Option<Overrides>,
}

/// Reasons why nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The backbone cannot be read.
    #[error(transparent)]
    Load(#[from] load::Error),
    /// A file is there already.
    #[error("{} exists; --force replaces it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The written file does not load; nothing stays of it.
    #[error("what was to be written to {} does not load", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
    },
    /// The written file does not have the digest of what was read.
    #[error("{} came out with digest {got} instead of {expected}", path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// Digest of what was read.
        expected: Digest,
        /// Digest of what was written.
        got: Digest,
    },
}

impl Error {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Load(error) => super::load_code(error),
            Self::Exists { .. } | Self::Write { .. } => super::CANNOT_CREATE,
            Self::Unreadable { .. } | Self::Digest { .. } => 70,
        }
    }
}

/// The file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Digest of the backbone.
    pub digest: Digest,
    /// Float format of the file: the narrowest that holds every value.
    pub float: Float,
    /// Size of the file.
    pub bytes: usize,
}

/// Converts and prints.
///
/// # Errors
/// When the backbone cannot be read or the file cannot be written.
pub fn run(args: &Args) -> Result<(), Error> {
    let written = convert(args)?;
    show(format_args!(
        "{}: {} bytes of {}, digest {}",
        args.out.display(),
        written.bytes,
        written.float.name(),
        written.digest
    ));
    Ok(())
}

/// Converts.
///
/// # Errors
/// The errors of [`run`].
pub fn convert(args: &Args) -> Result<Written, Error> {
    if args.out.exists() && !args.force {
        return Err(Error::Exists {
            path: args.out.clone(),
        });
    }
    let overrides = args.backbone_override.clone().unwrap_or_default();
    let plan = load::plan(&args.path, &overrides)?;
    let expected = plan.digest()?;
    let tensors = plan.tensors()?;
    let narrow = [Float::F16, Float::BF16].into_iter().find(|float| {
        let mut lists = tensors.values().map(|(_, values)| values);
        lists.all(|values| float.holds(values))
    });
    let float = narrow.unwrap_or(Float::F32);
    let origin = BTreeMap::from([(
        "origin".to_owned(),
        format!("{} ({})", plan.name(), plan.family()),
    )]);
    let file = load::write_reference(plan.config(), &tensors, float, &origin);
    drop(tensors);
    store(&args.out, &file, expected)?;
    Ok(Written {
        digest: expected,
        float,
        bytes: file.len(),
    })
}

/// Writes beside the place, reads back, and renames.
fn store(path: &Path, file: &[u8], expected: Digest) -> Result<(), Error> {
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source: super::bare(source),
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut beside = tempfile::Builder::new()
        .prefix(".convert-")
        .suffix(".safetensors")
        // As any new file: the process's umask says who may read it.
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(failed)?;
    beside.write_all(file).map_err(failed)?;
    beside.as_file().sync_all().map_err(failed)?;
    let again = load::plan(beside.path(), &Overrides::default()).and_then(|plan| plan.digest());
    let got = again.map_err(|_| Error::Unreadable {
        path: path.to_owned(),
    })?;
    if got != expected {
        return Err(Error::Digest {
            path: path.to_owned(),
            expected,
            got,
        });
    }
    beside.persist(path).map_err(|error| failed(error.error))?;
    std::fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed)
}
