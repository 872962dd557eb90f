//! `frameshift health`: asks `grpc.health.v1` and says it by the exit code, for container health checks.

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::cli::Connection;
use super::output::Output;
use super::{Client, Error};

/// Asks for the overall health.
///
/// # Errors
/// When the server cannot be reached or does not serve.
pub async fn health(connection: &Connection, output: Output) -> Result<(), Error> {
    let client = Client::connect(&connection.server, None).await?;
    let answer = HealthClient::new(client.channel())
        .check(HealthCheckRequest::default())
        .await?
        .into_inner();
    if answer.status() != ServingStatus::Serving {
        return Err(Error::NotServing {
            server: connection.server.clone(),
        });
    }
    output.result(
        || "SERVING".to_owned(),
        || serde_json::json!({ "status": "SERVING" }),
    );
    Ok(())
}
