//! A server whose start waits for the database: it says so to whoever asks.

use std::net::{Ipv4Addr, SocketAddr};

use frameshift::app::App;
use frameshift::shutdown;
use tokio::net::TcpStream;

use super::Fleet;
use crate::ports;
use crate::roles::get;
use crate::server::{soon, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_answers_probes_while_its_start_waits_for_the_database() {
    let Some(fleet) = Fleet::new().await else {
        return;
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()));
    let mut config = fleet.config("one");
    config.metrics_listen = Some(address);
    fleet.database.set_away(true);
    let starting = tokio::spawn(App::start(config));
    until(|| async { TcpStream::connect(address).await.is_ok() }).await;
    // What looks after processes lets one live that waits, sends it nothing, and sees why.
    let livez = soon(get(address, "/livez")).await;
    assert!(livez.starts_with("HTTP/1.1 200 "), "{livez}");
    let readyz = soon(get(address, "/readyz")).await;
    assert!(readyz.starts_with("HTTP/1.1 503 "), "{readyz}");
    assert!(
        readyz.ends_with("waiting for the database or the objects\n"),
        "{readyz}"
    );
    let metrics = soon(get(address, "/metrics")).await;
    assert!(metrics.contains("frameshift_database_up 0\n"), "{metrics}");
    assert!(!starting.is_finished());

    fleet.database.set_away(false);
    let app = soon(starting).await.unwrap().expect("the server starts");
    let readyz = get(address, "/readyz").await;
    assert!(readyz.starts_with("HTTP/1.1 200 "), "{readyz}");
    let (drain, signal) = shutdown::channel();
    let running = tokio::spawn(app.run_until(async move { signal.draining().await }));
    drain.start();
    running.await.unwrap().unwrap();
}
