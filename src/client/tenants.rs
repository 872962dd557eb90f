//! `frameshift tenants`: creates, lists, shows, limits, suspends, resumes and erases tenants.

use std::time::Duration;

use serde_json::{Value, json};

use super::cli::{Admin, Connection};
use super::output::Output;
use super::{Client, Error, json as shown, pages, resource};
use crate::proto::v1;

/// Arguments of `tenants`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// The administrators' address
    #[command(flatten)]
    pub admin: Admin,
    /// The subcommand
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands of `tenants`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Creates a tenant
    Create {
        /// Tenant id
        id: String,
        /// Name for people
        #[arg(long, default_value = "")]
        name: String,
    },
    /// Lists tenants
    List,
    /// Shows a tenant
    Show {
        /// Tenant id
        id: String,
    },
    /// Sets all limits of what a tenant may store and use; limits that are not given are removed
    Quota(Box<Quota>),
    /// Sets a tenant's share of devices, decoders and training, relative to the others'
    Weight {
        /// Tenant id
        id: String,
        /// Weight, 1 to 1000; a new tenant has 1
        weight: u32,
    },
    /// Sets after which time what a tenant stores is deleted; for times that are not given, the server's settings apply, and videos stay
    Retention(Retention),
    /// Erases a tenant with all its data, for good, and waits until that is done
    Erase {
        /// Tenant id
        id: String,
        /// The tenant's id once more, so that no tenant is erased by mistake
        #[arg(long, value_name = "ID")]
        confirm: String,
        /// Returns when the erasure has begun
        #[arg(long)]
        no_wait: bool,
    },
    /// Suspends a tenant: its callers are refused, its data stays
    Suspend {
        /// Tenant id
        id: String,
    },
    /// Resumes a suspended tenant: its callers are served again
    Resume {
        /// Tenant id
        id: String,
    },
}

/// Arguments of `tenants quota`.
#[derive(Debug, clap::Args)]
pub struct Quota {
    /// Tenant id
    pub id: String,
    /// Most videos
    #[arg(long)]
    pub videos: Option<u32>,
    /// Most bytes of videos and adapter versions, all together
    #[arg(long, value_name = "BYTES")]
    pub bytes: Option<u64>,
    /// Most tasks
    #[arg(long)]
    pub tasks: Option<u32>,
    /// Most adapter versions; an unfinished job counts as the version that it may become
    #[arg(long)]
    pub versions: Option<u32>,
    /// Most unfinished jobs; when not given, the server's jobs_per_tenant
    #[arg(long)]
    pub jobs: Option<u32>,
    /// Most frames of classified clips in a second, each clip as often as it runs through a version
    #[arg(long, value_name = "FRAMES")]
    pub clip_frames_per_second: Option<u32>,
    /// Most calls of the API in a second
    #[arg(long, value_name = "CALLS")]
    pub requests_per_second: Option<u32>,
    /// Most examples of all data sets together; when not given, the server's examples_per_tenant
    #[arg(long, value_name = "EXAMPLES")]
    pub examples: Option<u32>,
    /// Most bytes of unfinished uploads; when not given, the server's upload_bytes_per_tenant
    #[arg(long, value_name = "BYTES")]
    pub upload_bytes: Option<u64>,
    /// Most calls under way at a time, on each server; when not given, the server's requests_per_tenant
    #[arg(long, value_name = "CALLS")]
    pub concurrent_requests: Option<u32>,
    /// Most client streams at a time, on each server, live ones aside; when not given, the server's streams_per_tenant
    #[arg(long, value_name = "STREAMS")]
    pub concurrent_streams: Option<u32>,
    /// Most live streams at a time, on each server; when not given, the server's live_streams_per_tenant
    #[arg(long, value_name = "STREAMS")]
    pub concurrent_live_streams: Option<u32>,
    /// Most clips that wait or run at a time, on each server; when not given, the server's clips_per_tenant
    #[arg(long, value_name = "CLIPS")]
    pub admitted_clips: Option<u32>,
}

/// Arguments of `tenants retention`.
#[derive(Debug, clap::Args)]
pub struct Retention {
    /// Tenant id
    pub id: String,
    /// Days after which videos are deleted that no data set and no unfinished job names
    #[arg(long, value_name = "DAYS")]
    pub videos: Option<u16>,
    /// Days after which jobs that have ended are deleted
    #[arg(long, value_name = "DAYS")]
    pub jobs: Option<u16>,
    /// Hours since the last write after which unfinished uploads are deleted
    #[arg(long, value_name = "HOURS")]
    pub uploads: Option<u16>,
}

/// Time between two looks at an erasure.
const LOOK: Duration = Duration::from_millis(500);

