//! What does one outer header cost? Prints nanoseconds and, from the clock in `/proc/cpuinfo`, cycles per header.
//!
//! `cargo run --release -p sluice-core --example encap_cost`
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss)]

use std::hint::black_box;
use std::net::IpAddr;
use std::time::Instant;

use sluice_core::encap::{CopyFields, Encap, Endpoints};
use sluice_model::{MacAddr, Marking, Tag, Tunnel, TunnelKind, UdpChecksum};

/// Headers per burst, each into a buffer of its own, as mbufs are.
const BURST: usize = 32;
const ROUNDS: u32 = 1_000_000;

fn main() {
    let mhz = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("cpu MHz"))?;
        line.split(':').nth(1)?.trim().parse::<f64>().ok()
    });
    let vxlan = TunnelKind::Vxlan { udp_port: 4789, udp_checksum: UdpChecksum::Off };
    for (name, kind, marking) in [
        ("vxlan", vxlan, Marking::Standard),
        ("vxlan reference", vxlan, Marking::Reference),
        ("erspan2", TunnelKind::Erspan2, Marking::Standard),
        ("erspan3", TunnelKind::Erspan3, Marking::Standard),
        ("erspan3 reference", TunnelKind::Erspan3, Marking::Reference),
    ] {
        for (local, remote) in [("192.0.2.1", "192.0.2.10"), ("2001:db8::1", "2001:db8::a")] {
            let (local, remote): (IpAddr, IpAddr) = (local.parse().unwrap(), remote.parse().unwrap());
            let tunnel = Tunnel { kind, marking, remote, local: None, mac: None, port: None };
            let ends = Endpoints { src_mac: MacAddr::default(), dst_mac: MacAddr::default(), local, remote };
            let encap = black_box(Encap::new(&tunnel, ends, true).unwrap());
            let mut buffers = [[0u8; 128]; BURST];
            let mut fields = CopyFields { inner_len: 64, tag: Tag::new(7).unwrap(), ..CopyFields::default() };
            let start = Instant::now();
            for round in 0..ROUNDS {
                for buffer in &mut buffers {
                    fields.sequence = fields.sequence.wrapping_add(1);
                    fields.entropy = fields.entropy.wrapping_add(0x9e37_79b9);
                    fields.timestamp_ns += u64::from(round);
                    encap.write(buffer, black_box(&fields));
                }
                black_box(&mut buffers);
            }
            let ns = start.elapsed().as_nanos() as f64 / (f64::from(ROUNDS) * BURST as f64);
            let family = if remote.is_ipv6() { "IPv6" } else { "IPv4" };
            match mhz {
                Some(mhz) => println!("{name:>18} {family}: {ns:5.2} ns, {:5.1} cycles", ns * mhz / 1_000.0),
                None => println!("{name:>18} {family}: {ns:5.2} ns"),
            }
        }
    }
}
