//! Why is a packet copied, or not?

use std::path::PathBuf;

use sluice_api::v1::explain_request::Packet;
use sluice_api::v1::explain_service_server::ExplainService;
use sluice_api::{findings, v1};
use sluice_core::classify::{Found, tcp_flag_names};
use sluice_engine::runtime::{Examination, ExaminedCopy, Fate, Layer, LayerView, Specimen};
use sluice_model::spec::{Diagnostics, Loaded, PolicySetSpec, PolicySpec, Severity};
use sluice_model::{
    Action, BootConfig, DestinationId, DestinationKind, DropReason, GuestName, Guests, PolicyId, PolicySet,
    PortId,
};
use tonic::{Request, Response, Status};

use super::Service;
use super::flow::unread;
use crate::policies::{Policies, told};
use crate::specimen::{self, Frame};

/// Policies that are explained where the request names no number, and at most.
const POLICIES: [u32; 2] = [100, 10_000];
/// What a policy asks is cut after so many characters.
const WANTED: usize = 200;

/// Protocols by the names that policies have for them (IANA).
const PROTOCOLS: [(u32, &str); 7] =
    [(1, "icmp"), (4, "ipip"), (6, "tcp"), (17, "udp"), (47, "gre"), (58, "icmpv6"), (132, "sctp")];

/// The set that is asked.
struct Asked {
    spec: PolicySetSpec,
    policies: PolicySet,
    generation: Option<u64>,
}

/// What is asked, and of which set.
fn answer(
    policies: &Policies,
    request: v1::ExplainRequest,
    goes_on: &dyn Fn() -> bool,
) -> Result<v1::ExplainResponse, Status> {
    let mut response = v1::ExplainResponse::default();
    let asked = match request.set {
        None => {
            let current = policies.current();
            Asked {
                spec: current.spec.clone(),
                policies: current.policies.clone(),
                generation: Some(current.generation.0),
            }
        }
        Some(set) => match sluice_api::validate(&set) {
            Err(Diagnostics(errors)) => {
                response.findings = findings(&errors);
                return Ok(response);
            }
            Ok(Loaded { value, warnings }) => {
                response.findings = findings(&warnings);
                let (found, _clashes) = policies.check(&value);
                response.findings.extend(findings(&found));
                if found.iter().any(|finding| finding.severity == Severity::Error) {
                    return Ok(response);
                }
                Asked { spec: PolicySetSpec::from(&set), policies: value, generation: None }
            }
        },
    };
    let boot = policies.boot();
    let mut ingress = ingress(&boot, &request.ingress)?;
    let mut tap = None;
    let frame = match request.packet {
        None => Err("packet: missing; describe one, or send one of a capture file".to_owned()),
        Some(Packet::Description(description)) => specimen::described(&description),
        Some(Packet::Captured(captured)) => specimen::captured(&captured),
        Some(Packet::Flow(flow)) => {
            let wanted = specimen::selector(&flow).map_err(Status::invalid_argument)?;
            let found = policies.engine().find_flow(goes_on, &wanted).map_err(|error| unread(&error))?;
            let Some((_, flow)) = found else {
                return Err(Status::not_found("flow: there is no such flow in the table"));
            };
            if request.ingress.is_empty() {
                ingress = flow.port;
            }
            tap = Some(flow.tap);
            let from_client = wanted.fits(&flow).unwrap_or(true);
            if let Some(tunnel) = flow.tunnels[usize::from(!from_client)] {
                response.findings.push(left_out(tunnel.id));
            }
            specimen::described(&specimen::of_flow(&flow, from_client))
        }
    };
    let Frame { data, wire_len } = frame.map_err(Status::invalid_argument)?;
    let specimen = Specimen { frame: &data, wire_len, ingress, tap };
    let examination = policies
        .engine()
        .examine(&policies.resolved(&asked.policies), &specimen)
        .map_err(|error| Status::failed_precondition(error.to_string()))?;

    let names: Vec<String> = boot.ports.iter().map(|port| port.name.clone()).collect();
    response.generation = asked.generation;
    response.headers = headers(&examination);
    response.outcome = outcome(examination.fate).into();
    let [default, most] = POLICIES;
    let most = if request.max_policies == 0 { default } else { request.max_policies.min(most) };
    let mut all = explanations(&asked, &examination, policies);
    let left_out = all.len().saturating_sub(most as usize);
    all.truncate(most as usize);
    response.policies_left_out = u32::try_from(left_out).unwrap_or(u32::MAX);
    response.policies = all;
    let now = Now::of(policies);
    response.copies = examination.copies.iter().map(|copy| self::copy(&asked, copy, &names, &now)).collect();
    Ok(response)
}

