//! What would become of a packet? The stages of a worker, run once beside the workers, on a packet that goes nowhere.

use std::net::IpAddr;
use std::sync::PoisonError;

use dpdk::Mbuf;
use sluice_core::classify::{Explanation, FragmentTable, FragmentTableConfig, Origins, Subject, explain};
use sluice_core::decap::{Obstacle, TunnelInfo};
use sluice_core::verdict::CopyAction;
use sluice_model::{
    DestinationId, DropReason, Generation, HeaderView, MacAddr, Oversize, PolicyId, PolicySet, PortId,
    VlanFrom,
};

use super::layers::{self, Layer};
use super::routes::Route;
use super::{Engine, StartError};
use crate::batch::{Batch, RxInfo};
use crate::deployment::Deployment;
use crate::ledger::Ledger;
use crate::output::{Egress, Output};
use crate::stage::compose::{ADDRESSES, TAG};
use crate::stage::decap::Decap;
use crate::stage::ends::PortEnds;
use crate::stage::mirror::Mirror;
use crate::stage::{parse, rx};

/// A packet to examine.
#[derive(Clone, Copy, Debug)]
pub struct Specimen<'a> {
    /// Its bytes, as captured.
    pub frame: &'a [u8],
    /// Original length in bytes, without FCS.
    pub wire_len: u32,
    /// The port that it comes in by.
    pub ingress: PortId,
    /// The number of the tap that it comes from; `None` = as its mark says, or its port.
    pub tap: Option<u16>,
}

/// What becomes of a packet as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It does not come in by a capture port.
    NotCapturePort,
    /// It is one of our own copies.
    LoopGuard,
    /// It comes in by the end of tunnels, and no tunnel was taken off it.
    NotTunnelled,
    /// A policy takes it out.
    Excluded,
    /// No policy matches.
    NoPolicy,
    /// It is copied.
    Copied,
}

/// Why a packet cannot be examined.
#[derive(Debug, thiserror::Error)]
pub enum ExamineError {
    /// A destination cannot be reached as the policies say.
    #[error(transparent)]
    Route(#[from] StartError),
    /// All mbufs are in use.
    #[error("no mbuf is free: all hold traffic; ask again")]
    NoMbuf,
}

/// A packet, and what the policies make of it.
#[derive(Clone, Debug)]
pub struct Examination {
    /// What becomes of it.
    pub fate: Fate,
    /// Its headers, outermost first.
    pub layers: Vec<Layer>,
    /// Why a tunnel was left on.
    pub obstacle: Option<Obstacle>,
    /// Why each policy matches, or does not, by policy number.
    pub reasons: Vec<Explanation>,
    /// The copies.
    pub copies: Vec<ExaminedCopy>,
}

/// A copy that would be made.
#[derive(Clone, Debug)]
pub struct ExaminedCopy {
    /// The copy as the policies ask for it.
    pub action: CopyAction,
    /// The policies that share it.
    pub sharers: Vec<PolicyId>,
    /// Of a group, the member that it goes to now.
    pub member: Option<DestinationId>,
    /// Bytes of the packet that it keeps.
    pub length: u32,
    /// The port that it leaves by.
    pub port: Option<PortId>,
    /// The next hop.
    pub next_hop: Option<IpAddr>,
    /// Its MAC address, if it is resolved, or was given.
    pub next_hop_mac: Option<MacAddr>,
    /// Why it would be dropped now. Rate limits are not asked.
    pub dropped: Option<DropReason>,
}

/// A next hop of the policies in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The port that leads there.
    pub port: PortId,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address; `None` = not resolved.
    pub mac: Option<MacAddr>,
}

impl Engine {
    /// The next hops of the policies in force, each port's together, none twice.
    #[must_use]
    pub fn next_hops(&self) -> Vec<NextHop> {
        let deployer = self.deployer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut hops: Vec<NextHop> = deployer.routes.iter().filter_map(Route::hop).collect();
        hops.sort_unstable_by_key(|hop| (hop.port, hop.address));
        hops.dedup_by_key(|hop| (hop.port, hop.address));
        hops
    }

