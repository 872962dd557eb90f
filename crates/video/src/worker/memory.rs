//! Anonymous memory that two processes share, and sockets that pass descriptors along.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// Memory that can be sealed and never be run.
fn memory(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Kernels before 6.3 do not know the flag; a mapping by a worker is never executable anyway.
        Err(rustix::io::Errno::INVAL) => Ok(memfd_create(name, flags)?),
        made => Ok(made?),
    }
}

/// Memory with this content, which nobody can change any more.
pub(super) fn sealed(content: &[u8]) -> io::Result<OwnedFd> {
    let memory = memory("video")?;
    let mut file = File::from(memory);
    file.write_all(content)?;
    fcntl_add_seals(
        &file,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
    )?;
    Ok(file.into())
}

/// Empty memory of this size, which nobody can change any more.
pub(super) fn room(bytes: u64) -> io::Result<OwnedFd> {
    let memory = memory("planes")?;
    ftruncate(&memory, bytes)?;
    fcntl_add_seals(
        &memory,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok(memory)
}

/// Two connected sockets that keep messages apart.
pub(super) fn sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends one message and at most two descriptors.
pub(super) fn send(
    socket: impl AsFd,
    message: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    loop {
        let sent = sendmsg(
            socket.as_fd(),
            &[IoSlice::new(message)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        );
        match sent {
            Ok(count) if count == message.len() => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one message, without descriptors: those that come along are closed by the kernel. `None` at the end.
pub(super) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<&[u8]>> {
    let count = receive_into(socket, buffer, &mut RecvAncillaryBuffer::default())?;
    Ok((count > 0).then(|| &buffer[..count]))
}

/// Receives one message and at most two descriptors. `None` at the end.
pub(super) fn receive_with(
    socket: impl AsFd,
    buffer: &mut [u8],
) -> io::Result<Option<(&[u8], Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let count = receive_into(socket, buffer, &mut ancillary)?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            descriptors.extend(came);
        }
    }
    Ok((count > 0).then(|| (&buffer[..count], descriptors)))
}

fn receive_into(
    socket: impl AsFd,
    buffer: &mut [u8],
    ancillary: &mut RecvAncillaryBuffer<'_>,
) -> io::Result<usize> {
    loop {
        let received = recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(buffer)],
            ancillary,
            RecvFlags::CMSG_CLOEXEC,
        );
        match received {
            Ok(message) => return Ok(message.bytes),
            // The peer is gone, with messages of ours unread.
            Err(rustix::io::Errno::CONNRESET) => return Ok(0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until a descriptor has something to read; says which have, none when the time is over.
pub(super) fn wait_readable<const N: usize>(
    descriptors: [BorrowedFd<'_>; N],
    until: Option<Instant>,
) -> io::Result<[bool; N]> {
    let mut polled = descriptors.map(|descriptor| libc::pollfd {
        fd: descriptor.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    loop {
        let timeout = until.map_or(-1, |until| {
            let rest = until.saturating_duration_since(Instant::now());
            // Rounded up, so that the time is over when the call says so.
            let rest = rest + Duration::from_micros(999);
            i32::try_from(rest.as_millis()).unwrap_or(i32::MAX)
        });
        // SAFETY: the array is valid for its length, and the descriptors are open while they are borrowed.
        let ready = unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, timeout) };
        if ready >= 0 {
            return Ok(polled.map(|polled| polled.revents != 0));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
