//! Time of the device and of decoding, and bytes of calls: what is on record for tenants is what the server's own metrics and the messages say.

use std::sync::mpsc;
use std::time::Duration;

use frameshift::device::Work;
use frameshift::metadata::{Amounts, PageRequest, UsageQuery, UsageSpan};
use frameshift::model::Step;
use frameshift::proto::v1;
use frameshift::tenancy::Tenants;
use futures::stream;
use prost::Message;
use tokio::sync::oneshot;

use crate::server::{
    TestServer, classify, clip, config, create_dataset, create_task, events, serving, submit,
    trained, upload_messages,
};

/// What tenants used on record, summed over the hours; of one task or of all and none.
async fn used(server: &TestServer, tenant: &str, task: Option<&str>) -> Amounts {
    // Whoever has an answer has it before the last slice of the batch is counted.
    server.settled();
    server.wiring.tenants.close_window().await.unwrap();
    let ask = UsageQuery {
        tenant: Some(tenant.parse().unwrap()),
        begin: 0,
        end: i64::MAX,
        span: UsageSpan::Hour,
    };
    let records = &server.wiring.metadata;
    let page = records.list_usage(&ask, &PageRequest::first()).await;
    let mut sum = Amounts::default();
    for record in page.unwrap().items {
        let own = record.task.as_ref().map(|task| task.as_str());
        if task.is_none() || task == own {
            sum.add(record.amounts);
        }
    }
    sum
}

