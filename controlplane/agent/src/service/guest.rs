//! Which virtual machines and ports are known, and which names of policies stand for them?

use std::collections::BTreeSet;
use std::sync::Arc;

use sluice_api::v1;
use sluice_model::{AddressSet, GuestKind, GuestName};
use sluice_ovsdb::Interface;

use crate::guests::GuestReport;
use crate::policies::Policies;

/// Names that stand for nothing, told in an answer at most.
const SILENT_NAMES: usize = 1000;

/// What is learned, as a message.
pub(super) fn ovs_status(report: &GuestReport) -> v1::OvsStatus {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let heard = &report.heard;
    v1::OvsStatus {
        database: report.database.clone(),
        connected: heard.connected,
        since_ns: heard.since_ns,
        error: heard.error.clone(),
        changed_at_ns: heard.changed_at_ns,
        vms: count(report.vms),
        ports: count(report.ports),
        silent_names: report.silent.iter().take(SILENT_NAMES).map(ToString::to_string).collect(),
        applied: report.applied,
        failed: report.failed,
        connects: heard.connects,
        updates: heard.updates,
    }
}

/// Says what is wrong with names in a filter: in the `sets` that it was understood as, that none is learned at all; in
/// the `words` that it has itself, that nothing has the name now. A group may have members that come and go.
pub(super) fn unknown_name<'s>(
    policies: &Policies,
    sets: impl IntoIterator<Item = &'s Arc<AddressSet>>,
    words: impl IntoIterator<Item = &'s String>,
) -> Option<String> {
    if policies.book().is_some() {
        let guests = policies.guests();
        let mut names = words.into_iter().filter_map(|word| GuestName::of(word)?.ok());
        let silent = names.find(|name| guests.is_silent(name))?;
        return Some(format!(
            "{:?} stands for no address now, so nothing would match; sluice guests shows what is known",
            silent.to_string()
        ));
    }
    let name = sets.into_iter().find_map(|set| set.guests.first())?;
    Some(format!(
        "{:?} is learned from Open vSwitch, and the boot config names no database of it",
        name.to_string()
    ))
}

/// All interfaces.
pub(super) fn guests(policies: &Policies) -> v1::ListGuestsResponse {
    let Some(book) = policies.book() else { return v1::ListGuestsResponse::default() };
    let report = book.report();
    let current = policies.current();
    let used = current.policies.guest_names();
    let inventory = report.heard.inventory.clone().unwrap_or_default();
    let interfaces = inventory.interfaces.iter().map(|own| interface(own, &used)).collect();
    v1::ListGuestsResponse { ovs: Some(ovs_status(&report)), interfaces }
}

fn interface(own: &Interface, used: &BTreeSet<&GuestName>) -> v1::GuestInterface {
    let ports = [&own.name, &own.port, &own.iface_id].map(|name| (GuestKind::Port, name));
    let names = own.vms.iter().map(|name| (GuestKind::Vm, name)).chain(ports);
    let names: BTreeSet<GuestName> =
        names.filter_map(|(kind, name)| GuestName::new(kind, name).ok()).collect();
    v1::GuestInterface {
        interface: own.name.clone(),
        port: own.port.clone(),
        bridge: own.bridge.clone(),
        r#type: own.kind.clone(),
        ofport: own.ofport.and_then(|number| u32::try_from(number).ok()),
        iface_id: own.iface_id.clone(),
        vms: own.vms.clone(),
        macs: own.macs.iter().map(ToString::to_string).collect(),
        addresses: own.addresses.iter().map(ToString::to_string).collect(),
        active: own.active,
        error: own.error.clone(),
        used_as: names.iter().filter(|name| used.contains(name)).map(ToString::to_string).collect(),
    }
}
