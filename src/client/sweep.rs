//! `frameshift sweep`: searches over shapes, learning rates and seeds, and the table of what came of them.

use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json as object};

use super::cli::Connection;
use super::output::Output;
use super::tasks::{self, HeadKind, Sites, TaskShape};
use super::train::{self, Hyper, Preset};
use super::{Client, Error, json, pages, resource};
use crate::proto::v1;

/// How often a sweep that is watched is asked for.
const LOOK: Duration = Duration::from_secs(2);

/// Arguments of `sweep`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do with sweeps.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Submits a sweep and shows its table when it has ended; Ctrl-C leaves it running
    Submit(Box<Submit>),
    /// Shows the combinations of a sweep, the best first
    Show {
        /// Sweep id
        id: String,
    },
    /// Lists sweeps
    List,
    /// Cancels a sweep and its jobs
    Cancel {
        /// Sweep id
        id: String,
    },
}

/// A sweep to submit. Options that take several values try each of them with each of the others.
#[derive(Debug, clap::Args)]
pub struct Submit {
    /// The tasks that the sweep creates are named PREFIX-1, PREFIX-2 …, one for each shape
    #[arg(long, value_name = "PREFIX")]
    pub task_prefix: String,
    /// Data set to train on
    #[arg(long)]
    pub dataset: String,
    /// Recipe for what all shapes and all jobs have; options that are also given replace its values
    #[arg(long, value_enum)]
    pub preset: Option<Preset>,
    /// Heads to try
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with = "head")]
    pub heads: Vec<HeadKind>,
    /// Places of adapters to try
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "SITES",
        conflicts_with = "sites"
    )]
    pub sites_of: Vec<Sites>,
    /// Widths of adapters to try
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "adapter_width")]
    pub adapter_widths: Vec<u32>,
    /// Kernels to try, each as TxHxW
    #[arg(long, value_delimiter = ',', value_name = "TxHxW", value_parser = kernel, conflicts_with = "adapter_kernel")]
    pub kernels: Vec<tasks::Kernel>,
    /// Distances of sampled frames to try; 0 spreads them over the whole video
    #[arg(long, value_delimiter = ',', conflicts_with = "sampling_rate")]
    pub sampling_rates: Vec<u32>,
    /// Learning rates to try
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["learning_rate", "base_learning_rate"])]
    pub learning_rates: Vec<f64>,
    /// Seeds with which each combination is trained
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 3])]
    pub seeds: Vec<u64>,
    /// Number of combinations that are drawn at random and tried; 0 tries all
    #[arg(long, default_value_t = 0)]
    pub random: u32,
    /// Seed of that draw
    #[arg(long, default_value_t = 0)]
    pub random_seed: u64,
    /// Successive halving by this factor F: the best of every F combinations are trained again, F times longer; 0 trains all in full
    #[arg(long, default_value_t = 0)]
    pub halving: u32,
    /// Place of the jobs among the tenant's waiting jobs, -100 to 100: higher ones go first
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub priority: i32,
    /// Submits the sweep and returns at once
    #[arg(long)]
    pub detach: bool,
    /// What all shapes have
    #[command(flatten)]
    pub shape: TaskShape,
    /// What all jobs have
    #[command(flatten)]
    pub hyper: Hyper,
}

fn kernel(text: &str) -> Result<tasks::Kernel, String> {
    let sizes: Result<Vec<u32>, _> = text.split('x').map(str::parse).collect();
    let sizes: Option<tasks::Kernel> = sizes.ok().and_then(|sizes| sizes.try_into().ok());
    sizes
        .filter(|sizes| sizes.iter().all(|size| size % 2 == 1))
        .ok_or_else(|| "expected three odd numbers TxHxW, for example 3x1x1".to_owned())
}

/// `frameshift sweep`.
///
/// # Errors
/// When the server refuses, or the sweep does not succeed.
pub async fn run(args: &Args) -> Result<(), Error> {
    let client = args.connection.client().await?;
    let output = args.connection.output();
    match &args.command {
        Command::Submit(submit) => Box::pin(submitted(&client, submit, output)).await,
        Command::Show { id } => {
            let sweep = get(&client, &resource("sweeps", id)).await?;
            shown(&sweep, output);
            Ok(())
        }
        Command::List => list(&client, output).await,
        Command::Cancel { id } => {
            let name = resource("sweeps", id);
            let request = v1::CancelSweepRequest { name };
            let answer = client.fine_tuning().cancel_sweep(request).await?;
            let sweep = answer.into_inner();
            output.result(|| line(&sweep), || value(&sweep));
            Ok(())
        }
    }
}

