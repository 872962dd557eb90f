//! The requests of a soak: of every kind, some with a deadline, some given up.

use std::sync::Arc;
use std::time::Duration;

use frameshift::client::Client;
use frameshift::proto::v1;
use frameshift::proto::v1::classify_request::Source;
use frameshift::rng::Stream;
use futures::stream;
use tonic::{Code, Request, Response, Status};

use super::Soak;
use super::bed::{SHADES, SWAPPING, SWAPS, TASKS, TENANTS, request, variant_of};
use super::tally::Doing;

/// Time that no request of a closed loop takes, however slow the machine is.
const PATIENCE: Duration = Duration::from_secs(90);

/// Asks in turn until the soak ends.
pub(super) async fn ask(soak: Arc<Soak>, number: u64) {
    let tenant = (number % 2) as usize;
    let asker = Asker {
        client: soak.bed.server.client(TENANTS[tenant]).await,
        soak: &soak,
        tenant,
    };
    let mut dice = Stream::new(number, "soak");
    while soak.goes_on() {
        let video = dice.below(SHADES.len() as u64) as usize;
        let task = dice.below(TASKS as u64) as usize;
        match dice.below(12) {
            0 => asker.one(task, video).await,
            1 => asker.inline(task, video).await,
            2 => asker.many(task, video).await,
            3 => asker.upload(task, video).await,
            4 => asker.embed(task, video).await,
            5 => asker.hurried(task, video, dice.below(60)).await,
            6 => asker.gives_up(task, video, dice.below(30)).await,
            7 => asker.windows(task, video).await,
            8 => asker.live(task).await,
            9 => asker.leaves(task, video, dice.below(60)).await,
            10 if tenant == 0 => asker.shared(dice.below(12), video).await,
            _ if tenant == 0 => asker.swapped(video).await,
            _ => asker.broken(task).await,
        }
    }
}

/// A request that is not to take for ever.
pub(super) fn patient<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

/// Someone who asks and checks.
pub(super) struct Asker<'a> {
    pub(super) client: Client,
    pub(super) soak: &'a Soak,
    pub(super) tenant: usize,
}

type Classified = Result<Response<v1::ClassifyResponse>, Status>;

