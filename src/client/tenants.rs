//! `frameshift tenants`: creates, lists, shows, suspends and resumes tenants.

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
    /// Sets all limits of what a tenant may store; limits that are not given are removed
    Quota(Box<Quota>),
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
}

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
        Command::Suspend { id } => {
            let state = v1::TenantState::Suspended;
            set_state(&client, output, id, state).await
        }
        Command::Resume { id } => set_state(&client, output, id, v1::TenantState::Active).await,
    }
}

async fn quota(client: &Client, output: Output, quota: &Quota) -> Result<(), Error> {
    let bytes = quota.bytes.map(i64::try_from).transpose();
    let bytes = bytes.map_err(|_| Error::Usage("--bytes: too large".into()))?;
    let quotas = v1::Quotas {
        videos: quota.videos.map(i64::from),
        bytes,
        tasks: quota.tasks.map(i64::from),
        versions: quota.versions.map(i64::from),
        unfinished_jobs: quota.jobs.map(i64::from),
    };
    let request = v1::UpdateTenantRequest {
        tenant: Some(v1::Tenant {
            name: resource("tenants", &quota.id),
            quotas: Some(quotas),
            ..v1::Tenant::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["quotas".into()],
        }),
    };
    let tenant = client.admin().update_tenant(request).await?;
    show(output, tenant.get_ref());
    Ok(())
}

async fn set_state(
    client: &Client,
    output: Output,
    id: &str,
    state: v1::TenantState,
) -> Result<(), Error> {
    let request = v1::UpdateTenantRequest {
        tenant: Some(v1::Tenant {
            name: resource("tenants", id),
            state: state.into(),
            ..v1::Tenant::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["state".into()],
        }),
    };
    let tenant = client.admin().update_tenant(request).await?;
    show(output, tenant.get_ref());
    Ok(())
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
        v1::TenantState::Unspecified => "UNKNOWN",
    }
}

/// What is stored and what may be, by name.
fn amounts(tenant: &v1::Tenant) -> [(&'static str, i64, Option<i64>); 5] {
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
    if !tenant.display_name.is_empty() {
        text += &format!("  {}", tenant.display_name);
    }
    text
}

fn value(tenant: &v1::Tenant) -> Value {
    let amounts = amounts(tenant);
    let usage = amounts.map(|(name, used, _)| (name.to_owned(), Value::from(used)));
    let quotas = amounts.map(|(name, _, limit)| (name.to_owned(), Value::from(limit)));
    json!({
        "name": tenant.name,
        "display_name": tenant.display_name,
        "state": state(tenant),
        "usage": serde_json::Map::from_iter(usage),
        "quotas": serde_json::Map::from_iter(quotas),
        "etag": tenant.etag,
        "create_time": shown::time(tenant.create_time.as_ref()),
    })
}
