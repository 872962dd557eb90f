//! Faults of a call before or beside its handler: its messages, its pace, its room; and the statuses that tonic makes without details.

use std::time::Duration;

use http::HeaderMap;
use tonic::{Code, Status};

use super::{QuotaUsed, Reason, Refusal, SOON, of_setting};
use crate::rpc::pool::Full;

/// Returns the status for a message that is too large.
pub(in crate::rpc) fn message_too_large(size: u64, limit: u64) -> Status {
    let message = format_args!(
        "the message has {size} bytes, and one may have {limit}: send a file in chunks of at most 1 MiB, a clip with ClassifyUpload, a video with \
         UploadVideo or WriteUpload"
    );
    Refusal::new(Reason::MESSAGE_TOO_LARGE, message)
        .quota("message_bytes")
        .status()
}

/// Returns the status for a pool without the bytes that a call needs.
pub(in crate::rpc) fn of_pool(full: &Full) -> Status {
    let reason = match full.setting {
        "message_memory" => Reason::MESSAGE_MEMORY_FULL,
        "upload_memory" => Reason::UPLOAD_MEMORY_FULL,
        "live_memory" => Reason::LIVE_MEMORY_FULL,
        _ => Reason::SPOOL_FULL,
    };
    let refusal = Refusal::new(reason, full).quota(full.setting);
    match full.is_final() {
        true => refusal.status(),
        false => refusal.retry(SOON).status(),
    }
}

impl From<Full> for Status {
    fn from(full: Full) -> Self {
        of_pool(&full)
    }
}

/// Returns the status for a tenant with as many streams of one kind as it may have; `setting` limits those of tenants without a limit of their own.
pub(in crate::rpc) fn too_many_streams(
    setting: &'static str,
    (limit, used): (usize, usize),
) -> Status {
    let (kind, quota) = match setting {
        "live_streams_per_tenant" => ("live", "concurrent_live_streams"),
        _ => ("client", "concurrent_streams"),
    };
    let message = format_args!(
        "the tenant has {used} {kind} streams already, and may have {limit} at a time"
    );
    let used = QuotaUsed::new(quota, limit as u64, used as u64).setting(setting);
    let refusal = of_setting(Refusal::new(Reason::TOO_MANY_STREAMS, message), used);
    match limit {
        0 => refusal.status(),
        _ => refusal.retry(SOON).status(),
    }
}

/// Returns the status for a client that stopped sending.
pub(in crate::rpc) fn stream_idle(limit: Duration) -> Status {
    let message = format_args!(
        "the client sent nothing for {} s",
        limit.as_secs_f64().ceil()
    );
    Refusal::new(Reason::STREAM_IDLE, message).status()
}

/// Returns the status for a client that stopped reading.
pub(in crate::rpc) fn reader_idle(limit: Duration) -> Status {
    let message = format_args!("the client read nothing for {} s", limit.as_secs());
    Refusal::new(Reason::STREAM_IDLE, message).status()
}

/// Returns the status for a client that sends one message too slowly.
pub(in crate::rpc) fn message_late(limit: Duration) -> Status {
    let message = format_args!(
        "a message was not whole after {} s",
        limit.as_secs_f64().ceil()
    );
    Refusal::new(Reason::MESSAGE_LATE, message).status()
}

/// Returns the status of a client stream that broke off, by what ended it.
pub(in crate::rpc) fn broken_stream(status: Status) -> Status {
    if status.details().is_empty() {
        of_tonic(&status, None)
    } else {
        status
    }
}

/// Returns the status in an answer's headers with the details that it lacks; `None` when it lacks none.
pub(in crate::rpc) fn explained(headers: &HeaderMap, path: &str) -> Option<Status> {
    let status = Status::from_header_map(headers)?;
    let is_plain = status.code() != Code::Ok && status.details().is_empty();
    is_plain.then(|| of_tonic(&status, Some(path)))
}

