//! How does tshark read these packets? It runs with all protocols off but those asked for and without reassembly, so
//! that each packet is read on its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

const PREFERENCES: [&str; 8] = [
    "ip.check_checksum:TRUE",
    "udp.check_checksum:TRUE",
    "ip.defragment:FALSE",
    "ipv6.defragment:FALSE",
    "tcp.desegment_tcp_streams:FALSE",
    "tcp.analyze_sequence_numbers:FALSE",
    "sctp.reassembly:FALSE",
    // Total length 0 stands for an offload, as Sluice has it.
    "ip.tso_support:TRUE",
];

/// Prints the place and length of every protocol of a packet, and some header lengths, in one line per packet after its number:
/// `1 eth@0+14 ip@14+20 tcp@34+32 tcp.hdr_len=32`.
const LAYERS: &str = r#"
local headers = {}
for _, name in ipairs({ "ip.hdr_len", "tcp.hdr_len", "mip6.hlen", "ah.length", "hip.hdr_len", "shim6.len" }) do
  headers[name] = Field.new(name)
end
for _, name in ipairs({ "hopopts", "routing", "fraghdr", "dstopts" }) do
  Field.new("ipv6." .. name)
end
local tap = Listener.new("frame")
function tap.packet(packet)
  local line = { packet.number }
  for _, info in ipairs({ all_field_infos() }) do
    if info.type == ftypes.PROTOCOL then
      line[#line + 1] = info.name .. "@" .. info.offset .. "+" .. info.len
    elseif headers[info.name] then
      line[#line + 1] = info.name .. "@" .. info.offset .. "+" .. info.value
    end
  end
  print(table.concat(line, " "))
end
"#;

/// A tshark that knows only some protocols.
#[derive(Debug)]
pub struct Tshark {
    config: TempDir,
}

impl Tshark {
    /// With these protocols and no others.
    ///
    /// # Panics
    /// When tshark does not run.
    pub fn with_protocols(protocols: &[&str]) -> Self {
        let config = tempfile::tempdir().expect("a folder for temporary files");
        let listed = Command::new("tshark").args(["-G", "protocols"]).output();
        let listed =
            listed.unwrap_or_else(|error| panic!("tshark: {error}: install the package tshark")).stdout;
        let names: Vec<_> = String::from_utf8_lossy(&listed)
            .lines()
            .filter_map(|line| line.split('\t').nth(2).map(str::to_owned))
            .filter(|name| !protocols.contains(&name.as_str()))
            .collect();
        assert!(names.len() > 1000, "the list of protocols");
        fs::write(config.path().join("disabled_protos"), names.join("\n") + "\n").expect("a small file");
        fs::write(config.path().join("layers.lua"), LAYERS).expect("a small file");
        Self { config }
    }

    /// Hands the values of `fields` of each packet to `each`; several values of a field are joined by commas.
    /// Returns the number of packets.
    ///
    /// # Panics
    /// When tshark fails.
    pub fn fields(&self, pcap: &Path, fields: &[&str], mut each: impl FnMut(usize, &[&str])) -> usize {
        let mut command = self.command(pcap);
        command.args(["-T", "fields", "-E", "separator=/t", "-E", "occurrence=a", "-E", "aggregator=,"]);
        for field in fields {
            command.args(["-e", field]);
        }
        lines(&mut command, |number, line| {
            let values: Vec<&str> = line.split('\t').collect();
            assert_eq!(values.len(), fields.len(), "packet {number}: {line}");
            each(number, &values);
        })
    }

    /// Hands the places of all protocols of each packet to `each`, in the order of dissection; packets without a
    /// byte have none. Returns the number of packets that have.
    ///
    /// # Panics
    /// When tshark fails.
    pub fn layers(&self, pcap: &Path, mut each: impl FnMut(usize, &[Layer<'_>])) -> usize {
        let mut command = self.command(pcap);
        command
            .arg("-q")
            .arg("-X")
            .arg(format!("lua_script:{}", self.config.path().join("layers.lua").display()));
        lines(&mut command, |_, line| {
            let mut words = line.split(' ');
            let number: usize = words.next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{line}"));
            let layers: Vec<_> = words.map(Layer::read).collect();
            each(number - 1, &layers);
        })
    }

    fn command(&self, pcap: &Path) -> Command {
        let mut command = Command::new("tshark");
        command.env("WIRESHARK_CONFIG_DIR", self.config.path()).env("LC_ALL", "C");
        command.arg("-n").arg("-r").arg(pcap);
        for preference in PREFERENCES {
            command.args(["-o", preference]);
        }
        command
    }
}

/// A protocol, or a header length, in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer<'a> {
    /// tshark's name.
    pub name: &'a str,
    /// Where it starts.
    pub offset: usize,
    /// What tshark counts to it (often all that follows), or the value of a header length.
    pub len: usize,
}

impl<'a> Layer<'a> {
    fn read(text: &'a str) -> Self {
        let (name, place) = text.split_once('@').unwrap_or_else(|| panic!("{text}"));
        let (offset, len) = place.split_once('+').unwrap_or_else(|| panic!("{text}"));
        // Lua prints some of its numbers with a fraction.
        let number = |text: &str| {
            text.split('.').next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{text}"))
        };
        Self { name, offset: number(offset), len: number(len) }
    }
}

fn lines(command: &mut Command, mut each: impl FnMut(usize, &str)) -> usize {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("tshark");
    let mut reader = BufReader::new(child.stdout.take().expect("piped"));
    let (mut line, mut count) = (String::new(), 0);
    while reader.read_line(&mut line).expect("UTF-8") > 0 {
        each(count, line.trim_end_matches('\n'));
        count += 1;
        line.clear();
    }
    let status = child.wait().expect("tshark ends");
    assert!(status.success(), "{command:?}: {status}");
    count
}
