//! Which policies of one view (outermost or innermost headers) match, given the classes of a packet?

use sluice_model::Policy;

use super::batch::{BATCH, Batch, Packet};
use super::dimension::{Scalar, ScalarTable, has_ethernet};
use super::ends::{Addresses, Operand, Ports, mac};
use super::origins::Origins;
use super::rows::{Row, Rows, summaries};
use crate::wire::Parsed;

/// A dimension in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dimension {
    SrcAddress,
    DstAddress,
    SrcMac,
    DstMac,
    SrcPort,
    DstPort,
    Scalar(usize),
}

/// The tables of one view.
#[derive(Clone, Debug)]
pub(super) struct View {
    summaries: usize,
    /// One row: the policies of this view.
    all: Rows,
    addresses: Option<Addresses>,
    ports: Option<Ports>,
    scalars: Vec<ScalarTable>,
}

#[inline]
fn summary(operand: &Operand<'_>, index: usize) -> u64 {
    operand.iter().fold(0, |bits, row| bits | row.summary(index))
}

#[inline]
fn word(operand: &Operand<'_>, word: usize) -> u64 {
    operand.iter().fold(0, |bits, row| bits | row.word(word))
}

/// What all of `operands` accept of the policies `64 * place ..`, of those in `bits`.
#[inline]
fn accepted(bits: u64, operands: &[Operand<'_>], place: usize) -> u64 {
    let mut bits = bits;
    for operand in operands {
        if bits == 0 {
            break;
        }
        bits &= word(operand, place);
    }
    bits
}

/// The most operands that a reading has: address and port of both sides.
const SIDED: usize = 4;

impl View {
    /// The tables over `policies`, of `total` in the set; `None` when there are none.
    pub(super) fn new(policies: &[(u32, &Policy)], total: usize, origins: &Origins<'_>) -> Option<Self> {
        if policies.is_empty() {
            return None;
        }
        let mut all = Rows::new(total);
        all.push(policies.iter().map(|&(number, _)| number));
        Some(Self {
            summaries: summaries(total),
            all,
            addresses: Addresses::new(policies, total),
            ports: Ports::new(policies, total),
            scalars: Scalar::ALL
                .iter()
                .filter_map(|&s| ScalarTable::new(s, policies, total, origins))
                .collect(),
        })
    }

    /// The dimensions in use, each with the number of its classes.
    pub(super) fn dimensions(&self) -> Vec<(Dimension, u32)> {
        let mut dimensions = Vec::new();
        if let Some(addresses) = &self.addresses {
            let classes = addresses.ip.classes;
            dimensions.extend([(Dimension::SrcAddress, classes), (Dimension::DstAddress, classes)]);
            if let Some((_, sides)) = &addresses.mac {
                dimensions.extend([(Dimension::SrcMac, sides.classes), (Dimension::DstMac, sides.classes)]);
            }
        }
        if let Some(ports) = &self.ports {
            let classes = ports.sides.classes;
            dimensions.extend([(Dimension::SrcPort, classes), (Dimension::DstPort, classes)]);
        }
        dimensions
            .extend(self.scalars.iter().enumerate().map(|(i, table)| (Dimension::Scalar(i), table.classes)));
        dimensions
    }

    pub(super) fn dimension_name(&self, dimension: Dimension) -> &'static str {
        match dimension {
            Dimension::SrcAddress => "src_address",
            Dimension::DstAddress => "dst_address",
            Dimension::SrcMac => "src_mac",
            Dimension::DstMac => "dst_mac",
            Dimension::SrcPort => "src_port",
            Dimension::DstPort => "dst_port",
            Dimension::Scalar(index) => self.scalars.get(index).map_or("", |table| table.scalar.name()),
        }
    }

    pub(super) fn varies_in_flow(&self, dimension: Dimension) -> bool {
        matches!(dimension, Dimension::Scalar(i) if self.scalars.get(i).is_some_and(|t| t.scalar.varies_in_flow()))
    }

    /// The field of a scalar dimension.
    pub(super) fn scalar(&self, index: usize) -> Option<Scalar> {
        self.scalars.get(index).map(|table| table.scalar)
    }

    /// Whether some policy constrains this field.
    pub(super) fn reads(&self, scalar: Scalar) -> bool {
        self.scalars.iter().any(|table| table.scalar == scalar)
    }

    /// The class of a packet in one dimension.
    #[inline]
    pub(super) fn class(&self, dimension: Dimension, packet: &Packet<'_>) -> u32 {
        let parsed = packet.parsed;
        match dimension {
            Dimension::SrcAddress => self.ip_class(parsed, &parsed.src_addr),
            Dimension::DstAddress => self.ip_class(parsed, &parsed.dst_addr),
            Dimension::SrcMac => self.mac_class(parsed, packet.frame, 6),
            Dimension::DstMac => self.mac_class(parsed, packet.frame, 0),
            Dimension::SrcPort => self.port_class(parsed, parsed.src_port),
            Dimension::DstPort => self.port_class(parsed, parsed.dst_port),
            Dimension::Scalar(index) => self.scalars.get(index).map_or(0, |table| table.class(packet)),
        }
    }

    /// Adds the classes of all packets in one dimension to their keys: the same as [`View::class`], in a loop for each
    /// dimension.
    pub(super) fn add_classes(
        &self,
        dimension: Dimension,
        batch: &Batch<'_>,
        keys: &mut [u64; BATCH],
        shift: u32,
    ) {
        match dimension {
            Dimension::SrcAddress => batch.add(keys, shift, |p| self.ip_class(p.parsed, &p.parsed.src_addr)),
            Dimension::DstAddress => batch.add(keys, shift, |p| self.ip_class(p.parsed, &p.parsed.dst_addr)),
            Dimension::SrcMac => batch.add(keys, shift, |p| self.mac_class(p.parsed, p.frame, 6)),
            Dimension::DstMac => batch.add(keys, shift, |p| self.mac_class(p.parsed, p.frame, 0)),
            Dimension::SrcPort => batch.add(keys, shift, |p| self.port_class(p.parsed, p.parsed.src_port)),
            Dimension::DstPort => batch.add(keys, shift, |p| self.port_class(p.parsed, p.parsed.dst_port)),
            Dimension::Scalar(index) => {
                if let Some(table) = self.scalars.get(index) {
                    table.add_classes(batch, keys, shift);
                }
            }
        }
    }

    #[inline(always)]
    fn ip_class(&self, parsed: &Parsed, address: &[u8; 16]) -> u32 {
        self.addresses.as_ref().map_or(0, |table| table.ip_class(parsed.l3, address))
    }

    #[inline(always)]
    fn port_class(&self, parsed: &Parsed, port: u16) -> u32 {
        match &self.ports {
            Some(ports) if parsed.has_ports => ports.table.class(port.into()),
            _ => 0,
        }
    }

    #[inline]
    fn mac_class(&self, parsed: &Parsed, frame: &[u8], offset: u16) -> u32 {
        if !has_ethernet(parsed) {
            return 0;
        }
        let start = usize::from(parsed.l2_offset) + usize::from(offset);
        let bytes = frame.get(start..).and_then(|rest| rest.first_chunk::<6>());
        let table = self.addresses.as_ref().and_then(|addresses| addresses.mac.as_ref());
        match (table, bytes) {
            (Some((table, _)), Some(&bytes)) => table.class(mac(bytes)),
            _ => 0,
        }
    }

    /// Every policy of the view that matches, as `number << 1 | egress`, appended to `matched` in ascending order.
    /// `class_of` gives the packet's class in each dimension in use.
    pub(super) fn matches(&self, class_of: impl Fn(Dimension) -> u32, matched: &mut Vec<u32>) {
        let mut egress = [[Row::EMPTY; 3]; SIDED];
        let mut ingress = egress;
        let mut sided = 0;
        if let Some(addresses) = &self.addresses {
            let src = (class_of(Dimension::SrcAddress), class_of(Dimension::SrcMac));
            let dst = (class_of(Dimension::DstAddress), class_of(Dimension::DstMac));
            [egress[0], egress[1]] = [addresses.collect(src), addresses.peer(dst)];
            [ingress[0], ingress[1]] = [addresses.collect(dst), addresses.peer(src)];
            sided = 2;
        }
        if let Some(ports) = &self.ports {
            let [src, dst] = [class_of(Dimension::SrcPort), class_of(Dimension::DstPort)];
            [egress[sided], egress[sided + 1]] = [ports.sides.collect(src), ports.sides.peer(dst)];
            [ingress[sided], ingress[sided + 1]] = [ports.sides.collect(dst), ports.sides.peer(src)];
            sided += 2;
        }
        let (egress, ingress) = (&egress[..sided], &ingress[..sided]);
        let mut common = [[Row::EMPTY; 3]; Scalar::ALL.len() + 1];
        common[0][0] = self.all.row(0);
        for (index, (operand, table)) in common[1..].iter_mut().zip(&self.scalars).enumerate() {
            let [accepting, unconstrained] = table.rows(class_of(Dimension::Scalar(index)));
            [operand[0], operand[1]] = [accepting, unconstrained];
        }
        let common = &common[..=self.scalars.len()];

        for index in 0..self.summaries {
            let both = common.iter().fold(u64::MAX, |bits, operand| bits & summary(operand, index));
            let out = egress.iter().fold(both, |bits, operand| bits & summary(operand, index));
            let into = ingress.iter().fold(both, |bits, operand| bits & summary(operand, index));
            let mut live = out | into;
            while live != 0 {
                let bit = live.trailing_zeros() as usize;
                live &= live - 1;
                let place = index * 64 + bit;
                // Addresses accept the fewest policies: they come first.
                let (out, into) = (accepted(u64::MAX, egress, place), accepted(u64::MAX, ingress, place));
                let mut policies = accepted(out | into, common, place);
                while policies != 0 {
                    let bit = policies.trailing_zeros();
                    policies &= policies - 1;
                    let number = u32::try_from(place).unwrap_or(u32::MAX) * 64 + bit;
                    matched.push(number << 1 | u32::from(out >> bit & 1 == 1));
                }
            }
        }
    }

    /// The most policies that can match one packet: the least that any dimension lets through.
    pub(super) fn most_matched(&self) -> usize {
        let scalars = self.scalars.iter().map(ScalarTable::most_accepted);
        let addresses = self.addresses.iter().map(Addresses::most_accepted);
        let ports = self.ports.iter().map(|ports| ports.sides.most_accepted());
        scalars.chain(addresses).chain(ports).fold(self.all.count(0), usize::min)
    }

    pub(super) fn bytes(&self) -> usize {
        self.all.bytes()
            + self.addresses.as_ref().map_or(0, Addresses::bytes)
            + self.ports.as_ref().map_or(0, Ports::bytes)
            + self.scalars.iter().map(ScalarTable::bytes).sum::<usize>()
    }
}
