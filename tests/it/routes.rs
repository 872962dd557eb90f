//! What commands about a task tell balancers that send its requests to the same servers.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::process::Command;
use tonic::service::InterceptorLayer;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Status};

/// The route of every call, in the order in which they came.
type Routes = Arc<Mutex<Vec<Option<String>>>>;

/// Starts a server that notes the routes of calls and refuses them.
async fn noting() -> (SocketAddr, Routes) {
    let routes = Routes::default();
    let noted = Arc::clone(&routes);
    let note = move |request: Request<()>| -> Result<Request<()>, Status> {
        let route = request.metadata().get("x-frameshift-route");
        let route = route.map(|own| own.to_str().unwrap().to_owned());
        noted.lock().unwrap().push(route);
        Err(Status::invalid_argument("noted"))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_, service) = tonic_health::server::health_reporter();
    let server = tonic::transport::Server::builder()
        .layer(InterceptorLayer::new(note))
        .add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    (address, routes)
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_about_a_task_name_it_to_balancers() {
    let (server, routes) = noting().await;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("all.npy");
    let out = out.to_str().unwrap();
    let video = "videos/00000000-0000-7000-8000-000000000001";
    let routes_of = async |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_frameshift"));
        command
            .args(arguments)
            .args(["--tenant", "acme", "--server", &server.to_string()])
            .stdin(Stdio::null());
        let output = crate::processes::output(&mut command).await;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let seen = std::mem::take(&mut *routes.lock().unwrap());
        assert!(!seen.is_empty(), "{arguments:?} called nothing: {told}");
        seen
    };
    for arguments in [
        &["classify", "--task", "motion", video][..],
        &["embed", "--task", "motion", "--out", out, video],
        &["evaluate", "--task", "motion", "--dataset", "motion"],
    ] {
        for route in routes_of(arguments).await {
            let route = route.expect(arguments[0]);
            assert!(
                ["acme/motion/0", "acme/motion/1"].contains(&&*route),
                "{arguments:?}: {route}"
            );
        }
    }
    let bare = routes_of(&["embed", "--out", out, "--force", video]).await;
    assert!(bare.iter().all(Option::is_none), "{bare:?}");
}
