//! What is read back at the end of a load: everything that was acknowledged, by every server.

use super::*;

impl Load {
    /// Reads everything back that was acknowledged, from every server, and asks each of them for every twin.
    pub(crate) async fn check(&self, patience: Duration) {
        let clients = self.stand.open_clients();
        self.check_jobs(&clients, patience).await;
        for client in &clients {
            self.check_records(client).await;
            for (&(task, video), twin) in &self.twins {
                let source = Source::Video(self.videos[video].0.clone());
                let answer = client
                    .classification()
                    .classify(request(task, source))
                    .await;
                assert_eq!(&bits(&answer.expect("classified").into_inner()), twin);
            }
        }
    }

    async fn check_records(&self, client: &Client) {
        let (tasks, videos, examples, deleted) = {
            let kept = lock(&self.kept);
            let tasks = kept.tasks.clone();
            (
                tasks,
                kept.videos.clone(),
                kept.examples.clone(),
                kept.deleted.clone(),
            )
        };
        for name in tasks {
            let request = v1::GetTaskRequest { name: name.clone() };
            client
                .tasks()
                .get_task(request)
                .await
                .unwrap_or_else(|status| panic!("{name}: {status:?}"));
        }
        for (name, sha256) in videos {
            let request = v1::GetVideoRequest { name: name.clone() };
            let video = client.videos().get_video(request).await;
            let video = video
                .unwrap_or_else(|status| panic!("{name}: {status:?}"))
                .into_inner();
            assert_eq!(video.sha256, sha256);
            // Its bytes, too: a digest is checked before a video is decoded.
            let answer = client.classification().classify(request_of(&name)).await;
            answer.unwrap_or_else(|status| panic!("{name}: {status:?}"));
        }
        for name in deleted {
            let request = v1::GetVideoRequest { name: name.clone() };
            let found = client.videos().get_video(request).await;
            assert_eq!(
                found.map(drop).expect_err("it is deleted").code(),
                Code::NotFound
            );
            let answer = client.classification().classify(request_of(&name)).await;
            assert_eq!(
                answer.map(drop).expect_err("it is deleted").code(),
                Code::NotFound
            );
        }
        let mut listed = HashMap::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListExamplesRequest {
                name: format!("datasets/{GROWING}"),
                page_size: 1000,
                page_token,
            };
            let page = client
                .datasets()
                .list_examples(request)
                .await
                .expect("listed");
            let page = page.into_inner();
            listed.extend(page.examples.into_iter().map(|own| (own.video, own.label)));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        for (video, label) in examples {
            assert_eq!(listed.get(&video), Some(&label), "{video}");
        }
    }

    /// Waits until every acknowledged job has ended, and checks that one worker brought each to its end, with the result of every other.
    async fn check_jobs(&self, clients: &[Client], patience: Duration) {
        let jobs = lock(&self.kept).jobs.clone();
        let until = Instant::now() + patience;
        let mut results = Vec::new();
        let mut versions = HashSet::new();
        for name in &jobs {
            while !self.has_ended(name).await {
                assert!(
                    Instant::now() < until,
                    "{name} does not end: {}",
                    self.told()
                );
                sleep(Duration::from_millis(100)).await;
            }
            for client in clients {
                let request = v1::GetJobRequest { name: name.clone() };
                let job = client.fine_tuning().get_job(request).await.expect("found");
                let job = job.into_inner();
                assert_eq!(job.state(), v1::JobState::Succeeded, "{job:?}");
                let result = job.result.expect("a result");
                results.push((result.loss_curve, result.evaluation, result.dataset_digest));
                versions.insert((name.clone(), result.version));
            }
            let events = crate::server::events(&clients[0], name, 0).await;
            let ends = events.iter().filter(|event| match &event.event {
                Some(v1::job_event::Event::State(own)) => own.state() == v1::JobState::Succeeded,
                _ => false,
            });
            assert_eq!(ends.count(), 1, "{name} was brought to its end once");
        }
        let first = results.first().cloned();
        for result in results {
            assert_eq!(
                Some(&result),
                first.as_ref(),
                "an interrupted job has another result"
            );
        }
        let names: HashSet<_> = versions.iter().map(|(_, version)| version).collect();
        assert_eq!(names.len(), jobs.len(), "{versions:?}");
    }
}
