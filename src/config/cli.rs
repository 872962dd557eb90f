//! The command line: every subcommand, and the meaning of each exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::{client, demo, tools};

use super::settings::Flags;

/// Hidden subcommand that decodes videos; `main` checks for it before anything else.
pub const VIDEO_WORKER: &str = "video-worker";

const AFTER_HELP: &str = "\
Exit codes:
   0  done
   1  the request was refused or failed; the message says why
  64  wrong usage or configuration
  65  wrong input: a video, a data set's folder, a field of a request
  66  a local file cannot be read
  73  a local file cannot be written
  69  the server, its address, its data directory, its backbone or its confinement of video workers is unavailable
  70  internal error
  75  not now: try again later
  77  not allowed
 130  interrupted";

/// One frozen image backbone in memory, many video tasks on it.
#[derive(Debug, clap::Parser)]
#[command(name = "frameshift", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
// One value exists in a process, so its size does not matter.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Runs the server
    Serve(Box<Serve>),
    /// A command that calls a server.
    #[command(flatten)]
    Client(client::cli::Command),
    /// Shows the main job from beginning to end on drawn videos
    Demo(demo::Args),
    /// Shows what a checkpoint or an adapter file holds
    Inspect(tools::inspect::Args),
    /// Times the model on this machine
    #[command(subcommand)]
    Bench(tools::bench_compute::Command),
    /// Converts any readable backbone to one safetensors file, with the same digest
    Convert(tools::convert::Args),
    /// Copies a server's database and objects, also while the server runs
    Backup(tools::backup::Args),
    /// Trains the built-in backbone from scratch
    Pretrain(tools::pretrain::Args),
    /// Shows what a server sees of a video file
    Video(tools::video::Args),
}

/// Arguments of `frameshift serve`.
#[derive(Debug, Default, clap::Args)]
pub struct Serve {
    /// TOML file with any of the settings below, spelled with underscores [env: FRAMESHIFT_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Prints the configuration in force as TOML, each value with its source, and exits
    #[arg(long)]
    pub dump_config: bool,
    /// Settings; each is also a key of the file and an environment variable, for example `queue_clips` and `FRAMESHIFT_QUEUE_CLIPS`.
    #[command(flatten)]
    pub flags: Flags,
}

/// What the process ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The command succeeded.
    Done = 0,
    /// The request was refused, or it failed.
    Failed = 1,
    /// The usage or the configuration is wrong.
    Usage = 64,
    /// A server, an address, a data directory or a file is unavailable.
    Unavailable = 69,
    /// An internal error occurred.
    Internal = 70,
    /// The command cannot run now; a later try may succeed.
    Again = 75,
    /// A signal interrupted the command.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
