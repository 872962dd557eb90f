//! The arguments of `frameshift bench serve`, and what of them does not fit together.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::affinity::{self, Split};
use super::load::{Pacing, Span};
use super::{Arrivals, Error, Popularity, system};

/// Arguments of `frameshift bench serve`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Server to put load on; one is started on a temporary folder when absent. Tasks and clips are made for the tenants bench-0, bench-1 …, and removed
    /// afterwards
    #[arg(long, value_name = "HOST:PORT")]
    pub server: Option<String>,
    /// Seconds to measure
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub seconds: f64,
    /// Seconds of load before the clock runs
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    pub warmup: f64,
    /// Open loop: requests a second of each tenant, sent by a schedule whatever the server does
    #[arg(long, value_parser = rate, conflicts_with = "callers")]
    pub rate: Option<f64>,
    /// Gaps of the open loop
    #[arg(long, value_enum, default_value = "poisson", requires = "rate")]
    pub arrivals: Arrivals,
    /// Closed loop: callers of each tenant that ask again when they are answered [default: 16]
    #[arg(long)]
    pub callers: Option<NonZeroUsize>,
    /// Tasks of each tenant
    #[arg(long, default_value = "1")]
    pub tasks: NonZeroUsize,
    /// Which task a request is for: uniform, or zipf:S
    #[arg(long, default_value_t = Popularity::Uniform)]
    pub popularity: Popularity,
    /// Width of the tasks' adapters
    #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub width: u32,
    /// Bytes of all adapter sets over the memory that a started server has for them: above 1, sets are loaded and evicted all the time
    #[arg(long, value_name = "RATIO", value_parser = rate, conflicts_with = "server")]
    pub working_set: Option<f64>,
    /// Tenants
    #[arg(long, default_value = "1")]
    pub tenants: NonZeroUsize,
    /// So many times the load of the others comes from the first tenant
    #[arg(long, value_name = "FACTOR", value_parser = rate)]
    pub flood: Option<f64>,
    /// How a request names its clip
    #[arg(long, value_enum, default_value = "id")]
    pub clips: Payload,
    /// Clip to send in place of synthetic ones; may be given again
    #[arg(long, value_name = "FILE")]
    pub clip: Vec<PathBuf>,
    /// Number of live streams of each tenant in place of requests for clips; the figures are then those of windows, from the time at which their last
    /// picture should have been sent
    #[arg(long, value_name = "STREAMS", conflicts_with_all = ["rate", "callers", "clips", "clip", "popularity", "flood"])]
    pub live: Option<NonZeroUsize>,
    /// Number of streams of windows of each tenant in place of requests for clips: windows of neighbouring frames over a stored video of five minutes, read as
    /// fast as they come. The latency of a window is the time since the one before
    #[arg(long, value_name = "STREAMS", conflicts_with_all = ["live", "rate", "callers", "clips", "clip", "popularity", "flood"])]
    pub windows: Option<NonZeroUsize>,
    /// Pictures a second of each live stream
    #[arg(long, value_name = "RATE", value_parser = rate, requires = "live", default_value_t = 10.0)]
    pub fps: f64,
    /// Seconds from one window of a live stream to the next
    #[arg(long, value_name = "SECONDS", value_parser = rate, requires = "live", default_value_t = 1.0)]
    pub stride: f64,
    /// A fine-tuning job runs meanwhile
    #[arg(long, conflicts_with = "clip")]
    pub training: bool,
    /// So many versions a second of another task are published, loaded and swapped in meanwhile
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub swaps: Option<f64>,
    /// Connections of each tenant
    #[arg(long, default_value = "2")]
    pub connections: NonZeroUsize,
    /// Deadline of each request in seconds
    #[arg(long, default_value_t = 30.0, value_parser = seconds)]
    pub timeout: f64,
    /// Seed of the clips, the sets, the schedules and the choice of tasks
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// CPUs
    #[command(flatten)]
    pub cpus: Cpus,
    /// Prints one JSON line in place of a table
    #[arg(long)]
    pub json: bool,
    /// Arguments of `frameshift serve` for the server that is started
    #[arg(last = true, value_name = "ARGUMENT", conflicts_with = "server")]
    pub serve: Vec<String>,
}

/// How a request names its clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// By the name of a stored video.
    Id,
    /// The request carries the file.
    Inline,
}

/// On which CPUs a started server and the load generator run.
#[derive(Debug, Clone, clap::Args)]
pub struct Cpus {
    /// CPUs of the server that is started, for example 0,1 [default: the first, when there are at least two]
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        requires = "generator_cpus"
    )]
    pub server_cpus: Vec<usize>,
    /// CPUs of the load generator and the server's video decoders [default: the second, when there are at least two]
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        requires = "server_cpus"
    )]
    pub generator_cpus: Vec<usize>,
    /// Leaves the choice of CPUs to the system
    #[arg(long, conflicts_with_all = ["server_cpus", "generator_cpus"])]
    pub any_cpu: bool,
}

