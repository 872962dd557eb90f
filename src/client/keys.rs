//! `frameshift keys`: makes, lists, rotates, revokes and checks API keys.
//!
//! Invariant: a secret is shown once, or written once to a file that only its owner can read.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::cli::{Admin, Connection};
use super::output::Output;
use super::{Error, json as shown, pages, resource};
use crate::proto::v1;

/// Seconds of a day.
const DAY: u64 = 24 * 60 * 60;

/// Arguments of `keys`.
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

/// Subcommands of `keys`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Creates a key, and shows its secret once
    Create(Create),
    /// Lists keys, without their secrets
    List {
        /// Tenant whose keys are listed; when absent, all keys that the caller administers
        #[arg(value_name = "TENANT_ID")]
        of: Option<String>,
    },
    /// Gives a key a new secret, and shows it once; the previous one stays valid for a while
    Rotate(Rotate),
    /// Revokes a key for good, at once
    Revoke {
        /// Key id: the part of the key between `fsk_` and the next `_`
        id: String,
    },
    /// Shows how the server identifies the caller: tenant, scopes and tasks
    Check,
    /// Creates the first operator's key in the data directory of a server that is not running
    Bootstrap(Bootstrap),
}

/// Arguments of `keys create`.
#[derive(Debug, clap::Args)]
pub struct Create {
    /// Tenant of the key's callers
    #[arg(required_unless_present = "operator", conflicts_with = "operator")]
    pub tenant_id: Option<String>,
    /// Creates an operator's key: it administers tenants and keys, and gives access to nobody's data
    #[arg(long)]
    pub operator: bool,
    /// What its callers may do: classify, read, write, train, serve, tenant-admin; several with commas, or repeated
    #[arg(
        long = "scope",
        value_delimiter = ',',
        required_unless_present = "operator",
        conflicts_with = "operator"
    )]
    pub scopes: Vec<String>,
    /// Task that its callers may classify with; may be repeated; all tasks when absent. Only for keys with the scope classify and no other
    #[arg(long = "task")]
    pub tasks: Vec<String>,
    /// Name for people
    #[arg(long, default_value = "")]
    pub name: String,
    /// Days until the key expires [default: 365]
    #[arg(long, conflicts_with = "no_expiry")]
    pub days: Option<u32>,
    /// The key is valid until it is revoked
    #[arg(long)]
    pub no_expiry: bool,
    /// File to write the key to instead of showing it; it must not exist yet
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Arguments of `keys rotate`.
#[derive(Debug, clap::Args)]
pub struct Rotate {
    /// Key id
    pub id: String,
    /// Days for which the previous secret stays valid
    #[arg(long, default_value_t = 7)]
    pub overlap_days: u32,
    /// File to write the key to instead of showing it; it must not exist yet
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Arguments of `keys bootstrap`.
#[derive(Debug, Clone, clap::Args)]
pub struct Bootstrap {
    /// The server's data directory [default: that of the server's configuration]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The server's configuration file [env: FRAMESHIFT_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// File to write the key to instead of showing it; it must not exist yet
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Runs a subcommand.
///
/// # Errors
/// When the server refuses, or a file cannot be written.
pub(super) async fn run(args: &Args) -> Result<(), Error> {
    let output = args.connection.output();
    match &args.command {
        Command::Create(create) => self::create(args, create).await,
        Command::List { of } => list(args, of.as_deref()).await,
        Command::Rotate(rotate) => self::rotate(args, rotate).await,
        Command::Revoke { id } => {
            let request = v1::RevokeKeyRequest {
                name: resource("keys", id),
            };
            let mut admin = args.admin.client(&args.connection).await?.admin();
            let key = admin.revoke_key(request).await?.into_inner();
            output.result(|| format!("{} revoked", key.name), || shown_key(&key));
            Ok(())
        }
        Command::Check => check(args).await,
        // The program does this itself: it needs the server's files.
        Command::Bootstrap(_) => Err(Error::Usage("keys bootstrap speaks to no server".into())),
    }
}

async fn create(args: &Args, create: &Create) -> Result<(), Error> {
    let scopes = match create.operator {
        true => vec!["fleet-admin".to_owned()],
        false => create.scopes.clone(),
    };
    let tenant = create.tenant_id.as_deref();
    let key = v1::ApiKey {
        tenant: tenant.map_or_else(String::new, |tenant| resource("tenants", tenant)),
        display_name: create.name.clone(),
        scopes,
        tasks: create
            .tasks
            .iter()
            .map(|task| resource("tasks", task))
            .collect(),
        ..v1::ApiKey::default()
    };
    let lifetime = create.days.map(days);
    let request = v1::CreateKeyRequest {
        key: Some(key),
        lifetime,
        never_expires: create.no_expiry,
    };
    // Before the key is made, so that none is lost for want of a place.
    let out = create.out.as_deref().map(open).transpose()?;
    let mut admin = args.admin.client(&args.connection).await?.admin();
    let made = admin.create_key(request).await?.into_inner();
    hand_over(args.connection.output(), made.key, &made.secret, out)
}

async fn rotate(args: &Args, rotate: &Rotate) -> Result<(), Error> {
    let request = v1::RotateKeyRequest {
        name: resource("keys", &rotate.id),
        overlap: Some(days(rotate.overlap_days)),
    };
    let out = rotate.out.as_deref().map(open).transpose()?;
    let mut admin = args.admin.client(&args.connection).await?.admin();
    let made = admin.rotate_key(request).await?.into_inner();
    hand_over(args.connection.output(), made.key, &made.secret, out)
}

async fn list(args: &Args, of: Option<&str>) -> Result<(), Error> {
    let output = args.connection.output();
    let client = args.admin.client(&args.connection).await?;
    let tenant = of.map_or_else(String::new, |tenant| resource("tenants", tenant));
    pages::all(async |page_token| {
        let request = v1::ListKeysRequest {
            tenant: tenant.clone(),
            page_size: 0,
            page_token,
        };
        let page = client.admin().list_keys(request).await?.into_inner();
        for key in &page.keys {
            output.result(|| line(key), || shown_key(key));
        }
        Ok(page.next_page_token)
    })
    .await
}

async fn check(args: &Args) -> Result<(), Error> {
    let client = args.connection.client().await?;
    let request = v1::GetServerInfoRequest {};
    let info = client.server().get_server_info(request).await?.into_inner();
    let tasks = match info.tasks.is_empty() {
        true => "all tasks".to_owned(),
        false => info.tasks.join(" "),
    };
    args.connection.output().result(
        || {
            let scopes = info.scopes.join(" ");
            format!(
                "{}  tenant {}  {scopes}  {tasks}",
                info.principal, info.tenant
            )
        },
        || {
            json!({
                "principal": info.principal,
                "tenant": info.tenant,
                "scopes": info.scopes,
                "tasks": info.tasks,
            })
        },
    );
    Ok(())
}

fn days(days: u32) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::from(days) * DAY as i64,
        nanos: 0,
    }
}

