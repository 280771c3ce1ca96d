//! What is in a policy file, and is it right? Asked here, before anything is sent.

use std::io::Read as _;
use std::path::Path;

use sluice_api::v1;
use sluice_model::spec::{
    Diagnostic, Diagnostics, Loaded, PolicySetSpec, Severity, load_policy_spec, parse_policy_spec,
};

use crate::failure::{Exit, Failure};
use crate::out::{Out, Tone};
use crate::text::safe_lines;

/// The plain values of a file, and the warnings about it; `-` is stdin. Errors and warnings are told with line and field.
pub(crate) fn load(path: &Path, out: Out) -> Result<(PolicySetSpec, Vec<String>), Failure> {
    let loaded = if path == Path::new("-") {
        parse_policy_spec("<stdin>", &text(path)?)
    } else {
        load_policy_spec(path)
    };
    let reason = |warning: &Diagnostic| warning.reason.clone();
    let known = loaded.as_ref().map(|loaded| loaded.warnings.iter().map(reason).collect());
    let known = known.unwrap_or_default();
    Ok((take(loaded.map(|Loaded { value, warnings }| Loaded { value: value.0, warnings }), out)?, known))
}

/// Tells what was found, and gives the value if there were no errors.
pub(crate) fn take<T>(loaded: Result<Loaded<T>, Diagnostics>, out: Out) -> Result<T, Failure> {
    match loaded {
        Ok(Loaded { value, warnings }) => {
            tell(&warnings, out);
            Ok(value)
        }
        Err(errors) => {
            tell(&errors.0, out);
            let count = errors.errors();
            let plural = if count == 1 { "" } else { "s" };
            Err(Failure::new(Exit::Failed, format!("{count} error{plural} in the file; nothing was sent")))
        }
    }
}

fn tell(findings: &[Diagnostic], out: Out) {
    for finding in findings {
        let (tone, label) = match finding.severity {
            Severity::Error => (Tone::Bad, "error"),
            Severity::Warning => (Tone::Warn, "warning"),
        };
        let shown = finding.render();
        let shown = shown.lines().map(crate::text::safe).collect::<Vec<_>>().join("\n");
        let rest = shown.strip_prefix(label).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&shown);
        out.complain(tone, label, rest);
    }
}

/// The text of a file; `-` is stdin.
pub(crate) fn text(path: &Path) -> Result<String, Failure> {
    let limit = u64::try_from(sluice_api::MAX_POLICY_SET_BYTES).unwrap_or(u64::MAX);
    let wrong = |error: std::io::Error| Failure::failed(format!("cannot read {}: {error}", path.display()));
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(limit + 1).read_to_string(&mut text).map_err(wrong)?;
    } else {
        std::fs::File::open(path).map_err(wrong)?.take(limit + 1).read_to_string(&mut text).map_err(wrong)?;
    }
    if text.len() > sluice_api::MAX_POLICY_SET_BYTES {
        return Err(Failure::failed(format!("{} is larger than 64 MiB", path.display())));
    }
    Ok(text)
}

/// The message for a set that was validated.
pub(crate) fn message(spec: &PolicySetSpec) -> Result<v1::PolicySet, Failure> {
    v1::PolicySet::try_from(spec).map_err(|error| Failure::failed(safe_lines(&error.to_string())))
}
