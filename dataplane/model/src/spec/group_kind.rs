//! What does a destination of `type = "group"` say, and are its members right?

use super::document::{Fields, Word};
use super::names::Names;
use super::source::{At, Report, Span, quote};
use crate::{Destination, DestinationId, DestinationKind, Group, GroupHash, Member};

/// The fields of a group, as they stand in the file: its members may be defined further down.
#[derive(Debug)]
pub(super) struct ReadGroup<'d> {
    members: Option<At<Vec<At<&'d str>>>>,
    weights: Option<At<Vec<Word<'d>>>>,
    pub(super) hash: GroupHash,
    /// Field names for messages.
    members_field: String,
    weights_field: String,
}

impl<'d> ReadGroup<'d> {
    pub(super) fn new(fields: &mut Fields<'d>) -> Self {
        let members = fields.strings("members", "[\"ids1\", \"ids2\"]");
        let weights = fields.words("weights", "[1, 1]");
        let hash = fields.choice(
            "hash",
            &[("auto", GroupHash::Auto), ("outer", GroupHash::Outer), ("inner", GroupHash::Inner)],
        );
        Self {
            members,
            weights,
            hash: hash.map_or(GroupHash::Auto, |at| at.value),
            members_field: fields.field("members"),
            weights_field: fields.field("weights"),
        }
    }

    /// Finds the members among all destinations; reports what is wrong with them.
    pub(super) fn resolve(
        &self,
        names: &Names<'d>,
        is_group: impl Fn(usize) -> bool,
        report: &Report<'_>,
    ) -> Vec<Member> {
        let Some(named) = &self.members else { return Vec::new() };
        let field = &self.members_field;
        if named.value.is_empty() {
            let suggestion = "name at least one destination: members = [\"ids1\", \"ids2\"]".to_owned();
            report.error(&named.span, field, "a group without members", suggestion);
        }
        if let Some(first) = named.value.get(Group::MAX_MEMBERS) {
            let reason = format!(
                "{} members are more than the {} that are possible",
                named.value.len(),
                Group::MAX_MEMBERS
            );
            report.error(&first.span, field, reason, None);
        }
        let weights = self.weights(&named.span, named.value.len(), report);
        let mut members: Vec<Member> = Vec::with_capacity(named.value.len());
        for (place, name) in named.value.iter().enumerate().take(Group::MAX_MEMBERS) {
            let Some(index) = names.resolve(name, field, report) else { continue };
            let Ok(destination) = u16::try_from(index).map(DestinationId) else { continue };
            let told = quote(name.value);
            if is_group(index) {
                let suggestion = "name the members of that group instead".to_owned();
                report.error(&name.span, field, format!("{told} is a group itself"), suggestion);
            } else if members.iter().any(|member| member.destination == destination) {
                let suggestion = "remove one of them; for a larger share, use weights".to_owned();
                report.error(&name.span, field, format!("{told} is named twice"), suggestion);
            } else {
                members.push(Member { destination, weight: weights.get(place).copied().unwrap_or(1) });
            }
        }
        members
    }

    fn weights(&self, members: &Span, count: usize, report: &Report<'_>) -> Vec<u16> {
        let Some(given) = &self.weights else { return Vec::new() };
        let weight = |word: &Word<'_>| {
            let weight = word.text.parse().ok().filter(|weight| (1..=Group::MAX_WEIGHT).contains(weight));
            if weight.is_none() {
                let reason = format!("{} is no weight", quote(&word.text));
                let suggestion = format!("weights may be 1 to {}", Group::MAX_WEIGHT);
                report.error(&word.span, &self.weights_field, reason, suggestion);
            }
            weight.unwrap_or(1)
        };
        let weights: Vec<u16> = given.value.iter().map(weight).collect();
        if weights.len() != count {
            let reason = format!("{} weights for {count} members ({})", weights.len(), report.place(members));
            report.error(&given.span, &self.weights_field, reason, "give each member one".to_owned());
        }
        weights
    }
}

