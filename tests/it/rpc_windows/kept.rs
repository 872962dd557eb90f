//! Tokens of frames that windows in several batches show.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_kept_between_batches_change_no_bit() {
    let server = TestServer::start_with(|config| config.engine.batch_clips = 2).await;
    let client = server.client("acme").await;
    // A head alone: all windows of a frame have its tokens below the last block in common.
    let mut head = adapters(server.wiring.backbone.config(), 3);
    head.retain(|tensor| tensor.name.starts_with("fc."));
    let header = v1::ImportAdapterVersionHeader {
        create_task: true,
        sampling: Some(sampling(4, 1, 1)),
        ..into_task("probe")
    };
    import(&client, header, &file(&head)).await.unwrap();
    serving(&client, "probe").await;
    let video = upload(&client, &film(0..20)).await.unwrap().name;
    let windows = async |stride| {
        let mut wanted = request(&["probe"], &video, steps(stride));
        wanted.options = Some(v1::ClassifyOptions {
            per_view: true,
            ..Default::default()
        });
        told(&client, wanted).await.unwrap().windows
    };
    let resumed = || counted(&server, &["frameshift_frames_resumed_total "]);
    let apart = windows(4).await;
    assert_eq!((apart.len(), resumed()), (5, 0));
    let all = windows(1).await;
    assert_eq!(all.len(), 17);
    let keeps = server.wiring.backbone.keeps_tokens();
    assert_eq!(resumed() > 0, keeps, "frames that went on from kept tokens");
    for (number, window) in apart.iter().enumerate() {
        let same = &all[4 * number];
        assert_eq!(same.frames, window.frames);
        assert_eq!(same.results[0].views, window.results[0].views);
    }
    server.stop().await;
}
