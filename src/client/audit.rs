//! `frameshift audit`: who changed which tenant or key.

use serde_json::{Value, json};

use super::cli::{Admin, Connection};
use super::{Error, json as shown, pages};
use crate::proto::v1;

/// Arguments of `audit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// The administrators' address
    #[command(flatten)]
    pub admin: Admin,
}

/// `frameshift audit`.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub(super) async fn run(args: &Args) -> Result<(), Error> {
    let client = args.admin.client(&args.connection).await?;
    let output = args.connection.output();
    pages::all(async |page_token| {
        let request = v1::ListAuditEventsRequest {
            page_size: 0,
            page_token,
        };
        let page = client
            .admin()
            .list_audit_events(request)
            .await?
            .into_inner();
        for event in &page.events {
            output.result(|| line(event), || value(event));
        }
        Ok(page.next_page_token)
    })
    .await
}

fn line(event: &v1::AuditEvent) -> String {
    let time = event.time.as_ref().map(ToString::to_string);
    let text = format!(
        "{}  {}  {}  by {} from {}  {}",
        time.unwrap_or_default(),
        event.method,
        event.resource,
        event.principal,
        if event.source.is_empty() {
            "here"
        } else {
            &event.source
        },
        event.detail,
    );
    text.trim_end().to_owned()
}

fn value(event: &v1::AuditEvent) -> Value {
    json!({
        "time": shown::time(event.time.as_ref()),
        "tenant": event.tenant,
        "principal": event.principal,
        "source": event.source,
        "method": event.method,
        "resource": event.resource,
        "detail": event.detail,
        "request_id": event.request_id,
    })
}
