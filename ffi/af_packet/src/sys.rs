//! Which system calls does the driver make? The only file that calls libc, but for the ring's memory.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// `PACKET_VNET_HDR` of `linux/if_packet.h`; libc leaves it out.
pub(crate) const PACKET_VNET_HDR: libc::c_int = 15;
/// `PACKET_QDISC_BYPASS` of `linux/if_packet.h`.
pub(crate) const PACKET_QDISC_BYPASS: libc::c_int = 20;
/// `PACKET_IGNORE_OUTGOING` of `linux/if_packet.h`.
pub(crate) const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// `PACKET_STATISTICS` of `linux/if_packet.h`.
pub(crate) const PACKET_STATISTICS: libc::c_int = 6;
/// `TPACKET_V3` of `enum tpacket_versions`.
pub(crate) const TPACKET_V3: libc::c_int = 2;

/// Turn the C convention of -1 and errno into a result.
fn check(rc: libc::c_int) -> io::Result<libc::c_int> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}

/// Length of `T` as the kernel's socket calls want it.
fn socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(libc::socklen_t::MAX)
}

/// A new close-on-exec socket.
pub(crate) fn socket(domain: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: socket() takes no pointers.
    let fd = check(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: `fd` is a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `setsockopt` with a plain C value.
pub(crate) fn set_option<T: Copy>(
    fd: &OwnedFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the pointer and length describe `value`, which outlives the call; the kernel only reads it.
    let rc = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), socklen::<T>())
    };
    check(rc).map(drop)
}

/// Keep at most `snaplen` bytes of every frame, cut by the kernel (a one-instruction classic BPF program).
pub(crate) fn attach_snaplen(fd: &OwnedFd, snaplen: u32) -> io::Result<()> {
    let mut program = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: snaplen }]; // BPF_RET | BPF_K
    let filter = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    set_option(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
}

/// The number of a kernel interface in the network namespace of this thread; `None` = there is no such interface.
#[must_use]
pub fn interface_index(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: a NUL-terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// Bind a packet socket to an interface and start it for `protocol` (host byte order; 0 receives nothing).
pub(crate) fn bind_packet(fd: &OwnedFd, ifindex: libc::c_int, protocol: u16) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap_or(0),
        sll_protocol: protocol.to_be(),
        sll_ifindex: ifindex,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the pointer and length describe `address`, which outlives the call.
    let rc = unsafe {
        libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), socklen::<libc::sockaddr_ll>())
    };
    check(rc).map(drop)
}

/// Packets, drops and ring freezes since the last call: reading resets the kernel's counters.
pub(crate) fn packet_statistics(fd: &OwnedFd) -> io::Result<libc::tpacket_stats_v3> {
    let mut stats = MaybeUninit::<libc::tpacket_stats_v3>::zeroed();
    let mut len = socklen::<libc::tpacket_stats_v3>();
    // SAFETY: the kernel writes at most `len` bytes to `stats` and the length to `len`; both outlive the call.
    let rc = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            PACKET_STATISTICS,
            stats.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    check(rc)?;
    // SAFETY: three integers, zeroed before the call: every bit pattern is a value.
    Ok(unsafe { stats.assume_init() })
}

/// Bind a netlink socket to multicast groups.
pub(crate) fn bind_netlink(fd: &OwnedFd, groups: u32) -> io::Result<()> {
    let mut address = MaybeUninit::<libc::sockaddr_nl>::zeroed();
    // SAFETY: all fields are integers, for which zero is a value.
    let address = unsafe {
        let address = address.assume_init_mut();
        address.nl_family = u16::try_from(libc::AF_NETLINK).unwrap_or(0);
        address.nl_groups = groups;
        address
    };
    // SAFETY: the pointer and length describe `address`, which outlives the call.
    let rc = unsafe {
        libc::bind(fd.as_raw_fd(), std::ptr::from_mut(address).cast(), socklen::<libc::sockaddr_nl>())
    };
    check(rc).map(drop)
}

/// Send one message without blocking.
pub(crate) fn send(fd: &OwnedFd, message: &[u8]) -> io::Result<()> {
    // SAFETY: the pointer and length describe `message`, which outlives the call.
    let rc =
        unsafe { libc::send(fd.as_raw_fd(), message.as_ptr().cast(), message.len(), libc::MSG_DONTWAIT) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receive one message without blocking; the length says more than the buffer holds when it was cut.
pub(crate) fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer`, borrowed for the call.
    let rc = unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags) };
    usize::try_from(rc).map_err(|_| io::Error::last_os_error())
}

/// Send messages without blocking: how many were taken, or why the first was not.
///
/// # Safety
/// Every message's `msg_iov` must point to `msg_iovlen` valid `iovec`s, and each of these to readable memory
/// of its length, for the duration of the call.
pub(crate) unsafe fn send_messages(fd: RawFd, messages: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let count = libc::c_uint::try_from(messages.len()).unwrap_or(libc::c_uint::MAX);
    // SAFETY: the pointer and count describe `messages`; what they point to is the caller's promise.
    let rc = unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
    usize::try_from(rc).map_err(|_| io::Error::last_os_error())
}
