//! Features through the server: what a head reads is what Embed answers, however the video comes and in whatever form the numbers are wanted.

mod commands;

use std::process::Stdio;

use frameshift::client::Client;
use frameshift::model::{Features, Step};
use frameshift::proto::v1;
use frameshift::spec::{ClipSampling, FrameOrder, Head, RotationPolicy, Sampling, SpatialViews};
use frameshift::video::{ClipSpec, Input, Lane};
use futures::stream;
use half::f16;
use safetensors::SafeTensors;
use tokio::process::Command;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::rpc_classify::counted;
use crate::rpc_versions::exported;
use crate::server::{TestServer, classify, clip, create_task, refused, trained, until, upload};

/// A request for 32-bit features.
fn request(task: &str, video: &str, options: v1::EmbedOptions) -> v1::EmbedRequest {
    v1::EmbedRequest {
        task: task.into(),
        version: String::new(),
        source: Some(v1::embed_request::Source::Video(video.into())),
        options: Some(options),
    }
}

async fn embedded(client: &Client, request: v1::EmbedRequest) -> v1::EmbedResponse {
    let answer = client.classification().embed(request).await;
    answer.expect("features").into_inner()
}

/// The numbers of an array, whose size has to be that of its shape.
fn values(array: Option<&v1::Array>) -> (Vec<usize>, Vec<f32>) {
    let array = array.expect("an array");
    let values: Vec<f32> = match array.r#type() {
        v1::ElementType::F32 => {
            let each = array.data.chunks_exact(4);
            each.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
                .collect()
        }
        v1::ElementType::F16 => {
            let each = array.data.chunks_exact(2);
            each.map(|bytes| f16::from_le_bytes(bytes.try_into().unwrap()).to_f32())
                .collect()
        }
        v1::ElementType::Unspecified => panic!("the type is always said"),
    };
    let shape: Vec<usize> = array.shape.iter().map(|&size| size as usize).collect();
    assert_eq!(values.len(), shape.iter().product::<usize>());
    (shape, values)
}

/// The floats of a tensor.
fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let data = file.tensor(name).expect("a tensor").data().to_vec();
    data.chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect()
}

