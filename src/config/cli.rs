//! The command line: every subcommand, and the meaning of each exit code.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::{client, demo, tools};

use super::settings::Flags;

/// Hidden subcommand that decodes videos; `main` checks for it before anything else.
pub const VIDEO_WORKER: &str = "video-worker";

const AFTER_HELP: &str = "\
Exit codes, the same for every command:
   0  done
   1  the request was refused, its job failed, or a check found something; the message says why
   2  a check (`frameshift fsck`) could not examine everything
  64  wrong usage or configuration
  65  wrong data: a video, a list, a checkpoint, a field of a request
  66  an input file or folder cannot be read
  69  unavailable: the server, its address, its data directory, its backbone or its confinement of video workers
  70  internal error
  73  an output file cannot be written
  75  not now: try again later
  77  permission denied by the server
 130  interrupted

Bash completions: source <(frameshift completions bash)";

/// One frozen image backbone in memory, many video tasks on it.
#[derive(Debug, clap::Parser)]
#[command(name = "frameshift", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// Options of the commands that speak to a server; they may follow the subcommand, too.
    #[command(flatten)]
    pub before: client::cli::Before,
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Parses the words of a command line.
    ///
    /// # Errors
    /// When the words are wrong, or ask for help or the version; an option before the subcommand that it does not have is wrong, too.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let command = <Self as clap::CommandFactory>::command();
        let mut command = without_empty(command, &super::environment());
        let matches = command.try_get_matches_from_mut(words)?;
        let cli = <Self as clap::FromArgMatches>::from_arg_matches(&matches)
            .map_err(|error| error.format(&mut command))?;
        let is_client = matches!(cli.command, Command::Client(_));
        let is_json = is_client || matches!(cli.command, Command::Inspect(_));
        let options = [
            ("server", is_client),
            ("tenant", is_client),
            ("json", is_json),
            ("api_key_file", is_client),
            ("tls_ca", is_client),
            ("tls_cert", is_client),
            ("tls_cert_key", is_client),
        ];
        for (option, has_meaning) in options {
            let source = matches.value_source(option);
            if !has_meaning && source == Some(clap::parser::ValueSource::CommandLine) {
                let option = option.replace('_', "-");
                let problem = format!("--{option} before this subcommand has no meaning");
                return Err(command.error(clap::error::ErrorKind::ArgumentConflict, problem));
            }
        }
        Ok(cli)
    }

    /// The completion script of a shell.
    pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
        let mut command = <Self as clap::CommandFactory>::command();
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command, "frameshift", &mut script);
        script
    }
}

/// The command without the environment's variables that are empty: shells and service files leave a variable away by setting it to nothing.
fn without_empty(command: clap::Command, environment: &BTreeMap<String, String>) -> clap::Command {
    let is_empty = |arg: &clap::Arg| {
        let name = arg.get_env().and_then(|name| name.to_str());
        let value = name.and_then(|name| environment.get(name));
        value.is_some_and(String::is_empty)
    };
    command
        .mut_args(|arg| match is_empty(&arg) {
            true => arg.env(None::<&'static str>),
            false => arg,
        })
        .mut_subcommands(|command| without_empty(command, environment))
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
    /// Runs upload, fine-tuning, hot swap and classification on synthetic videos, and writes a report
    Demo(demo::Args),
    /// Shows what a checkpoint or an adapter file holds, and whether a server would load it
    Inspect(tools::inspect::Args),
    /// Times the model on this machine, a server under load, or a database
    #[command(subcommand)]
    Bench(tools::bench::Command),
    /// Converts any readable backbone to one safetensors file, with the same digest
    Convert(tools::convert::Args),
    /// Copies a server's database and objects, also while the server runs
    Backup(tools::backup::Args),
    /// Brings the schema of the servers' PostgreSQL database up to date
    Migrate(tools::migrate::Args),
    /// Restores a backup into a data directory, with its objects in a folder or a bucket
    Restore(tools::restore::Args),
    /// Checks whether a server's records and objects are whole and agree, also while the server runs
    Fsck(tools::fsck::Args),
    /// Downloads a backbone's file and checks its sha256; an interrupted download continues where it ended
    FetchBackbone(Box<tools::fetch_backbone::Args>),
    /// Trains the built-in backbone from scratch
    Pretrain(tools::pretrain::Args),
    /// Shows what a server sees of a video file
    Video(tools::video::Args),
    /// Writes the API's descriptors (a FileDescriptorSet), for gateways and for clients without reflection
    Descriptors {
        /// File for the descriptors
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Prints a script that completes commands and options in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Arguments of `frameshift serve`.
#[derive(Debug, Default, clap::Args)]
pub struct Serve {
    /// TOML file with any of the settings below, written with underscores [env: FRAMESHIFT_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Prints the configuration in force as TOML, each value with its source, and exits
    #[arg(long)]
    pub dump_config: bool,
    /// Settings; each is also a key of the file and an environment variable, for example `queue_clips` and `FRAMESHIFT_QUEUE_CLIPS`.
    #[command(flatten)]
    pub flags: Flags,
}

/// The process's exit code.
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