/// Every shape of the lists, each with what all have.
fn shapes(submit: &Submit) -> Vec<TaskShape> {
    fn with<T: Copy>(
        shapes: Vec<TaskShape>,
        values: &[T],
        set: impl Fn(&mut TaskShape, T),
    ) -> Vec<TaskShape> {
        if values.is_empty() {
            return shapes;
        }
        let each = shapes.iter().flat_map(|shape| {
            let set = &set;
            values.iter().map(move |value| {
                let mut own = shape.clone();
                set(&mut own, *value);
                own
            })
        });
        each.collect()
    }
    let shapes = vec![submit.shape.clone()];
    let shapes = with(shapes, &submit.sites_of, |own, sites| {
        own.sites = Some(sites);
    });
    let shapes = with(shapes, &submit.heads, |own, head| own.head = Some(head));
    let shapes = with(shapes, &submit.sampling_rates, |own, rate| {
        own.sampling_rate = Some(rate);
    });
    // Without adapters there is nothing to be wide.
    let (bare, adapted): (Vec<_>, Vec<_>) =
        (shapes.into_iter()).partition(|own| matches!(own.sites, Some(Sites::None)));
    let adapted = with(adapted, &submit.adapter_widths, |own, width| {
        own.adapter_width = Some(width);
    });
    let adapted = with(adapted, &submit.kernels, |own, kernel| {
        own.adapter_kernel = Some(kernel);
    });
    let preset = submit.preset.unwrap_or(Preset::Auto);
    let all = [bare, adapted].concat().into_iter();
    all.map(|own| preset.shape(own)).collect()
}

/// What all jobs have.
fn hyper(submit: &Submit) -> Hyper {
    let own = (submit.preset.unwrap_or(Preset::Auto)).hyper(submit.hyper.clone());
    match submit.learning_rates.is_empty() {
        true => own,
        // Rates that are tried stand in place of the recipe's.
        false => Hyper {
            base_learning_rate: None,
            ..own
        },
    }
}

/// Checks that there are adapters where widths or kernels of adapters are to be tried.
///
/// # Errors
/// When no shape has any.
fn check(submit: &Submit, shapes: &[TaskShape]) -> Result<(), Error> {
    let are_bare = shapes.iter().all(|own| own.sites == Some(Sites::None));
    let tried = [
        ("--adapter-widths", !submit.adapter_widths.is_empty()),
        ("--kernels", !submit.kernels.is_empty()),
    ];
    match tried
        .into_iter()
        .find(|(_, is_given)| are_bare && *is_given)
    {
        Some((option, _)) => Err(Error::Usage(format!(
            "{option}: no shape has adapters: give --sites-of places for them, too"
        ))),
        None => Ok(()),
    }
}

async fn submitted(client: &Client, submit: &Submit, output: Output) -> Result<(), Error> {
    let shapes = shapes(submit);
    check(submit, &shapes)?;
    let request = v1::SubmitSweepRequest {
        task_prefix: submit.task_prefix.clone(),
        dataset: resource("datasets", &submit.dataset),
        shapes: shapes.iter().map(tasks::shaped).collect(),
        learning_rates: submit.learning_rates.clone(),
        seeds: submit.seeds.clone(),
        hyper_parameters: Some(train::hyper_parameters(&hyper(submit))),
        random_points: submit.random,
        random_seed: submit.random_seed,
        halving: submit.halving,
        priority: submit.priority,
        request_id: uuid::Uuid::now_v7().to_string(),
    };
    let answer = client.fine_tuning().submit_sweep(request).await?;
    let mut sweep = answer.into_inner();
    if submit.detach {
        output.result(|| sweep.name.clone(), || value(&sweep));
        return Ok(());
    }
    output.note(&format!("submitted {}", sweep.name));
    let progress = output.count(0, "sweeping");
    while sweep.end_time.is_none() {
        let told = format!(
            "round {} of {}: {} jobs submitted, {} unfinished",
            sweep.round, sweep.rounds, sweep.jobs, sweep.unfinished_jobs
        );
        progress.say(&told);
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = tokio::signal::ctrl_c() => {
                let next = format!("the sweep goes on; see it with: frameshift sweep show {}", sweep.name);
                return Err(Error::Interrupted { next });
            }
        }
        sweep = get(client, &sweep.name).await?;
    }
    progress.finish();
    shown(&sweep, output);
    let state = sweep.state();
    if state == v1::JobState::Succeeded {
        return Ok(());
    }
    Err(Error::Job {
        state: json::state_name(state),
        job: sweep.name,
        message: sweep.message,
    })
}

