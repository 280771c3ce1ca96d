//! What does a policy file or a boot config say, and is it right?
//!
//! Text or plain values ([`PolicySetSpec`]) go in; either validated types come out, with warnings, or *all* errors,
//! each with its place, field, reason and a suggestion. `docs/policy.md` describes the policy file. Nothing is guessed:
//! a filter that cannot be understood is an error, never "everything".

mod addresses;
mod api_section;
mod api_tcp;
mod boot_change;
mod boot_file;
mod check;
mod contradiction;
mod decap_keys;
mod dedup_section;
mod destinations;
mod diagnostic;
mod diff;
mod document;
mod durations;
mod feed_guard_key;
mod flow_section;
mod group_kind;
mod groups;
mod inverse;
mod limit_section;
mod listen;
mod log_section;
mod metrics_section;
mod names;
mod ovs_section;
mod plain;
mod policies;
mod policy_file;
mod protection_section;
mod ranges;
mod shadow;
mod source;
mod suggest;
mod tap_section;
mod tree;
mod worker_section;

pub use boot_change::BootChange;
pub use boot_file::{MAX_PORTS, load_boot, load_replay, parse_boot};
pub use check::{check_against, check_guests};
#[cfg(any(test, feature = "contract"))]
pub(crate) use destinations::{largest_tag, least_mtu};
pub use diagnostic::{Diagnostic, Diagnostics, Loaded, Severity};
pub use diff::{Change, ChangeType, FieldChange, ObjectKind};
pub use plain::{DestinationSpec, GroupSpec, PolicySetSpec, PolicySpec, SideSpec};
pub use policy_file::{
    MAX_DESTINATIONS, MAX_GROUPS, MAX_POLICIES, load_policy, load_policy_spec, parse_policy,
    parse_policy_spec,
};

#[cfg(test)]
mod tests;