impl Asker<'_> {
    fn stored(&self, task: usize, video: usize) -> v1::ClassifyRequest {
        let name = self.soak.bed.videos[self.tenant][video].clone();
        request(&format!("t{task}"), Source::Video(name))
    }

    /// Checks the answer of one task.
    pub(super) fn checked(
        &self,
        (doing, has_deadline): (Doing, bool),
        (task, video): (usize, usize),
        answer: Classified,
    ) {
        let tally = &self.soak.tally;
        match answer {
            Ok(answer) => {
                let answer = answer.into_inner();
                assert_eq!(answer.version, format!("tasks/t{task}/versions/1"));
                let twin = self.soak.bed.twin(variant_of(self.tenant, task), video);
                let what = format!("{doing:?} of {}'s t{task}", TENANTS[self.tenant]);
                twin.check(&answer.views, &what);
                tally.was_right(doing, 1);
            }
            // The client's own clock ended the call, perhaps before it was sent.
            Err(status) if has_deadline && status.code() == Code::Cancelled => {
                tally.was_given_up(1);
            }
            Err(status) => {
                if has_deadline {
                    tally.may_be_classified(1);
                }
                tally.was_refused(doing, &status, has_deadline);
            }
        }
    }

    async fn one(&self, task: usize, video: usize) {
        let request = patient(self.stored(task, video));
        let answer = self.client.classification().classify(request).await;
        self.checked((Doing::One, false), (task, video), answer);
    }

    async fn inline(&self, task: usize, video: usize) {
        let source = Source::Content(self.soak.bed.clips[video].clone());
        let request = patient(request(&format!("t{task}"), source));
        let answer = self.client.classification().classify(request).await;
        self.checked((Doing::Inline, false), (task, video), answer);
    }

    async fn hurried(&self, task: usize, video: usize, millis: u64) {
        let mut request = Request::new(self.stored(task, video));
        request.set_timeout(Duration::from_millis(1 + millis));
        let answer = self.client.classification().classify(request).await;
        self.checked((Doing::Deadline, true), (task, video), answer);
    }

    async fn gives_up(&self, task: usize, video: usize, millis: u64) {
        let request = patient(self.stored(task, video));
        let mut rpc = self.client.classification();
        let patience = Duration::from_millis(millis);
        match tokio::time::timeout(patience, rpc.classify(request)).await {
            Ok(answer) => self.checked((Doing::One, false), (task, video), answer),
            Err(_) => self.soak.tally.was_given_up(1),
        }
    }

    /// Asks for all tasks but one, from `first` on, in one request.
    async fn many(&self, first: usize, video: usize) {
        let tasks: Vec<usize> = (0..TASKS - 1).map(|own| (first + own) % TASKS).collect();
        let mut request = self.stored(0, video);
        request.task = String::new();
        request.tasks = tasks.iter().map(|own| format!("tasks/t{own}")).collect();
        let tally = &self.soak.tally;
        let answer = self
            .client
            .classification()
            .classify(patient(request))
            .await;
        let results = match answer {
            Ok(answer) => answer.into_inner().results,
            Err(status) => return tally.was_refused(Doing::Many, &status, false),
        };
        assert_eq!(results.len(), tasks.len(), "each task is answered once");
        let mut right = 0;
        for (&task, result) in tasks.iter().zip(&results) {
            assert_eq!(result.task, format!("tasks/t{task}"));
            match &result.error {
                None => {
                    let twin = self.soak.bed.twin(variant_of(self.tenant, task), video);
                    twin.check(&result.views, &format!("t{task} of many"));
                    right += 1;
                }
                // A version that could not be loaded while the store failed.
                Some(error) => assert_eq!(error.code, i32::from(Code::Unavailable), "{error:?}"),
            }
        }
        tally.was_right(Doing::Many, right);
    }

    async fn upload(&self, task: usize, video: usize) {
        use v1::classify_upload_request::Payload;
        let header = v1::ClassifyUploadHeader {
            task: format!("tasks/t{task}"),
            options: Some(v1::ClassifyOptions {
                per_view: true,
                ..Default::default()
            }),
            ..Default::default()
        };
        let bytes = &self.soak.bed.clips[video];
        let chunks = bytes.chunks(1000);
        let chunks = chunks.map(|chunk| Payload::Chunk(bytes.slice_ref(chunk)));
        let payloads = std::iter::once(Payload::Header(header)).chain(chunks);
        let message = |payload| v1::ClassifyUploadRequest {
            payload: Some(payload),
        };
        let messages: Vec<_> = payloads.map(message).collect();
        let request = patient(stream::iter(messages));
        let answer = self.client.classification().classify_upload(request).await;
        self.checked((Doing::Upload, false), (task, video), answer);
    }

    async fn embed(&self, task: usize, video: usize) {
        let request = v1::EmbedRequest {
            task: format!("tasks/t{task}"),
            source: Some(v1::embed_request::Source::Video(
                self.soak.bed.videos[self.tenant][video].clone(),
            )),
            ..Default::default()
        };
        let answer = self.client.classification().embed(patient(request)).await;
        let tally = &self.soak.tally;
        match answer {
            Ok(answer) => {
                let twin = self.soak.bed.twin(variant_of(self.tenant, task), video);
                twin.check_features(answer.into_inner().features.as_ref(), "features");
                tally.was_right(Doing::Embed, 0);
            }
            Err(status) => tally.was_refused(Doing::Embed, &status, false),
        }
    }

    /// Asks for the task whose version moves: the version that answers says which twin it is.
    async fn swapped(&self, video: usize) {
        let name = self.soak.bed.videos[self.tenant][video].clone();
        let request = patient(request(SWAPPING, Source::Video(name)));
        let answer = self.client.classification().classify(request).await;
        let tally = &self.soak.tally;
        let answer = match answer {
            Ok(answer) => answer.into_inner(),
            Err(status) => return tally.was_refused(Doing::Swapped, &status, false),
        };
        let versions = [1, 2].map(|own| format!("tasks/{SWAPPING}/versions/{own}"));
        let which = versions.iter().position(|own| *own == answer.version);
        let variant = SWAPS[which.expect("one of its versions")];
        let twin = self.soak.bed.twin(variant, video);
        twin.check(&answer.views, &answer.version);
        tally.was_right(Doing::Swapped, 1);
    }

    /// Sends what is no video, which is refused for that and harms nobody.
    async fn broken(&self, task: usize) {
        let source = Source::Content(vec![7; 5000].into());
        let request = patient(request(&format!("t{task}"), source));
        let answer = self.client.classification().classify(request).await;
        let status = answer.expect_err("it is no video");
        let tally = &self.soak.tally;
        if status.code() == Code::InvalidArgument {
            tally.count(Doing::Inline, crate::server::reason(&status));
        } else {
            tally.was_refused(Doing::Inline, &status, false);
        }
    }
}
