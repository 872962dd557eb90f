//! Authentication through the whole server: every method with every kind of credential, and what a run leaves behind of the secrets that it used.

mod administration;
mod attempts;
mod audit;
mod commands;
mod outside;
mod pages;
mod secrets;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use frameshift::client::{Client, Options};
use frameshift::config::Config;
use frameshift::ids::{KeyId, TenantId};
use frameshift::metadata::{Actor, KeyOwner, NewKey};
use frameshift::proto::v1;
use frameshift::spec::{Scope, Scopes};
use frameshift::tenancy::key::Key;
use frameshift::tenancy::{Hasher, Method};
use http::uri::PathAndQuery;
use prost::Message;
use secrecy::ExposeSecret;
use tonic::codec::Streaming;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::server::{
    TestServer, classify, clip, config, create_task, reason, refused, trained, upload,
};

/// A server whose callers prove who they are with keys, and its tenants `acme` and `globex`.
pub(crate) struct Guarded {
    pub(crate) server: TestServer,
    pub(crate) admin: SocketAddr,
}

impl Guarded {
    pub(crate) async fn start() -> Self {
        Self::with_tenants(TestServer::start_with(Self::configure).await).await
    }

    /// Starts a server like [`Guarded::start`], on a directory of the test's own.
    pub(crate) async fn start_in(folder: &Path) -> Self {
        let mut config = config(folder);
        Self::configure(&mut config);
        Self::with_tenants(TestServer::start_on(config).await).await
    }

    fn configure(config: &mut Config) {
        config.tenancy.methods = [Method::Keys].into();
        config.tenancy.attempts = NonZeroU32::MAX;
        config.admin_listen = Some("127.0.0.1:0".parse().unwrap());
    }

    /// A key on record.
    async fn record(&self, new: impl FnOnce(NewKey) -> NewKey) -> (KeyId, String) {
        let key = Key::generate().unwrap();
        let hash = Hasher::new(None).unwrap().stored(&key);
        let new = new(NewKey {
            id: key.id().clone(),
            tenant: Some("acme".parse().unwrap()),
            display_name: String::new(),
            scopes: Scopes::TENANT,
            tasks: None,
            hash,
            created_by: "test".into(),
            lifetime: None,
        });
        self.server
            .wiring
            .metadata
            .create_key(new, &actor())
            .await
            .unwrap();
        (key.id().clone(), key.reveal().expose_secret().to_owned())
    }

    /// A good key with some scopes; the fleet's alone belongs to no tenant.
    pub(crate) async fn key(&self, scopes: Scopes) -> String {
        let is_fleet = scopes.contains(Scope::FleetAdmin);
        let tenant = (!is_fleet).then(|| "acme".parse().unwrap());
        let made = self.record(|new| NewKey {
            tenant,
            scopes,
            ..new
        });
        made.await.1
    }

    /// The tenants that tests know, on record.
    pub(crate) async fn with_tenants(server: TestServer) -> Self {
        for tenant in ["acme", "globex"] {
            let tenant: TenantId = tenant.parse().unwrap();
            let made = server
                .wiring
                .metadata
                .create_tenant(&tenant, "", &actor())
                .await;
            made.unwrap();
        }
        let admin = server.admin.expect("there is an administrators' API");
        Self { server, admin }
    }

    /// A good key of a tenant with some scopes.
    pub(crate) async fn key_of(&self, tenant: &str, scopes: Scopes) -> String {
        let tenant = Some(tenant.parse().unwrap());
        let made = self.record(|new| NewKey {
            tenant,
            scopes,
            ..new
        });
        made.await.1
    }

    /// A client with a key.
    pub(crate) async fn client(&self, key: &str) -> Client {
        open(self.server.address, key).await
    }

    /// A client of the administrators' API with a key.
    pub(crate) async fn admin(&self, key: &str) -> Client {
        open(self.admin, key).await
    }
}