/// Explains a status that tonic, its router or a standard service made. `path` is there when no handler of this server ran.
fn of_tonic(status: &Status, path: Option<&str>) -> Status {
    let text = status.message();
    match (status.code(), path) {
        (Code::Unimplemented, _) if text.starts_with("Content is compressed") => {
            let message = format_args!("{text}: send messages as they are, or with gzip or zstd");
            Refusal::new(Reason::COMPRESSION_UNSUPPORTED, message)
        }
        (Code::Unimplemented, Some(path)) => {
            let message = format_args!(
                "this server has no method {path:?}; ask its reflection service, or see proto/frameshift/v1, for those that it has"
            );
            Refusal::new(Reason::METHOD_UNKNOWN, message)
        }
        // Only what a message becomes when it is decompressed is found out by tonic.
        (Code::OutOfRange | Code::ResourceExhausted, _) => {
            Refusal::new(Reason::MESSAGE_TOO_LARGE, text).quota("message_bytes")
        }
        // Whatever tonic cannot read is what the caller sent.
        (Code::Internal, _) => {
            Refusal::new(Reason::MESSAGE_UNREADABLE, text).field("message", text)
        }
        (Code::Cancelled, _) => Refusal::new(Reason::CANCELLED, text),
        (Code::NotFound, Some(_)) => Refusal::new(Reason::SERVICE_UNKNOWN, text),
        (code, _) => Refusal::new(Reason::STREAM_BROKEN, text).with_code(code),
    }
    .status()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::pool::Pool;
    use tonic_types::StatusExt;

    fn seen(status: &Status) -> (Code, String) {
        let details = status.get_error_details();
        let info = details.error_info().expect("a reason");
        (status.code(), info.reason.clone())
    }

    #[test]
    fn what_tonic_says_without_details_gets_them() {
        let gzip = "Content is compressed with `br` which isn't supported";
        for (code, text, expected) in [
            (
                Code::Unimplemented,
                gzip,
                (Code::Unimplemented, "COMPRESSION_UNSUPPORTED"),
            ),
            (
                Code::Unimplemented,
                "",
                (Code::Unimplemented, "METHOD_UNKNOWN"),
            ),
            (
                Code::OutOfRange,
                "too large: found",
                (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"),
            ),
            (
                Code::ResourceExhausted,
                "size limit",
                (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"),
            ),
            (
                Code::Internal,
                "failed to decode",
                (Code::InvalidArgument, "MESSAGE_UNREADABLE"),
            ),
            (
                Code::NotFound,
                "service not registered",
                (Code::NotFound, "SERVICE_UNKNOWN"),
            ),
            (Code::Cancelled, "left", (Code::Cancelled, "CANCELLED")),
            (Code::Unknown, "h2", (Code::Unknown, "STREAM_BROKEN")),
        ] {
            let mut headers = HeaderMap::new();
            Status::new(code, text).add_header(&mut headers).unwrap();
            let status = explained(&headers, "/frameshift.v1.Nowhere/Nothing").unwrap();
            assert_eq!(seen(&status), (expected.0, expected.1.to_owned()));
            assert!(!status.message().is_empty());
        }
    }

    #[test]
    fn a_status_with_details_stays_as_it_is() {
        let own = stream_idle(Duration::from_secs(30));
        let mut headers = HeaderMap::new();
        own.add_header(&mut headers).unwrap();
        assert!(explained(&headers, "/x").is_none());
        assert_eq!(
            seen(&broken_stream(own)),
            (Code::DeadlineExceeded, "STREAM_IDLE".to_owned())
        );
        let mut headers = HeaderMap::new();
        Status::ok("").add_header(&mut headers).unwrap();
        assert!(explained(&headers, "/x").is_none());
        assert!(explained(&HeaderMap::new(), "/x").is_none());
    }

    #[test]
    fn a_full_pool_says_whether_waiting_helps() {
        for (setting, reason) in [
            ("message_memory", "MESSAGE_MEMORY_FULL"),
            ("upload_memory", "UPLOAD_MEMORY_FULL"),
            ("live_memory", "LIVE_MEMORY_FULL"),
            ("spool_bytes", "SPOOL_FULL"),
        ] {
            let pool = Pool::new(setting, 1 << 20, Duration::ZERO);
            let _all = pool.try_take(1 << 20).unwrap();
            for (bytes, retries) in [(1, true), (2 << 20, false)] {
                let status = of_pool(&pool.try_take(bytes).unwrap_err());
                assert_eq!(seen(&status), (Code::ResourceExhausted, reason.to_owned()));
                let details = status.get_error_details();
                assert_eq!(details.retry_info().is_some(), retries);
                assert!(details.quota_failure().is_some());
            }
        }
    }
}
