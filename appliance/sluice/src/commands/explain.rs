//! `sluice explain`: what becomes of a packet, and why.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use sluice_api::v1;
use sluice_api::v1::explain_request::Packet;
use sluice_api::v1::explain_service_client::ExplainServiceClient;

use crate::cli::Context;
use crate::failure::{Exit, Failure};
use crate::out::{Out, Tone};
use crate::policy_file;
use crate::show;
use crate::table::table;
use crate::text::{list, or_dash, safe, word};

use super::flows::{end, protocol};

/// What of a capture file fits into a request, beside the rest of it.
const MAX_CAPTURE_BYTES: u64 = 63 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Source IP address.
    #[arg(long, value_name = "IP", default_value = "", hide_default_value = true, required_unless_present_any = ["capture", "ethertype"])]
    src: String,
    /// Destination IP address.
    #[arg(long, value_name = "IP", default_value = "", hide_default_value = true, required_unless_present_any = ["capture", "ethertype"])]
    dst: String,
    /// IP protocol: a name or a number; tcp if there are ports.
    #[arg(long, value_name = "PROTOCOL", default_value = "", hide_default_value = true)]
    protocol: String,
    /// Source port.
    #[arg(long, value_name = "PORT")]
    sport: Option<u32>,
    /// Destination port.
    #[arg(long, value_name = "PORT")]
    dport: Option<u32>,
    /// VLAN ids, the outermost first.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    vlan: Vec<u32>,
    /// Source MAC address.
    #[arg(long, value_name = "MAC", default_value = "", hide_default_value = true)]
    src_mac: String,
    /// Destination MAC address.
    #[arg(long, value_name = "MAC", default_value = "", hide_default_value = true)]
    dst_mac: String,
    /// The VXLAN tunnel that the packet is inside of.
    #[arg(long, value_name = "ID")]
    vni: Option<u32>,
    /// TCP flags: syn,ack.
    #[arg(long, value_name = "FLAG", value_delimiter = ',')]
    tcp_flags: Vec<String>,
    /// Length of the frame in bytes, without FCS.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    length: u32,
    /// EtherType of a frame without IP: arp, 0x88cc, 35020.
    #[arg(long, value_name = "NUMBER", value_parser = ethertype)]
    ethertype: Option<u32>,
    /// Ask about the flow between these ends that is in the table now.
    #[arg(long, conflicts_with_all = ["capture", "vlan", "vni", "tcp_flags", "length", "ethertype", "src_mac", "dst_mac"])]
    flow: bool,
    /// With --flow: the tap.
    #[arg(long, value_name = "N", requires = "flow")]
    tap: Option<u32>,
    /// Ask about a packet of a capture file.
    #[arg(long, value_name = "FILE", requires = "packet", conflicts_with_all = ["src", "dst"])]
    capture: Option<PathBuf>,
    /// With --capture: the number of the packet, from 1.
    #[arg(long, value_name = "N", requires = "capture", value_parser = clap::value_parser!(u64).range(1..))]
    packet: Option<u64>,
    /// The capture port that it comes in by.
    #[arg(long, value_name = "PORT", default_value = "", hide_default_value = true)]
    ingress: String,
    /// Ask this policy file instead of what is in force; - is stdin.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The most policies that are explained, those that match first.
    #[arg(long, value_name = "N", default_value_t = 20)]
    max_policies: u32,
}

/// An EtherType as policies have it.
fn ethertype(text: &str) -> Result<u32, String> {
    if text.eq_ignore_ascii_case("arp") {
        return Ok(0x0806);
    }
    let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| "an EtherType is arp, 0x and hexadecimal digits, or a decimal number".to_owned())
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let out = context.out;
    let (set, known) = match &args.file {
        Some(path) => {
            let (set, known) = policy_file::load(path, out)?;
            (Some(policy_file::message(&set)?), known)
        }
        None => (None, Vec::new()),
    };
    let request = v1::ExplainRequest {
        ingress: args.ingress.clone(),
        max_policies: args.max_policies,
        set,
        packet: Some(packet(args)?),
    };
    let mut client = ExplainServiceClient::new(context.connection.open().await?)
        .max_decoding_message_size(sluice_api::MAX_POLICY_SET_BYTES);
    let response = client.explain(request).await?.into_inner();
    show::findings(&response.findings, &known, out);
    if out.json {
        out.message("ExplainResponse", &response)?;
    } else {
        out.line(&shown(&response, out))?;
    }
    if response.findings.iter().any(|finding| finding.severity() == v1::Severity::Error) {
        return Err(Failure::told(Exit::Failed));
    }
    Ok(Exit::Ok)
}

