//! The `frameshift` program: parses, loads the configuration, runs, and turns outcomes into exit codes.
//!
//! Invariant: the video worker's subcommand is looked for before anything else happens: that process must not have threads, memory or secrets. Once a
//! command is done, the process ends about [`blocking::LAST_WORK`] later at the latest, whatever its threads do.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use frameshift::app::{self, App};
use frameshift::config::cli::{Cli, Command, Exit, Serve, VIDEO_WORKER};
use frameshift::config::load::Layered;
use frameshift::config::settings::Flags;
use frameshift::config::{self, Config, machine};
use frameshift::tools::fsck::State;
use frameshift::{blocking, client, demo, faults, metadata, model, telemetry, tools, video};
use tokio::signal::unix::{Signal, SignalKind, signal};

#[global_allocator]
static ALLOCATOR: model::LineAligned = model::LineAligned;

fn main() -> ExitCode {
    let first = std::env::args_os().nth(1);
    if first.is_some_and(|first| first == VIDEO_WORKER) {
        return video::worker::main();
    }
    model::keep_freed_pages();
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(usage) => return told_usage(&usage).into(),
    };
    match run(cli) {
        Ok(()) => model::leave(Exit::Done as u8),
        Err(failure) => {
            match &failure.json {
                Some(json) => eprintln!("{json}"),
                None => eprintln!("frameshift: {}", told(&failure.error)),
            }
            model::leave(failure.code)
        }
    }
}

/// Prints what is wrong with the words of the command line, or the help that they ask for.
fn told_usage(usage: &clap::Error) -> Exit {
    if !usage.use_stderr() {
        // Nothing is left to do when the terminal is gone.
        let _ = usage.print();
        return Exit::Done;
    }
    let mut words = std::env::args_os().take_while(|word| word != "--");
    if words.any(|word| word == "--json") {
        let text = usage.render().to_string();
        let text = text.trim().strip_prefix("error: ").unwrap_or(text.trim());
        eprintln!("{}", client::error::json(text, Exit::Usage as u8));
    } else {
        let _ = usage.print();
    }
    Exit::Usage
}

/// An error and the exit code that stands for it.
struct Failure {
    error: anyhow::Error,
    /// The process's exit code.
    code: u8,
    /// The error for programs, of a command that prints JSON.
    json: Option<serde_json::Value>,
}