    /// What `policies` make of a packet, by the stages that workers run. Nothing is sent, counted or remembered. Later
    /// fragments have no ports here, as nothing was seen before.
    ///
    /// # Errors
    /// [`ExamineError`].
    pub fn examine(
        &self,
        policies: &PolicySet,
        specimen: &Specimen<'_>,
    ) -> Result<Examination, ExamineError> {
        let (site, hops): (_, Vec<_>) = {
            let deployer = self.deployer.lock().unwrap_or_else(PoisonError::into_inner);
            (std::sync::Arc::clone(&deployer.site), deployer.routes.iter().filter_map(Route::hop).collect())
        };
        let draft = site.draft(policies, Generation::default(), None)?;
        adopt(&draft.routes, &hops);
        let mut deployment = site.deployment(&draft, 0, None);
        let exits = site.exits.first().map_or(&[][..], Vec::as_slice);
        for output in &mut deployment.outputs {
            let up = match output.egress {
                Egress::Port(place) => {
                    let port = exits.get(place).and_then(|port| self.shared.ports.get(*port));
                    port.is_some_and(|port| port.is_up())
                }
                Egress::File | Egress::None => true,
            };
            output.refresh(up);
        }
        if let Some(balance) = &mut deployment.balance {
            balance.refresh(&deployment.outputs);
        }
        let port = site.boot.ports.get(specimen.ingress.index());
        let captures = port.is_some_and(|port| port.role.captures());
        let pool = self.pools.iter().max_by_key(|pool| pool.data_room());
        let mbuf = pool.and_then(|pool| pool.copy_from(specimen.frame));
        let mbuf = mbuf.ok_or(ExamineError::NoMbuf)?;
        let decap: Vec<_> = site.boot.ports.iter().map(|port| port.decap).collect();
        let mut bench = Bench {
            mirror: Mirror::of(&site.boot, 0),
            decap: Decap::new(&decap)
                .map(|stage| stage.without_meter().with_ends(PortEnds::of(&site.boot.ports, 0))),
            fragments: FragmentTable::new(&FragmentTableConfig { datagrams: 16, life_ns: 1 }),
            ledger: Ledger::default(),
            batch: Box::default(),
        };
        let mut mbuf = mbuf;
        if let Some(snaplen) =
            site.boot.ports.get(specimen.ingress.index()).and_then(|port| port.snaplen_bytes)
        {
            mbuf.truncate(snaplen);
        }
        let info = RxInfo { wire_len: specimen.wire_len, ..RxInfo::default() };
        // There is room: the batch is empty.
        drop(bench.batch.push(mbuf, info, specimen.ingress));
        let names = site.boot.port_names();
        let origins = Origins { ports: &names, taps: &site.boot.mirror.taps };
        let asked = (policies, draft.routes.as_slice(), origins);
        // Without names of taps nobody else says it.
        let tap = specimen.tap.or(port.filter(|_| bench.mirror.is_none()).map(|port| port.tap));
        let examination = bench.examine(&mut deployment, asked, (tap, captures));
        drop(bench.batch.take(0));
        Ok(examination)
    }
}

impl Route {
    /// The next hop as it is now.
    fn hop(&self) -> Option<NextHop> {
        let port = PortId(u16::try_from(self.port?).ok()?);
        Some(NextHop { port, address: self.next_hop?, mac: self.cell.as_ref().and_then(|cell| cell.get()) })
    }
}

/// Gives routes that are not in force what is known of their next hops.
fn adopt(routes: &[Route], known: &[NextHop]) {
    for (route, hop) in routes.iter().filter_map(|route| Some((route, route.hop()?))) {
        let found = known.iter().find(|known| (known.port, known.address) == (hop.port, hop.address));
        if let (Some(cell), Some(found)) = (&route.cell, found) {
            cell.set(found.mac);
        }
    }
}

/// A worker's stages without its ports.
struct Bench {
    mirror: Option<Mirror>,
    decap: Option<Decap>,
    fragments: FragmentTable,
    ledger: Ledger,
    batch: Box<Batch>,
}

