//! Servers whose database is behind PgBouncer, which pools by transaction.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn servers_behind_a_pooler_serve_and_train_as_others_do() {
    if let Some(fleet) = Fleet::pooled().await {
        serve_and_train(&fleet).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_behind_a_pooler_is_an_outage_and_passes() {
    let Some(fleet) = Fleet::pooled().await else {
        return;
    };
    let server = fleet.start("one").await;
    let client = server.client("acme").await;
    create_task(&client, "kept").await;
    fleet.database.set_away(true);
    let refusal = soon(client.tasks().create_task(new_task("lost"))).await;
    refused(refusal, Code::Unavailable, "DATABASE_UNAVAILABLE");
    fleet.database.set_away(false);
    until(|| async { client.tasks().create_task(new_task("more")).await.is_ok() }).await;
    let found = client.tasks().get_task(task("kept")).await;
    found.expect("what was there before is there");
    server.stop().await;
}
