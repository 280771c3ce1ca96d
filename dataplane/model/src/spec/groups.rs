//! Which addresses does a named group hold, when groups may name groups?

use std::sync::Arc;

use crate::AddressSet;

use super::addresses::{AddressList, address_list};
use super::document::Fields;
use super::names::Names;
use super::source::{At, Report, Span};

/// How deep groups may be nested.
const MAX_DEPTH: usize = 16;
/// How many ranges all groups together may hold, nested ones counted at each place: about half a gigabyte at most.
const MAX_RANGES: usize = 16 << 20;

/// All groups, resolved: each is one shared set.
#[derive(Debug)]
pub(super) struct Groups<'d> {
    names: Names<'d>,
    groups: Vec<Group<'d>>,
}

#[derive(Debug)]
struct Group<'d> {
    list: AddressList<'d>,
    span: Span,
    label: String,
    set: Arc<AddressSet>,
    height: usize,
    state: State,
    used: std::cell::Cell<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Untouched,
    Open,
    Done,
}

impl<'d> Groups<'d> {
    pub(super) fn read(tables: Vec<Fields<'d>>, report: &Report<'d>) -> Self {
        let mut names = Names::new("group");
        let mut groups = Vec::with_capacity(tables.len());
        for (index, mut fields) in tables.into_iter().enumerate() {
            let name = names.enter(&mut fields, index, report);
            let list = if let Some(items) = fields.strings("addresses", "[\"10.0.0.0/8\"]") {
                if items.value.is_empty() {
                    let suggestion = "a policy that names it matches nothing".to_owned();
                    report.warning(&items.span, fields.field("addresses"), "an empty group", suggestion);
                }
                address_list(&items.value, &fields.field("addresses"), report)
            } else {
                if fields.place_of("addresses").is_none() {
                    fields.missing("addresses", "a group has addresses = [\"10.0.0.0/8\"]");
                }
                AddressList::default()
            };
            let span = name.map_or(fields.span.clone(), |name| name.span);
            let label = fields.label.clone();
            fields.finish();
            groups.push(Group {
                list,
                span,
                label,
                set: Arc::default(),
                height: 0,
                state: State::Untouched,
                used: false.into(),
            });
        }
        let mut all = Self { names, groups };
        let mut ranges = 0;
        for index in 0..all.groups.len() {
            all.flatten(index, 0, &mut ranges, report);
        }
        if ranges > MAX_RANGES {
            let reason =
                format!("the groups hold more than {MAX_RANGES} ranges, nested groups counted at each place");
            report.error(
                &(0..0),
                report.list("group"),
                reason,
                "nest less, or use larger networks".to_owned(),
            );
        }
        all
    }

    /// The set of a group that a policy names; reported if there is none.
    pub(super) fn resolve(
        &self,
        name: &At<&str>,
        field: &str,
        report: &Report<'_>,
    ) -> Option<Arc<AddressSet>> {
        let group = self.groups.get(self.names.resolve(name, field, report)?)?;
        group.used.set(true);
        Some(Arc::clone(&group.set))
    }

    /// Warns about groups that nothing names.
    pub(super) fn report_unused(&self, report: &Report<'_>) {
        for group in self.groups.iter().filter(|group| !group.used.get()) {
            report.warning(&group.span, &group.label, "nothing uses this group", None);
        }
    }

    /// Computes the set of a group after those it names.
    fn flatten(&mut self, index: usize, depth: usize, ranges: &mut usize, report: &Report<'_>) {
        let Some(group) = self.groups.get_mut(index).filter(|group| group.state == State::Untouched) else {
            return;
        };
        group.state = State::Open;
        let nested = std::mem::take(&mut group.list.groups);
        let own = std::mem::take(&mut group.list.own);
        let field = format!("{}{}addresses", group.label, report.separator());
        let mut sets = Vec::with_capacity(nested.len());
        let mut height = 0;
        for name in &nested {
            let Some(inner) = self.names.resolve(name, &field, report) else { continue };
            if depth < MAX_DEPTH {
                self.flatten(inner, depth + 1, ranges, report);
            }
            let Some(inner) = self.groups.get(inner) else { continue };
            inner.used.set(true);
            match inner.state {
                State::Done if inner.height < MAX_DEPTH => {
                    height = height.max(inner.height + 1);
                    sets.push(Arc::clone(&inner.set));
                }
                State::Open => {
                    let reason = format!("@{} leads back to this group", name.value);
                    report.error(
                        &name.span,
                        &field,
                        reason,
                        "a group cannot hold itself; remove it".to_owned(),
                    );
                }
                State::Done | State::Untouched => {
                    let reason = format!("groups are nested deeper than {MAX_DEPTH}");
                    report.error(&name.span, &field, reason, "name the inner groups directly".to_owned());
                }
            }
        }
        let size = |set: &AddressSet| {
            set.ipv4.iter().len() + set.ipv6.iter().len() + set.macs.len() + set.guests.len()
        };
        let total: usize = sets.iter().map(|set| size(set)).sum::<usize>() + size(&own);
        *ranges = ranges.saturating_add(total);
        let set = if *ranges > MAX_RANGES || sets.is_empty() {
            own
        } else {
            AddressSet::union(sets.iter().map(AsRef::as_ref).chain([&own]))
        };
        if let Some(group) = self.groups.get_mut(index) {
            group.set = Arc::new(set);
            group.height = height;
            group.state = State::Done;
        }
    }
}
