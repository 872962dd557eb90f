//! The report: the same figures as on the terminal, with curves, and clips with what was said of them.

use std::path::{Path, PathBuf};

use super::classify::{Answer, SHOWN};
use super::clips::{Material, TRAINING, UNSEEN, Video};
use super::outcome::{PAIR_DEFINITION, Summary, TaskOutcome, Way, thousands};
use super::{Error, wrote};
use crate::report::chart::{self, Series};
use crate::report::sheet::{self, Mark};
use crate::report::{Markup, Page, Table};

/// Writes the report, and a picture of some clips beside it; returns both paths.
pub(super) fn write(
    path: &Path,
    outcome: &Summary,
    materials: &[&Material],
) -> Result<[PathBuf; 2], Error> {
    let html = page(outcome, materials)?;
    std::fs::write(path, html).map_err(wrote(path))?;
    let picture = path.with_file_name("clips.png");
    std::fs::write(&picture, sheet(outcome, materials)?).map_err(wrote(&picture))?;
    Ok([path.to_owned(), picture])
}

fn page(outcome: &Summary, materials: &[&Material]) -> Result<String, Error> {
    let backbone = outcome.info.backbone.clone().unwrap_or_default();
    let mut page = Page::new(
        "One frozen image backbone, two tenants, two video tasks",
        &format!(
            "Frameshift {} on {}, {}. The backbone ({}, {} parameters) has seen single images only; each task adds adapters that see time.",
            outcome.info.version,
            outcome.info.device,
            outcome.info.precision,
            backbone.name,
            thousands(backbone.parameters),
        ),
    );
    page.tiles(&tiles(outcome));
    page.section("Accuracy and cost").table(&outcome.table());
    page.paragraph(&format!(
        "{UNSEEN} unseen clips a task, {TRAINING} to learn from. Unseen clips come from other random streams, are slower or faster, have smaller or \
         larger objects and coarser or finer textures than any clip in training. Seconds are from submission to a serving version, with both tenants' jobs sharing the machine."
    ));
    page.paragraph(PAIR_DEFINITION);
    page.section("Loss").figures(
        &outcome
            .tasks
            .iter()
            .map(|task| (curves(task), caption(task)))
            .collect::<Vec<_>>(),
    );
    for ((task, material), (answers, probe)) in outcome
        .tasks
        .iter()
        .zip(materials)
        .zip(outcome.served.answers.iter().zip(&outcome.served.probe))
    {
        page.section(&format!(
            "{}: {}",
            task.tenant,
            task.motion.labels().join(", ")
        ));
        page.paragraph(
            "Eight sampled frames of unseen clips, in order. Neighbours are each other's time reversal: same frames, opposite order. \
             Green: ST-Adapter was right.",
        );
        page.figures(&strips(material, answers, probe)?);
        for way in [&task.adapters, &task.probe] {
            page.paragraph(&format!(
                "Predictions of the {} on the unseen clips:",
                way.name
            ));
            page.table(&confusion(way));
        }
    }
    page.section("Serving").table(&rates(outcome));
    page.paragraph(
        "Eight requests in flight. The frozen layers run once over all clips of a batch, whatever their tasks; each task's adapters run on its own clips.",
    );
    Ok(page.finish())
}

fn tiles(outcome: &Summary) -> Vec<(String, String)> {
    let mut tiles = Vec::new();
    for task in &outcome.tasks {
        let probe = task.probe.pairs.iter().map(|(_, share)| share);
        let probe = probe.fold(0.0_f64, |most, share| most.max(*share));
        tiles.push((
            format!("{:.1} %", 100.0 * task.adapters.accuracy),
            format!("of unseen clips right: {}", task.motion.labels().join(", ")),
        ));
        tiles.push((
            format!("{:.1} %", 100.0 * probe),
            "of the same clips' reversed pairs by a linear probe; chance is 50 %".to_owned(),
        ));
    }
    if let Some(task) = outcome.tasks.first() {
        tiles.push((
            format!("{:.1} %", 100.0 * task.adapters.share),
            "of the backbone's parameters updated for a task".to_owned(),
        ));
    }
    tiles.push((
        format!("{:.1}", outcome.served.mixed.per_second()),
        "clips a second with both tasks interleaved".to_owned(),
    ));
    tiles
}

fn caption(task: &TaskOutcome) -> String {
    format!("{}: mean training loss of each epoch", task.tenant)
}

fn curves(task: &TaskOutcome) -> Markup {
    let series = [&task.adapters, &task.probe].map(|way| Series {
        name: way.name.to_owned(),
        points: way
            .loss_curve
            .iter()
            .enumerate()
            .map(|(epoch, loss)| (epoch as f64 + 1.0, *loss))
            .collect(),
    });
    chart::lines("epoch", "cross entropy (nats)", &series)
}

