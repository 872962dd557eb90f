//! The report: the same figures as on the terminal, with curves, and clips with what was predicted for them.

use std::path::{Path, PathBuf};

use super::classify::{Answer, MISSES, SHOWN};
use super::clips::{Material, TRAINING, UNSEEN, Video};
use super::outcome::{PAIR_DEFINITION, Summary, TaskOutcome, Way, thousands};
use super::{Error, wrote};
use crate::report::chart::{self, Series};
use crate::report::sheet::{self, Mark};
use crate::report::{Markup, Matrix, Page};

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
         larger objects and coarser or finer textures than any clip in training. Seconds are from submission to the end of the job, evaluation \
         included, with both tenants' jobs sharing the machine."
    ));
    page.paragraph(PAIR_DEFINITION);
    page.section("Loss").figures(&charts(outcome));
    page.paragraph(
        "The jobs with adapters evaluate the unseen clips a few times while they train, those of the probe once, after the last epoch: that is the dot. \
         All publish their last weights, so that the unseen clips choose nothing. The methods train for different numbers of epochs, so each has a chart \
         of its own. The probe computes the backbone's features once and reads them from memory in every later epoch (cached features), which \
         is why its clips a second on the terminal are many more.",
    );
    serving(&mut page, outcome);
    let clips = outcome.served.answers.iter().zip(&outcome.served.probe);
    for ((task, material), (answers, probe)) in outcome.tasks.iter().zip(materials).zip(clips) {
        page.section(&format!(
            "{}: {}",
            task.tenant,
            task.motion.labels().join(", ")
        ));
        page.paragraph(&format!(
            "Eight sampled frames of unseen clips, in order. Shown are the first {SHOWN} clips, where neighbours are each other's time reversal (same \
             frames, opposite order), and then the first {MISSES} other clips that ST-Adapter got wrong, as far as there are any. Green frame: \
             ST-Adapter was right; red: it was wrong."
        ));
        page.figures(&strips(material, answers, probe)?);
        page.matrices(&[matrix(&task.adapters), matrix(&task.probe)]);
    }
    page.section("How this was measured");
    let seed = ("seed".to_owned(), outcome.seed.to_string());
    let facts: Vec<_> = outcome.machine.facts().into_iter().chain([seed]).collect();
    page.facts(&facts);
    Ok(page.finish())
}

fn serving(page: &mut Page, outcome: &Summary) {
    page.section("Sharing the backbone").table(&outcome.rates());
    page.paragraph(&outcome.sharing());
    page.paragraph(
        "The frozen layers run once over all clips of a batch, whatever their tasks; each task's adapters run on its own clips. Passes, clips and tasks \
         are differences of the server's own metrics before and after each phase.",
    );
    let swap = &outcome.swap;
    page.section("Hot swap").paragraph(&format!(
        "A second version of {} was trained for {} epochs with another seed ({:.0} s, {:.3} of the unseen clips right, loss {:.3}) and took over while four clients \
         asked without a pause.",
        outcome.tasks.first().map_or("the task", |task| task.tenant),
        swap.epochs,
        swap.seconds,
        swap.accuracy,
        swap.loss
    ));
    page.paragraph(&swap.sentence());
    page.paragraph(
        "Each answer's labels and scores are compared, bit for bit, with what the version that it names says of the same clip when it is asked for by \
         name. The time is from the request to serve the new version to its first answer.",
    );
}

/// The figures of a run at a glance; each compares like with like.
fn tiles(outcome: &Summary) -> Vec<(String, String)> {
    let mut tiles: Vec<(String, String)> = outcome
        .tasks
        .iter()
        .map(|task| {
            (
                format!(
                    "{:.2} against {:.2}",
                    task.adapters.reversed(),
                    task.probe.reversed()
                ),
                format!(
                    "{}: share of the reversed pairs ({}) told apart by ST-Adapter and by a linear probe, on the same clips; chance is 0.50",
                    task.tenant,
                    task.motion.labels().join(", ")
                ),
            )
        })
        .collect();
    if let Some(task) = outcome.tasks.first() {
        tiles.push((
            format!("{:.1} %", 100.0 * task.adapters.share),
            "of the backbone's parameters are trained and stored for a task".to_owned(),
        ));
    }
    let swap = &outcome.swap;
    tiles.push((
        format!(
            "{} answers, {} failed",
            swap.by_old + swap.by_new,
            swap.failed
        ),
        format!(
            "while a new version took over within {:.0} ms",
            swap.milliseconds
        ),
    ));
    tiles.push((
        format!(
            "{:.2} against {:.2}",
            outcome.served.mixed.passes.a_clip(),
            outcome.served.separate().a_clip()
        ),
        "passes of the backbone a clip: one server for both tasks, and two servers with one task each".to_owned(),
    ));
    tiles
}

