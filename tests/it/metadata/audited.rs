//! A change that somebody called for and its event in the audit log are made together or not at all.

use frameshift::ids::{AdapterVersion, JobId, SweepId, UploadId, VideoId};
use frameshift::metadata::{
    Acting, Actor, AuditRecord, Error, ImportStart, ImportTarget, KeyOwner, NewVersion,
    PageRequest, PartRecord, Plan, TaskUpdate,
};
use frameshift::spec::{Digest, JobState, LabelSet, Split};

use super::fixture::*;
use super::{Backend, backends, sweeps};

fn call(method: &'static str) -> Acting {
    Acting {
        actor: Actor {
            principal: "keys/k".into(),
            source: "10.0.0.1".into(),
            request_id: "r".into(),
        },
        method,
    }
}

async fn events(store: &Store) -> Vec<AuditRecord> {
    let page = PageRequest::new(1000, "").expect("a page");
    let listed = store
        .list_audit(&KeyOwner::Tenant(tenant("a")), &page)
        .await;
    listed.expect("listed").items
}

/// A change, which is tried first while the audit log takes no event, then as it is; and the resource that its event names.
macro_rules! changes {
    ($backend:ident, $method:literal, $resource:expr, $change:expr) => {{
        let store = &$backend.store;
        let (told, before) = (events(store).await.len(), $backend.digest().await);
        $backend.refuse_audit(true).await;
        let refused = call($method).scope($change).await;
        assert!(refused.is_err(), "{} without its event", $method);
        $backend.refuse_audit(false).await;
        let after = $backend.digest().await;
        assert_eq!(before, after, "{} was taken back", $method);
        assert_eq!(events(store).await.len(), told, "{}", $method);
        let made = call($method).scope($change).await.expect($method);
        let newest = events(store).await;
        assert_eq!(newest.len(), told + 1, "{}: one event", $method);
        let resource: String = ($resource)(&made);
        let newest = &newest[0];
        assert_eq!(
            (newest.method.as_str(), newest.resource.as_str()),
            ($method, resource.as_str())
        );
        assert_eq!(newest.actor, call($method).actor);
        assert_eq!(newest.tenant, Some(tenant("a")));
        made
    }};
}

fn named<T>(name: String) -> impl Fn(&T) -> String {
    move |_| name.clone()
}

async fn uploads(backend: &Backend) -> VideoId {
    let (store, a, limits) = (&backend.store, tenant("a"), limits());
    let upload: UploadId = changes!(
        backend,
        "CreateUpload",
        |own: &frameshift::metadata::UploadRecord| format!("uploads/{}", own.id),
        store.create_upload(&a, "clip.mp4", None, &limits)
    )
    .id;
    let number = store.begin_part(&a, upload, 0, 7, &limits).await;
    let part = PartRecord {
        number: number.expect("a number"),
        offset: 0,
        size: 7,
    };
    let name = format!("uploads/{upload}");
    changes!(
        backend,
        "WriteUpload",
        named(name),
        store.commit_part(&a, upload, part, &limits)
    );
    let new = new_video(7);
    changes!(
        backend,
        "WriteUpload",
        named(format!("videos/{}", new.id)),
        store.finish_upload(&a, upload, new.clone())
    );
    let given_up = store.create_upload(&a, "", None, &limits).await;
    let given_up = given_up.expect("created").id;
    let name = format!("uploads/{given_up}");
    changes!(
        backend,
        "DeleteUpload",
        named(name),
        store.abandon_upload(&a, given_up)
    );
    let new = new_video(7);
    changes!(
        backend,
        "UploadVideo",
        named(format!("videos/{}", new.id)),
        store.record_video(&a, "", new.clone(), None)
    );
    let video = new.id;
    changes!(
        backend,
        "DeleteVideo",
        named(format!("videos/{video}")),
        store.delete_video(&a, video, false)
    );
    super::fixture::video(store, &a).await.id
}

async fn datasets(backend: &Backend, video: VideoId) {
    let (store, a, id) = (&backend.store, tenant("a"), dataset_id("set"));
    let name = || named("datasets/set".into());
    let create = || store.create_dataset(&a, &id, "".into(), None);
    changes!(backend, "CreateDataset", name(), create());
    let examples = [example(video, "left", Split::Train)];
    let add = || store.add_examples(&a, &id, &examples);
    changes!(backend, "AddExamples", name(), add());
    // Its snapshot is stored before, so that it is no part of the change.
    store.snapshot_dataset(&a, &id).await.expect("a snapshot");
    let version = || store.create_dataset_version(&a, &id, "", 10);
    changes!(
        backend,
        "CreateDatasetVersion",
        |_: &frameshift::metadata::DatasetVersionRecord| "datasets/set".to_owned(),
        version()
    );
    let delete = || store.delete_dataset_version(&a, &id, 1);
    changes!(
        backend,
        "DeleteDatasetVersion",
        |_: &()| "datasets/set".to_owned(),
        delete()
    );
    let videos = [video];
    let remove = || store.remove_examples(&a, &id, &videos);
    changes!(backend, "RemoveExamples", name(), remove());
    changes!(
        backend,
        "DeleteDataset",
        |_: &()| "datasets/set".to_owned(),
        store.delete_dataset(&a, &id)
    );
}