/// The frames of a clip that the server looked at.
fn sampled<'a>(video: &'a Video, answer: &Answer) -> Vec<&'a [u8]> {
    let frames = answer.frames.iter();
    frames
        .filter_map(|&index| video.clip.frames.get(index as usize))
        .map(Vec::as_slice)
        .collect()
}

fn strips(
    material: &Material,
    answers: &[Answer],
    probe: &[Answer],
) -> Result<Vec<(Markup, String)>, Error> {
    let labels = material.motion.labels();
    let shown = material.unseen().iter().take(SHOWN);
    shown
        .zip(answers)
        .zip(probe)
        .map(|((video, answer), probe)| {
            let truth = labels[video.clip.label];
            let mark = if answer.label == truth {
                Mark::Right
            } else {
                Mark::Wrong
            };
            let strip = sheet::strip(&sampled(video, answer), video.clip.side, mark, truth)?;
            let caption = format!(
                "{truth} · ST-Adapter says {} ({:.2}) · probe says {} ({:.2})",
                answer.label, answer.score, probe.label, probe.score
            );
            Ok((strip, caption))
        })
        .collect()
}

/// The first reversed pairs of each task, one clip a row.
fn sheet(outcome: &Summary, materials: &[&Material]) -> Result<Vec<u8>, Error> {
    let mut rows = Vec::new();
    let mut side = 0;
    for (material, answers) in materials.iter().zip(&outcome.served.answers) {
        for (video, answer) in material.unseen().iter().zip(answers).take(4) {
            side = video.clip.side;
            rows.push(sampled(video, answer));
        }
    }
    Ok(sheet::png(&rows, side)?)
}

fn confusion(way: &Way) -> Table {
    let mut columns = vec!["label"];
    columns.extend(way.labels.iter().map(String::as_str));
    let mut table = Table::new(&columns);
    let rows = way.confusion.chunks(way.labels.len().max(1));
    for (label, counts) in way.labels.iter().zip(rows) {
        let mut row = vec![label.clone()];
        row.extend(counts.iter().map(i64::to_string));
        table.row(row);
    }
    table
}

fn rates(outcome: &Summary) -> Table {
    let mut table = Table::new(&[
        "requests",
        "clips",
        "clips a second",
        "right",
        "answered by",
    ]);
    for (task, rate) in outcome.tasks.iter().zip(&outcome.served.alone) {
        table.row(vec![
            format!("{} alone", task.tenant),
            rate.clips.to_string(),
            format!("{:.1}", rate.per_second()),
            format!("{:.3} (all unseen clips)", task.served_accuracy),
            task.versions_seen.join(", "),
        ]);
    }
    table.row(vec![
        "both interleaved".to_owned(),
        outcome.served.mixed.clips.to_string(),
        format!("{:.1}", outcome.served.mixed.per_second()),
        String::new(),
        String::new(),
    ]);
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::classify::{Rate, Served};
    use crate::demo::clips;
    use crate::demo::outcome::tests::task;

    fn outcome(material: &Material) -> Summary {
        let answer = |video: &Video| Answer {
            label: material.motion.labels()[video.clip.label].to_owned(),
            score: 0.9,
            frames: (0..8).map(|i| 2 * i + 1).collect(),
            version: "tasks/motion/versions/1".to_owned(),
        };
        let rate = Rate {
            clips: 10,
            seconds: 2.0,
        };
        Summary {
            info: Default::default(),
            tasks: vec![task(0.9, 0.5, 0.9)],
            served: Served {
                answers: vec![material.unseen().iter().map(answer).collect()],
                probe: vec![material.unseen().iter().take(SHOWN).map(answer).collect()],
                alone: vec![rate],
                mixed: rate,
            },
        }
    }

    #[test]
    fn the_report_is_one_file_that_refers_to_nothing() {
        let material = clips::make(crate::synth::motion::Motion::Growth, 1).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        let [report, picture] = write(&path, &outcome(&material), &[&material]).unwrap();
        let html = std::fs::read_to_string(report).unwrap();
        assert_eq!(html.matches("<img").count(), SHOWN);
        assert!(html.contains("growing, shrinking") && html.contains("5.0"));
        for reference in ["http:", "https:", "src=\"/", "<script", "<link", "url("] {
            assert!(!html.contains(reference), "{reference}");
        }
        assert!(std::fs::read(picture).unwrap().starts_with(b"\x89PNG"));
    }
}
