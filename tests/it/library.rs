//! Videos over a real store and real records: interruptions, limits, digests, refusals, crashes between a write and its commit.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use frameshift::ids::{RequestId, TenantId, UploadId};
use frameshift::library::{Config, Error, Library, Prober, SingleUpload, Started, Upload};
use frameshift::metadata::{self, Kind, VideoRecord};
use frameshift::rng::Stream;
use frameshift::spec::Digest;
use frameshift::store::{Faults, Store};
use frameshift::video::{self, Container, Input, Probe, Ratio, Reject, Rotation};
use sha2::{Digest as _, Sha256};

use crate::metadata::fixture;
use crate::metadata::{Backend, backends};
use crate::server::until;
use crate::shared::files_below;

mod archives;
mod clearing;
mod leaving;
mod refusals;

/// Stands in for the decoder, which has its own tests: reads the bytes as a decoder would, and rejects those that begin with `bad`.
#[derive(Default)]
struct Beginning {
    is_busy: AtomicBool,
    /// Whether a probe never ends.
    is_slow: AtomicBool,
    /// Notified when a probe starts.
    began: tokio::sync::Notify,
}

#[async_trait]
impl Prober for Beginning {
    async fn probe(&self, _: &TenantId, input: Input) -> Result<Probe, video::Error> {
        let Input::File(file) = input else {
            panic!("a stored video is read by its descriptor")
        };
        if self.is_busy.load(Ordering::SeqCst) {
            return Err(video::Error::QueueFull);
        }
        self.began.notify_one();
        if self.is_slow.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let mut bytes = [0; 3];
        match std::os::unix::fs::FileExt::read_exact_at(&*file, &mut bytes, 0) {
            Err(_) => Err(Reject::Empty.into()),
            Ok(()) if &bytes == b"bad" => Err(Reject::Undecodable.into()),
            Ok(()) => Ok(Probe {
                container: Container::Matroska,
                codec: video::Codec::Ffv1,
                width: 64,
                height: 48,
                frames: 10,
                reference_frames: 10,
                time_base: Ratio {
                    numerator: 1,
                    denominator: 1000,
                },
                first_pts: 0,
                duration: Duration::from_millis(360),
                rate: Ratio {
                    numerator: 25,
                    denominator: 1,
                },
                rotation: Rotation::Quarter,
                mirrored: false,
                sar: Ratio {
                    numerator: 1,
                    denominator: 1,
                },
                streams: 1,
                warnings: video::Warnings::default(),
            }),
        }
    }
}

struct Setting {
    library: Library,
    records: fixture::Store,
    faults: Faults,
    prober: Arc<Beginning>,
    directory: tempfile::TempDir,
    backend: Backend,
}

const LIMIT: usize = 10_000;
const PART: usize = 1_000;

impl Setting {
    async fn new() -> Self {
        Self::with(Config {
            upload_bytes: LIMIT as u64,
            part_bytes: PART,
            orphan_age: Duration::ZERO,
            orphan_share: 100,
            uploads: fixture::limits(),
            ..Config::default()
        })
        .await
    }

    async fn with(config: Config) -> Self {
        let (_, backend) = backends().await.remove(0);
        Self::over(backend, config)
    }

    fn over(backend: Backend, config: Config) -> Self {
        let directory = tempfile::tempdir().expect("a folder");
        let faults = Faults::default();
        let store = Store::open(directory.path())
            .expect("a store")
            .with_faults(faults.clone());
        let prober = Arc::new(Beginning::default());
        let records = Arc::clone(&backend.store);
        Self {
            library: Library::new(config, store, Arc::clone(&records), prober.clone()),
            records,
            faults,
            prober,
            directory,
            backend,
        }
    }

    /// Writes an upload from its beginning.
    async fn stream(&self, upload: UploadId) -> Upload {
        let opened = self.library.write_upload(&tenant(), upload, 0).await;
        opened.expect("opened")
    }

    fn files(&self) -> Vec<PathBuf> {
        files_below(self.directory.path())
    }

    async fn single(
        &self,
        promised: Option<Digest>,
        request: Option<RequestId>,
    ) -> Box<SingleUpload> {
        match self
            .library
            .upload_video(&tenant(), "clip.mp4", promised, request)
            .await
        {
            Ok(Started::Open(upload)) => upload,
            Ok(Started::Done(video)) => panic!("{video:?}"),
            Err(error) => panic!("{error}"),
        }
    }

    async fn upload(&self) -> UploadId {
        let upload = self
            .library
            .create_upload(&tenant(), "clip.mp4", None)
            .await;
        upload.expect("created").id
    }

    async fn committed(&self, upload: UploadId) -> u64 {
        let upload = self.library.get_upload(&tenant(), upload).await;
        upload.expect("found").committed_bytes
    }

    async fn content(&self, video: &VideoRecord) -> Vec<u8> {
        let (_, input) = self
            .library
            .open_video(&tenant(), video.id)
            .await
            .expect("opened");
        let Input::File(file) = input else {
            panic!("in memory")
        };
        let mut bytes = vec![0; usize::try_from(video.size_bytes).expect("small")];
        std::os::unix::fs::FileExt::read_exact_at(&*file, &mut bytes, 0).expect("read");
        bytes
    }
}