fn packet(args: Args) -> Result<Packet, Failure> {
    if let (Some(path), Some(packet)) = (&args.capture, args.packet) {
        return Ok(Packet::Captured(v1::CapturedPacket { file: beginning(path)?, packet }));
    }
    let Args { src, dst, protocol, sport: src_port, dport: dst_port, .. } = args;
    if args.flow {
        let tap = args.tap;
        return Ok(Packet::Flow(v1::FlowSelector { src, dst, protocol, src_port, dst_port, tap }));
    }
    Ok(Packet::Description(v1::PacketDescription {
        src,
        dst,
        protocol,
        src_port,
        dst_port,
        vlan: args.vlan,
        src_mac: args.src_mac,
        dst_mac: args.dst_mac,
        vni: args.vni,
        tcp_flags: args.tcp_flags,
        length: args.length,
        ethertype: args.ethertype,
        fragment: v1::FragmentMatch::Unspecified.into(),
    }))
}

/// As much of a capture file as fits into a request.
fn beginning(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_CAPTURE_BYTES).read_to_end(&mut bytes))
        .map_err(|error| Failure::failed(format!("cannot read {}: {error}", path.display())))?;
    Ok(bytes)
}

pub(crate) fn shown(response: &v1::ExplainResponse, out: Out) -> String {
    let mut parts = vec![response.headers.iter().map(headers).collect::<Vec<_>>().join("\n")];
    let tone = if response.outcome() == v1::Outcome::Copied { Tone::Good } else { Tone::Warn };
    let outcome = word(response.outcome().as_str_name(), "OUTCOME_");
    let generation =
        response.generation.map_or_else(String::new, |generation| format!(" (generation {generation})"));
    parts.push(format!("outcome: {}{generation}", out.paint(tone, &outcome)));
    if !response.copies.is_empty() {
        parts.push(copies(&response.copies));
    }
    let mut policies = table(&["policy", "matches", "why not"]);
    for policy in &response.policies {
        let direction = match (policy.egress, policy.ingress) {
            (true, true) => "yes, both ways",
            (true, false) => "yes, egress",
            (false, true) => "yes, ingress",
            (false, false) => "yes",
        };
        let matches = if policy.matches { direction } else { "no" };
        let off = if policy.enabled { "" } else { " (off)" };
        let reason = |miss: &v1::Mismatch| {
            format!("{} is {}, wanted {}", safe(&miss.field), safe(&miss.found), safe(&miss.wanted))
        };
        let reasons = policy.mismatches.iter().map(reason).collect::<Vec<_>>().join("\n");
        policies.add_row([format!("{}{off}", safe(&policy.policy)), matches.to_owned(), or_dash(reasons)]);
    }
    parts.push(policies.to_string());
    if response.policies_left_out > 0 {
        parts.push(format!("and {} more policies: --max-policies", response.policies_left_out));
    }
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

fn headers(layer: &v1::ParsedHeaders) -> String {
    let mut parts = vec![format!("{}: ", safe(&layer.view))];
    if !layer.src_mac.is_empty() {
        parts.push(format!("{} > {}, ", safe(&layer.src_mac), safe(&layer.dst_mac)));
    }
    if !layer.vlan.is_empty() {
        let ids: Vec<String> = layer.vlan.iter().map(u32::to_string).collect();
        parts.push(format!("vlan {}, ", ids.join("/")));
    }
    parts.push(match layer.protocol {
        Some(number) => format!(
            "{} {} > {}",
            protocol(number),
            end(&layer.src, "", layer.src_port),
            end(&layer.dst, "", layer.dst_port)
        ),
        None => format!("ethertype {:#06x}", layer.ethertype),
    });
    if !layer.tcp_flags.is_empty() {
        parts.push(format!(" [{}]", list(&layer.tcp_flags, " ")));
    }
    if !layer.tunnel.is_empty() {
        let id = layer.tunnel_id.map_or_else(String::new, |id| format!(" {id}"));
        parts.push(format!(", then {}{id}", safe(&layer.tunnel)));
    }
    if !layer.obstacle.is_empty() {
        parts.push(format!(" ({})", safe(&layer.obstacle)));
    }
    parts.concat()
}

fn copies(list_of: &[v1::CopyExplanation]) -> String {
    let mut copies = table(&["copy to", "tag", "direction", "bytes", "by", "next hop", "because of", "fate"]);
    for copy in list_of {
        let member =
            if copy.member.is_empty() { String::new() } else { format!(" ({})", safe(&copy.member)) };
        let hop = match (copy.next_hop.as_str(), copy.next_hop_mac.as_str()) {
            ("", _) => "-".to_owned(),
            (hop, "") => format!("{}, not resolved", safe(hop)),
            (hop, mac) => format!("{} at {}", safe(hop), safe(mac)),
        };
        let fate = if copy.dropped_as.is_empty() {
            "leaves".to_owned()
        } else {
            format!("dropped: {}", safe(&copy.dropped_as))
        };
        copies.add_row([
            format!("{}{member}", safe(&copy.destination)),
            copy.tag.to_string(),
            if copy.egress { "egress" } else { "ingress" }.to_owned(),
            copy.length.to_string(),
            or_dash(safe(&copy.port)),
            hop,
            or_dash(list(&copy.policies, ", ")),
            fate,
        ]);
    }
    copies.to_string()
}