impl Bench {
    /// Takes the one packet of the batch through the stages.
    fn examine(
        &mut self,
        deployment: &mut Deployment,
        (policies, routes, origins): (&PolicySet, &[Route], Origins<'_>),
        (tap, captures): (Option<u16>, bool),
    ) -> Examination {
        let batch = &mut *self.batch;
        rx::run(batch);
        if let Some(mirror) = self.mirror.as_mut().filter(|_| captures) {
            mirror.run(batch, &mut self.ledger);
        }
        if let Some(tap) = tap {
            batch.tap[0] = tap;
        }
        // A mark that was taken off is no header any more.
        let frame = batch.mbufs[0].as_ref().map_or(&[][..], Mbuf::data).to_vec();
        let with_inner = deployment.program.needs_inner();
        let first_inner = with_inner && self.decap.is_none();
        parse::run(batch, &mut self.fragments, first_inner, 0);
        batch.tunnel[0] = TunnelInfo::NONE;
        let came = batch.mbufs[0].as_ref().map_or(&[][..], Mbuf::data);
        let is_own = deployment.guard.is_own_copy(came, &batch.outer[0]);
        let mut rest = 0;
        if let Some(decap) = self.decap.as_mut().filter(|_| captures && !is_own) {
            rest = decap.run(batch, 0, &mut self.fragments, with_inner, &mut self.ledger);
        }
        let reached = captures && !is_own;
        let mut outer = *batch.view(0);
        let mut inner = if with_inner && reached { batch.inner[0] } else { outer };
        let tunnel = if reached { batch.tunnel[0] } else { TunnelInfo::NONE };
        for headers in [&mut outer, &mut inner] {
            // As the classifier is given them: the tunnel that was taken off can still be asked for.
            tunnel.show_in(headers);
        }
        let left = batch.mbufs[0].as_ref().map_or(&[][..], Mbuf::data);
        let reasons = policies.policies().iter().map(|policy| {
            let headers = match policy.headers {
                HeaderView::Outer => &outer,
                HeaderView::Inner => &inner,
            };
            let (wire_len, ingress, tap) = (batch.info[0].wire_len, batch.ingress[0], batch.tap[0]);
            explain(policy, &Subject { frame: left, headers, wire_len, ingress, tap }, &origins)
        });
        let mut examination = Examination {
            fate: Fate::NotCapturePort,
            layers: layers::seen(&frame, left, tunnel.depth.into()),
            obstacle: self.ledger.decap_obstacles.iter().find(|(_, count)| *count > 0).map(|(o, _)| o),
            reasons: reasons.collect(),
            copies: Vec::new(),
        };
        if !captures {
            return examination;
        }
        if is_own {
            examination.fate = Fate::LoopGuard;
            return examination;
        }
        if rest != 0 {
            examination.fate = Fate::NotTunnelled;
            return examination;
        }
        let Deployment { classify, program, classifier, balance, outputs, .. } = deployment;
        classify.run(1, batch, program, classifier);
        if let Some(balance) = balance {
            balance.prepare(batch, &batch.verdict_runs().collect(batch), classifier, with_inner);
        }
        let set = classifier.action_set(batch.verdicts[0]);
        examination.fate = match (set.excluded, set.copies.is_empty()) {
            (true, _) => Fate::Excluded,
            (false, true) => Fate::NoPolicy,
            (false, false) => Fate::Copied,
        };
        for action in set.copies {
            let member = balance.as_ref().and_then(|balance| balance.member(action, 0));
            let taken = member.as_ref().unwrap_or(action);
            let Some((output, route)) =
                outputs.get(taken.destination.index()).zip(routes.get(taken.destination.index()))
            else {
                continue;
            };
            let (length, oversize) = length(batch, with_inner, taken, output);
            examination.copies.push(ExaminedCopy {
                action: *action,
                sharers: set.sharers_of(action).to_vec(),
                member: member.map(|member| member.destination),
                length,
                port: route.port.and_then(|port| u16::try_from(port).ok()).map(PortId),
                next_hop: route.next_hop,
                next_hop_mac: route.cell.as_ref().and_then(|cell| cell.get()),
                dropped: output.unready.or(oversize.then_some(DropReason::Oversize)),
            });
        }
        examination
    }
}

/// The bytes that a copy keeps, and whether it is dropped for its length.
fn length(batch: &Batch, with_inner: bool, action: &CopyAction, output: &Output) -> (u32, bool) {
    let header_end = batch.view(0).header_end;
    let inner_header_end = if with_inner { batch.inner[0].header_end } else { header_end };
    let cap_len = batch.mbufs[0].as_ref().map_or(0, Mbuf::pkt_len);
    let keep = action.keep.frame_bytes(header_end, inner_header_end, cap_len);
    let shown = output.vlan_from == VlanFrom::Tag || batch.tunnel[0].mark != 0;
    let tagged = output.inner_vlan && shown && keep >= u32::from(ADDRESSES);
    let room = output.room(batch.outer[0].vlan_count, if tagged { u32::from(TAG) } else { 0 });
    match output.oversize {
        Oversize::Drop => (keep, keep > room),
        Oversize::Segment => (keep, false),
        Oversize::Fragment if output.encap.is_some() => (keep, false),
        Oversize::Truncate | Oversize::Fragment => (keep.min(room), false),
    }
}