fn tenant() -> TenantId {
    fixture::tenant("a")
}

fn content(len: usize) -> Vec<u8> {
    let mut stream = Stream::new(len as u64, "content");
    (0..len).map(|_| stream.bits() as u8).collect()
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

#[tokio::test]
async fn an_upload_in_one_stream_becomes_a_video() {
    let setting = Setting::new().await;
    let bytes = content(LIMIT);
    let id = fixture::request();
    let mut upload = setting.single(Some(sha256(&bytes)), id).await;
    for chunk in bytes.chunks(77) {
        upload.write(chunk).await.expect("written");
    }
    let video = upload.finish().await.expect("finished");
    assert_eq!(
        (video.size_bytes, video.sha256),
        (LIMIT as u64, sha256(&bytes))
    );
    assert_eq!(
        (video.probe.container.as_str(), video.probe.codec.as_str()),
        ("matroska", "ffv1")
    );
    assert_eq!(
        (video.probe.duration_micros, video.probe.rotation_degrees),
        (360_000, 90)
    );
    assert_eq!(setting.content(&video).await, bytes);
    assert_eq!(
        setting
            .library
            .get_video(&tenant(), video.id)
            .await
            .expect("found"),
        video
    );
    let promised = Some(sha256(&bytes));
    let again = setting
        .library
        .upload_video(&tenant(), "clip.mp4", promised, id)
        .await;
    match again {
        Ok(Started::Done(answered)) => assert_eq!(*answered, video),
        Ok(Started::Open(_)) | Err(_) => panic!("the same request answers the same"),
    }
    let raced = setting
        .library
        .delete_video(&tenant(), video.id, false)
        .await;
    raced.expect("deleted");
    assert!(setting.files().is_empty());
}

#[tokio::test]
async fn of_two_uploads_with_one_request_one_video_stays() {
    let setting = Setting::new().await;
    let id = fixture::request();
    let (mut first, mut second) = (
        setting.single(None, id).await,
        setting.single(None, id).await,
    );
    first.write(b"abc").await.expect("written");
    second.write(b"abc").await.expect("written");
    let one = first.finish().await.expect("finished");
    assert_eq!(second.finish().await.expect("finished"), one);
    assert_eq!(setting.files().len(), 1);
}

#[tokio::test]
async fn a_cut_at_any_byte_resumes_to_the_same_sha256() {
    let setting = Setting::new().await;
    let bytes = content(LIMIT - 13);
    let mut cuts = Stream::new(1, "cuts");
    for round in 0..12 {
        let upload = setting.upload().await;
        let mut sent = 0;
        while sent < bytes.len() {
            // The client resumes from the offset that the server reports.
            let offset = usize::try_from(setting.committed(upload).await).expect("small");
            assert_eq!(
                offset, sent,
                "round {round}: a cut loses nothing that had come"
            );
            let mut stream = setting
                .library
                .write_upload(&tenant(), upload, offset as u64)
                .await
                .expect("goes on");
            let cut = offset + 1 + cuts.below((bytes.len() - offset) as u64) as usize;
            for chunk in bytes[offset..cut].chunks(640) {
                stream.write(chunk).await.expect("written");
            }
            sent = usize::try_from(stream.commit().await.expect("committed")).expect("small");
        }
        let stream = setting
            .library
            .write_upload(&tenant(), upload, sent as u64)
            .await;
        let finished = stream.expect("goes on").finish(Some(sha256(&bytes))).await;
        let video = finished.expect("finished");
        assert_eq!(video.sha256, sha256(&bytes));
        assert_eq!(setting.content(&video).await, bytes);
        setting
            .library
            .delete_video(&tenant(), video.id, false)
            .await
            .expect("deleted");
        assert!(
            setting.files().is_empty(),
            "round {round}: parts stay behind"
        );
    }
}

#[tokio::test]
async fn a_stream_that_is_dropped_commits_what_had_come() {
    let setting = Setting::new().await;
    let upload = setting.upload().await;
    let mut stream = setting.stream(upload).await;
    stream.write(&content(2_345)).await.expect("written");
    assert_eq!(setting.committed(upload).await, 2_000);
    drop(stream);
    until(|| async { setting.committed(upload).await == 2_345 }).await;
}

#[tokio::test]
async fn two_streams_of_one_upload_never_mix() {
    let setting = Setting::new().await;
    let upload = setting.upload().await;
    let mut slow = setting.stream(upload).await;
    let mut fast = setting.stream(upload).await;
    fast.write(&[1; 1_500]).await.expect("written");
    assert!(matches!(
        slow.write(&[2; 1_500]).await,
        Err(Error::Metadata(metadata::Error::OffsetMismatch {
            committed: 1_000,
            ..
        }))
    ));
    drop(slow);
    let video = fast.finish(None).await.expect("finished");
    assert_eq!(setting.content(&video).await, [1; 1_500]);
    let finished = setting.library.write_upload(&tenant(), upload, 1_500).await;
    assert!(matches!(
        finished.err(),
        Some(Error::Metadata(metadata::Error::UploadFinished { .. }))
    ));
    let upload = setting
        .library
        .get_upload(&tenant(), upload)
        .await
        .expect("found");
    assert_eq!(upload.video, Some(video));
}

#[tokio::test]
async fn an_upload_of_one_part_becomes_a_video_without_being_written_again() {
    use std::os::unix::fs::MetadataExt;
    let setting = Setting::new().await;
    let upload = setting.upload().await;
    let bytes = content(PART - 1);
    let mut stream = setting.stream(upload).await;
    stream.write(&bytes).await.expect("written");
    stream.commit().await.expect("committed");
    let inode = |setting: &Setting| {
        let files = setting.files();
        assert_eq!(files.len(), 1, "{files:?}");
        std::fs::metadata(&files[0]).expect("a file").ino()
    };
    let part = inode(&setting);
    let video = stream.finish(Some(sha256(&bytes))).await.expect("finished");
    assert_eq!(inode(&setting), part);
    assert_eq!(video.sha256, sha256(&bytes));
    assert_eq!(setting.content(&video).await, bytes);
}

async fn gone(setting: &Setting, upload: UploadId) {
    assert!(matches!(
        setting.library.get_upload(&tenant(), upload).await,
        Err(Error::Metadata(metadata::Error::NotFound {
            kind: Kind::Upload,
            ..
        }))
    ));
    assert!(setting.files().is_empty(), "{:?}", setting.files());
}

#[tokio::test]
async fn an_upload_outlives_a_busy_decoder_and_a_failing_store() {
    let setting = Setting::new().await;
    let bytes = content(3_500);
    let upload = setting.upload().await;
    let mut stream = setting.stream(upload).await;
    stream.write(&bytes[..1_500]).await.expect("written");
    setting.faults.fail_write(1);
    assert!(matches!(
        stream.write(&bytes[1_500..]).await,
        Err(Error::Store(_))
    ));
    drop(stream);
    assert_eq!(setting.committed(upload).await, 1_000);
    let mut stream = setting
        .library
        .write_upload(&tenant(), upload, 1_000)
        .await
        .expect("opened");
    stream.write(&bytes[1_000..]).await.expect("written");
    setting.prober.is_busy.store(true, Ordering::SeqCst);
    assert!(matches!(
        stream.finish(None).await,
        Err(Error::Probe(video::Error::QueueFull))
    ));
    setting.prober.is_busy.store(false, Ordering::SeqCst);
    let end = bytes.len() as u64;
    assert_eq!(setting.committed(upload).await, end);
    // The last part, the video's piece and its completion: each may fail, and the next attempt finishes.
    for n in [1, 2] {
        let stream = setting
            .library
            .write_upload(&tenant(), upload, end)
            .await
            .expect("opened");
        setting.faults.fail_write(n);
        assert!(matches!(stream.finish(None).await, Err(Error::Store(_))));
    }
    let stream = setting
        .library
        .write_upload(&tenant(), upload, end)
        .await
        .expect("opened");
    let video = stream.finish(Some(sha256(&bytes))).await.expect("finished");
    assert_eq!(setting.content(&video).await, bytes);
    assert_eq!(setting.files().len(), 1);
}

#[tokio::test]
async fn a_data_set_takes_labelled_videos_of_its_own_tenant() {
    use frameshift::spec::Split;
    let setting = Setting::new().await;
    let (a, id) = (tenant(), fixture::dataset_id("d"));
    let video = fixture::video(&setting.records, &a).await.id;
    let foreign = fixture::video(&setting.records, &fixture::tenant("b"))
        .await
        .id;
    let library = &setting.library;
    library
        .create_dataset(&a, &id, "directions", None)
        .await
        .expect("created");
    let good = fixture::example(video, "left", Split::Train);
    for bad in [
        vec![],
        vec![fixture::example(video, "left\n", Split::Train)],
        vec![good.clone(), good.clone()],
        vec![good.clone(); 1001],
    ] {
        assert!(matches!(
            library.add_examples(&a, &id, &bad).await,
            Err(Error::Invalid(_))
        ));
    }
    let unlabelled = [fixture::example(video, "", Split::Train)];
    assert!(matches!(
        library.add_examples(&a, &id, &unlabelled).await,
        Err(Error::Metadata(metadata::Error::LabelCount {
            labels: 0,
            ..
        }))
    ));
    let mixed = [
        good.clone(),
        fixture::example(foreign, "left", Split::Train),
    ];
    assert!(matches!(
        library.add_examples(&a, &id, &mixed).await,
        Err(Error::Metadata(metadata::Error::VideosNotFound { .. }))
    ));
    library
        .add_examples(&a, &id, std::slice::from_ref(&good))
        .await
        .expect("added");
    let snapshot = library.snapshot(&a, &id).await.expect("taken");
    assert_eq!(snapshot.examples, 1);
    assert_eq!(
        library
            .snapshot_examples(&a, snapshot.digest, None, 10)
            .await
            .expect("found"),
        [good]
    );
    assert!(
        library
            .create_dataset(&a, &id, "x".repeat(256).as_str(), None)
            .await
            .is_err()
    );
}