/// The scores that a version's head makes of features.
async fn scores(client: &Client, version: &str, features: &[f32]) -> Vec<f32> {
    let format = v1::ExportFormat::Safetensors;
    let (_, bytes) = exported(client, version, format).await.unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (weight, bias) = (floats(&file, "fc.weight"), floats(&file, "fc.bias"));
    let logits = weight.chunks_exact(features.len()).zip(&bias);
    let logits = logits.map(|(row, bias)| {
        let products = row.iter().zip(features).map(|(w, x)| w * x);
        products.sum::<f32>() + bias
    });
    let powers: Vec<f32> = logits.map(f32::exp).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_of_a_version_makes_its_scores_of_its_features() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let video = trained(&client, "shade").await.remove(0).name;
    let mut wanted = classify("shade", &video);
    wanted.options = Some(v1::ClassifyOptions {
        per_view: true,
        ..Default::default()
    });
    let classified = client.classification().classify(wanted).await;
    let classified = classified.unwrap().into_inner();
    let own = embedded(&client, request("tasks/shade", &video, Default::default())).await;
    let width = server.wiring.backbone.config().width;
    let (shape, features) = values(own.features.as_ref());
    assert_eq!(shape, [width]);
    assert_eq!(own.version, "tasks/shade/versions/1");
    assert_eq!(own.sampled, classified.frames);
    assert_eq!(own.backbone_digest, server.wiring.backbone.digest().0[..]);
    assert!(own.timings.is_some() && own.views.is_none() && own.frames.is_none());
    let scores = scores(&client, &own.version, &features).await;
    for (score, expected) in scores.iter().zip(&classified.views[0].scores) {
        assert!((score - expected).abs() < 1e-4, "{score} and {expected}");
    }
    // By its name the version gives the same, and the bare backbone something else.
    let named = v1::EmbedRequest {
        version: own.version.clone(),
        ..request("", &video, Default::default())
    };
    assert_eq!(embedded(&client, named).await.features, own.features);
    let sampling = Some(v1::ClipSampling {
        num_frames: 2,
        ..Default::default()
    });
    let options = v1::EmbedOptions {
        sampling,
        ..Default::default()
    };
    let bare = embedded(&client, request("", &video, options)).await;
    assert_eq!((bare.version.as_str(), &bare.sampled), ("", &own.sampled));
    assert_ne!(bare.features, own.features);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bare_backbones_features_are_the_models_own() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let video = upload(&client, &clip(40)).await.unwrap().name;
    let options = v1::EmbedOptions {
        sampling: Some(v1::ClipSampling {
            num_frames: 3,
            sampling_rate: 2,
            num_temporal_views: 2,
            num_spatial_views: 3,
            ..Default::default()
        }),
        per_frame: true,
        before_final_norm: true,
        ..Default::default()
    };
    let answer = embedded(&client, request("", &video, options)).await;
    let backbone = server.wiring.backbone.clone();
    let width = backbone.config().width;

    let sampling = ClipSampling {
        num_frames: 3.try_into().unwrap(),
        sampling: Sampling::Strided(2.try_into().unwrap()),
        temporal_views: 2.try_into().unwrap(),
        spatial_views: SpatialViews::Three,
        rotation: RotationPolicy::Display,
        order: FrameOrder::Display,
    };
    let config = backbone.config();
    let size = config.image_size.try_into().unwrap();
    let spec = ClipSpec::of_task(&sampling, size, config.normalization);
    let (tenant, input) = ("acme".parse().unwrap(), Input::Bytes(clip(40)));
    let decoder = &server.wiring.decoder;
    let planes = decoder.clip(&tenant, Lane::Batch, input, spec).await;
    let mut forward = Features::new(backbone, planes.unwrap().planes, Head::Mean).unwrap();
    while forward.advance().unwrap() != Step::Done {}
    let expected = forward.into_features().unwrap();

    let (shape, views) = values(answer.views.as_ref());
    assert_eq!(shape, [6, width]);
    assert_eq!(views, expected.concat());
    // The class tokens of a view's frames average to its features, and its views to the video's.
    let (shape, frames) = values(answer.frames.as_ref());
    assert_eq!(shape, [6, 3, width]);
    let (shape, video) = values(answer.features.as_ref());
    assert_eq!(shape, [width]);
    assert_eq!(answer.sampled.len(), 6);
    for c in 0..width {
        let mut of_views = 0.0;
        for view in 0..6 {
            let tokens = (0..3).map(|frame| frames[(view * 3 + frame) * width + c]);
            let mean = tokens.sum::<f32>() / 3.0;
            assert_eq!(mean, views[view * width + c]);
            of_views += f64::from(mean);
        }
        assert!((of_views / 6.0 - f64::from(video[c])).abs() < 1e-6);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn normalised_features_have_length_1_and_half_floats_are_the_same_rounded() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let video = upload(&client, &clip(90)).await.unwrap().name;
    let ask = async |normalize: bool, element: v1::ElementType| {
        let options = v1::EmbedOptions {
            r#type: element.into(),
            normalize,
            per_frame: true,
            ..Default::default()
        };
        let answer = embedded(&client, request("", &video, options)).await;
        assert_eq!(answer.sampled.len(), 8, "the default of the bare backbone");
        [answer.features, answer.views, answer.frames].map(|array| values(array.as_ref()))
    };
    let plain = ask(false, v1::ElementType::Unspecified).await;
    let normal = ask(true, v1::ElementType::F32).await;
    let half = ask(true, v1::ElementType::F16).await;
    let width = server.wiring.backbone.config().width;
    let shapes = [vec![width], vec![1, width], vec![1, 8, width]];
    for (i, shape) in shapes.iter().enumerate() {
        for (own, _) in [&plain[i], &normal[i], &half[i]] {
            assert_eq!(own, shape);
        }
        let rows = plain[i].1.chunks(width).zip(normal[i].1.chunks(width));
        for (plain, normal) in rows {
            let length = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>().sqrt();
            assert!((length(normal) - 1.0).abs() < 1e-5);
            let scale = length(plain);
            assert!((scale - 1.0).abs() > 1e-3, "there was something to do");
            for (plain, normal) in plain.iter().zip(normal) {
                assert!((plain / scale - normal).abs() < 1e-5);
            }
        }
        let rounded = normal[i].1.iter().map(|&x| f16::from_f32(x).to_f32());
        assert_eq!(half[i].1, rounded.collect::<Vec<_>>());
    }
    server.stop().await;
}

/// The first field that a refusal names.
fn field(status: &Status) -> String {
    let details = status.get_error_details();
    let violations = details.bad_request().map(|bad| &bad.field_violations);
    let first = violations.and_then(|violations| violations.first());
    first.map_or_else(String::new, |violation| violation.field.clone())
}

/// A request that carries its video.
fn inline(task: &str, bytes: bytes::Bytes) -> v1::EmbedRequest {
    v1::EmbedRequest {
        task: task.into(),
        source: Some(v1::embed_request::Source::Content(bytes)),
        ..Default::default()
    }
}

/// Sends a video in small chunks.
async fn send(
    client: &Client,
    task: &str,
    bytes: &bytes::Bytes,
) -> Result<v1::EmbedResponse, Status> {
    use v1::embed_upload_request::Payload;
    let header = Payload::Header(v1::EmbedUploadHeader {
        task: task.into(),
        ..Default::default()
    });
    let chunks = bytes.chunks(1000).map(|chunk| bytes.slice_ref(chunk));
    let messages: Vec<_> = std::iter::once(header)
        .chain(chunks.map(Payload::Chunk))
        .map(|payload| v1::EmbedUploadRequest {
            payload: Some(payload),
        })
        .collect();
    let answer = client
        .classification()
        .embed_upload(stream::iter(messages))
        .await?;
    Ok(answer.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_an_inline_and_a_streamed_video_get_the_same_features_or_the_same_refusal() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    create_task(&client, "empty").await;
    let bytes = clip(60);
    let video = upload(&client, &bytes).await.unwrap().name;
    let stored = embedded(&client, request("", &video, Default::default())).await;
    let given = embedded(&client, inline("", bytes.clone())).await;
    let sent = send(&client, "", &bytes).await.unwrap();
    assert_eq!(given.features, stored.features);
    assert_eq!(sent.features, stored.features);
    let called = |method: &str| counted(&server, &["requests_total", method, "\"OK\""]);
    // A request is counted when its body has ended, which the caller may see first.
    until(|| async { (called("/Embed\""), called("/EmbedUpload\"")) == (2, 1) }).await;

    let calls = || client.classification();
    let garbage = bytes::Bytes::from_static(b"this is not a video");
    let code = Code::InvalidArgument;
    refused(
        calls().embed(inline("", garbage.clone())).await,
        code,
        "VIDEO_UNRECOGNISED",
    );
    refused(
        send(&client, "", &garbage).await,
        code,
        "VIDEO_UNRECOGNISED",
    );
    let code = Code::FailedPrecondition;
    refused(
        calls().embed(inline("tasks/empty", garbage.clone())).await,
        code,
        "NO_SERVING_VERSION",
    );
    refused(
        send(&client, "tasks/empty", &garbage).await,
        code,
        "NO_SERVING_VERSION",
    );
    let code = Code::NotFound;
    refused(
        calls().embed(inline("tasks/never", garbage.clone())).await,
        code,
        "TASK_NOT_FOUND",
    );

    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_makes_no_sense_names_its_field() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let with = |change: fn(&mut v1::EmbedRequest)| {
        let mut request = request("", "videos/x", Default::default());
        change(&mut request);
        request
    };
    for (request, expected) in [
        (with(|request| request.source = None), "source"),
        (with(|request| request.task = "empty".into()), "task"),
        (
            with(|request| request.version = "tasks/empty".into()),
            "version",
        ),
        (
            with(|request| {
                request.task = "tasks/other".into();
                request.version = "tasks/empty/versions/1".into();
            }),
            "version",
        ),
        (
            with(|request| request.options.as_mut().unwrap().r#type = 9),
            "options.type",
        ),
        (
            with(|request| {
                let sampling = v1::ClipSampling {
                    num_frames: 65,
                    ..Default::default()
                };
                request.options.as_mut().unwrap().sampling = Some(sampling);
            }),
            "options.sampling.num_frames",
        ),
    ] {
        let status = client.classification().embed(request).await;
        let status = status.expect_err(expected);
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(field(&status), expected, "{status:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_draw_from_the_same_room_as_classifications() {
    let server = TestServer::start_with(|config| config.engine.queue_clips = 2).await;
    let client = server.client("acme").await;
    let video = upload(&client, &clip(60)).await.unwrap().name;
    let options = v1::EmbedOptions {
        sampling: Some(v1::ClipSampling {
            num_frames: 2,
            num_spatial_views: 3,
            ..Default::default()
        }),
        ..Default::default()
    };
    let decoded = counted(&server, &["frameshift_decodes_total"]);
    let full = client
        .classification()
        .embed(request("", &video, options))
        .await;
    refused(full, Code::ResourceExhausted, "TOO_MANY_CLIPS");
    assert_eq!(counted(&server, &["frameshift_decodes_total"]), decoded);
    embedded(&client, request("", &video, Default::default())).await;
    server.stop().await;
}
