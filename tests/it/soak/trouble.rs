//! What happens to the server of a soak beside its requests: floods, swaps, imports and deletions, killed workers, a store that is slow or fails.

use std::sync::Arc;
use std::time::Duration;

use frameshift::client::Client;
use frameshift::proto::v1;
use frameshift::proto::v1::classify_request::Source;
use frameshift::rng::Stream;
use futures::future::{BoxFuture, join_all};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;
use tonic::{Code, Status};

use super::Soak;
use super::bed::{SHADES, SWAPPING, TASKS, TENANTS, VARIANTS, header, request};
use super::mix::{Asker, patient};
use super::streams;
use super::tally::Doing;
use crate::rpc_versions::import;
use crate::server::reason;

/// Requests of a flood at once: more than the queue has room for.
const FLOOD: usize = 64;

/// Every kind of trouble.
pub(super) fn all(soak: &Arc<Soak>) -> Vec<BoxFuture<'static, ()>> {
    vec![
        Box::pin(floods(soak.clone())),
        Box::pin(swaps(soak.clone())),
        Box::pin(imports(soak.clone())),
        Box::pin(kills(soak.clone())),
        Box::pin(store(soak.clone())),
        Box::pin(streams::quotas(soak.clone())),
    ]
}

/// Asks for far more than there is room for, again and again.
async fn floods(soak: Arc<Soak>) {
    let tenant = 2;
    let asker = Asker {
        client: soak.bed.server.client(TENANTS[tenant]).await,
        soak: &soak,
        tenant,
    };
    let mut dice = Stream::new(1, "floods");
    while soak.goes_on() {
        let classes = [v1::Priority::Interactive, v1::Priority::Batch];
        let class = classes[dice.below(2) as usize];
        let requests = (0..FLOOD).map(|number| {
            let (task, video) = (number % TASKS, number % SHADES.len());
            let name = soak.bed.videos[tenant][video].clone();
            let mut request = request(&format!("t{task}"), Source::Video(name));
            if let Some(options) = &mut request.options {
                options.priority = class.into();
            }
            let (mut rpc, asker) = (asker.client.classification(), &asker);
            async move {
                let answer = rpc.classify(patient(request)).await;
                asker.checked((Doing::Flood, false), (task, video), answer);
            }
        });
        join_all(requests).await;
        sleep(Duration::from_millis(200 + dice.below(800))).await;
    }
}

async fn task(client: &Client, task: &str) -> Result<v1::Task, Status> {
    let request = v1::GetTaskRequest {
        name: format!("tasks/{task}"),
    };
    Ok(client.tasks().get_task(request).await?.into_inner())
}

/// Moves a task between its two versions.
async fn swaps(soak: Arc<Soak>) {
    let client = soak.bed.server.client(TENANTS[0]).await;
    let mut next = 1;
    while soak.goes_on() {
        let wanted = format!("tasks/{SWAPPING}/versions/{next}");
        let request = v1::SetServingRequest {
            name: format!("tasks/{SWAPPING}"),
            version: wanted.clone(),
            etag: task(&client, SWAPPING).await.expect("a task").etag,
            ..Default::default()
        };
        match client.tasks().set_serving(request).await {
            Ok(_) => next = 3 - next,
            // The engine recorded a move since the etag was read.
            Err(status) => assert_eq!(status.code(), Code::Aborted, "{status:?}"),
        }
        for _ in 0..40 {
            let now = task(&client, SWAPPING).await.expect("a task");
            if now.serving_version == wanted || !soak.goes_on() {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Imports tasks, uses and deletes them.
async fn imports(soak: Arc<Soak>) {
    let client = soak.bed.server.client(TENANTS[0]).await;
    let mut dice = Stream::new(1, "imports");
    let mut number = 0;
    while soak.goes_on() {
        number += 1;
        let variant = dice.below(VARIANTS as u64) as usize;
        let name = format!("temporary-{number}");
        match import(&client, header(&name), &soak.bed.files[variant]).await {
            Ok(_) => {
                use_it(&soak, &client, &name, variant).await;
                let request = v1::DeleteTaskRequest {
                    name: format!("tasks/{name}"),
                    ..Default::default()
                };
                client.tasks().delete_task(request).await.expect("deleted");
                let name = classified(&soak, &client, &name, 0).await;
                let status = name.expect_err("it is deleted");
                assert_eq!(status.code(), Code::NotFound, "{status:?}");
                soak.tally.count(Doing::Imported, reason(&status));
            }
            // The store failed; whatever was begun is not to be seen.
            Err(status) => {
                let may_be = [Code::Unavailable, Code::ResourceExhausted];
                assert!(may_be.contains(&status.code()), "{status:?}");
            }
        }
        sleep(Duration::from_millis(dice.below(200))).await;
    }
}

async fn classified(
    soak: &Soak,
    client: &Client,
    task: &str,
    video: usize,
) -> Result<v1::ClassifyResponse, Status> {
    let name = soak.bed.videos[0][video].clone();
    let request = patient(request(task, Source::Video(name)));
    let answer = client.classification().classify(request).await?;
    Ok(answer.into_inner())
}

/// Asks for a new task until it answers, a few times at most.
async fn use_it(soak: &Soak, client: &Client, name: &str, variant: usize) {
    let mut right = 0;
    for attempt in 0..40 {
        let video = attempt % SHADES.len();
        match classified(soak, client, name, video).await {
            Ok(answer) => {
                let twin = soak.bed.twin(variant, video);
                twin.check(&answer.views, name);
                soak.tally.was_right(Doing::Imported, 1);
                right += 1;
            }
            Err(status) if reason(&status) == "NO_SERVING_VERSION" => {
                soak.tally.count(Doing::Imported, reason(&status));
            }
            Err(status) => soak.tally.was_refused(Doing::Imported, &status, false),
        }
        if right == 2 {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Kills video workers. A video is refused only when two workers in a row end at it alone, so there is time between two kills.
async fn kills(soak: Arc<Soak>) {
    let mut dice = Stream::new(1, "kills");
    while soak.goes_on() {
        let (_, workers) = soak.bed.server.wiring.decoder.processes();
        if let Some(worker) = workers.first() {
            let pid = Pid::from_raw(worker.pid as i32).expect("a process");
            // It may have ended since it was listed.
            let _ = kill_process(pid, Signal::KILL);
        }
        sleep(Duration::from_millis(600 + dice.below(600))).await;
    }
}

/// Makes reads and writes of the store fail or wait.
async fn store(soak: Arc<Soak>) {
    let faults = &soak.bed.faults;
    let mut dice = Stream::new(1, "store");
    while soak.goes_on() {
        match dice.below(3) {
            0 => faults.fail_read(1 + dice.below(3) as i64),
            1 => faults.fail_write(1 + dice.below(3) as i64),
            _ => {
                faults.hold_reads(true);
                sleep(Duration::from_millis(dice.below(150))).await;
                faults.hold_reads(false);
            }
        }
        sleep(Duration::from_millis(100 + dice.below(300))).await;
    }
    faults.fail_read(0);
    faults.fail_write(0);
}
