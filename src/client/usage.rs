//! `frameshift usage`: what tenants used, for people and for billing.

use serde_json::{Value, json};

use super::cli::{Admin, Connection};
use super::{Client, Error, json as shown, pages, resource};
use crate::proto::v1;

/// First line of a CSV file.
const HEAD: &str = "start,end,tenant,task,requests,clip_frames,trained_clip_frames,byte_hours,\
                    device_seconds,decode_seconds,received_bytes,sent_bytes";

/// Arguments of `usage`.
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

/// Subcommands of `usage`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Prints what tenants used in each hour or day, oldest first
    Export(Export),
}

/// Arguments of `usage export`.
#[derive(Debug, clap::Args)]
pub struct Export {
    /// Tenant whose usage is printed; when absent, all tenants that the caller administers
    #[arg(value_name = "TENANT_ID")]
    pub of: Option<String>,
    /// Time whose hour is the first, for example 2026-11-01T00:00:00Z; the oldest usage when absent
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Time whose hour is the first that is not printed any more; until now when absent
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// Span of time of each line
    #[arg(long, value_enum, default_value_t = Span::Day)]
    pub by: Span,
    /// Format of the lines
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    pub format: Format,
}

/// Length of the spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Span {
    /// Hours
    Hour,
    /// Days, from midnight to midnight UTC
    Day,
}

/// Form of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Comma-separated values, with a first line of names
    Csv,
    /// A JSON object in each line
    Jsonl,
}

/// Runs a subcommand.
///
/// # Errors
/// When the server refuses, or a time is malformed.
pub(super) async fn run(args: &Args) -> Result<(), Error> {
    let client = args.admin.client(&args.connection).await?;
    let Command::Export(export) = &args.command;
    let format = match args.connection.output().is_json() {
        true => Format::Jsonl,
        false => export.format,
    };
    print(&client, export, format).await
}

async fn print(client: &Client, export: &Export, format: Format) -> Result<(), Error> {
    let tenant = export.of.as_ref().map(|id| resource("tenants", id));
    let span = match export.by {
        Span::Hour => v1::UsageSpan::Hour,
        Span::Day => v1::UsageSpan::Day,
    };
    let begin = v1::ListUsageRequest {
        tenant: tenant.unwrap_or_default(),
        start_time: time("--from", export.from.as_deref())?,
        end_time: time("--to", export.to.as_deref())?,
        span: span.into(),
        page_size: 1000,
        page_token: String::new(),
    };
    if format == Format::Csv {
        put(HEAD);
    }
    pages::all(async |page_token| {
        let request = v1::ListUsageRequest {
            page_token,
            ..begin.clone()
        };
        let page = client.admin().list_usage(request).await?.into_inner();
        for record in &page.records {
            match format {
                Format::Csv => put(&line(record)),
                Format::Jsonl => put(&value(record).to_string()),
            }
        }
        Ok(page.next_page_token)
    })
    .await
}

/// Prints a line. A reader that has gone (`| head`) is no error.
fn put(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

fn time(flag: &str, text: Option<&str>) -> Result<Option<prost_types::Timestamp>, Error> {
    let Some(text) = text else { return Ok(None) };
    let time = text.parse::<prost_types::Timestamp>();
    let wrong = |_| {
        Error::Usage(format!(
            "{flag}: expected a time as 2026-11-30T00:00:00Z, got {text:?}"
        ))
    };
    time.map(Some).map_err(wrong)
}

/// The id in a name; ids have neither commas nor quotes.
fn id(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or_default()
}

fn line(record: &v1::UsageRecord) -> String {
    let time = |time: &Option<prost_types::Timestamp>| shown::time(time.as_ref());
    format!(
        "{},{},{},{},{},{},{},{},{},{},{},{}",
        time(&record.start_time).unwrap_or_default(),
        time(&record.end_time).unwrap_or_default(),
        id(&record.tenant),
        id(&record.task),
        record.requests,
        record.clip_frames,
        record.trained_clip_frames,
        record.byte_hours,
        seconds(record.device_time),
        seconds(record.decode_time),
        record.received_bytes,
        record.sent_bytes,
    )
}

/// Seconds with all digits that the server has counted.
fn seconds(time: Option<prost_types::Duration>) -> String {
    let time = time.unwrap_or_default();
    format!("{}.{:06}", time.seconds, time.nanos / 1000)
}

fn number(time: Option<prost_types::Duration>) -> f64 {
    let time = time.unwrap_or_default();
    time.seconds as f64 + f64::from(time.nanos / 1000) / 1e6
}

fn value(record: &v1::UsageRecord) -> Value {
    json!({
        "start": shown::time(record.start_time.as_ref()),
        "end": shown::time(record.end_time.as_ref()),
        "tenant": id(&record.tenant),
        "task": id(&record.task),
        "requests": record.requests,
        "clip_frames": record.clip_frames,
        "trained_clip_frames": record.trained_clip_frames,
        "byte_hours": record.byte_hours,
        "device_seconds": number(record.device_time),
        "decode_seconds": number(record.decode_time),
        "received_bytes": record.received_bytes,
        "sent_bytes": record.sent_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_value_for_each_name_of_the_head() {
        let record = v1::UsageRecord {
            tenant: "tenants/acme".into(),
            task: "tasks/gestures".into(),
            start_time: time("--from", Some("2026-11-30T00:00:00Z")).unwrap(),
            end_time: time("--to", Some("2026-12-01T00:00:00Z")).unwrap(),
            requests: 1,
            clip_frames: 2,
            trained_clip_frames: 3,
            byte_hours: 4,
            device_time: Some(prost_types::Duration {
                seconds: 5,
                nanos: 60_000,
            }),
            decode_time: None,
            received_bytes: 7,
            sent_bytes: 8,
        };
        let expected =
            "2026-11-30T00:00:00Z,2026-12-01T00:00:00Z,acme,gestures,1,2,3,4,5.000060,0.000000,7,8";
        assert_eq!(line(&record), expected);
        assert_eq!(HEAD.split(',').count(), expected.split(',').count());
        assert!(time("--from", Some("yesterday")).is_err());
    }
}