async fn tasks(backend: &Backend) {
    let (store, a, id) = (&backend.store, tenant("a"), task_id("one"));
    let name = || named("tasks/one".into());
    let create = || store.create_task(&a, task("one"), None);
    changes!(backend, "CreateTask", name(), create());
    let update = || TaskUpdate {
        display_name: Some("other".into()),
        ..TaskUpdate::default()
    };
    let change = || store.update_task(&a, &id, update(), None);
    changes!(backend, "UpdateTask", name(), change());
    let target = ImportTarget {
        task: id.clone(),
        create: None,
        etag: None,
        request: None,
        sha256: Digest([3; 32]),
        labels: LabelSet::new(vec!["left".into(), "right".into()]).ok(),
    };
    for _ in 0..2 {
        let start = store.reserve_import(&a, &target).await.expect("reserved");
        let ImportStart::Number(number) = start else {
            panic!("{start:?}");
        };
        let new: NewVersion = of_number(store, number).await;
        let import = || store.import_version(&a, &target, new.clone());
        changes!(
            backend,
            "ImportAdapterVersion",
            |_: &frameshift::metadata::ImportedVersion| "tasks/one".to_owned(),
            import()
        );
        // What is asked for serves, so that there is something to go back to.
        store.move_serving(&a, &id, number).await.expect("moved");
    }
    let first = AdapterVersion::FIRST;
    let etag = async || store.get_task(&a, &id).await.expect("found").etag;
    let (now, plan) = (etag().await, Plan::from(first));
    let set = || store.set_desired(&a, &id, &plan, &now);
    changes!(backend, "SetServing", name(), set());
    let now = etag().await;
    let back = || store.roll_back(&a, &id, &now);
    changes!(backend, "SetServing", name(), back());
    let pin = || store.pin_task(&a, &id, true, u64::MAX);
    changes!(backend, "PinTask", name(), pin());
    let delete = || store.delete_task(&a, &id, None);
    changes!(
        backend,
        "DeleteTask",
        |_: &Vec<frameshift::metadata::VersionRecord>| "tasks/one".to_owned(),
        delete()
    );
}

/// A version like those of jobs, with a number of its own.
async fn of_number(store: &Store, number: AdapterVersion) -> NewVersion {
    let page = PageRequest::new(1, "").expect("a page");
    let jobs = store.list_jobs(&tenant("a"), &page).await.expect("listed");
    new_version(number, &jobs.items[0])
}

async fn jobs(backend: &Backend) {
    let (store, a) = (&backend.store, tenant("a"));
    let submit = || store.submit_job(&a, new_job("t"), None);
    let job: JobId = changes!(
        backend,
        "SubmitJob",
        |own: &frameshift::metadata::JobRecord| format!("jobs/{}", own.id),
        submit()
    )
    .id;
    let name = || named(format!("jobs/{job}"));
    let pause = |is_paused| store.pause_job(&a, job, is_paused);
    changes!(backend, "PauseJob", name(), pause(true));
    changes!(backend, "ResumeJob", name(), pause(false));
    changes!(backend, "CancelJob", name(), store.cancel_job(&a, job));
    let submit = || store.submit_sweep(&a, sweeps::spec(1), 10, None);
    let sweep: SweepId = changes!(
        backend,
        "SubmitSweep",
        |own: &frameshift::metadata::SweepRecord| format!("sweeps/{}", own.id),
        submit()
    )
    .id;
    let name = named(format!("sweeps/{sweep}"));
    changes!(backend, "CancelSweep", name, store.cancel_sweep(&a, sweep));
}

#[tokio::test]
async fn a_change_and_its_event_are_made_together_or_not_at_all() {
    for (name, backend) in backends().await {
        eprintln!("backend: {name}");
        let (store, a) = (&backend.store, tenant("a"));
        trainable(store, &a, "t").await;
        // The snapshot of the jobs, and what versions are made of.
        submit(store, &a, "t").await;
        // What nobody called for, jobs and the janitor do.
        assert_eq!(events(store).await, []);
        let video = uploads(&backend).await;
        datasets(&backend, video).await;
        tasks(&backend).await;
        jobs(&backend).await;
    }
}

#[tokio::test]
async fn what_changes_nothing_has_no_event() {
    for (name, backend) in backends().await {
        eprintln!("backend: {name}");
        let (store, a) = (&backend.store, tenant("a"));
        let request = request();
        let create = || store.create_task(&a, task("t"), request);
        for _ in 0..2 {
            let made = call("CreateTask").scope(create()).await;
            made.expect("created, or repeated");
        }
        let taken = call("CreateTask").scope(store.create_task(&a, task("t"), None));
        assert!(matches!(taken.await, Err(Error::AlreadyExists { .. })));
        assert_eq!(events(store).await.len(), 1);
        // What is to be cancelled already, a caller may say again.
        trainable(store, &a, "u").await;
        let job = submit(store, &a, "u").await;
        let claim = claim(store).await;
        advance(store, &claim, JobState::Running).await;
        let sweep = store.submit_sweep(&a, sweeps::spec(1), 10, None).await;
        let sweep = sweep.expect("submitted").id;
        for _ in 0..2 {
            let cancelled = call("CancelJob").scope(store.cancel_job(&a, job.id));
            assert!(cancelled.await.expect("cancelled").cancel_requested);
            let cancelled = call("CancelSweep").scope(store.cancel_sweep(&a, sweep));
            assert!(cancelled.await.expect("cancelled").cancel_requested);
        }
        assert_eq!(events(store).await.len(), 3);
    }
}
