//! The sums, and their parts in the documentation.

use super::*;
use crate::config::settings::{Flags, Role, Settings};
use std::collections::BTreeMap;

#[cfg(all(feature = "postgres", feature = "s3"))]
mod chart;

fn budgets(flags: &Flags) -> Budgets {
    let config = Config::load(None, &BTreeMap::new(), flags, "frameshift".into()).unwrap();
    Budgets::of(&config, 300 << 20, None)
}

#[test]
fn what_is_computed_with_counts_for_the_gpu_where_there_is_one() {
    let config = Config::load(
        None,
        &BTreeMap::new(),
        &Flags::default(),
        "frameshift".into(),
    );
    let config = config.unwrap();
    let cpu = Budgets::of(&config, 300 << 20, None);
    let computed: u64 = (300 << 20)
        + config.engine.residency_bytes
        + config.engine.batch_bytes
        + config.jobs.runners as u64 * config.jobs.step_bytes;
    let mut gpu = Budgets::of(&config, 300 << 20, Some(computed));
    gpu.available = None;
    assert_eq!(gpu.sum(), cpu.sum() - computed + STAGING);
    assert!(!gpu.is_too_much());
    let text = gpu.to_string();
    let (host, device) = text.split_once("GPU's memory").unwrap();
    assert!(
        host.contains("waiting clips") && !host.contains("adapter sets"),
        "{text}"
    );
    assert!(
        device.contains("adapter sets") && !device.contains("which is less"),
        "{text}"
    );
    gpu.device = Some(computed - 1);
    assert!(gpu.is_too_much() && gpu.to_string().contains("which is less"));
}

#[test]
fn the_sum_follows_every_setting() {
    let text = |text: &str| Some(text.parse().unwrap());
    let base = Flags {
        message_memory: text("128MiB"),
        upload_memory: text("128MiB"),
        video_workers: Some(2.try_into().unwrap()),
        ..Flags::default()
    };
    let before = budgets(&base);
    let parts: u64 = before.parts.iter().map(|part| part.bytes).sum();
    assert_eq!(before.sum(), parts);
    for (flags, more) in [
        (
            Flags {
                message_memory: text("129MiB"),
                ..base.clone()
            },
            1 << 20,
        ),
        (
            Flags {
                upload_memory: text("130MiB"),
                ..base.clone()
            },
            2 << 20,
        ),
        (
            Flags {
                connections: Some(513.try_into().unwrap()),
                ..base.clone()
            },
            u64::from(CONNECTION_WINDOW),
        ),
        (
            Flags {
                video_workers: Some(3.try_into().unwrap()),
                ..base.clone()
            },
            1 << 30,
        ),
        (
            Flags {
                live_memory: text("513MiB"),
                ..base.clone()
            },
            1 << 20,
        ),
        (
            Flags {
                adapter_memory: text("3GiB"),
                ..base.clone()
            },
            2 << 30,
        ),
    ] {
        assert_eq!(budgets(&flags).sum() - before.sum(), more);
    }
}

/// The parts of the table in docs/operate.md, each with the settings that it names, in their order.
fn documented() -> Vec<(&'static str, Vec<&'static str>)> {
    let page = include_str!("../../../docs/operate.md");
    let (_, rest) = page.split_once("| part | setting | what it is |").unwrap();
    let lines = rest
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let row = |line: &'static str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let settings = cells[1].split('`').skip(1).step_by(2);
        (cells[0], settings.collect())
    };
    lines.map(row).collect()
}

#[test]
fn the_table_for_operators_has_every_part_with_its_settings() {
    let budgets = budgets(&Flags::default());
    let parts = budgets.parts.iter().map(|part| {
        let settings = part.settings.split(", ").filter(|key| !key.is_empty());
        (part.what, settings.collect::<Vec<_>>())
    });
    assert_eq!(documented(), parts.collect::<Vec<_>>());
    // What a part names is a setting.
    for part in &budgets.parts {
        for key in part.settings.split(", ").filter(|key| !key.is_empty()) {
            assert!(Settings::KEYS.contains(&key), "{key}");
        }
    }
}

#[test]
fn more_than_there_is_is_said() {
    let mut budgets = budgets(&Flags::default());
    budgets.available = Some(budgets.sum());
    assert!(!budgets.is_too_much());
    budgets.available = Some(budgets.sum() - 1);
    assert!(budgets.is_too_much());
    let text = budgets.to_string();
    for part in ["at most", "which is less", "message_memory", "300 MiB"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_process_has_budgets_for_what_its_role_does() {
    let of = |role| {
        budgets(&Flags {
            role: Some(role),
            ..Flags::default()
        })
    };
    let (all, serving, training) = (of(Role::All), of(Role::Serve), of(Role::Train));
    let bytes = |budgets: &Budgets, what| {
        let part = budgets.parts.iter().find(|part| part.what == what);
        part.unwrap().bytes
    };
    for what in [
        "training steps",
        "examples of jobs",
        "decoded clips of jobs",
    ] {
        assert_eq!(bytes(&serving, what), 0, "{what}");
        assert_eq!(bytes(&training, what), bytes(&all, what), "{what}");
    }
    for what in [
        "messages on their way in",
        "receive windows",
        "uploads, imports, exports",
        "live streams",
        "workers in long videos",
        "frames of windows",
    ] {
        assert_eq!(bytes(&training, what), 0, "{what}");
        assert_eq!(bytes(&serving, what), bytes(&all, what), "{what}");
    }
    assert!(serving.sum() < all.sum() && training.sum() < all.sum());
}
