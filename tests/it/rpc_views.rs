//! The usual protocol of papers through the server: many frames, clips and crops of one video at a full picture size.

use frameshift::config::Backbone;
use frameshift::proto::v1;

use crate::rpc_versions::{adapters, file, import, into_task};
use crate::server::{TestServer, classify, noise, serving, upload};
use crate::server_process::changed_backbone;

/// Pixels of a picture's side.
const SIDE: usize = 224;

/// Sets every `image_size`, also below `vision_config`.
fn enlarge(json: &mut serde_json::Value) {
    let serde_json::Value::Object(fields) = json else {
        return;
    };
    for (name, value) in fields {
        match name.as_str() {
            "image_size" => *value = SIDE.into(),
            _ => enlarge(value),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_frames_in_thirty_views_of_224_pixels_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(crate::server::backbone().join("config.json")).unwrap();
    let (_, after) = text.split_once("\"patch_size\":").unwrap();
    let patch: String = (after.trim_start().chars())
        .take_while(char::is_ascii_digit)
        .collect();
    let tokens = 1 + (SIDE / patch.parse::<usize>().unwrap()).pow(2);
    let path = changed_backbone(folder.path(), enlarge, |name, tensor| {
        // The learned positions of the smaller picture, again and again.
        if name.contains("position_embedding") && !name.starts_with("text_model") {
            let rows = tensor.shape.len() - 2;
            let row = tensor.bytes.len() / tensor.shape[rows];
            let bytes = tensor.bytes.iter().copied().cycle();
            tensor.bytes = bytes.take(tokens * row).collect();
            tensor.shape[rows] = tokens;
        }
    });
    let server = TestServer::start_with(|config| config.backbone = Backbone::Path(path)).await;
    let client = server.client("acme").await;
    let header = v1::ImportAdapterVersionHeader {
        create_task: true,
        sampling: Some(v1::ClipSampling {
            num_frames: 16,
            sampling_rate: 2,
            num_temporal_views: 10,
            num_spatial_views: 3,
            ..Default::default()
        }),
        ..into_task("views")
    };
    let bytes = file(&adapters(server.wiring.backbone.config(), 3));
    import(&client, header, &bytes).await.unwrap();
    serving(&client, "views").await;
    let video = upload(&client, &noise(64)).await.unwrap();
    let mut request = classify("views", &video.name);
    request.options = Some(v1::ClassifyOptions {
        per_view: true,
        ..Default::default()
    });
    let answer = client.classification().classify(request).await;
    let answer = answer.unwrap().into_inner();
    assert_eq!(answer.views.len(), 30);
    let sum: f32 = answer.predictions.iter().map(|one| one.score).sum();
    assert!((sum - 1.0).abs() < 1e-4, "{sum}");
    server.stop().await;
}