async fn get(client: &Client, name: &str) -> Result<v1::Sweep, Error> {
    let request = v1::GetSweepRequest {
        name: name.to_owned(),
    };
    let sweep = client.fine_tuning().get_sweep(request).await?;
    Ok(sweep.into_inner())
}

async fn list(client: &Client, output: Output) -> Result<(), Error> {
    pages::all(async |page_token| {
        let request = v1::ListSweepsRequest {
            page_size: 0,
            page_token,
        };
        let page = client.fine_tuning().list_sweeps(request).await?;
        let page = page.into_inner();
        for sweep in &page.sweeps {
            output.result(|| line(sweep), || value(sweep));
        }
        Ok(page.next_page_token)
    })
    .await
}

fn shown(sweep: &v1::Sweep, output: Output) {
    output.result(|| table(sweep), || value(sweep));
}

fn line(sweep: &v1::Sweep) -> String {
    format!(
        "{}  {:<9} round {} of {}  {} jobs, {} unfinished  {}",
        sweep.name,
        json::state_name(sweep.state()),
        sweep.round,
        sweep.rounds,
        sweep.jobs,
        sweep.unfinished_jobs,
        sweep.dataset
    )
}

fn table(sweep: &v1::Sweep) -> String {
    let mut text = line(sweep);
    if !sweep.message.is_empty() {
        text += &format!("\n{}", sweep.message);
    }
    text += &format!(
        "\n{:<6}{:<8}{:<8}{:<8}{:<8}{:<11}{:<24}{}",
        "top-1", "±", "min", "max", "seeds", "weights", "task", "shape"
    );
    for point in &sweep.points {
        let rate = point.learning_rate;
        let rate = rate.map_or_else(String::new, |rate| format!(", learning rate {rate}"));
        text += &format!(
            "\n{:<6.3}{:<8.3}{:<8.3}{:<8.3}{:<8}{:<11}{:<24}{}{rate}",
            point.top1,
            point.top1_deviation,
            point.top1_min,
            point.top1_max,
            point.succeeded,
            point.parameters,
            point.task,
            described(point),
        );
    }
    text
}

/// The shape of a point in a few words.
fn described(point: &v1::SweepPoint) -> String {
    let adapter = point.adapter.unwrap_or_default();
    let sampling = point.sampling.unwrap_or_default();
    let sites = Sites::of(&adapter);
    let head = json::head_name(point.head());
    let adapters = match sites {
        Sites::None => String::new(),
        Sites::PreMlp | Sites::PreAttn | Sites::Both => format!(
            " {} {}x{}x{}",
            adapter.adapter_width,
            adapter.adapter_kernel_t,
            adapter.adapter_kernel_h,
            adapter.adapter_kernel_w
        ),
    };
    let every = match sampling.sampling_rate {
        0 => String::new(),
        rate => format!(", every {rate}th frame"),
    };
    let round = match point.round {
        0 => ", not begun".to_owned(),
        round => format!(", round {round}"),
    };
    format!("{sites}{adapters}, head {head}{every}{round}")
}

fn value(sweep: &v1::Sweep) -> Value {
    let job = |own: &v1::SweepJob| {
        object!({
            "name": own.name,
            "seed": own.seed.to_string(),
            "state": match own.state() == v1::JobState::Unspecified {
                true => Value::Null,
                false => json::state_name(own.state()).into(),
            },
            "version": own.version,
            "top1": own.top1,
            "training_seconds": json::seconds(own.training_time.as_ref()),
        })
    };
    let point = |own: &v1::SweepPoint| {
        object!({
            "task": own.task,
            "shape": described(own),
            "learning_rate": own.learning_rate,
            "round": own.round,
            "succeeded": own.succeeded,
            "top1": own.top1,
            "top1_deviation": own.top1_deviation,
            "top1_min": own.top1_min,
            "top1_max": own.top1_max,
            "loss": own.loss,
            "parameters": own.parameters,
            "jobs": own.jobs.iter().map(job).collect::<Vec<_>>(),
        })
    };
    json::typed(
        "sweep",
        object!({
            "name": sweep.name,
            "dataset": sweep.dataset,
            "state": json::state_name(sweep.state()),
            "message": sweep.message,
            "round": sweep.round,
            "rounds": sweep.rounds,
            "jobs": sweep.jobs,
            "unfinished_jobs": sweep.unfinished_jobs,
            "points": sweep.points.iter().map(point).collect::<Vec<_>>(),
            "create_time": json::time(sweep.create_time.as_ref()),
            "end_time": json::time(sweep.end_time.as_ref()),
        }),
    )
}

#[cfg(test)]
mod tests;
