//! Is a name well formed and unique?

use std::collections::HashMap;

use super::document::Fields;
use super::source::{At, Report, Span, quote};

/// The longest name, in bytes.
const MAX_LEN: usize = 63;

/// The names of one kind so far, with what each stands for.
#[derive(Debug)]
pub(super) struct Names<'d> {
    /// "policy", for messages.
    kind: &'static str,
    seen: HashMap<&'d str, Seen>,
}

#[derive(Clone, Debug)]
struct Seen {
    index: usize,
    span: Span,
}

impl<'d> Names<'d> {
    pub(super) fn new(kind: &'static str) -> Self {
        Self { kind, seen: HashMap::new() }
    }

    /// Reads the `name` of a table and enters it for `index`; reports one that is missing, malformed or taken.
    /// A malformed name is entered all the same, so that references to it are not reported again.
    pub(super) fn enter(
        &mut self,
        fields: &mut Fields<'d>,
        index: usize,
        report: &Report<'_>,
    ) -> Option<At<&'d str>> {
        let example = format!("\"my-{}\"", self.kind);
        let Some(name) = fields.string("name", &example) else {
            if fields.place_of("name").is_none() {
                fields.missing("name", format!("every {} has a name: name = {example}", self.kind));
            }
            return None;
        };
        if !is_good(name.value) {
            report.error(
                &name.span,
                fields.field("name"),
                format!(
                    "{} is no good name: 1 to {MAX_LEN} of the characters A-Z a-z 0-9 _ . -",
                    quote(name.value)
                ),
                mended(name.value).map(|mended| format!("write {}", quote(&mended))),
            );
        }
        if let Some(first) = self.seen.get(name.value) {
            let first = report.place(&first.span);
            let reason = format!("a second {} {}; the first is in {first}", self.kind, quote(name.value));
            report.error(&name.span, fields.field("name"), reason, "give each its own name".to_owned());
        } else {
            self.seen.insert(name.value, Seen { index, span: name.span.clone() });
        }
        Some(name)
    }

    /// The index of a name.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.seen.get(name).map(|seen| seen.index)
    }

    /// The index of a name that something refers to; reported if there is none.
    pub(super) fn resolve(&self, name: &At<&str>, field: &str, report: &Report<'_>) -> Option<usize> {
        if let Some(index) = self.find(name.value) {
            return Some(index);
        }
        if !report.is_well_formed() {
            return None;
        }
        let suggestion = if self.seen.is_empty() {
            Some(format!("define it: [[{0}]] with name = {1}", self.kind, quote(name.value)))
        } else {
            let mut known: Vec<&str> = self.seen.keys().copied().collect();
            known.sort_unstable();
            report.did_you_mean(name.value, known.into_iter())
        };
        report.error(&name.span, field, format!("no {} {}", self.kind, quote(name.value)), suggestion);
        None
    }
}

fn is_good(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_LEN && name.chars().all(is_good_char)
}

fn is_good_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

/// A well-formed name like `name`, if there is any.
fn mended(name: &str) -> Option<String> {
    let mend = |c: char| if is_good_char(c) { c } else { '_' };
    let mended: String = name.trim().chars().take(MAX_LEN).map(mend).collect();
    (!mended.is_empty()).then_some(mended)
}
