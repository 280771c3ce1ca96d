//! Which frames does the kernel take for transmission? The transmit queue of one worker.
//!
//! Frames go out by `sendmmsg`, one call per burst, each gathered from its segments. A transmit ring
//! (`PACKET_TX_RING`) is no good for a broker: the kernel attaches the ring's pages to the packet without
//! copying and hands the slot back as soon as the packet leaves the socket (`skb_orphan`, first thing in veth
//! and loopback), while the receiver may still be reading the bytes; and it refuses a frame with an error
//! that does not say which. Nor is it faster: over a veth pair, both move 2.2 to 2.4 million frames a second, of 60
//! and of 1,500 bytes.

use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::Arc;

use dpdk::{BURST_CAPACITY, Burst, Mbuf};

use crate::frame::VNET_HEADER_LEN;
use crate::port::Shared;
use crate::sys;

/// Frames per `sendmmsg`.
const TX_BURST: usize = BURST_CAPACITY;
/// Gather elements per `sendmmsg`: bursts of super-frames in 2 kB segments take several calls.
const IOVECS: usize = 2048;
/// The kernel's `UIO_MAXIOV`, per frame.
const IOVECS_PER_FRAME: usize = 1024;

/// `struct virtio_net_hdr` that asks for nothing: no checksum, no segmentation.
static NO_OFFLOAD: [u8; VNET_HEADER_LEN] = [0; VNET_HEADER_LEN];

/// Why the kernel refused one frame; the frames behind it are not affected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxRefusal {
    /// Longer than the MTU and the link header (and one 0x8100 tag) allow.
    TooLong,
    /// Not a sendable frame: no whole Ethernet header, or more than 1,023 segments.
    Invalid,
}

/// What became of one call to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// So many frames, from the first on, are on their way.
    Taken(usize),
    /// The first frame was refused.
    Refused(TxRefusal),
    /// No frame can be taken now; the reason is counted.
    Stopped,
}

/// Transmit queue of a port: belongs to one worker.
#[derive(Debug)]
pub struct AfPacketTx {
    descriptors: Box<Descriptors>,
    /// The socket wants a virtio header in front of each frame, as it gives one on receive.
    vnet_header: bool,
    shared: Arc<Shared>,
}

struct Descriptors {
    messages: [libc::mmsghdr; TX_BURST],
    lengths: [u32; TX_BURST],
    /// `IOVECS` of them, never more or fewer.
    iovecs: Box<[libc::iovec]>,
}

impl std::fmt::Debug for Descriptors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Descriptors").finish_non_exhaustive()
    }
}

// SAFETY: the pointers inside are only ever read by the kernel within `send`, which writes all of those it
// passes beforehand; between calls they are dead values.
unsafe impl Send for Descriptors {}

impl AfPacketTx {
    /// Memory of the descriptors.
    pub(crate) const MEMORY_BYTES: usize = size_of::<Descriptors>() + IOVECS * size_of::<libc::iovec>();

    pub(crate) fn new(vnet_header: bool, shared: Arc<Shared>) -> Self {
        let iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        // SAFETY: mmsghdr is plain C data: null pointers and zero lengths are values of its fields.
        let message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        let descriptors = Box::new(Descriptors {
            messages: [message; TX_BURST],
            lengths: [0; TX_BURST],
            iovecs: vec![iovec; IOVECS].into_boxed_slice(),
        });
        Self { descriptors, vnet_header, shared }
    }

    /// Send a burst, each packet gathered from its segments. What the kernel took is freed, what it refuses for
    /// a fault of the frame goes to `refused` with its place in the burst, and the rest (socket full, interface down) stays in the burst,
    /// in order, to be tried again or dropped by the caller. Returns how many packets were sent.
    ///
    /// Never blocks; one system call for a burst of up to 64 packets without super-frames and faults.
    #[inline]
    pub fn tx_burst(&mut self, burst: &mut Burst, mut refused: impl FnMut(usize, Mbuf, TxRefusal)) -> usize {
        let mut refusals = [None; BURST_CAPACITY];
        let mut refused_count = 0;
        let packets = burst.as_slice();
        let done = self.send_all(
            packets.len(),
            |from| packets[from..].iter().map(Mbuf::segment_slices),
            |at, why| {
                refusals[at] = Some(why);
                refused_count += 1;
            },
        );
        if done == packets.len() && refused_count == 0 {
            burst.free_all();
        } else if done > 0 {
            let mut rest = Burst::new();
            for (at, packet) in burst.drain().enumerate() {
                if at >= done {
                    // A burst has room for what came out of a burst.
                    drop(rest.push(packet));
                } else if let Some(why) = refusals[at] {
                    refused(at, packet, why);
                }
            }
            *burst = rest;
        }
        done - refused_count
    }

