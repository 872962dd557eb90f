//! The audit log of a whole run: every method that changes something leaves an event with who did it, from where, by which call.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::rpc_uploads::{committed, create, write_and_cut, write_rest};
use crate::rpc_versions::{adapters, file, import, into_task};
use crate::server::{create_dataset, new_task, submit};

/// Beginnings of the names of methods that change nothing.
const READS: [&str; 8] = [
    "Get", "List", "Watch", "Export", "Check", "Evaluate", "Classify", "Embed",
];
/// A method that ends the server, whose event `fleet::drain` expects.
const ELSEWHERE: &str = "DrainReplica";

/// Makes a call, which has to succeed.
macro_rules! done {
    ($call:expr) => {
        $call.await.unwrap().into_inner()
    };
}

async fn library(acme: &Client) {
    let videos = || acme.videos();
    let spare = upload(acme, &clip(90)).await.unwrap().name;
    done!(videos().delete_video(v1::DeleteVideoRequest {
        name: spare,
        force: false,
    }));
    let name = create(acme).await;
    write_rest(acme, &name, 0, &clip(95)).await.unwrap();
    let name = create(acme).await;
    done!(videos().delete_upload(v1::DeleteUploadRequest { name }));
    let examples = create_dataset(acme, "gone").await;
    let datasets = || acme.datasets();
    let name = || "datasets/gone".to_owned();
    let version = v1::CreateDatasetVersionRequest {
        name: name(),
        note: String::new(),
    };
    let version = done!(datasets().create_dataset_version(version));
    done!(
        datasets().delete_dataset_version(v1::DeleteDatasetVersionRequest { name: version.name })
    );
    done!(datasets().remove_examples(v1::RemoveExamplesRequest {
        name: name(),
        videos: vec![examples[0].name.clone()],
    }));
    done!(datasets().delete_dataset(v1::DeleteDatasetRequest { name: name() }));
}

