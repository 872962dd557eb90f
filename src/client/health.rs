//! `frameshift health`: asks `grpc.health.v1` and answers by the exit code, for container health checks.

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::cli::Connection;
use super::{Client, Error, Options};

/// Arguments of `health`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
}

/// Asks for the overall health.
///
/// # Errors
/// When the server cannot be reached or does not serve.
pub async fn run(args: &Args) -> Result<(), Error> {
    let connection = &args.connection;
    // Health needs no credential, and belongs to no tenant.
    let options = Options {
        tenant: None,
        ..connection.options()
    };
    let client = Client::open(&options).await?;
    if !is_serving(&client).await? {
        return Err(Error::NotServing {
            server: connection.address().to_owned(),
        });
    }
    connection.output().result(
        || "SERVING".to_owned(),
        || serde_json::json!({ "status": "SERVING" }),
    );
    Ok(())
}

/// Whether the server as a whole serves.
///
/// # Errors
/// When the server cannot be reached.
pub async fn is_serving(client: &Client) -> Result<bool, Error> {
    let answer = HealthClient::new(client.channel())
        .check(HealthCheckRequest::default())
        .await?;
    Ok(answer.into_inner().status() == ServingStatus::Serving)
}
