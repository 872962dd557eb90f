//! One tiny video per container, which the first worker decodes when the server starts: what a library of this machine cannot do while it is confined,
//! clients shall not find out.

use std::os::fd::AsFd;

use bytes::Bytes;

use super::exchange::{Ended, exchange, is_doubtful, verdict};
use super::nursery::{Nursery, Worker};
use super::wire::Work;
use crate::answer::{Container, Containers};
use crate::request::Limits;
use crate::{Error, Input};

const SAMPLES: [(Container, &[u8]); 7] = [
    (
        Container::Mov,
        include_bytes!("../../../../assets/containers/mov.mp4"),
    ),
    (
        Container::Matroska,
        include_bytes!("../../../../assets/containers/matroska.mkv"),
    ),
    (
        Container::Avi,
        include_bytes!("../../../../assets/containers/avi.avi"),
    ),
    // Its service has a name, which has to be converted.
    (
        Container::MpegTs,
        include_bytes!("../../../../assets/containers/mpegts.ts"),
    ),
    (
        Container::Flv,
        include_bytes!("../../../../assets/containers/flv.flv"),
    ),
    (
        Container::Asf,
        include_bytes!("../../../../assets/containers/asf.wmv"),
    ),
    (
        Container::Ogg,
        include_bytes!("../../../../assets/containers/ogg.ogv"),
    ),
];

/// Decodes a sample of each of these containers. Returns those that work, and the last worker, which has seen nothing but samples.
///
/// # Errors
/// When no worker can be had any more, or no container works.
pub(super) fn check(
    nursery: &Nursery,
    first: Worker,
    wanted: Containers,
) -> Result<(Containers, Worker), Error> {
    let system = |source: rustix::io::Errno| Error::System {
        action: "make a pipe",
        source: std::sync::Arc::new(source.into()),
    };
    // Nobody leaves here.
    let (abandoned, _stays) = rustix::pipe::pipe().map_err(system)?;
    let (mut containers, mut worker) = (wanted, first);
    // What a sample costs does not depend on what is configured.
    let limits = Limits::default();
    let samples = SAMPLES.into_iter().enumerate();
    for (number, (container, bytes)) in samples.filter(|(_, own)| wanted.contains(own.0)) {
        let input = Input::Bytes(Bytes::from_static(bytes));
        let job = (number as u64, &input, &Work::Probe);
        let mut ended = exchange(&mut worker, job, &limits, abandoned.as_fd())?;
        if is_doubtful(&ended).is_some() {
            // A busy machine says nothing about a container.
            worker = nursery.fork()?;
            ended = exchange(&mut worker, job, &limits, abandoned.as_fd())?;
        }
        let problem = match ended {
            Ended::Answered(Ok(answer))
                if (answer.probe.as_ref()).is_some_and(|own| own.container == container) =>
            {
                continue;
            }
            Ended::Answered(Ok(_)) => None,
            Ended::Answered(Err(Error::Rejected(rejection))) => Some(rejection.reject),
            Ended::TimedOut(reject) => Some(reject),
            Ended::Answered(Err(error)) => return Err(error),
            Ended::Died(end) => verdict(end),
            Ended::Lied | Ended::Abandoned => None,
        };
        containers.remove(container);
        tracing::error!(
            %container,
            reason = problem.map(|reject| reject.reason()),
            "the decoder cannot read this container here: such videos are refused"
        );
        worker = nursery.fork()?;
    }
    if containers.is_empty() {
        return Err(Error::NoContainer);
    }
    Ok((containers, worker))
}
