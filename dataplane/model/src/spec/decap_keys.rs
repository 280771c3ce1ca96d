//! What do `decap`, `decap_kinds`, `decap_depth`, `decap_to`, `decap_rest` and `strip_vlan` say, of a port or for all
//! ports?

use crate::{DecapKind, DecapKinds, DecapMode, DecapSettings, StripVlan};

use super::boot_file::narrow;
use super::document::Fields;
use super::source::Report;

/// The settings of a table; what it leaves out is as in `defaults`.
pub(super) fn decap_settings(
    fields: &mut Fields<'_>,
    defaults: DecapSettings,
    report: &Report<'_>,
) -> DecapSettings {
    let mode = fields.choice(
        "decap",
        &[("off", DecapMode::Off), ("strip", DecapMode::Strip), ("look_through", DecapMode::LookThrough)],
    );
    let kinds = kinds(fields, report);
    let depth = fields.integer("decap_depth", 1..=u64::from(DecapSettings::MAX_DEPTH), "a depth (tunnels)");
    let strip_vlan = fields.choice(
        "strip_vlan",
        &[("none", StripVlan::None), ("outer", StripVlan::Outer), ("all", StripVlan::All)],
    );
    let only_own = fields.choice("decap_to", &[("any", false), ("own", true)]).map(|at| at.value);
    let rest = fields.choice("decap_rest", &[("pass", false), ("drop", true)]);
    let mode_value = mode.as_ref().map_or(defaults.mode, |at| at.value);
    let own = only_own.unwrap_or(defaults.only_own);
    let is_end = mode_value == DecapMode::Strip && own;
    // What is said for all ports may not fit this one; what follows from a port being an end is not said.
    let drop_rest = match &rest {
        Some(at) => at.value,
        None if is_end != defaults.is_end() => is_end,
        None => defaults.drop_rest,
    };
    let settings = DecapSettings {
        mode: mode_value,
        kinds: kinds.unwrap_or(defaults.kinds),
        depth: narrow(depth).unwrap_or(defaults.depth),
        strip_vlan: strip_vlan.as_ref().map_or(defaults.strip_vlan, |at| at.value),
        only_own: own,
        drop_rest: drop_rest && mode_value == DecapMode::Strip,
    };
    if let Some(at) = rest.filter(|at| at.value && mode_value != DecapMode::Strip) {
        report.error(
            &at.span,
            fields.field("decap_rest"),
            "no tunnel is taken off, so nothing would be left",
            "write decap = \"strip\", or decap_rest = \"pass\"".to_owned(),
        );
    }
    if settings.mode == DecapMode::LookThrough && settings.strip_vlan != StripVlan::None {
        // Said at the table that brings the two together.
        let (place, key) = match (&strip_vlan, &mode) {
            (Some(at), _) => (at.span.clone(), "strip_vlan"),
            (None, Some(at)) => (at.span.clone(), "decap"),
            (None, None) => return settings,
        };
        report.error(
            &place,
            fields.field(key),
            "tags cannot be stripped where packets leave as they were",
            "write decap = \"strip\", or strip_vlan = \"none\"".to_owned(),
        );
    }
    settings
}

fn kinds(fields: &mut Fields<'_>, report: &Report<'_>) -> Option<DecapKinds> {
    let names = fields.strings("decap_kinds", "[\"vxlan\", \"gre\"]")?;
    let field = fields.field("decap_kinds");
    if names.value.is_empty() {
        let suggestion = "write decap = \"off\", or leave decap_kinds out for all kinds".to_owned();
        report.error(&names.span, field, "an empty list takes nothing off", suggestion);
        return None;
    }
    let mut kinds = DecapKinds::NONE;
    for name in &names.value {
        if let Some(kind) = DecapKind::ALL.into_iter().find(|kind| kind.name() == name.value) {
            kinds = kinds.with(kind);
        } else {
            let suggestion = report.did_you_mean(name.value, DecapKind::ALL.iter().map(|kind| kind.name()));
            let reason = format!("{:?} is no kind of tunnel", name.value);
            report.error(&name.span, &field, reason, suggestion);
        }
    }
    Some(kinds)
}
