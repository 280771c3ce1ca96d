//! Writes a capture of made-up traffic: `make-capture FILE`.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, BufWriter};

use sluice_capture::PcapWriter;

fn main() -> io::Result<()> {
    let path = std::env::args_os().nth(1).ok_or_else(|| io::Error::other("usage: make-capture FILE"))?;
    let mut writer = PcapWriter::new(BufWriter::new(File::create(path)?))?;
    for (timestamp_ns, frame) in sluice_tests::traffic::sample() {
        let wire_len = u32::try_from(frame.len()).map_err(io::Error::other)?;
        writer.write(timestamp_ns, wire_len, [frame.as_slice()])?;
    }
    writer.flush()
}