impl Cpus {
    /// Where the server and the generator run; none when that is left to the system, as it is for a server that runs already.
    pub(super) fn split(&self, starts_server: bool) -> Result<Option<Split>, Error> {
        if !self.server_cpus.is_empty() {
            return Ok(Some(Split {
                server: self.server_cpus.clone(),
                generator: self.generator_cpus.clone(),
            }));
        }
        if self.any_cpu || !starts_server {
            return Ok(None);
        }
        let allowed = affinity::allowed().map_err(system("ask for this process's CPUs"))?;
        Ok(Split::of(&allowed))
    }
}

impl Args {
    /// Checks what the parser cannot.
    ///
    /// # Errors
    /// Names the argument that does not fit.
    pub(super) fn check(&self) -> Result<(), Error> {
        let wrong = |problem: &str| Err(Error::Usage(problem.to_owned()));
        if self.flood.is_some() && self.tenants.get() < 2 {
            return wrong(
                "--flood: there is nobody beside the tenant that floods; give --tenants 2 or more",
            );
        }
        if self.seconds <= 0.0 || self.timeout <= 0.0 {
            return wrong("--seconds and --timeout: expected more than 0");
        }
        if self.server.is_some() && !self.cpus.server_cpus.is_empty() {
            return wrong("--server-cpus: a server that runs already is not moved");
        }
        Ok(())
    }

    /// When a tenant sends: the first one more often when it floods.
    pub(super) fn pacing(&self, tenant: usize) -> Pacing {
        /// Callers of a closed loop, when nothing is said.
        const CALLERS: usize = 16;
        let factor = match self.flood {
            Some(flood) if tenant == 0 => flood,
            _ => 1.0,
        };
        match self.rate {
            Some(rate) => Pacing::Open(self.arrivals, rate * factor),
            None => {
                let callers = self.callers.map_or(CALLERS, NonZeroUsize::get);
                Pacing::Closed(((callers as f64 * factor).round() as usize).max(1))
            }
        }
    }

    /// How long the load lasts.
    pub(super) fn span(&self) -> Span {
        Span {
            warmup: Duration::from_secs_f64(self.warmup),
            measured: Duration::from_secs_f64(self.seconds),
            timeout: Duration::from_secs_f64(self.timeout),
            seed: self.seed,
        }
    }
}

/// A number of seconds, at most a day.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds, from 0 to 86400".to_owned()),
    }
}

/// A number above 0 that makes sense as a rate or a ratio.
fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=1e6).contains(&rate) => Ok(rate),
        _ => Err("expected a number from 0.001 to 1000000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Command;
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    fn serve(words: &[&str]) -> Result<Args, String> {
        let line = ["bench", "serve"].iter().chain(words);
        let line = Line::try_parse_from(line).map_err(|error| error.to_string())?;
        match line.command {
            Command::Serve(args) => Ok(*args),
            Command::Gates(_) => Err("gates".to_owned()),
        }
    }

    #[test]
    fn a_loop_is_open_with_a_rate_and_closed_otherwise_and_a_flood_is_the_first_tenants() {
        let open = serve(&[
            "--rate",
            "20",
            "--arrivals",
            "constant",
            "--tenants",
            "2",
            "--flood",
            "10",
        ]);
        let open = open.unwrap();
        open.check().unwrap();
        assert!(
            matches!(open.pacing(0), Pacing::Open(Arrivals::Constant, rate) if (rate - 200.0).abs() < 1e-9)
        );
        assert!(matches!(open.pacing(1), Pacing::Open(_, rate) if (rate - 20.0).abs() < 1e-9));
        assert!(matches!(serve(&[]).unwrap().pacing(0), Pacing::Closed(16)));
        let few = serve(&["--callers", "3"]).unwrap();
        assert!(matches!(few.pacing(0), Pacing::Closed(3)));
        let own = serve(&["--", "--precision", "f32"]).unwrap();
        assert_eq!(own.serve, ["--precision", "f32"]);
    }

    #[test]
    fn arguments_that_do_not_fit_are_refused() {
        for wrong in [
            &["--rate", "0"][..],
            &["--rate", "nan"],
            &["--rate", "5", "--callers", "2"],
            &["--callers", "0"],
            &["--seconds", "-1"],
            &["--popularity", "zipf"],
            &["--server", "a:1", "--working-set", "2"],
            &["--server-cpus", "0"],
        ] {
            assert!(serve(wrong).is_err(), "{wrong:?}");
        }
        for wrong in [
            &["--flood", "10"][..],
            &["--seconds", "0"],
            &[
                "--server",
                "a:1",
                "--server-cpus",
                "0",
                "--generator-cpus",
                "1",
            ],
        ] {
            assert!(serve(wrong).unwrap().check().is_err(), "{wrong:?}");
        }
    }
}