/// Says that the table does not keep a tunnel well enough to put it around the packet again.
fn left_out(id: u32) -> v1::Finding {
    v1::Finding {
        severity: v1::Severity::Warning.into(),
        field: "flow".to_owned(),
        reason: format!(
            "its tunnel with the id {id} is left out: policies with tunnel_id are not held against it"
        ),
        suggestion: "describe a packet with a vni, or send a captured one".to_owned(),
    }
}

/// The capture port that is asked for, or the first one.
fn ingress(boot: &BootConfig, name: &str) -> Result<PortId, Status> {
    let place = boot
        .ports
        .iter()
        .position(|port| if name.is_empty() { port.role.captures() } else { port.name == name });
    let place = place.and_then(|place| u16::try_from(place).ok());
    place.map(PortId).ok_or_else(|| Status::invalid_argument(format!("ingress: there is no port {name:?}")))
}

fn outcome(fate: Fate) -> v1::Outcome {
    match fate {
        Fate::NotCapturePort => v1::Outcome::NotCapturePort,
        Fate::NotTunnelled => v1::Outcome::NotTunnelled,
        Fate::LoopGuard => v1::Outcome::LoopGuard,
        Fate::Excluded => v1::Outcome::Excluded,
        Fate::NoPolicy => v1::Outcome::NoPolicy,
        Fate::Copied => v1::Outcome::Copied,
    }
}

/// All policies of the set, those that match first.
fn explanations(asked: &Asked, examination: &Examination, policies: &Policies) -> Vec<v1::PolicyExplanation> {
    let (boot, guests) = (policies.boot(), policies.guests());
    let mut switched_on = asked.policies.policies().iter().zip(&examination.reasons).peekable();
    let mut all: Vec<_> = asked
        .spec
        .policies
        .iter()
        .map(|spec| {
            // The set has those that are switched on, in the order of the spec.
            let Some((policy, reasons)) = switched_on.next_if(|(policy, _)| policy.name == spec.name) else {
                return v1::PolicyExplanation {
                    policy: spec.name.clone(),
                    ..v1::PolicyExplanation::default()
                };
            };
            let mismatches = reasons.mismatches.iter().map(|mismatch| v1::Mismatch {
                field: mismatch.field.to_owned(),
                wanted: wanted(spec, mismatch.field, &guests),
                found: found(&mismatch.found, mismatch.field, &boot),
            });
            v1::PolicyExplanation {
                policy: policy.name.clone(),
                matches: reasons.matches(),
                enabled: true,
                action: match policy.action {
                    Action::Copy => v1::Action::Copy,
                    Action::Drop => v1::Action::Drop,
                }
                .into(),
                egress: reasons.egress,
                ingress: reasons.ingress,
                mismatches: mismatches.collect(),
            }
        })
        .collect();
    all.sort_by_key(|explanation| !explanation.matches);
    all
}

/// What a policy asks of a field, as it was written; of names, also what they stand for.
fn wanted(policy: &PolicySpec, field: &str, guests: &Guests) -> String {
    let list = match field {
        "collect.addresses" => &policy.collect.addresses,
        "collect.ports" => &policy.collect.ports,
        "peer.addresses" => &policy.peer.addresses,
        "peer.ports" => &policy.peer.ports,
        "protocol" => &policy.protocol,
        "vlan" => &policy.vlan,
        "vlan_inner" => &policy.vlan_inner,
        "tunnel_id" => &policy.tunnel_id,
        "ethertype" => &policy.ethertype,
        "tcp_flags" => &policy.tcp_flags,
        "length" => &policy.length,
        "ingress" => &policy.ingress,
        "taps" => &policy.taps,
        _ => return policy.fragment.clone().unwrap_or_default(),
    };
    let word = |word: &String| match GuestName::of(word.trim()).filter(|_| field.ends_with(".addresses")) {
        Some(Ok(name)) if guests.is_silent(&name) => format!("{word} (nothing now)"),
        Some(Ok(name)) => format!("{word} ({})", guests.get(&name).map(told).unwrap_or_default()),
        _ => word.clone(),
    };
    let text = list.iter().take(WANTED).map(word).collect::<Vec<_>>().join(", ");
    match text.char_indices().nth(WANTED) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// What the packet has, with the names that policies use.
fn found(found: &Found, field: &str, boot: &BootConfig) -> String {
    match found {
        Found::Number(number) if field == "protocol" => protocol(*number),
        Found::Ingress(port) => {
            boot.ports.get(port.index()).map(|port| port.name.clone()).unwrap_or_default()
        }
        Found::Tap(tap) => boot.mirror.name_of(*tap).map_or_else(|| found.to_string(), str::to_owned),
        other => other.to_string(),
    }
}

fn protocol(number: u32) -> String {
    let name = PROTOCOLS.iter().find(|(known, _)| *known == number);
    name.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())
}