/// An error and its causes in a line. Some messages end with their cause already; it is said once.
fn told(error: &anyhow::Error) -> String {
    let causes = error.chain().skip(1).map(ToString::to_string);
    causes.fold(error.to_string(), |text, cause| {
        if text.ends_with(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

impl Failure {
    /// The failure of a command that prints JSON, when it does.
    fn in_json(self, is_json: bool) -> Self {
        let json = is_json.then(|| client::error::json(&told(&self.error), self.code));
        Self { json, ..self }
    }
}

/// Gives an error its exit code.
fn exit<E: Into<anyhow::Error>>(exit: Exit) -> impl Fn(E) -> Failure {
    move |error| coded(error, exit as u8)
}

/// An error with an exit code of its own.
fn coded(error: impl Into<anyhow::Error>, code: u8) -> Failure {
    Failure {
        error: error.into(),
        code,
        json: None,
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Serve(arguments) => serve(&arguments),
        Command::Client(command) => {
            if let Some(arguments) = command.bootstrap() {
                return bootstrap(arguments);
            }
            let mut before = cli.before;
            let own = config::environment().remove(API_KEY);
            before.api_key = own
                .filter(|own| before.api_key_file.is_none() && !own.is_empty())
                .map(Into::into);
            let mut command = command.after(before);
            let is_json = command.is_json();
            run_on(command.run())?.map_err(|error| Failure {
                json: is_json.then(|| error.json()),
                // The client's messages name their causes themselves.
                ..coded(anyhow::Error::msg(error.to_string()), error.exit_code())
            })
        }
        Command::Demo(arguments) => {
            run_on(demo::run(arguments))?.map_err(|error| coded_by(error, demo::Error::exit_code))
        }
        Command::Inspect(mut arguments) => {
            arguments.json |= cli.before.json;
            tools::inspect::run(&arguments)
                .map_err(|error| coded_by(error, tools::inspect::Error::exit_code))
                .map_err(|failure| failure.in_json(arguments.json))
        }
        Command::Bench(command) => bench(&command),
        Command::Video(arguments) => run_on(tools::video::run(&arguments, program()?))?
            .map_err(|error| coded_by(error, tools::video::Error::exit_code)),
        Command::Convert(arguments) => tools::convert::run(&arguments)
            .map_err(|error| coded_by(error, tools::convert::Error::exit_code)),
        Command::Backup(arguments) => backup(&arguments),
        Command::Migrate(arguments) => migrate(&arguments),
        Command::Restore(arguments) => restore(&arguments),
        Command::Fsck(arguments) => fsck(&arguments),
        Command::FetchBackbone(arguments) => fetch_backbone(&arguments),
        Command::Pretrain(arguments) => tools::pretrain::run(&arguments)
            .map_err(|error| coded_by(error, tools::pretrain::Error::exit_code)),
        Command::Descriptors { out } => std::fs::write(&out, frameshift::proto::DESCRIPTORS)
            .map_err(|error| {
                let told = format!("cannot write {}: {error}", out.display());
                coded(anyhow::Error::msg(told), CANNOT_WRITE)
            }),
        Command::Completions { shell } => {
            use std::io::Write;
            // A reader that has gone (`| head`) is no error.
            let _ = std::io::stdout().write_all(&Cli::completions(shell));
            Ok(())
        }
    }
}

/// Exit code when an output cannot be written.
const CANNOT_WRITE: u8 = 73;
/// Environment variable that may hold the client's API key.
const API_KEY: &str = "FRAMESHIFT_API_KEY";

fn bootstrap(arguments: &client::keys::Bootstrap) -> Result<(), Failure> {
    let flags = Flags {
        data_dir: arguments.data_dir.clone(),
        ..Flags::default()
    };
    let environment = config::environment();
    let layers = Layered::load(arguments.config.as_deref(), &environment, &flags)
        .map_err(exit(Exit::Usage))?;
    let settings = layers.settings().map_err(exit(Exit::Usage))?;
    if settings.database_url.is_some() {
        let problem = "the key would be made in a file that no server with a database_url reads: bootstrap_key_file names a first key";
        return Err(exit(Exit::Usage)(layers.complain("database_url", problem)));
    }
    let place = tools::bootstrap::Place {
        database: metadata::Config::at(settings.data_dir.join("metadata.sqlite")),
        data_dir: settings.data_dir,
        pepper: settings.key_pepper_file,
        out: arguments.out.clone(),
    };
    run_on(tools::bootstrap::run(place))?
        .map_err(|error| coded_by(error, tools::bootstrap::Error::exit_code))
}

/// An error that knows its exit code.
fn coded_by<E: Into<anyhow::Error>>(error: E, code: impl Fn(&E) -> u8) -> Failure {
    let code = code(&error);
    coded(error, code)
}

/// Runs the work of a command on a runtime of its own.
fn run_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    blocking::run(work).map_err(exit(Exit::Internal))
}

fn serve(arguments: &Serve) -> Result<(), Failure> {
    let environment = config::environment();
    let layers = Layered::load(arguments.config.as_deref(), &environment, &arguments.flags)
        .map_err(exit(Exit::Usage))?;
    let config = Config::new(&layers, program()?).map_err(exit(Exit::Usage))?;
    if arguments.dump_config {
        tools::show(layers.dump(&config.derived()).trim_end());
        return Ok(());
    }
    let log = telemetry::init(config.log_format, &config.log_filter).map_err(exit(Exit::Usage))?;
    for name in config::load::strangers(&environment) {
        tracing::warn!(
            name,
            "this environment variable names no setting and is ignored"
        );
    }
    if let Some(crash) = config.crash_at.clone() {
        faults::arm(crash);
    }
    if let Some(isa) = config.cpu {
        model::limit(isa).map_err(exit(Exit::Usage))?;
    }
    open_files(config.rpc.connections);
    model::compute_threads(config.compute_threads);
    run_on(async {
        let signals = Signals::new().map_err(exit(Exit::Internal))?;
        run_server(config, log, signals).await.map_err(|error| {
            let code = exit_of(&error);
            exit(code)(error)
        })
    })?
}

fn bench(command: &tools::bench::Command) -> Result<(), Failure> {
    use tools::bench::Command;
    match command {
        Command::Model(command) => tools::bench_compute::run(command)
            .map_err(|error| coded_by(error, tools::bench_compute::Error::exit_code)),
        Command::Server(command) => tools::bench_serve::run(command)
            .map_err(|error| coded_by(error, tools::bench_serve::Error::exit_code)),
        Command::Fleet(arguments) => run_on(tools::bench_fleet::run(arguments))?
            .map_err(|error| coded_by(error, tools::bench_fleet::Error::exit_code)),
    }
}

/// The exit code of a server that could not start or finish.
fn exit_of(error: &app::Error) -> Exit {
    use app::Error;
    match error {
        Error::Bind { .. }
        | Error::AddressFile { .. }
        | Error::Store(_)
        | Error::Metadata(_)
        | Error::Records(_)
        | Error::DatabaseMissing { .. }
        | Error::OtherDatabase { .. }
        | Error::Credentials(_)
        | Error::Certificates(_)
        | Error::Video(video::Error::Unconfined { .. })
        | Error::Accelerator { .. }
        | Error::Backbone { .. }
        | Error::OtherBackbone { .. } => Exit::Unavailable,
        Error::Video(_) | Error::Device(_) | Error::Rpc(_) | Error::Stopped { .. } => {
            Exit::Internal
        }
        Error::Traces(_) => Exit::Usage,
        Error::DrainTimeout { .. } => Exit::Again,
    }
}

fn migrate(arguments: &tools::migrate::Args) -> Result<(), Failure> {
    let flags = Flags {
        database_url: arguments.database_url.clone(),
        ..Flags::default()
    };
    let environment = config::environment();
    let layers = Layered::load(arguments.config.as_deref(), &environment, &flags)
        .map_err(exit(Exit::Usage))?;
    let settings = layers.settings().map_err(exit(Exit::Usage))?;
    let server = config::database::server(&layers, &settings).map_err(exit(Exit::Usage))?;
    run_on(tools::migrate::run(server, arguments.check))?
        .map_err(|error| coded_by(error, tools::migrate::Error::exit_code))
}

/// Finds where a server's state is, for commands beside it.
fn state(config: Option<&Path>, data_dir: Option<&PathBuf>) -> Result<State, Failure> {
    let flags = Flags {
        data_dir: data_dir.cloned(),
        ..Flags::default()
    };
    let environment = config::environment();
    let layers = Layered::load(config, &environment, &flags).map_err(exit(Exit::Usage))?;
    let settings = layers.settings().map_err(exit(Exit::Usage))?;
    let bucket = Config::bucket(&layers, &settings).map_err(exit(Exit::Usage))?;
    let server = config::database::server(&layers, &settings).map_err(exit(Exit::Usage))?;
    Ok(State {
        data_dir: settings.data_dir,
        bucket,
        server,
    })
}

/// Refuses what only works on a database in a file.
fn needs_a_file(state: &State) -> Result<(), Failure> {
    if state.server.is_none() {
        return Ok(());
    }
    let problem = anyhow::anyhow!(
        "the records are on the server of database_url: back them up and restore them by its own means; `frameshift restore` without DIR then stops the \
         collector until `frameshift fsck` finds nothing wrong"
    );
    Err(coded(problem, Exit::Usage as u8))
}

fn backup(arguments: &tools::backup::Args) -> Result<(), Failure> {
    let state = state(arguments.config.as_deref(), arguments.data_dir.as_ref())?;
    needs_a_file(&state)?;
    let bucket = state.bucket.as_ref();
    let work = tools::backup::run(&state.data_dir, bucket, &arguments.to);
    run_on(work)?.map_err(|error| coded_by(error, tools::backup::Error::exit_code))
}

fn restore(arguments: &tools::restore::Args) -> Result<(), Failure> {
    let state = state(arguments.config.as_deref(), arguments.data_dir.as_ref())?;
    if arguments.from.is_some() {
        needs_a_file(&state)?;
    }
    let (from, bucket) = (arguments.from.as_deref(), state.bucket.as_ref());
    run_on(tools::restore::run(from, &state.data_dir, bucket))?
        .map_err(|error| coded_by(error, tools::restore::Error::exit_code))
}

/// Ends with 0 when nothing is wrong, 1 when something is, 2 when not everything could be looked at.
fn fsck(arguments: &tools::fsck::Args) -> Result<(), Failure> {
    let state = state(arguments.config.as_deref(), arguments.data_dir.as_ref())?;
    match run_on(tools::fsck::run(state, arguments))? {
        Ok(report) if report.exit_code() == 0 => Ok(()),
        Ok(report) => {
            let left = report.findings - report.repaired;
            let told = anyhow::anyhow!("{left} findings are left");
            Err(coded(told, report.exit_code()))
        }
        Err(error) => Err(coded(error, tools::fsck::INCOMPLETE)),
    }
}

fn fetch_backbone(arguments: &tools::fetch_backbone::Args) -> Result<(), Failure> {
    let environment = config::environment();
    let layers = Layered::load(None, &environment, &Flags::default());
    let layers = layers.map_err(exit(Exit::Usage))?;
    let work = tools::fetch_backbone::run(arguments, layers.platform());
    run_on(work)?.map_err(|error| coded_by(error, tools::fetch_backbone::Error::exit_code))
}

/// Raises the limit of open files, and warns when it is not enough for the connections that may come.
fn open_files(connections: usize) {
    /// Files besides connections: the database, blobs, video workers, the runtime.
    const OTHERS: u64 = 256;
    match machine::raise_open_files() {
        Ok(files) => {
            tracing::info!(before = ?files.before, now = ?files.now, "limit of open files");
            let needed = connections as u64 + OTHERS;
            if let Some(limit) = files.now.filter(|limit| *limit < needed) {
                tracing::warn!(
                    limit,
                    connections,
                    "fewer files may be open than there may be connections; see LimitNOFILE or ulimit -n"
                );
            }
        }
        Err(error) => tracing::warn!(%error, "the limit of open files cannot be raised"),
    }
}

/// A signal before the server serves ends it at once: nothing is in flight yet.
#[allow(clippy::print_stdout)]
async fn run_server(
    config: Config,
    log: telemetry::LogFilter,
    signals: Signals,
) -> Result<(), app::Error> {
    let mut signal = Box::pin(signals.first());
    // A log for machines is one stream of JSON: what is printed for people goes there as events.
    let is_text = matches!(config.log_format, telemetry::LogFormat::Text);
    let start = async {
        let bound = App::bind_logged(config, Some(log)).await?;
        if is_text {
            match bound.address() {
                Some(address) => println!("listening on {address}, loading the backbone"),
                None => println!("loading the backbone"),
            }
        }
        bound.load().await
    };
    let app = tokio::select! {
        started = start => started?,
        () = &mut signal => return Ok(()),
    };
    let summary = app.summary();
    if is_text {
        println!("{summary}\nserving");
    } else {
        tracing::info!(
            address = summary.address.map(tracing::field::display),
            metrics = summary.metrics.map(tracing::field::display),
            data_dir = %summary.data_dir.display(),
            backbone = &*summary.about.backbone,
            digest = %summary.about.digest,
            device = &*summary.about.device,
            precision = summary.about.precision,
            "serving"
        );
    }
    app.run_until(signal).await
}

/// This program's own file, which the video workers run.
fn program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(exit(Exit::Internal))
}

/// SIGTERM, SIGINT, SIGQUIT and SIGHUP: the first asks for a drain, a second one ends the process at once. A second SIGHUP does not: a terminal that
/// closes may send it more than once.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
        }
    }

    async fn first(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
            _ = self.hangup.recv() => {}
        }
        tokio::spawn(async move {
            self.asked().await;
            eprintln!("frameshift: interrupted while draining");
            std::process::exit(Exit::Interrupted as i32);
        });
    }
}