fn actor() -> Actor {
    Actor {
        principal: "test".into(),
        source: String::new(),
        request_id: String::new(),
    }
}

async fn open(address: SocketAddr, key: &str) -> Client {
    let options = Options {
        server: address.to_string(),
        api_key: Some(key.into()),
        ..Options::default()
    };
    Client::open(&options).await.unwrap()
}

/// The paths of all methods of the API.
fn methods() -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(frameshift::proto::DESCRIPTORS).unwrap();
    let mut paths = Vec::new();
    for file in &set.file {
        for service in &file.service {
            let path = |method: &prost_types::MethodDescriptorProto| {
                format!("/{}.{}/{}", file.package(), service.name(), method.name())
            };
            paths.extend(service.method.iter().map(path));
        }
    }
    paths
}

/// Connections to both addresses, for calls by path.
struct Raw {
    own: Channel,
    admin: Channel,
}

impl Raw {
    async fn of(guarded: &Guarded) -> Self {
        Self::over(guarded, "http", |endpoint| endpoint).await
    }

    /// Connections of a scheme, with what the endpoints need for it.
    async fn over(guarded: &Guarded, scheme: &str, with: impl Fn(Endpoint) -> Endpoint) -> Self {
        let connect = async |address: SocketAddr| {
            let endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).unwrap();
            with(endpoint).connect().await.unwrap()
        };
        Self {
            own: connect(guarded.server.address).await,
            admin: connect(guarded.admin).await,
        }
    }

    /// Calls a method with an empty message. Ok when it was let in, however it goes on.
    async fn call(&self, path: &str, headers: &[(&str, &str)]) -> Result<(), Status> {
        match self.answer(path, headers).await {
            Err(status)
                if matches!(
                    status.code(),
                    Code::Unauthenticated | Code::PermissionDenied
                ) =>
            {
                Err(status)
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Calls a method with an empty message.
    async fn answer(&self, path: &str, headers: &[(&str, &str)]) -> Result<(), Status> {
        let is_admin = path.contains(".AdminService/");
        let channel = if is_admin { &self.admin } else { &self.own };
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let mut request = Request::new(());
        request.set_timeout(Duration::from_secs(20));
        for (name, value) in headers {
            let name: tonic::metadata::AsciiMetadataKey = name.parse().unwrap();
            request.metadata_mut().append(name, value.parse().unwrap());
        }
        let path = PathAndQuery::try_from(path).unwrap();
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let answer: Result<Response<Streaming<()>>, Status> =
            grpc.server_streaming(request, path, codec).await;
        answer.map(drop)
    }

    async fn with(&self, path: &str, key: &str) -> Result<(), Status> {
        let bearer = format!("Bearer {key}");
        self.call(path, &[("authorization", &bearer)]).await
    }
}

/// What identifies a refusal to its caller, but for the request's own id.
fn told(status: &Status) -> (Code, String, Vec<u8>) {
    let text = status.message().to_owned();
    (status.code(), text, status.details().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_refuses_every_credential_that_is_not_good_in_one_way() {
    let guarded = Guarded::start().await;
    let raw = Raw::of(&guarded).await;
    let records = &guarded.server.wiring.metadata;
    let expired = guarded.record(|new| NewKey {
        lifetime: Some(Duration::ZERO),
        ..new
    });
    let expired = expired.await.1;
    let (id, revoked) = guarded.record(|new| new).await;
    records
        .revoke_key(&KeyOwner::Any, &id, &actor())
        .await
        .unwrap();
    let unknown = Key::generate().unwrap().reveal();
    let forged = Key::with_id(id).unwrap().reveal();
    let bearer = |key: &str| format!("Bearer {key}");
    let bad = [
        bearer(unknown.expose_secret()),
        bearer(forged.expose_secret()),
        bearer(&expired),
        bearer(&revoked),
        bearer("nonsense"),
        bearer(&revoked[1..]),
        "Basic dTpw".to_owned(),
    ];
    let mut answers = BTreeSet::new();
    let good = bearer(&guarded.key(Scopes::TENANT).await);
    for path in methods() {
        let mut cases: Vec<Vec<(&str, &str)>> = vec![Vec::new()];
        cases.extend(bad.iter().map(|bad| vec![("authorization", bad.as_str())]));
        cases.push(vec![("authorization", &good), ("authorization", &good)]);
        for headers in cases {
            let status = raw.call(&path, &headers).await;
            let status = status.expect_err(&path);
            assert_eq!(reason(&status), "CREDENTIAL_REFUSED", "{path}: {status:?}");
            answers.insert(told(&status).1);
        }
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_asks_for_its_scope_and_for_the_callers_own_tenant() {
    let guarded = Guarded::start().await;
    let raw = Raw::of(&guarded).await;
    let mut keys = Vec::new();
    for scope in Scope::ALL {
        keys.push((scope, guarded.key(Scopes::of(&[scope])).await));
    }
    for path in methods() {
        let mut may = Vec::new();
        for (scope, key) in &keys {
            match raw.with(&path, key).await {
                Ok(()) => may.push((scope, key)),
                Err(status) => {
                    assert_eq!(
                        reason(&status),
                        "SCOPE_MISSING",
                        "{path} {scope}: {status:?}"
                    );
                }
            }
        }
        let is_admin = path.contains(".AdminService/");
        assert!(!may.is_empty(), "{path}: nobody may");
        for (scope, key) in &may {
            assert_eq!(
                matches!(scope, Scope::FleetAdmin | Scope::TenantAdmin)
                    && !path.ends_with("/GetServerInfo"),
                is_admin,
                "{path} {scope}"
            );
            // Another tenant and one that is nowhere get the same answer.
            let bearer = format!("Bearer {key}");
            let mut answers = Vec::new();
            for tenant in ["globex", "nowhere"] {
                let headers = [
                    ("authorization", bearer.as_str()),
                    ("x-frameshift-tenant", tenant),
                ];
                let status = raw.call(&path, &headers).await.expect_err(&path);
                assert_eq!(reason(&status), "TENANT_DENIED", "{path}: {status:?}");
                answers.push(told(&status));
            }
            assert_eq!(answers[0], answers[1]);
        }
    }
    guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_needs_no_credential_and_names_no_administrators_service() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    let guarded = Guarded::start().await;
    let raw = Raw::of(&guarded).await;
    let mut health = HealthClient::new(raw.own.clone());
    let answer = health.check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(answer.into_inner().status, 1);
    let named = HealthCheckRequest {
        service: "frameshift.v1.AdminService".into(),
    };
    let status = health.check(named).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_the_api_has_no_administration() {
    let guarded = Guarded::start().await;
    let operator = guarded.key(Scopes::of(&[Scope::FleetAdmin])).await;
    let client = guarded.client(&operator).await;
    let listed = client
        .admin()
        .list_tenants(v1::ListTenantsRequest::default())
        .await;
    refused(listed, Code::Unimplemented, "METHOD_UNKNOWN");
    // An operator's key opens nobody's data.
    let listed = client
        .videos()
        .list_videos(v1::ListVideosRequest::default())
        .await;
    refused(listed, Code::PermissionDenied, "SCOPE_MISSING");
    guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_for_certain_tasks_classifies_with_them_and_does_nothing_else() {
    let guarded = Guarded::start().await;
    let owner = guarded.client(&guarded.key(Scopes::TENANT).await).await;
    let videos = trained(&owner, "gestures").await;
    create_task(&owner, "secret").await;
    let device = guarded.record(|new| NewKey {
        scopes: Scopes::of(&[Scope::Classify]),
        tasks: Some(["gestures".parse().unwrap()].into()),
        ..new
    });
    let device = guarded.client(&device.await.1).await;
    let video = &videos[0].name;
    let answer = device
        .classification()
        .classify(classify("gestures", video))
        .await;
    assert_eq!(
        answer.unwrap().into_inner().version,
        "tasks/gestures/versions/1"
    );
    for task in ["secret", "nowhere"] {
        let answer = device
            .classification()
            .classify(classify(task, video))
            .await;
        refused(answer, Code::PermissionDenied, "TASK_DENIED");
        let both = v1::ClassifyRequest {
            task: String::new(),
            tasks: vec!["tasks/gestures".into(), format!("tasks/{task}")],
            ..classify(task, video)
        };
        let answer = device.classification().classify(both).await;
        refused(answer, Code::PermissionDenied, "TASK_DENIED");
    }
    let source = Some(v1::embed_request::Source::Content(clip(9)));
    let bare = v1::EmbedRequest {
        source,
        ..Default::default()
    };
    let answer = device.classification().embed(bare).await;
    refused(answer, Code::PermissionDenied, "TASK_DENIED");
    let listed = device
        .tasks()
        .list_tasks(v1::ListTasksRequest::default())
        .await;
    refused(listed, Code::PermissionDenied, "SCOPE_MISSING");
    let info = device
        .server()
        .get_server_info(v1::GetServerInfoRequest {})
        .await;
    let info = info.unwrap().into_inner();
    assert_eq!(
        (info.tenant.as_str(), info.scopes),
        ("acme", vec!["classify".to_owned()])
    );
    assert_eq!(info.tasks, ["tasks/gestures"]);
    guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_see_their_own_things_alone_whatever_their_header_says() {
    let guarded = Guarded::start().await;
    let acme = guarded.client(&guarded.key(Scopes::TENANT).await).await;
    let globex = guarded.record(|new| NewKey {
        tenant: Some("globex".parse().unwrap()),
        ..new
    });
    let globex = guarded.client(&globex.await.1).await;
    let video = upload(&acme, &clip(7)).await.unwrap();
    let get = || v1::GetVideoRequest {
        name: video.name.clone(),
    };
    assert!(acme.videos().get_video(get()).await.is_ok());
    refused(
        globex.videos().get_video(get()).await,
        Code::NotFound,
        "VIDEO_NOT_FOUND",
    );
    guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_token_is_good_for_its_own_tenant_alone() {
    let guarded = Guarded::start().await;
    let acme = guarded.client(&guarded.key(Scopes::TENANT).await).await;
    let globex = guarded.record(|new| NewKey {
        tenant: Some("globex".parse().unwrap()),
        ..new
    });
    let globex = guarded.client(&globex.await.1).await;
    for task in ["one", "two", "three"] {
        create_task(&acme, task).await;
        create_task(&globex, task).await;
    }
    let list = async |client: &Client, page_token: &str| {
        let request = v1::ListTasksRequest {
            page_size: 1,
            page_token: page_token.to_owned(),
        };
        client.tasks().list_tasks(request).await
    };
    let first = list(&acme, "").await.unwrap().into_inner();
    let next = list(&acme, &first.next_page_token).await.unwrap();
    assert_ne!(first.tasks[0].name, next.into_inner().tasks[0].name);
    let foreign = list(&globex, &first.next_page_token).await;
    refused(foreign, Code::InvalidArgument, "INVALID_FIELD");
    // The place in the listing is no secret, but whoever writes it anew is not answered.
    let made_up = list(&acme, "dGFza3M6b25l").await;
    refused(made_up, Code::InvalidArgument, "INVALID_FIELD");
    let operator = guarded.key(Scopes::of(&[Scope::FleetAdmin])).await;
    let operator = guarded.admin(&operator).await;
    let tenants = v1::ListTenantsRequest {
        page_size: 1,
        page_token: first.next_page_token,
    };
    refused(
        operator.admin().list_tenants(tenants).await,
        Code::InvalidArgument,
        "INVALID_FIELD",
    );
    guarded.server.stop().await;
}
