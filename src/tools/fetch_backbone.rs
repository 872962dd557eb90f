//! `frameshift fetch-backbone`: brings a backbone's files to a local disk before a server starts.
//!
//! Invariant: a file is there only when it has the sha256 that was asked for, so that a server never starts on another one.

use std::path::PathBuf;

use futures::future::BoxFuture;
use secrecy::SecretString;

use crate::spec::Digest;
use crate::store::Bucket;
use crate::store::download::{self, Fetched};
use crate::tools::show;

/// Arguments of `frameshift fetch-backbone`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// File to download: https://… or http://…, or an object of a bucket (s3://…, gs://…, az://…), with credentials from the environment, as for a server
    pub url: String,
    /// Folder for the file; created when it is missing
    pub folder: PathBuf,
    /// sha256 of the file in hexadecimal
    #[arg(long, value_name = "HEX")]
    pub sha256: Digest,
    /// Name of the file in the folder [default: the last part of the URL's path]
    #[arg(long)]
    pub name: Option<String>,
    /// URL of a self-hosted object store with the API of the bucket's kind
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// File with the bucket's static credentials, one NAME = VALUE on each line
    #[arg(long, value_name = "FILE")]
    pub credentials_file: Option<PathBuf>,
}

/// Why the file is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL has no file's name.
    #[error("the URL ends with no plain name of a file: say --name")]
    Name,
    /// The folder cannot be made.
    #[error("cannot make {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The file does not come.
    #[error("cannot fetch the file")]
    Fetch(#[from] download::Error),
}

impl Error {
    /// Returns the exit code of the program.
    pub fn exit_code(&self) -> u8 {
        use download::Error as Cause;
        match self {
            Self::Name => 64,
            Self::Folder { .. } => super::CANNOT_CREATE,
            Self::Fetch(cause) => match cause {
                Cause::Url | Cause::Bucket(_) | Cause::Feature => 64,
                Cause::Digest { .. } => 65,
                Cause::Refused(_) | Cause::Away(_) => 69,
                Cause::File { .. } => super::CANNOT_CREATE,
            },
        }
    }
}

/// Fetches a file; `environment` has the variables of the platforms' own tools.
pub fn run<'a>(
    arguments: &'a Args,
    environment: &'a [(String, SecretString)],
) -> BoxFuture<'a, Result<(), Error>> {
    Box::pin(fetch(arguments, environment))
}

async fn fetch(arguments: &Args, environment: &[(String, SecretString)]) -> Result<(), Error> {
    let name = arguments.name.as_deref();
    let name = name.or_else(|| last_part(&arguments.url));
    let name = name.filter(|name| is_plain(name)).ok_or(Error::Name)?;
    let folder = &arguments.folder;
    let made = tokio::fs::create_dir_all(folder).await;
    made.map_err(|source| Error::Folder {
        path: folder.clone(),
        source,
    })?;
    let to = folder.join(name);
    let bucket = |url| {
        let (endpoint, file) = (&arguments.endpoint, &arguments.credentials_file);
        Bucket::new(url, endpoint.clone(), file.clone(), environment)
    };
    let fetched = download::fetch(&arguments.url, bucket, &to, arguments.sha256).await?;
    let Fetched { bytes, kept } = fetched;
    show(format!(
        "{}: {bytes} bytes, {kept} of them were there",
        to.display()
    ));
    Ok(())
}

/// The last part of a URL's path.
fn last_part(url: &str) -> Option<&str> {
    let path = url.split(['?', '#']).next()?;
    let (_, path) = path.split_once("://")?;
    let (_, name) = path.rsplit_once('/')?;
    Some(name)
}

fn is_plain(name: &str) -> bool {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(is_letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_by_its_url() {
        for (url, name) in [
            ("https://x/a/model.safetensors", Some("model.safetensors")),
            ("https://x/m.pt?X-Signature=a/b", Some("m.pt")),
            ("s3://models/vit/config.json", Some("config.json")),
            ("https://x/", Some("")),
            ("https://x", None),
        ] {
            assert_eq!(last_part(url), name, "{url}");
        }
        for (name, plain) in [("a.pt", true), ("", false), (".x", false), ("a%2fb", false)] {
            assert_eq!(is_plain(name), plain, "{name}");
        }
    }
}