fn copy(asked: &Asked, copy: &ExaminedCopy, ports: &[String], now: &Now) -> v1::CopyExplanation {
    let destination = |id: DestinationId| {
        asked.policies.destinations().get(id.index()).map_or_else(String::new, |d| d.name.clone())
    };
    let sharer = |id: &PolicyId| asked.policies.policies().get(id.index());
    // The most that any of them keeps; all, if one of them keeps all.
    let payloads: Option<Vec<u16>> = copy.sharers.iter().filter_map(sharer).map(|p| p.payload).collect();
    v1::CopyExplanation {
        destination: destination(copy.action.destination),
        member: copy.member.map(destination).unwrap_or_default(),
        tag: copy.action.tag.get(),
        egress: copy.action.egress,
        policies: copy.sharers.iter().filter_map(sharer).map(|policy| policy.name.clone()).collect(),
        payload: payloads.and_then(|payloads| payloads.into_iter().max()).map(u32::from),
        length: copy.length,
        port: copy.port.and_then(|port| ports.get(port.index()).cloned()).unwrap_or_default(),
        next_hop: copy.next_hop.map(|hop| hop.to_string()).unwrap_or_default(),
        next_hop_mac: copy.next_hop_mac.map(|mac| mac.to_string()).unwrap_or_default(),
        dropped_as: now.drops(asked, copy).map(|reason| reason.name().to_owned()).unwrap_or_default(),
    }
}

/// What keeps copies from leaving now, whatever the policies say.
struct Now {
    /// Nothing comes in.
    closed: Option<DropReason>,
    /// Capture files that cannot be written.
    failing: Vec<PathBuf>,
}

impl Now {
    fn of(policies: &Policies) -> Self {
        let failing = policies.engine().failing_files().into_iter().map(|(path, _)| path).collect();
        Self { closed: policies.life().gate().closed(), failing }
    }

    fn drops(&self, asked: &Asked, copy: &ExaminedCopy) -> Option<DropReason> {
        let to = copy.member.unwrap_or(copy.action.destination);
        let file = match asked.policies.destinations().get(to.index()).map(|destination| &destination.kind) {
            Some(DestinationKind::Pcap { file }) => self.failing.contains(file),
            _ => false,
        };
        self.closed.or(copy.dropped).or_else(|| file.then_some(DropReason::FileWrite))
    }
}

/// The layers of headers.
fn headers(examination: &Examination) -> Vec<v1::ParsedHeaders> {
    let mut all: Vec<_> = examination.layers.iter().map(message).collect();
    if let Some(obstacle) = examination.obstacle
        && let Some(last) = all.last_mut()
    {
        last.obstacle = format!("a tunnel is not taken off: {}", obstacle.name());
    }
    all
}

fn message(layer: &Layer) -> v1::ParsedHeaders {
    let [src_mac, dst_mac] = layer.macs.map(|macs| macs.map(|mac| mac.to_string())).unwrap_or_default();
    let [src, dst] = layer.addresses.map(|ends| ends.map(|end| end.to_string())).unwrap_or_default();
    v1::ParsedHeaders {
        view: match layer.view {
            LayerView::Outer => "outer",
            LayerView::Tunnel => "tunnel",
            LayerView::Inner => "inner",
        }
        .to_owned(),
        src_mac,
        dst_mac,
        ethertype: layer.ethertype.into(),
        vlan: layer.vlan.iter().map(|&id| id.into()).collect(),
        src,
        dst,
        protocol: layer.protocol.map(u32::from),
        src_port: layer.ports.map(|[port, _]| port.into()),
        dst_port: layer.ports.map(|[_, port]| port.into()),
        tcp_flags: tcp_flag_names(layer.tcp_flags).map(str::to_owned).collect(),
        tunnel: layer.tunnel.map(|(name, _)| name.to_owned()).unwrap_or_default(),
        tunnel_id: layer.tunnel.map(|(_, id)| id),
        obstacle: layer.obstacle.to_owned(),
    }
}

#[tonic::async_trait]
impl ExplainService for Service {
    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let request = request.into_inner();
        if matches!(request.packet, Some(Packet::Flow(_))) {
            return self
                .reading_flows(move |policies, goes_on| answer(policies, request, goes_on))
                .await
                .map(Response::new);
        }
        self.blocking(move |policies| answer(policies, request, &|| true)).await.map(Response::new)
    }
}