/// Runs a subcommand.
///
/// # Errors
/// When the server refuses.
pub(super) async fn run(args: &Args) -> Result<(), Error> {
    let client = args.admin.client(&args.connection).await?;
    let output = args.connection.output();
    match &args.command {
        Command::Create { id, name } => {
            let request = v1::CreateTenantRequest {
                tenant_id: id.clone(),
                tenant: Some(v1::Tenant {
                    display_name: name.clone(),
                    ..v1::Tenant::default()
                }),
            };
            let tenant = client.admin().create_tenant(request).await?;
            show(output, tenant.get_ref());
            Ok(())
        }
        Command::List => list(&client, output).await,
        Command::Show { id } => {
            let request = v1::GetTenantRequest {
                name: resource("tenants", id),
            };
            let tenant = client.admin().get_tenant(request).await?;
            show(output, tenant.get_ref());
            Ok(())
        }
        Command::Quota(quota) => self::quota(&client, output, quota).await,
        Command::Weight { id, weight } => {
            let tenant = v1::Tenant {
                name: resource("tenants", id),
                weight: *weight,
                ..v1::Tenant::default()
            };
            update(&client, output, tenant, "weight").await
        }
        Command::Retention(own) => {
            let tenant = v1::Tenant {
                name: resource("tenants", &own.id),
                retention: Some(v1::TenantRetention {
                    videos: own.videos.map(|days| hours(24 * i64::from(days))),
                    jobs: own.jobs.map(|days| hours(24 * i64::from(days))),
                    uploads: own.uploads.map(|own| hours(i64::from(own))),
                }),
                ..v1::Tenant::default()
            };
            update(&client, output, tenant, "retention").await
        }
        Command::Erase {
            id,
            confirm,
            no_wait,
        } => {
            if id != confirm {
                let problem = format!("--confirm: expected {id}, got {confirm}");
                return Err(Error::Usage(problem));
            }
            erase(&client, output, id, *no_wait).await
        }
        Command::Suspend { id } => {
            let state = v1::TenantState::Suspended;
            set_state(&client, output, id, state).await
        }
        Command::Resume { id } => set_state(&client, output, id, v1::TenantState::Active).await,
    }
}

async fn quota(client: &Client, output: Output, quota: &Quota) -> Result<(), Error> {
    let bytes = |bytes: Option<u64>, flag: &str| {
        let bytes = bytes.map(i64::try_from).transpose();
        bytes.map_err(|_| Error::Usage(format!("{flag}: too large")))
    };
    let quotas = v1::Quotas {
        videos: quota.videos.map(i64::from),
        bytes: bytes(quota.bytes, "--bytes")?,
        tasks: quota.tasks.map(i64::from),
        versions: quota.versions.map(i64::from),
        unfinished_jobs: quota.jobs.map(i64::from),
        clip_frames_per_second: quota.clip_frames_per_second.map(i64::from),
        requests_per_second: quota.requests_per_second.map(i64::from),
        dataset_examples: quota.examples.map(i64::from),
        open_upload_bytes: bytes(quota.upload_bytes, "--upload-bytes")?,
        concurrent_requests: quota.concurrent_requests.map(i64::from),
        concurrent_streams: quota.concurrent_streams.map(i64::from),
        concurrent_live_streams: quota.concurrent_live_streams.map(i64::from),
        admitted_clips: quota.admitted_clips.map(i64::from),
    };
    let tenant = v1::Tenant {
        name: resource("tenants", &quota.id),
        quotas: Some(quotas),
        ..v1::Tenant::default()
    };
    update(client, output, tenant, "quotas").await
}

fn hours(hours: i64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: 60 * 60 * hours,
        nanos: 0,
    }
}

/// Changes one field of a tenant.
async fn update(
    client: &Client,
    output: Output,
    tenant: v1::Tenant,
    field: &str,
) -> Result<(), Error> {
    let request = v1::UpdateTenantRequest {
        tenant: Some(tenant),
        update_mask: Some(prost_types::FieldMask {
            paths: vec![field.into()],
        }),
    };
    let tenant = client.admin().update_tenant(request).await?;
    show(output, tenant.get_ref());
    Ok(())
}

/// Erases a tenant, and waits for the end unless it is not wanted.
async fn erase(client: &Client, output: Output, id: &str, no_wait: bool) -> Result<(), Error> {
    let name = resource("tenants", id);
    let request = v1::EraseTenantRequest { name: name.clone() };
    let mut erasure = client.admin().erase_tenant(request).await?.into_inner();
    while erasure.end_time.is_none() && !no_wait {
        tokio::time::sleep(LOOK).await;
        let request = v1::GetErasureRequest { name: name.clone() };
        erasure = client.admin().get_erasure(request).await?.into_inner();
    }
    let text = || {
        let state = match erasure.end_time.is_some() {
            true => "erased",
            false => "is being erased",
        };
        let (rows, objects, bytes) = (erasure.rows, erasure.objects, erasure.bytes);
        format!("{name}  {state}  {rows} rows  {objects} objects  {bytes} bytes")
    };
    output.result(text, || {
        json!({
            "tenant": erasure.tenant,
            "principal": erasure.principal,
            "begin_time": shown::time(erasure.begin_time.as_ref()),
            "end_time": shown::time(erasure.end_time.as_ref()),
            "rows": erasure.rows,
            "objects": erasure.objects,
            "bytes": erasure.bytes,
        })
    });
    Ok(())
}

