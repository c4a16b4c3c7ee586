//! Messages with descriptors between the processes of one rbuild: length-framed, over a stream
//! socket, so that a message may be larger than any socket buffer.
//!
//! Both ends are this program; sizes are bounded all the same.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most descriptors that the kernel takes along with one message.
pub(super) const MAX_DESCRIPTORS: usize = 253;

/// The longest message, in bytes: arguments and environment are limited to a few MiB by the
/// kernel anyway, captured output of outside programs to less than this.
pub(super) const MAX_MESSAGE: usize = 128 << 20;

/// One end of a connection. Its peer sees an end of file when the last copy is closed.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

/// A message as received.
pub(super) struct Received<T> {
    /// The content.
    pub(super) message: T,
    /// The descriptors that came with it.
    pub(super) descriptors: Vec<OwnedFd>,
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

impl Channel {
    /// Two connected ends.
    pub(super) fn pair() -> Result<(Self, Self), Errno> {
        let (a, b) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(a), Self(b)))
    }

    /// A second handle on the same end.
    pub(super) fn try_clone(&self) -> std::io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Ends the connection for both sides, whoever else holds copies.
    pub(super) fn shutdown(&self) {
        // An error means that it has ended already.
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
    }

    /// Sends one message and copies of descriptors.
    pub(super) fn send<T: Serialize>(
        &self,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Errno> {
        let body = postcard::to_stdvec(message).map_err(|_| Errno::INVAL)?;
        if body.len() > MAX_MESSAGE {
            return Err(Errno::MSGSIZE);
        }
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(Errno::TOOMANYREFS);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors))
        {
            return Err(Errno::TOOMANYREFS);
        }
        let header = (body.len() as u64).to_le_bytes();
        // The descriptors travel with the first byte of the header.
        let mut sent = retry(|| {
            rustix::net::sendmsg(
                &self.0,
                &[IoSlice::new(&header), IoSlice::new(&body)],
                &mut ancillary,
                SendFlags::NOSIGNAL,
            )
        })?;
        while sent < header.len() + body.len() {
            let rest = match sent.checked_sub(header.len()) {
                Some(offset) => &body[offset..],
                None => &header[sent..],
            };
            sent += retry(|| rustix::net::send(&self.0, rest, SendFlags::NOSIGNAL))?;
        }
        Ok(())
    }

    /// Waits for one message; `None` at the end of the connection.
    pub(super) fn receive<T: DeserializeOwned>(&self) -> Result<Option<Received<T>>, Errno> {
        let mut descriptors = Vec::new();
        let mut header = [0; 8];
        if !self.fill(&mut header, &mut descriptors)? {
            return Ok(None);
        }
        let length = usize::try_from(u64::from_le_bytes(header)).map_err(|_| Errno::MSGSIZE)?;
        if length > MAX_MESSAGE {
            return Err(Errno::MSGSIZE);
        }
        let mut body = vec![0; length];
        if !self.fill(&mut body, &mut descriptors)? && length > 0 {
            return Ok(None);
        }
        let message = postcard::from_bytes(&body).map_err(|_| Errno::BADMSG)?;
        Ok(Some(Received {
            message,
            descriptors,
        }))
    }

    /// Reads until `buffer` is full; `false` if the connection ended before.
    fn fill(&self, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> Result<bool, Errno> {
        let mut filled = 0;
        while filled < buffer.len() {
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let received = match rustix::net::recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut buffer[filled..])],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Err(Errno::INTR) => continue,
                Err(Errno::CONNRESET) => return Ok(false),
                other => other?,
            };
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    descriptors.extend(rights);
                }
            }
            if received.flags.contains(ReturnFlags::CTRUNC) {
                return Err(Errno::MFILE);
            }
            if received.bytes == 0 {
                return Ok(false);
            }
            filled += received.bytes;
        }
        Ok(true)
    }
}

/// Repeats a call that a signal interrupted.
pub(super) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_larger_than_the_socket_buffer_arrives_whole() {
        let (near, far) = Channel::pair().unwrap();
        let text = "x".repeat(3 << 20);
        let sender = std::thread::spawn({
            let text = text.clone();
            move || near.send(&text, &[]).unwrap()
        });
        let received = far.receive::<String>().unwrap().unwrap();
        sender.join().unwrap();
        assert_eq!(received.message, text);
        assert!(far.receive::<String>().unwrap().is_none());
    }

    #[test]
    fn descriptors_arrive_with_their_own_message() {
        let (near, far) = Channel::pair().unwrap();
        let (pipe, _writer) = rustix::pipe::pipe().unwrap();
        near.send(&1u8, &[]).unwrap();
        near.send(&2u8, &[pipe.as_fd(), pipe.as_fd()]).unwrap();
        near.send(&3u8, &[pipe.as_fd()]).unwrap();
        let counts: Vec<(u8, usize)> = (0..3)
            .map(|_| far.receive::<u8>().unwrap().unwrap())
            .map(|received| (received.message, received.descriptors.len()))
            .collect();
        assert_eq!(counts, [(1, 0), (2, 2), (3, 1)]);
    }

    #[test]
    fn too_many_descriptors_are_refused_before_anything_is_sent() {
        let (near, _far) = Channel::pair().unwrap();
        let descriptors = vec![near.as_fd(); MAX_DESCRIPTORS + 1];
        assert_eq!(near.send(&0u8, &descriptors), Err(Errno::TOOMANYREFS));
    }
}