/// A chart for each task and method, since their epochs differ.
fn charts(outcome: &Summary) -> Vec<(Markup, String)> {
    let ways = |task: &TaskOutcome| {
        [&task.adapters, &task.probe].map(|way| {
            let caption = format!(
                "{}, {}: mean training loss of each of {} epochs, and the loss on the unseen clips while it trained",
                task.tenant,
                way.name,
                way.loss_curve.len()
            );
            (curve(way), caption)
        })
    };
    outcome.tasks.iter().flat_map(ways).collect()
}

fn curve(way: &Way) -> Markup {
    let unseen = match way.unseen_curve.is_empty() {
        true => vec![(way.loss_curve.len() as f64, way.unseen_loss)],
        false => way.unseen_curve.clone(),
    };
    let epochs = (1..).map(f64::from).zip(way.loss_curve.iter().copied());
    let series = [
        Series {
            name: "training".to_owned(),
            points: epochs.collect(),
        },
        Series {
            name: "unseen clips".to_owned(),
            points: unseen,
        },
    ];
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
    probe: &[(usize, Answer)],
) -> Result<Vec<(Markup, String)>, Error> {
    let labels = material.motion.labels();
    let shown = probe.iter().filter_map(|(clip, probe)| {
        Some((material.unseen().get(*clip)?, answers.get(*clip)?, probe))
    });
    shown
        .map(|(video, answer, probe)| {
            let truth = labels[video.clip.label];
            let mark = if answer.label == truth {
                Mark::Right
            } else {
                Mark::Wrong
            };
            let strip = sheet::strip(&sampled(video, answer), video.clip.side, mark, truth)?;
            let caption = format!(
                "truth: {truth} · ST-Adapter: {} ({:.2}) · linear probe: {} ({:.2})",
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

fn matrix(way: &Way) -> Matrix {
    Matrix {
        caption: format!(
            "{} on the unseen clips: rows are the true labels, columns the predicted ones; the darker, the larger the share of its row",
            way.name
        ),
        labels: way.labels.clone(),
        counts: way.confusion.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::classify::{Rate, Served};
    use crate::demo::clips;
    use crate::demo::machine::Machine;
    use crate::demo::outcome::tests::task;
    use crate::demo::passes::Passes;
    use crate::demo::swap::Swap;

    fn outcome(material: &Material) -> Summary {
        let answer = |video: &Video| Answer {
            label: material.motion.labels()[video.clip.label].to_owned(),
            score: 0.9,
            frames: (0..8).map(|i| 2 * i + 1).collect(),
            version: "tasks/motion/versions/1".to_owned(),
        };
        let rate = |batches, sets| Rate {
            clips: 10,
            seconds: 2.0,
            passes: Passes {
                batches,
                clips: 10.0,
                sets,
            },
            load: Some(1.5),
        };
        let shown = material.unseen().iter().map(answer).enumerate();
        let shown = shown.take(SHOWN + MISSES);
        Summary {
            info: Default::default(),
            tasks: vec![task(0.9, 0.5, 0.9)],
            served: Served {
                answers: vec![material.unseen().iter().map(answer).collect()],
                probe: vec![shown.collect()],
                alone: vec![rate(5.0, 5.0)],
                mixed: rate(2.0, 4.0),
            },
            swap: Swap::default(),
            machine: Machine::here(),
            seed: 7,
        }
    }

    #[test]
    fn the_report_is_one_file_that_refers_to_nothing() {
        let material = clips::make(crate::synth::motion::Motion::Growth, 1).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        let [report, picture] = write(&path, &outcome(&material), &[&material]).unwrap();
        let html = std::fs::read_to_string(report).unwrap();
        assert_eq!(html.matches("<img").count(), SHOWN + MISSES);
        for part in [
            "growing, shrinking",
            "0.90 against 0.50",
            "0.20 against 0.50",
            "chance is 0.50",
            "truth ↓",
            "<dt>commit</dt>",
            "<dt>seed</dt><dd>7</dd>",
            "two servers with a backbone each would run it 5 times",
        ] {
            assert!(html.contains(part), "{part}");
        }
        for reference in ["http:", "https:", "src=\"/", "<script", "<link", "url("] {
            assert!(!html.contains(reference), "{reference}");
        }
        assert!(std::fs::read(picture).unwrap().starts_with(b"\x89PNG"));
    }
}