async fn set_state(
    client: &Client,
    output: Output,
    id: &str,
    state: v1::TenantState,
) -> Result<(), Error> {
    let tenant = v1::Tenant {
        name: resource("tenants", id),
        state: state.into(),
        ..v1::Tenant::default()
    };
    update(client, output, tenant, "state").await
}

async fn list(client: &Client, output: Output) -> Result<(), Error> {
    pages::all(async |page_token| {
        let request = v1::ListTenantsRequest {
            page_size: 0,
            page_token,
        };
        let page = client.admin().list_tenants(request).await?.into_inner();
        for tenant in &page.tenants {
            show(output, tenant);
        }
        Ok(page.next_page_token)
    })
    .await
}

fn show(output: Output, tenant: &v1::Tenant) {
    output.result(|| line(tenant), || value(tenant));
}

fn state(tenant: &v1::Tenant) -> &'static str {
    match tenant.state() {
        v1::TenantState::Active => "ACTIVE",
        v1::TenantState::Suspended => "SUSPENDED",
        v1::TenantState::Erasing => "ERASING",
        v1::TenantState::Unspecified => "UNKNOWN",
    }
}

/// What is stored and what may be, by name.
fn amounts(tenant: &v1::Tenant) -> [(&'static str, i64, Option<i64>); 7] {
    let (usage, quotas) = (
        tenant.usage.unwrap_or_default(),
        tenant.quotas.unwrap_or_default(),
    );
    [
        ("videos", usage.videos, quotas.videos),
        ("bytes", usage.bytes, quotas.bytes),
        ("tasks", usage.tasks, quotas.tasks),
        ("versions", usage.versions, quotas.versions),
        (
            "unfinished_jobs",
            usage.unfinished_jobs,
            quotas.unfinished_jobs,
        ),
        (
            "dataset_examples",
            usage.dataset_examples,
            quotas.dataset_examples,
        ),
        (
            "open_upload_bytes",
            usage.open_upload_bytes,
            quotas.open_upload_bytes,
        ),
    ]
}

/// The limits of a second and of what is under way at once, by name.
fn rates(tenant: &v1::Tenant) -> [(&'static str, Option<i64>); 6] {
    let quotas = tenant.quotas.unwrap_or_default();
    [
        ("clip_frames_per_second", quotas.clip_frames_per_second),
        ("requests_per_second", quotas.requests_per_second),
        ("concurrent_requests", quotas.concurrent_requests),
        ("concurrent_streams", quotas.concurrent_streams),
        ("concurrent_live_streams", quotas.concurrent_live_streams),
        ("admitted_clips", quotas.admitted_clips),
    ]
}

fn line(tenant: &v1::Tenant) -> String {
    let mut text = format!("{}  {}", tenant.name, state(tenant));
    for (name, used, limit) in amounts(tenant) {
        text += &match limit {
            Some(limit) => format!("  {used}/{limit} {name}"),
            None => format!("  {used} {name}"),
        };
    }
    for (name, limit) in rates(tenant) {
        if let Some(limit) = limit {
            text += &format!("  {limit} {name}");
        }
    }
    if tenant.weight > 1 {
        text += &format!("  weight {}", tenant.weight);
    }
    if !tenant.display_name.is_empty() {
        text += &format!("  {}", tenant.display_name);
    }
    text
}

fn value(tenant: &v1::Tenant) -> Value {
    let amounts = amounts(tenant);
    let usage = amounts.map(|(name, used, _)| (name.to_owned(), Value::from(used)));
    let quotas = amounts.map(|(name, _, limit)| (name.to_owned(), Value::from(limit)));
    let rates = rates(tenant).map(|(name, limit)| (name.to_owned(), Value::from(limit)));
    let quotas = quotas.into_iter().chain(rates);
    let stay = tenant.retention.unwrap_or_default();
    json!({
        "name": tenant.name,
        "display_name": tenant.display_name,
        "state": state(tenant),
        "usage": serde_json::Map::from_iter(usage),
        "quotas": serde_json::Map::from_iter(quotas),
        "weight": tenant.weight,
        "retention": {
            "videos": shown::seconds(stay.videos.as_ref()),
            "jobs": shown::seconds(stay.jobs.as_ref()),
            "uploads": shown::seconds(stay.uploads.as_ref()),
        },
        "etag": tenant.etag,
        "create_time": shown::time(tenant.create_time.as_ref()),
    })
}
