//! What a sweep tries, and what it refuses.

use super::*;

#[derive(Debug, clap::Parser)]
struct Words {
    #[command(flatten)]
    submit: Submit,
}

fn submit(words: &[&str]) -> Submit {
    let all = ["sweep", "--task-prefix", "t", "--dataset", "d"];
    let words = all.iter().chain(words);
    let parsed: Words = clap::Parser::try_parse_from(words).unwrap();
    parsed.submit
}

#[test]
fn lists_are_multiplied_and_heads_alone_have_no_width() {
    let own = submit(&[
        "--sites-of",
        "none,pre-mlp",
        "--heads",
        "mean,frames",
        "--adapter-widths",
        "8,16,32",
        "--kernels",
        "3x1x1,3x3x3",
        "--num-frames",
        "4",
    ]);
    let all = shapes(&own);
    assert_eq!(all.len(), 2 + 2 * 3 * 2);
    assert!(all.iter().all(|shape| shape.num_frames == Some(4)));
    let bare = all.iter().filter(|shape| shape.adapter_width.is_none());
    assert_eq!(bare.count(), 2);
    assert_eq!(own.seeds, [1, 2, 3]);
    assert_eq!(shapes(&submit(&[])).len(), 1);
    assert!(kernel("3x2x1").is_err() && kernel("3x1").is_err());
}

#[test]
fn what_is_tried_and_what_all_have_do_not_contradict_each_other() {
    use clap::Parser;
    for (tried, own) in [
        (["--heads", "mean"], ["--head", "mean"]),
        (["--sites-of", "both"], ["--sites", "both"]),
        (["--adapter-widths", "8"], ["--adapter-width", "8"]),
        (["--kernels", "3x1x1"], ["--adapter-kernel", "3,1,1"]),
        (["--sampling-rates", "0"], ["--sampling-rate", "0"]),
    ] {
        let words = ["sweep", "--task-prefix", "t", "--dataset", "d"];
        let words = [&words[..], &tried, &own].concat();
        let refused = Words::try_parse_from(&words).expect_err(own[0]);
        assert_eq!(
            refused.kind(),
            clap::error::ErrorKind::ArgumentConflict,
            "{words:?}"
        );
    }
    let widths = ["--adapter-widths", "8,16"];
    for (sites, is_right) in [("none", false), ("none,both", true)] {
        let own = submit(&[&widths[..], &["--sites-of", sites]].concat());
        assert_eq!(check(&own, &shapes(&own)).is_ok(), is_right, "{sites}");
    }
}

#[test]
fn a_recipe_completes_what_is_tried() {
    let own = submit(&[
        "--preset",
        "k400-12x384",
        "--sampling-rates",
        "0,8",
        "--sites-of",
        "none,both",
        "--learning-rates",
        "1e-3,2e-3",
        "--dropout",
        "0",
    ]);
    let all = shapes(&own);
    let seen: Vec<_> = (all.iter())
        .map(|own| {
            (
                own.sites,
                own.adapter_width,
                own.sampling_rate,
                own.temporal_views,
            )
        })
        .collect();
    let (none, both) = (Some(Sites::None), Some(Sites::Both));
    let expected = [
        (none, None, Some(0), Some(1)),
        (none, None, Some(8), Some(3)),
        (both, Some(384), Some(0), Some(1)),
        (both, Some(384), Some(8), Some(3)),
    ];
    assert_eq!(seen, expected);
    let jobs = hyper(&own);
    assert_eq!((jobs.batch_size, jobs.dropout), (Some(192), Some(0.0)));
    assert_eq!((jobs.learning_rate, jobs.base_learning_rate), (None, None));
    let rated = hyper(&submit(&["--preset", "ssv2-24x384"]));
    assert_eq!(rated.base_learning_rate, Some(1e-3));
    assert_eq!(hyper(&submit(&[])).epochs, None);
}
