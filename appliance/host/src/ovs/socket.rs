//! Is somebody connected to a socket, whatever OVS says of the port?
//!
//! ovs-vswitchd says nowhere but in its log that it found no memory for the packets of a port. What can be seen is that it
//! is connected to Sluice and does not serve the port all the same.

use crate::Machine;

/// Whether a Unix socket with this path has a connection, in the network namespace of this process (`/proc/net/unix`,
/// proc_pid_net(5): the accepted end bears the path of the listener, and its state is `03`).
#[must_use]
pub fn is_joined(machine: &Machine<'_>, path: &str) -> bool {
    // Paths of others may be any bytes.
    let table = std::fs::read(machine.path("/proc/net/unix")).unwrap_or_default();
    String::from_utf8_lossy(&table).lines().any(|line| {
        // Number, references, protocol, flags, type, state, inode, and the rest of the line is the path.
        let mut rest = line;
        let mut state = "";
        for place in 0..7 {
            let Some((word, more)) = rest.trim_start().split_once(' ') else { return false };
            if place == 5 {
                state = word;
            }
            rest = more;
        }
        state == "03" && rest.trim_start() == path
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::Path;

    use super::*;
    use crate::Host;

    #[test]
    fn a_connection_is_seen_and_a_listener_is_none() {
        let machine = Machine::new(Path::new("/"), &Host);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("with a blank.sock");
        let joined = || is_joined(&machine, path.to_str().unwrap());
        let listener = UnixListener::bind(&path).unwrap();
        assert!(!joined());
        let client = UnixStream::connect(&path).unwrap();
        let (server, _) = listener.accept().unwrap();
        assert!(joined());
        assert!(!is_joined(&machine, folder.path().to_str().unwrap()));
        drop((client, server));
        assert!(!joined());
    }
}
