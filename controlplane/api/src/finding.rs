//! How is a finding about a set told to a client?

use sluice_model::spec::{Diagnostic, Severity};

use crate::v1;

impl From<&Diagnostic> for v1::Finding {
    fn from(finding: &Diagnostic) -> Self {
        let severity = match finding.severity {
            Severity::Error => v1::Severity::Error,
            Severity::Warning => v1::Severity::Warning,
        };
        Self {
            severity: severity.into(),
            field: finding.field.clone(),
            reason: finding.reason.clone(),
            suggestion: finding.suggestion.clone().unwrap_or_default(),
        }
    }
}

/// All findings, in their order.
#[must_use]
pub fn findings(list: &[Diagnostic]) -> Vec<v1::Finding> {
    list.iter().map(Into::into).collect()
}

/// Makes paths relative to a request that holds only a part of the set: what begins with `part` (`policies[17]`) begins
/// with `name` (`policy`) then, other paths stay.
pub fn rebase(findings: &mut [v1::Finding], part: &str, name: &str) {
    for finding in findings {
        if let Some(rest) = finding.field.strip_prefix(part)
            && (rest.is_empty() || rest.starts_with(['.', '[']))
        {
            finding.field = match (name, rest.strip_prefix('.')) {
                ("", Some(rest)) => rest.to_owned(),
                _ => format!("{name}{rest}"),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_request() {
        let finding = |field: &str| v1::Finding { field: field.into(), ..v1::Finding::default() };
        let mut list =
            ["policies[1].to[0]", "policies[1]", "policies[17].tag", "groups[1].name"].map(finding).to_vec();
        rebase(&mut list, "policies[1]", "policy");
        let fields: Vec<&str> = list.iter().map(|finding| finding.field.as_str()).collect();
        assert_eq!(fields, ["policy.to[0]", "policy", "policies[17].tag", "groups[1].name"]);
        rebase(&mut list, "policy", "");
        assert_eq!(list[0].field, "to[0]");
    }
}
