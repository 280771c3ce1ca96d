//! Is the interface that this port was opened on still there, and is its link up?

use std::io;
use std::os::fd::OwnedFd;

use crate::netlink::{self, LinkInfo, LinkMessage};
use crate::sys;

/// State of the interface behind a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Set up, with carrier, and ready to carry traffic (`IFF_RUNNING`).
    Up,
    /// Set up by the operator, but without carrier (cable out, other veth end down).
    NoCarrier,
    /// Set down by the operator. Traffic goes on by itself when it is set up again.
    Down,
    /// Deleted, or moved to another network namespace. This port will never carry traffic again.
    Gone,
    /// Deleted, and an interface of the same name exists now: open a new port on it.
    Returned {
        /// Index of the new interface.
        ifindex: i32,
    },
}

/// Larger than any link message seen in practice (statistics, address families: 2 to 4 kB).
const BUFFER_BYTES: usize = 64 << 10;
/// Most datagrams read by one poll: a flood of events elsewhere must not hold the control thread.
const DATAGRAMS_PER_POLL: usize = 1024;

/// Follows one interface over a netlink socket that subscribed to link events.
#[derive(Debug)]
pub(crate) struct LinkWatch {
    socket: OwnedFd,
    name: String,
    link: LinkInfo,
    gone: bool,
    /// Index of an interface with our name, after ours is gone.
    successor: Option<i32>,
    /// The socket's buffer overflowed since the state was last known.
    lost_events: bool,
    seq: u32,
    buffer: Vec<u8>,
}

impl LinkWatch {
    /// Subscribe to link events, then ask for the interface: no change in between is missed. `None` when
    /// there is no such interface.
    pub(crate) fn new(name: &str) -> io::Result<Option<Self>> {
        let socket = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
        sys::bind_netlink(&socket, u32::try_from(libc::RTMGRP_LINK).unwrap_or(1))?;
        let mut watch = Self {
            socket,
            name: name.to_owned(),
            link: LinkInfo::default(),
            gone: false,
            successor: None,
            lost_events: false,
            seq: 0,
            buffer: vec![0; BUFFER_BYTES],
        };
        let found = watch.query(0)?;
        Ok(found.map(|link| {
            watch.link = link;
            watch
        }))
    }

    /// Take in what happened since the last call; never blocks.
    pub(crate) fn poll(&mut self) -> io::Result<LinkState> {
        for _ in 0..DATAGRAMS_PER_POLL {
            match self.receive(|_, _| {}) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.lost_events {
                        self.resynchronise()?;
                        self.lost_events = false;
                    }
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Ask for the state instead, once the buffer has room for the answer.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.lost_events = true,
                Err(error) => return Err(error),
            }
        }
        Ok(self.state())
    }

    /// The properties last heard of.
    pub(crate) fn info(&self) -> &LinkInfo {
        &self.link
    }

    fn state(&self) -> LinkState {
        let has = |flag: libc::c_int| self.link.flags & flag.unsigned_abs() != 0;
        match (self.gone, self.successor) {
            (true, Some(ifindex)) => LinkState::Returned { ifindex },
            (true, None) => LinkState::Gone,
            _ if !has(libc::IFF_UP) => LinkState::Down,
            // Not IFF_LOWER_UP: that comes before the transmit queue is attached, and what is sent in
            // between vanishes.
            _ if !has(libc::IFF_RUNNING) => LinkState::NoCarrier,
            _ => LinkState::Up,
        }
    }

    /// Ask the kernel anew, first by index, then, when that is gone, by name.
    fn resynchronise(&mut self) -> io::Result<()> {
        if !self.gone {
            match self.query(self.link.ifindex)? {
                Some(link) => self.link = link,
                None => self.gone = true,
            }
        }
        if self.gone {
            self.successor = self.query(0)?.map(|link| link.ifindex);
        }
        Ok(())
    }

    /// `RTM_GETLINK`; the kernel has queued the answer when `send` returns. Events that stand in front of it
    /// are taken in.
    fn query(&mut self, ifindex: i32) -> io::Result<Option<LinkInfo>> {
        self.seq = self.seq.wrapping_add(1).max(1);
        let wanted = self.seq;
        sys::send(&self.socket, &netlink::get_link_request(wanted, ifindex, &self.name))?;
        let mut answer = None;
        while answer.is_none() {
            self.receive(|seq, message| match message {
                LinkMessage::New(link) if seq == wanted => answer = Some(Ok(Some(link.clone()))),
                LinkMessage::Error(errno) if seq == wanted => {
                    answer = Some(match *errno {
                        libc::ENODEV => Ok(None),
                        errno => Err(io::Error::from_raw_os_error(errno)),
                    });
                }
                _ => {}
            })?;
        }
        answer.unwrap_or(Ok(None))
    }

    /// Read one datagram, take in the events of it and show every message to `also`.
    fn receive(&mut self, mut also: impl FnMut(u32, &LinkMessage)) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let received = sys::receive(&self.socket, &mut buffer);
        if let Ok(len) = received {
            let datagram = buffer.get(..len.min(buffer.len())).unwrap_or_default();
            netlink::for_each_message(datagram, |seq, message| {
                also(seq, &message);
                self.apply(message);
            });
        }
        self.buffer = buffer;
        received.map(drop)
    }

    fn apply(&mut self, message: LinkMessage) {
        match message {
            LinkMessage::New(link) if !self.gone && link.ifindex == self.link.ifindex => self.link = link,
            LinkMessage::New(link) if self.gone => {
                if link.name == self.name.as_bytes() {
                    self.successor = Some(link.ifindex);
                } else if self.successor == Some(link.ifindex) {
                    self.successor = None;
                }
            }
            LinkMessage::Deleted(ifindex) if !self.gone && ifindex == self.link.ifindex => self.gone = true,
            LinkMessage::Deleted(ifindex) if self.successor == Some(ifindex) => self.successor = None,
            _ => {}
        }
    }
}