    /// Send frames given as slices of segments. `refused` hears of each single frame (by index) that the
    /// kernel will not take. Returns how many frames, from the first on, are sent or refused; the rest may be
    /// tried again. Never blocks.
    pub fn tx_frames(&mut self, frames: &[&[&[u8]]], refused: impl FnMut(usize, TxRefusal)) -> usize {
        self.send_all(frames.len(), |from| frames[from..].iter().map(|frame| frame.iter().copied()), refused)
    }

    /// Send `total` frames; `frames_from(i)` gives those from the i-th on. Returns how many are done with.
    #[inline]
    fn send_all<'a, F, S>(
        &mut self,
        total: usize,
        frames_from: impl Fn(usize) -> F,
        mut refused: impl FnMut(usize, TxRefusal),
    ) -> usize
    where
        F: Iterator<Item = S>,
        S: Iterator<Item = &'a [u8]>,
    {
        let mut done = 0;
        while done < total {
            match self.send(frames_from(done)) {
                Sent::Taken(count) => done += count,
                Sent::Refused(why) => {
                    refused(done, why);
                    done += 1;
                }
                Sent::Stopped => break,
            }
        }
        done
    }

    /// One `sendmmsg` of as many frames as fit. `frames` must not be empty.
    #[inline]
    fn send<'a, S>(&mut self, frames: impl Iterator<Item = S>) -> Sent
    where
        S: Iterator<Item = &'a [u8]>,
    {
        let Descriptors { messages, lengths, iovecs } = &mut *self.descriptors;
        let mut count = 0;
        let mut used = 0;
        'frames: for segments in frames.take(TX_BURST) {
            let first = used;
            let mut length = 0usize;
            let header: &[u8] = if self.vnet_header { &NO_OFFLOAD } else { &[] };
            for segment in std::iter::once(header).chain(segments).filter(|segment| !segment.is_empty()) {
                if used - first == IOVECS_PER_FRAME {
                    if count == 0 {
                        return self.refuse(TxRefusal::Invalid);
                    }
                    break 'frames;
                }
                let Some(iovec) = iovecs.get_mut(used) else { break 'frames };
                *iovec = libc::iovec { iov_base: segment.as_ptr().cast_mut().cast(), iov_len: segment.len() };
                length += segment.len();
                used += 1;
            }
            let message = &mut messages[count].msg_hdr;
            message.msg_iov = ptr::from_mut(&mut iovecs[first.min(IOVECS - 1)]);
            message.msg_iovlen = (used - first) as _;
            lengths[count] = u32::try_from(length - header.len()).unwrap_or(u32::MAX);
            count += 1;
        }
        // SAFETY: the first `count` messages were all written above; each points to its own iovecs in the
        // same descriptors, which are valid and cover segments borrowed for 'a, longer than this call. The kernel
        // only reads from them.
        let mut send =
            || unsafe { sys::send_messages(self.shared.socket.as_raw_fd(), &mut messages[..count]) };
        let result = match send() {
            // An interface that was down leaves one stale error on the socket for when it is up again.
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => send(),
            result => result,
        };
        let tx = &self.shared.tx;
        match result {
            Ok(0) => {
                tx.errors.add(1);
                Sent::Stopped
            }
            Ok(sent) => {
                let sent = sent.min(count);
                let bytes = lengths[..sent].iter().map(|len| u64::from(*len)).sum();
                tx.packets.add(sent as u64);
                tx.bytes.add(bytes);
                Sent::Taken(sent)
            }
            Err(error) => match error.raw_os_error().unwrap_or(0) {
                libc::EMSGSIZE => self.refuse(TxRefusal::TooLong),
                libc::EINVAL => self.refuse(TxRefusal::Invalid),
                libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EINTR => {
                    tx.full.add(1);
                    Sent::Stopped
                }
                libc::ENETDOWN | libc::ENXIO | libc::ENODEV => {
                    tx.down.add(1);
                    Sent::Stopped
                }
                _ => {
                    tx.errors.add(1);
                    Sent::Stopped
                }
            },
        }
    }

    fn refuse(&self, why: TxRefusal) -> Sent {
        match why {
            TxRefusal::TooLong => self.shared.tx.refused_too_long.add(1),
            TxRefusal::Invalid => self.shared.tx.refused_invalid.add(1),
        }
        Sent::Refused(why)
    }
}
