//! How does a thread with nothing to do sleep until a packet comes?

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::port::PortInner;
use crate::port_error::{PortError, PortStep};
use crate::queue::RxQueue;

/// File descriptors that one call waits for, at most, beside the interrupts.
pub const MAX_WAIT_FDS: usize = 31;

/// Waits for the receive interrupts of queues, and for file descriptors of other drivers.
///
/// It belongs to the thread that polls the queues. Interrupts are off except inside [`RxWaiter::wait`].
#[derive(Debug)]
pub struct RxWaiter {
    epoll: OwnedFd,
    /// Port and queue, and the port itself, which must not be closed before.
    queues: Vec<(Arc<PortInner>, u16)>,
}

impl RxWaiter {
    /// A waiter without queues.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nothing else owns.
        Ok(Self { epoll: unsafe { OwnedFd::from_raw_fd(fd) }, queues: Vec::new() })
    }

    /// Adds the interrupts of a queue whose port was configured with
    /// [`rx_interrupts`](crate::PortConfig::rx_interrupts).
    ///
    /// # Errors
    /// The driver has none: the queue can only be polled.
    pub fn add(&mut self, queue: &RxQueue) -> Result<(), PortError> {
        let (port, number) = (&queue.port, queue.queue);
        if !port.has_rx_interrupts() {
            let (name, step) = (port.name().to_owned(), PortStep::Interrupts);
            return Err(PortError::NotSupported { name, step });
        }
        // SAFETY: the port is started and stays so while we hold it; the descriptor is ours.
        let ret = unsafe { dpdk_sys::sluice_rx_intr_add(port.id, number, self.epoll.as_raw_fd()) };
        if ret != 0 {
            return Err(PortError::of(port.name(), PortStep::Interrupts, ret, 0));
        }
        // SAFETY: as above.
        let ret = unsafe { dpdk_sys::sluice_rx_intr_enable(port.id, number) };
        // Where they cannot be switched they are always on: drivers over a descriptor of the kernel.
        if ret != 0 && ret != -libc::ENOTSUP {
            return Err(PortError::of(port.name(), PortStep::Interrupts, ret, 0));
        }
        // SAFETY: as above. Drivers that cannot switch them off leave them on, which only wakes us too often.
        let _ret = unsafe { dpdk_sys::sluice_rx_intr_disable(port.id, number) };
        self.queues.push((Arc::clone(port), number));
        Ok(())
    }

    /// Switches the interrupts on, asks `pending` once more (what came in between raised none), and sleeps until a
    /// packet comes, one of `others` can be read, or `timeout` is over.
    pub fn wait(&mut self, others: &[BorrowedFd<'_>], timeout: Duration, pending: impl FnOnce() -> bool) {
        for (port, queue) in &self.queues {
            // SAFETY: the port is started and stays so while we hold it.
            let _ret = unsafe { dpdk_sys::sluice_rx_intr_enable(port.id, *queue) };
        }
        if !pending() {
            self.sleep(others, timeout);
        }
        for (port, queue) in &self.queues {
            // SAFETY: the port is started and stays so while we hold it.
            let _ret = unsafe { dpdk_sys::sluice_rx_intr_disable(port.id, *queue) };
        }
        if !self.queues.is_empty() {
            // SAFETY: the descriptor is ours and holds interrupts of DPDK only.
            unsafe { dpdk_sys::sluice_rx_intr_take(self.epoll.as_raw_fd()) };
        }
    }

    fn sleep(&self, others: &[BorrowedFd<'_>], timeout: Duration) {
        let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut fds = [entry(-1); MAX_WAIT_FDS + 1];
        // A negative descriptor is passed over.
        fds[0].fd = if self.queues.is_empty() { -1 } else { self.epoll.as_raw_fd() };
        for (place, fd) in fds[1..].iter_mut().zip(others) {
            place.fd = fd.as_raw_fd();
        }
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let len = libc::nfds_t::try_from(1 + others.len().min(MAX_WAIT_FDS)).unwrap_or(1);
        // SAFETY: `len` entries of an array that outlives the call, as does the time; no signal mask. Whatever it
        // returns, the caller polls next.
        let _ret = unsafe { libc::ppoll(fds.as_mut_ptr(), len, &raw const timeout, std::ptr::null()) };
        for fd in fds.iter().filter(|fd| fd.revents & libc::POLLERR != 0) {
            take_error(fd.fd);
        }
    }
}

/// Takes the error that waits on a socket. Left there it would end every wait at once: an interface that was down for a
/// moment has one (`ENETDOWN`), even when it is up again.
fn take_error(socket: libc::c_int) {
    let mut error: libc::c_int = 0;
    let mut len = libc::socklen_t::try_from(size_of_val(&error)).unwrap_or(0);
    // SAFETY: room for a number of `len` bytes, and for the length. What is no socket is refused and stays as it is.
    let _ret = unsafe {
        libc::getsockopt(socket, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut error).cast(), &raw mut len)
    };
}

impl Drop for RxWaiter {
    fn drop(&mut self) {
        for (port, queue) in &self.queues {
            // SAFETY: the port is started and stays so while we hold it; the descriptor is still open.
            let _ret = unsafe { dpdk_sys::sluice_rx_intr_del(port.id, *queue, self.epoll.as_raw_fd()) };
        }
    }
}

/// Lets short sleeps of the calling thread be as short as asked: the kernel else adds up to 50 microseconds.
pub fn set_timer_slack(slack: Duration) -> io::Result<()> {
    let nanoseconds = libc::c_ulong::try_from(slack.as_nanos()).unwrap_or(libc::c_ulong::MAX).max(1);
    // SAFETY: takes a number, no pointers.
    let ret = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, nanoseconds) };
    if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::Instant;

    #[test]
    fn a_descriptor_or_the_time_ends_the_wait() {
        let mut waiter = RxWaiter::new().unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        let start = Instant::now();
        waiter.wait(&[reader.as_fd()], Duration::from_millis(20), || false);
        assert!(start.elapsed() >= Duration::from_millis(20));
        writer.write_all(b"x").unwrap();
        let start = Instant::now();
        waiter.wait(&[reader.as_fd()], Duration::from_secs(20), || false);
        waiter.wait(&[], Duration::from_secs(20), || true);
        assert!(start.elapsed() < Duration::from_secs(10));
        set_timer_slack(Duration::from_nanos(1)).unwrap();
    }

    #[test]
    fn an_error_on_a_socket_ends_one_wait() {
        let waiter = &mut RxWaiter::new().unwrap();
        let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(nobody).unwrap();
        socket.send(b"x").unwrap();
        let start = Instant::now();
        waiter.wait(&[socket.as_fd()], Duration::from_secs(20), || false);
        assert!(start.elapsed() < Duration::from_secs(10));
        let start = Instant::now();
        waiter.wait(&[socket.as_fd()], Duration::from_millis(20), || false);
        assert!(start.elapsed() >= Duration::from_millis(20));
    }
}
