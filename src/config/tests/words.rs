//! The words of the command line and the names of variables.

use super::*;

#[test]
fn the_help_names_every_setting_with_its_default() {
    let mut command = <cli::Cli as clap::CommandFactory>::command();
    let serve = command.find_subcommand_mut("serve").unwrap();
    let help = serve.render_long_help().to_string();
    for (key, default) in settings::DEFAULTS {
        let flag = format!("--{}", key.replace('_', "-"));
        assert!(help.contains(&flag), "{flag}");
        assert!(help.contains(&format!("[default: {default}]")), "{key}");
    }
    assert!(!help.contains("--crash-at") && !help.contains("--cpu"));
}

#[test]
fn the_command_line_is_well_formed() {
    <cli::Cli as clap::CommandFactory>::command().debug_assert();
}

#[test]
fn options_of_the_client_may_stand_before_the_subcommand() {
    let read = |words: &[&str]| {
        let words = ["frameshift"].iter().chain(words);
        cli::Cli::read(words.map(OsString::from))
    };
    let orders: [&[&str]; 3] = [
        &["--server", "host:1", "--json", "tasks", "list"],
        &["tasks", "--server", "host:1", "--json", "list"],
        &["tasks", "list", "--server", "host:1", "--json"],
    ];
    for words in orders {
        let cli = read(words).unwrap();
        let cli::Command::Client(command) = cli.command else {
            panic!("{words:?}");
        };
        let mut command = command.after(cli.before);
        assert!(command.is_json(), "{words:?}");
        assert!(format!("{command:?}").contains("host:1"), "{words:?}");
    }
    // The option nearer to the command wins.
    let cli = read(&["--server", "far:1", "info", "--server", "near:1"]).unwrap();
    let cli::Command::Client(command) = cli.command else {
        panic!("no client command");
    };
    assert!(format!("{:?}", command.after(cli.before)).contains("near:1"));
    for wrong in [
        &["--server", "host:1", "serve"][..],
        &["--json", "convert", "x", "--out", "y"],
    ] {
        assert!(read(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn every_shell_gets_completions() {
    use clap::ValueEnum;
    for shell in clap_complete::Shell::value_variants() {
        let script = String::from_utf8(cli::Cli::completions(*shell)).unwrap();
        assert!(script.contains("residency"), "{shell}");
    }
}

#[test]
fn variables_that_name_no_setting_are_found() {
    let variables = environment(&[
        ("FRAMESHIFT_QUEUE_CLIP", "20"),
        ("FRAMESHIFT_QUEUE_CLIPS", "20"),
        ("FRAMESHIFT_CONFIG", "x"),
        ("FRAMESHIFT_SERVER", "x"),
        ("FRAMESHIFT_SERVICE_HOST", "10.0.0.1"),
        ("FRAMESHIFT_PORT_50051_TCP_ADDR", "10.0.0.1"),
        ("PATH", "x"),
    ]);
    assert_eq!(load::strangers(&variables), ["FRAMESHIFT_QUEUE_CLIP"]);
}