/// A new file for a secret, which only its owner can read.
pub(crate) fn open(path: &Path) -> Result<(PathBuf, std::fs::File), Error> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    match file {
        Ok(file) => Ok((path.into(), file)),
        Err(source) => Err(Error::Write {
            path: path.into(),
            source,
        }),
    }
}

/// Shows a new secret, or writes it to its file.
fn hand_over(
    output: Output,
    key: Option<v1::ApiKey>,
    secret: &str,
    out: Option<(PathBuf, std::fs::File)>,
) -> Result<(), Error> {
    let key = key.unwrap_or_default();
    let written = out.is_some();
    if let Some((path, mut file)) = out {
        let stored = writeln!(file, "{secret}").and_then(|()| file.sync_all());
        stored.map_err(|source| Error::Write { path, source })?;
    }
    output.note("the secret is shown this once; the server has only its hash");
    output.result(
        || match written {
            true => line(&key),
            false => format!("{}\n{secret}", line(&key)),
        },
        || {
            let mut value = shown_key(&key);
            if !written {
                value["secret"] = secret.into();
            }
            value
        },
    );
    Ok(())
}

fn line(key: &v1::ApiKey) -> String {
    let whose = match key.tenant.as_str() {
        "" => "operator",
        tenant => tenant,
    };
    let mut text = format!("{}  {whose}  {}", key.name, key.scopes.join(","));
    for task in &key.tasks {
        text += &format!(" {task}");
    }
    let time = |time: &Option<prost_types::Timestamp>| time.as_ref().map(ToString::to_string);
    text += &match (time(&key.revoke_time), time(&key.expire_time)) {
        (Some(revoked), _) => format!("  revoked {revoked}"),
        (None, Some(expires)) => format!("  expires {expires}"),
        (None, None) => "  never expires".to_owned(),
    };
    if let Some(used) = time(&key.last_use_time) {
        let day = used.split('T').next().unwrap_or_default();
        text += &format!("  used {day}");
    }
    if !key.display_name.is_empty() {
        text += &format!("  {}", key.display_name);
    }
    text
}

fn shown_key(key: &v1::ApiKey) -> Value {
    json!({
        "name": key.name,
        "tenant": key.tenant,
        "display_name": key.display_name,
        "scopes": key.scopes,
        "tasks": key.tasks,
        "created_by": key.created_by,
        "create_time": shown::time(key.create_time.as_ref()),
        "expire_time": shown::time(key.expire_time.as_ref()),
        "revoke_time": shown::time(key.revoke_time.as_ref()),
        "previous_secret_end_time": shown::time(key.previous_secret_end_time.as_ref()),
        "last_use_time": shown::time(key.last_use_time.as_ref()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    #[test]
    fn a_file_with_a_secret_is_its_owners_and_replaces_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let (_, file) = open(&path).unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(open(&path).unwrap_err().exit_code(), 73);
    }

    #[test]
    fn days_are_seconds() {
        assert_eq!(days(7).seconds, 7 * 86_400);
        let whole: Duration = days(1).try_into().unwrap();
        assert_eq!(whole, Duration::from_secs(DAY));
    }
}