async fn tasks(acme: &Client) {
    let tasks = || acme.tasks();
    let task = create_task(acme, "gone").await;
    let plan = frameshift::model::load::plan(&crate::server::backbone(), &Default::default());
    let shape = plan.unwrap().config().clone();
    let version = import(acme, into_task("gone"), &file(&adapters(&shape, 5))).await;
    let etag = async || {
        let name = "tasks/gone".to_owned();
        done!(tasks().get_task(v1::GetTaskRequest { name })).etag
    };
    done!(tasks().update_task(v1::UpdateTaskRequest {
        task: Some(v1::Task {
            name: task.name.clone(),
            display_name: "a secret name".into(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["display_name".into()],
        }),
    }));
    done!(tasks().set_serving(v1::SetServingRequest {
        name: task.name.clone(),
        version: version.unwrap().name,
        etag: etag().await,
        ..Default::default()
    }));
    done!(tasks().pin_task(v1::PinTaskRequest {
        name: task.name.clone(),
        unpin: false,
    }));
    done!(tasks().delete_task(v1::DeleteTaskRequest {
        name: task.name,
        etag: String::new(),
    }));
}

async fn jobs(acme: &Client, server: &TestServer) {
    create_task(acme, "motion").await;
    create_dataset(acme, "motion").await;
    let tuning = || acme.fine_tuning();
    // No job ends before it is cancelled.
    let held = server.wiring.device.pause();
    let name = submit(acme, "motion", "motion").await.name;
    done!(tuning().pause_job(v1::PauseJobRequest { name: name.clone() }));
    done!(tuning().resume_job(v1::ResumeJobRequest { name: name.clone() }));
    done!(tuning().cancel_job(v1::CancelJobRequest { name }));
    let sweep = v1::SubmitSweepRequest {
        task_prefix: "search".into(),
        dataset: "datasets/motion".into(),
        shapes: new_task("search").task.into_iter().collect(),
        seeds: vec![1],
        ..Default::default()
    };
    let name = done!(tuning().submit_sweep(sweep)).name;
    done!(tuning().cancel_sweep(v1::CancelSweepRequest { name }));
    drop(held);
}

async fn administration(operator: &Client) {
    let admin = || operator.admin();
    let name = || "tenants/short".to_owned();
    done!(admin().create_tenant(v1::CreateTenantRequest {
        tenant_id: "short".into(),
        tenant: None,
    }));
    done!(admin().update_tenant(v1::UpdateTenantRequest {
        tenant: Some(v1::Tenant {
            name: name(),
            weight: 2,
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["weight".into()],
        }),
    }));
    let key = done!(admin().create_key(v1::CreateKeyRequest {
        key: Some(v1::ApiKey {
            tenant: name(),
            scopes: vec!["read".into()],
            ..Default::default()
        }),
        ..Default::default()
    }));
    let key = || key.key.clone().unwrap().name;
    done!(admin().rotate_key(v1::RotateKeyRequest {
        name: key(),
        overlap: None,
    }));
    done!(admin().revoke_key(v1::RevokeKeyRequest { name: key() }));
    done!(admin().erase_tenant(v1::EraseTenantRequest { name: name() }));
}

/// Every event that a caller sees, newest first, in pages of so many.
async fn events(client: &Client, page_size: i32) -> Vec<v1::AuditEvent> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let list = v1::ListAuditEventsRequest {
            page_size,
            page_token,
        };
        let page = done!(client.admin().list_audit_events(list));
        all.extend(page.events);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_that_changes_something_leaves_an_event() {
    let guarded = Guarded::start().await;
    let (id, own) = guarded.record(|new| new).await;
    let acme = guarded.client(&own).await;
    let operator = guarded.key(Scopes::of(&[Scope::FleetAdmin])).await;
    let operator = guarded.admin(&operator).await;
    library(&acme).await;
    tasks(&acme).await;
    jobs(&acme, &guarded.server).await;
    administration(&operator).await;
    let all = events(&operator, 1000).await;
    let mut by_method: BTreeMap<&str, Vec<&v1::AuditEvent>> = BTreeMap::new();
    for event in &all {
        by_method.entry(&event.method).or_default().push(event);
    }
    for path in methods() {
        let method = path.rsplit('/').next().unwrap();
        if READS.iter().any(|read| method.starts_with(read)) || method == ELSEWHERE {
            assert!(!by_method.contains_key(method), "{method} changes nothing");
            continue;
        }
        let of_method = by_method.get(method);
        let of_method = of_method.unwrap_or_else(|| panic!("{method} has no event"));
        let is_admin = path.contains(".AdminService/");
        for event in of_method.iter().filter(|own| own.principal != "test") {
            assert_eq!(event.source, "127.0.0.1", "{event:?}");
            assert!(!event.request_id.is_empty(), "{event:?}");
            assert!(event.resource.contains('/'), "{event:?}");
            if !is_admin {
                assert_eq!(event.principal, format!("keys/{id}"), "{event:?}");
                assert_eq!(event.tenant, "tenants/acme", "{event:?}");
            }
            assert!(!event.detail.contains("secret"), "{event:?}");
        }
    }
    guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_read_in_pages_and_a_tenant_reads_its_own_events_alone() {
    let guarded = Guarded::start().await;
    let mut clients = Vec::new();
    for tenant in ["acme", "globex"] {
        let key = guarded.key_of(tenant, Scopes::TENANT).await;
        let client = guarded.client(&key).await;
        for task in ["one", "two", "three"] {
            create_task(&client, task).await;
        }
        clients.push(guarded.admin(&key).await);
    }
    let operator = guarded.key(Scopes::of(&[Scope::FleetAdmin])).await;
    let operator = guarded.admin(&operator).await;
    let all = events(&operator, 1000).await;
    assert_eq!(events(&operator, 2).await, all);
    for (client, tenant) in clients.iter().zip(["tenants/acme", "tenants/globex"]) {
        let own = events(client, 2).await;
        let expected: Vec<_> = all.iter().filter(|own| own.tenant == tenant).collect();
        assert_eq!(own.iter().collect::<Vec<_>>(), expected);
        let made = own.iter().filter(|own| own.method == "CreateTask");
        let resources: Vec<&str> = made.map(|own| own.resource.as_str()).collect();
        assert_eq!(resources, ["tasks/three", "tasks/two", "tasks/one"]);
    }
    guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_caller_leaves_is_its_callers_all_the_same() {
    let guarded = Guarded::start().await;
    let (id, own) = guarded.record(|new| new).await;
    let acme = guarded.client(&own).await;
    let name = create(&acme).await;
    // The call is cut off in the middle; what had come is committed behind its back.
    let bytes = clip(20);
    crate::server::until(|| async {
        // The cut may come before the server has read anything: then there is nothing to commit.
        write_and_cut(&acme, &name, 0, bytes.len(), &bytes).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        committed(&acme, &name).await > 0
    })
    .await;
    let operator = guarded.key(Scopes::of(&[Scope::FleetAdmin])).await;
    let operator = guarded.admin(&operator).await;
    let all = events(&operator, 1000).await;
    let written: Vec<_> = all
        .iter()
        .filter(|own| own.method == "WriteUpload")
        .collect();
    assert_eq!(written.len(), 1, "{all:?}");
    assert_eq!(written[0].principal, format!("keys/{id}"));
    assert_eq!(written[0].resource, name);
    guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_authentication_nothing_is_written_to_the_log() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    create_task(&client, "motion").await;
    let video = upload(&client, &clip(20)).await.unwrap();
    let delete = v1::DeleteVideoRequest {
        name: video.name,
        force: false,
    };
    client.videos().delete_video(delete).await.unwrap();
    let page = frameshift::metadata::PageRequest::new(1000, "").unwrap();
    let records = &server.wiring.metadata;
    let events = records.list_audit(&KeyOwner::Any, &page).await.unwrap();
    assert_eq!(events.items, []);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_bad_credentials_is_few_events_with_their_sum() {
    let guarded = Guarded::start().await;
    let operator = guarded.key(Scopes::of(&[Scope::FleetAdmin])).await;
    let operator = guarded.admin(&operator).await;
    let raw = Raw::of(&guarded).await;
    let path = "/frameshift.v1.TaskService/ListTasks";
    for _ in 0..200 {
        let unknown = Key::generate().unwrap().reveal();
        let status = raw.with(path, unknown.expose_secret()).await.unwrap_err();
        assert_eq!(reason(&status), "CREDENTIAL_REFUSED");
    }
    let told = async || {
        let all = events(&operator, 1000).await.into_iter();
        let of_refusals = all.filter(|own| own.method == "RefuseCredential");
        of_refusals.collect::<Vec<_>>()
    };
    // The first one, and that one address tries many.
    crate::server::until(|| async { told().await.len() >= 2 }).await;
    let told = told().await;
    assert_eq!(told.len(), 2, "{told:?}");
    for event in &told {
        let who = (event.principal.as_str(), event.source.as_str());
        assert_eq!(who, ("unproven", "127.0.0.1"), "{event:?}");
        assert_eq!(event.tenant, "");
    }
    let first = told.iter().find(|own| own.resource == path).unwrap();
    assert!(first.detail.starts_with("reason=unknown key="), "{first:?}");
    assert!(told.iter().any(|own| own.detail.starts_with("different=")));
    guarded.server.stop().await;
}
