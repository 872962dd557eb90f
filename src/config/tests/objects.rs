//! Where objects are, and what a process does.

use super::*;

#[test]
fn objects_are_in_a_folder_or_in_a_bucket_with_a_cache_before_it() {
    let plain = load(None, &[], &[]).unwrap();
    assert!(plain.objects.is_none() && plain.cache.is_none());
    let asked = load(
        None,
        &[],
        &["--cache-dir", "/fast", "--cache-bytes", "1GiB"],
    )
    .unwrap();
    let cache = asked.cache.unwrap();
    assert_eq!(cache.folder, PathBuf::from("/fast"));
    assert_eq!((cache.bytes, asked.objects.is_none()), (1 << 30, true));
    let error = load(None, &[], &["--objects-endpoint", "http://minio:9000"]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("objects_endpoint: has no meaning")
    );
    let error = load(None, &[], &["--objects-url", "ftp://videos"]).unwrap_err();
    assert!(
        error.to_string().contains("objects_url: expected s3://"),
        "{error}"
    );
}

#[cfg(feature = "s3")]
#[test]
fn a_bucket_takes_the_platforms_variables_and_its_cache_can_be_turned_off() {
    let variables = [
        ("AWS_REGION", "eu-1"),
        ("FRAMESHIFT_OBJECTS_URL", "s3://v/x"),
    ];
    let config = load(None, &variables, &["--data-dir", "/data"]).unwrap();
    let bucket = config.objects.unwrap();
    assert_eq!(bucket.url.to_string(), "s3://v/x");
    assert_eq!(bucket.variables[0].0, "AWS_REGION");
    assert_eq!(config.cache.unwrap().folder, PathBuf::from("/data/cache"));
    let off = load(None, &variables, &["--cache-bytes", "0B"]).unwrap();
    assert!(off.cache.is_none());
    let wrong = ["--objects-endpoint", "minio:9000"];
    let error = load(None, &variables, &wrong).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("objects_endpoint: expected http"),
        "{error}"
    );
}

#[test]
fn a_process_that_only_trains_may_end_when_it_is_idle() {
    let train = load(None, &[], &["--role", "train", "--exit-when-idle", "5m"]).unwrap();
    assert_eq!(train.exit_when_idle, Some(Duration::from_secs(300)));
    assert!(train.role.trains() && !train.role.serves());
    for wrong in [
        &["--exit-when-idle", "5m"][..],
        &["--role", "serve", "--exit-when-idle", "5m"],
        &["--role", "train", "--exit-when-idle", "0s"],
    ] {
        let error = load(None, &[], wrong).unwrap_err();
        assert!(error.to_string().contains("exit_when_idle"), "{error}");
    }
    let file = ["--role", "train", "--address-file", "x"];
    let error = load(None, &[], &file).unwrap_err();
    assert!(error.to_string().contains("address_file"), "{error}");
}