/// Seconds of the device by the metrics.
fn device(server: &TestServer, kind: &str) -> f64 {
    server.settled();
    let text = server.wiring.metrics.text();
    let name = format!("frameshift_device_seconds_total{{kind=\"{kind}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// Asserts that microseconds on record are seconds by a metric, but for half a microsecond of each rounding.
fn same(micros: u64, seconds: f64, roundings: u64) {
    let difference = (micros as f64 - seconds * 1e6).abs();
    assert!(
        difference <= 0.5 * roundings as f64 + 1.0,
        "{micros} µs on record, {seconds} s by the metric"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn device_time_on_record_is_that_of_the_slices_through_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = TestServer::start_on(config(folder.path())).await;
    let acme = server.client("acme").await;
    create_task(&acme, "motion").await;
    let videos = create_dataset(&acme, "motion").await;
    let job = submit(&acme, "motion", "motion").await;
    events(&acme, &job.name, 0).await;
    serving(&acme, "motion").await;
    let globex = server.client("globex").await;
    let theirs = trained(&globex, "shade").await;
    let slices = server.settled().training_slices;
    let trained = used(&server, "acme", Some("motion")).await.device_micros
        + used(&server, "globex", Some("shade")).await.device_micros;
    assert!(trained > 0);
    same(trained, device(&server, "training"), slices);
    let both = async |server: &TestServer| {
        let own = used(server, "acme", None).await.device_micros;
        let other = used(server, "globex", None).await.device_micros;
        assert!(own > 0 && other > 0);
        own + other
    };
    // Whatever is classified, both tenants' shares of the batches are what the device took.
    let (mut counted, mut taken) = (0, 0.0);
    for _ in 0..2 {
        let (acme, globex) = (server.client("acme").await, server.client("globex").await);
        // Loading and warming up the sets is nobody's time.
        for (client, task, videos) in [(&acme, "motion", &videos), (&globex, "shade", &theirs)] {
            serving(client, task).await;
            let request = classify(task, &videos[0].name);
            client.classification().classify(request).await.unwrap();
        }
        let before = both(&server).await;
        let (warm, slices) = (device(&server, "serving"), server.settled().serving_slices);
        let mut calls = tokio::task::JoinSet::new();
        for (client, task, videos) in [(&acme, "motion", &videos), (&globex, "shade", &theirs)] {
            for video in videos.iter().chain(videos) {
                let (client, request) = (client.clone(), classify(task, &video.name));
                calls.spawn(async move { client.classification().classify(request).await });
            }
        }
        while let Some(answer) = calls.join_next().await {
            answer.unwrap().unwrap();
        }
        let served = device(&server, "serving") - warm;
        let slices = server.settled().serving_slices - slices;
        let after = both(&server).await;
        // A batch of both has two shares.
        same(after - before, served, 2 * slices);
        (counted, taken) = (counted + after - before, taken + served);
        server.stop().await;
        server = TestServer::start_on(config(folder.path())).await;
        assert_eq!(
            both(&server).await,
            after,
            "a restart neither adds nor loses"
        );
    }
    let ratio = counted as f64 / (taken * 1e6);
    println!("device time on record / device time of the slices: {ratio:.5} (goal 1.000)");
    server.stop().await;
}

/// Work that the device has in hand while the server drains, and that is billed when it is dropped.
struct Lingering {
    tenants: Tenants,
    begun: Option<oneshot::Sender<()>>,
    end: mpsc::Receiver<()>,
}

impl Work for Lingering {
    fn advance(&mut self) -> Step {
        self.begun.take().unwrap().send(()).unwrap();
        self.end.recv().unwrap();
        Step::Done
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let tenant = "acme".parse().unwrap();
        self.tenants
            .computed(&tenant, None, Duration::from_millis(250));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_device_ends_during_the_drain_is_on_record() {
    let folder = tempfile::tempdir().unwrap();
    let mut quick = config(folder.path());
    quick.rpc.drain_grace = Duration::ZERO;
    let server = TestServer::start_on(quick).await;
    let ((begun, begins), (go, end)) = (oneshot::channel(), mpsc::channel());
    let work = Lingering {
        tenants: server.wiring.tenants.clone(),
        begun: Some(begun),
        end,
    };
    server.wiring.device.submit(Box::new(work)).unwrap();
    begins.await.unwrap();
    let drained = server.drain();
    // Long enough for everything else to end, and for the books to be closed.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!drained.is_finished());
    go.send(()).unwrap();
    drained.await.unwrap().unwrap();
    let server = TestServer::start_on(config(folder.path())).await;
    assert_eq!(used(&server, "acme", None).await.device_micros, 250_000);
    server.stop().await;
}

/// Bytes of a message in a body: its head and itself.
fn framed(message: &impl Message) -> u64 {
    5 + message.encoded_len() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_and_decoding_are_counted_for_the_tenant_through_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = TestServer::start_on(config(folder.path())).await;
    let (mut received, mut sent) = (0, 0);
    let mut decoded = 0;
    for shade in [1, 2] {
        let client = server.client("acme").await;
        let messages = upload_messages(v1::UploadVideoHeader::default(), &clip(shade));
        received += messages.iter().map(framed).sum::<u64>();
        let stored = client.videos().upload_video(stream::iter(messages)).await;
        sent += framed(&stored.unwrap().into_inner());
        let list = v1::ListVideosRequest::default();
        received += framed(&list);
        let listed = client.videos().list_videos(list).await.unwrap();
        sent += framed(&listed.into_inner());
        // What is refused has come all the same.
        let missing = v1::GetTaskRequest {
            name: "tasks/nothing".into(),
        };
        received += framed(&missing);
        client.tasks().get_task(missing).await.unwrap_err();
        // An answer's body is counted when the server has let go of it.
        let counted = || async { used(&server, "acme", None).await };
        crate::server::until(|| async { counted().await.sent_bytes >= sent }).await;
        let own = counted().await;
        assert_eq!((own.received_bytes, own.sent_bytes), (received, sent));
        // The upload was decoded once, in a process of which no other tenant had time.
        assert!(own.decode_micros > decoded, "{own:?}");
        assert!(own.decode_micros < Duration::from_secs(60).as_micros() as u64);
        decoded = own.decode_micros;
        server.stop().await;
        server = TestServer::start_on(config(folder.path())).await;
    }
    assert_eq!(used(&server, "globex", None).await, Amounts::default());
    server.stop().await;
}
