//! `frameshift convert`: any backbone that can be read, as one safetensors file in the reference's names.
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
    /// Replaces the file when it is there
    #[arg(long)]
    pub force: bool,
    /// What its files do not say: heads=…,activation=gelu|quick_gelu,eps=…,mean=r/g/b,std=r/g/b
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub backbone_override: Option<Overrides>,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The backbone cannot be read.
    #[error(transparent)]
    Load(#[from] load::Error),
    /// Something is there already.
    #[error("{} is there already; --force replaces it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What was written is not what was read.
    #[error("{} came out with digest {got} instead of {expected}", path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// Of what was read.
        expected: Digest,
        /// Of what was written.
        got: Digest,
    },
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Of the backbone.
    pub digest: Digest,
    /// The float format of the file: the narrowest that holds every value.
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
/// As [`run`].
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
        source,
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
    let got = load::plan(beside.path(), &Overrides::default())?.digest()?;
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