/// The destinations that copies to `destination` end at: its members, or itself.
pub(super) fn endpoints<'a>(
    destination: &'a Destination,
    all: &'a [Option<Destination>],
) -> impl Iterator<Item = &'a Destination> {
    let (own, members) = match &destination.kind {
        DestinationKind::Group(group) => (None, group.members.as_slice()),
        _ => (Some(destination), Default::default()),
    };
    let found = members.iter().filter_map(|member| all.get(member.destination.index())?.as_ref());
    own.into_iter().chain(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PolicySet;
    use crate::spec::parse_policy;

    const MEMBERS: &str = "[[destination]]\nname = \"a\"\ntype = \"pcap\"\nfile = \"a.pcap\"\n\
                           [[destination]]\nname = \"b\"\ntype = \"vxlan\"\nremote = \"192.0.2.9\"\n\
                           [[policy]]\nname = \"all\"\nto = [\"pool\"]\n";

    fn text(group: &str) -> String {
        format!("[[destination]]\nname = \"pool\"\ntype = \"group\"\n{group}\n{MEMBERS}")
    }

    fn parse(group: &str) -> (PolicySet, Vec<String>) {
        let loaded = parse_policy("p.toml", &text(group)).unwrap();
        (loaded.value, loaded.warnings.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn members_may_be_defined_later() {
        let (set, warnings) =
            parse("members = [\"b\", \"a\"]\nweights = [3, 1]\nhash = \"outer\"\nrate_pps = 9");
        let member = |number, weight| Member { destination: DestinationId(number), weight };
        let group = Group { members: vec![member(2, 3), member(1, 1)], hash: GroupHash::Outer };
        assert_eq!(set.destinations()[0].kind, DestinationKind::Group(group));
        assert_eq!(set.destinations()[0].limit.unwrap().rate_pps, Some(9));
        assert!(warnings.is_empty(), "the members are used: {warnings:?}");
        let (set, _) = parse("members = [\"a\"]");
        let DestinationKind::Group(group) = &set.destinations()[0].kind else { panic!() };
        assert_eq!((group.members[0].weight, group.hash), (1, GroupHash::Auto));
    }

    #[test]
    fn mistakes_are_told_with_what_to_write() {
        let many = format!("members = [{}]", vec!["\"a\""; 65].join(", "));
        for (group, told) in [
            ("", "members"),
            ("members = []", "at least one"),
            ("members = [\"c\"]", "no destination \"c\""),
            ("members = [\"pool\"]", "a group itself"),
            ("members = [\"a\", \"a\"]", "named twice"),
            (&many, "64"),
            ("members = [\"a\", \"b\"]\nweights = [1]", "1 weights for 2 members (line 4)"),
            ("members = [\"a\", \"b\"]\nweights = [1, 0]", "1 to 1000"),
            ("members = [\"a\"]\nhash = \"iner\"", "inner"),
            ("members = [\"a\"]\nremote = \"192.0.2.1\"", "remote belongs to"),
            ("members = [\"a\"]\ninner_vlan = true", "inner_vlan belongs to"),
            ("members = [\"a\"]\nburst_ms = 3", "rate_mbps"),
        ] {
            let found = parse_policy("p.toml", &text(group)).unwrap_err();
            assert!(found.0.iter().any(|error| error.to_string().contains(told)), "{group}: {found}");
        }
        let other = text("members = [\"a\"]").replace("remote =", "members = [\"a\"]\nremote =");
        let found = parse_policy("p.toml", &other).unwrap_err();
        assert!(found.to_string().contains("members belongs to group"), "{found}");
    }

    #[test]
    fn a_tag_must_fit_every_member() {
        let tagged = text("members = [\"a\", \"e\"]").replace("to = [", "tag = 5000\nto = [").replace(
            "[[policy]]",
            "[[destination]]\nname = \"e\"\ntype = \"erspan2\"\nremote = \"192.0.2.7\"\n[[policy]]",
        );
        let found = parse_policy("p.toml", &tagged).unwrap_err();
        assert!(found.to_string().contains("\"e\" cannot carry tag 5000"), "{found}");
    }
}
