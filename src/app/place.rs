//! Opens the device that the model computes on, and looks after it.
//!
//! Invariant: a device that was asked for by name is used or the start fails; only `auto` computes on the processor instead, and says so once.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::Error;
use crate::blocking::blocking;
use crate::config::units::DeviceChoice;
use crate::device::{self, Health};
use crate::model::{self, BackboneConfig, Place, Unusable};
use crate::rpc::info::{Accelerator, LookAtAccelerator};
use crate::shutdown::Signal;
use crate::spec::Precision;
use crate::telemetry::metrics::{DeviceMemory, Metrics};

/// Time between two looks at the device's memory: shorter than the usual interval at which metrics are read.
const LOOK: Duration = Duration::from_secs(5);

/// Opens the device of a configuration, on a blocking thread: a driver takes up to a second.
pub(super) async fn open(choice: DeviceChoice) -> Result<Place, Error> {
    let opened = blocking(move || chosen(choice, Place::cuda)).await;
    opened.map_err(|error| Error::Stopped {
        what: "opening the device",
        why: error.to_string(),
    })?
}

fn chosen(
    choice: DeviceChoice,
    cuda: impl Fn(usize) -> Result<Place, Unusable>,
) -> Result<Place, Error> {
    match choice {
        DeviceChoice::Cpu => Ok(Place::Host),
        DeviceChoice::Cuda(ordinal) => cuda(ordinal).map_err(|source| Error::Accelerator {
            device: choice,
            source,
        }),
        DeviceChoice::Auto => Ok(cuda(0).unwrap_or_else(|why| {
            // A program or a machine without CUDA is the usual case, and nothing to worry about.
            match matches!(why, Unusable::NotBuilt | Unusable::NoDriver) {
                true => tracing::info!(%why, "the model computes on the CPU"),
                false => tracing::warn!(%why, "the model computes on the CPU"),
            }
            Place::Host
        })),
    }
}

/// Returns the place and the precision in which a backbone of this shape is computed: those that were asked for, if the device computes them as the processor
/// does.
pub(super) fn checked(
    (choice, place): (DeviceChoice, Place),
    shape: &BackboneConfig,
    precision: Option<Precision>,
) -> Result<(Place, Precision), Error> {
    let wanted = precision.unwrap_or_else(|| fastest(&place));
    match place.check(shape, wanted) {
        Ok(()) => Ok((place, wanted)),
        Err(why) if choice == DeviceChoice::Auto => {
            tracing::warn!(%why, "the model computes on the CPU");
            let wanted = precision.unwrap_or_else(model::fastest);
            Ok((Place::Host, wanted))
        }
        Err(source) => Err(Error::Accelerator {
            device: choice,
            source,
        }),
    }
}

/// Returns the precision that `auto` stands for on a device.
fn fastest(place: &Place) -> Precision {
    match place.is_host() {
        true => model::fastest(),
        false => Precision::Bf16,
    }
}

/// A place as the device thread sees it.
pub(super) struct Watched(pub(super) Place);

impl Health for Watched {
    fn lost(&self) -> Option<Arc<str>> {
        self.0.lost()
    }
}

/// Returns what `GetServerInfo` looks at an accelerator with.
pub(super) fn look(place: Place) -> LookAtAccelerator {
    Box::new(move || {
        let (memory, work) = (place.memory()?, place.work()?);
        Some(Accelerator {
            name: place.name(),
            memory: memory.total,
            reserved: memory.reserved,
            used: memory.used,
            slices: work.slices,
            uploading: work.uploading,
            uploaded: work.uploaded,
            plans: place.plans(),
        })
    })
}

/// Records the memory and the uploads of an accelerator, until the drain, and wakes the device thread when the accelerator is lost, which it does not notice
/// while it is idle. Nothing is recorded of the processor.
pub(super) async fn observe(
    (place, device): (Place, device::Handle),
    metrics: Metrics,
    drain: Signal,
) -> Result<(), Infallible> {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !place.is_host() {
        tokio::select! {
            () = drain.draining() => return Ok(()),
            _ = looks.tick() => {}
        }
        if let (Some(memory), Some(work)) = (place.memory(), place.work()) {
            metrics.device(DeviceMemory {
                total: memory.total,
                reserved: memory.reserved,
                used: memory.used,
                uploading: work.uploading,
            });
        }
        if place.lost().is_some() {
            device.wake();
        }
    }
    drain.draining().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_auto_falls_back_on_the_processor() {
        let none = |_| Err(Unusable::NoDriver);
        assert!(chosen(DeviceChoice::Auto, none).unwrap().is_host());
        assert!(
            chosen(DeviceChoice::Cpu, |_| panic!("not asked for"))
                .unwrap()
                .is_host()
        );
        let refused = chosen(DeviceChoice::Cuda(3), none).unwrap_err();
        let text = refused.to_string();
        assert!(
            text.contains("cuda:3") && text.contains("no NVIDIA driver"),
            "{text}"
        );
    }

    #[test]
    fn the_number_of_the_device_is_passed_on() {
        let ask = |ordinal| match ordinal {
            3 => Ok(Place::Host),
            other => panic!("{other}"),
        };
        assert!(chosen(DeviceChoice::Cuda(3), ask).is_ok());
    }
}
