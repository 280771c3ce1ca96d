//! Where in a text is a byte, or which field has that path, and what was found so far?

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::Arc;

use super::diagnostic::{Diagnostic, Diagnostics, Loaded, Severity};
use super::suggest;
use super::tree::{Paths, plural};

/// How many findings are kept: enough for any file that somebody wrote, and a bound on memory for any other.
pub(super) const MAX_FINDINGS: usize = 10_000;

/// Characters of a source line that are shown.
const MAX_EXCERPT: usize = 160;

/// Longer lines are not looked at whole.
const MAX_LINE_BYTES: usize = 8_192;

/// How many names are compared in search of the one that was meant, for all findings together.
const MAX_NAMES_COMPARED: usize = 200_000;

/// Bytes of the text that something takes; of values without a text, the number of a path.
pub(super) type Span = Range<usize>;

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

/// A text, or a set of values without one, under examination, and what was found in it.
#[derive(Debug)]
pub(super) struct Report<'a> {
    file: Arc<str>,
    text: &'a str,
    line_starts: Vec<usize>,
    /// Of values without a text: the path to each, by the number that is its place.
    paths: Option<Paths>,
    /// Each with its place among values without a text.
    findings: RefCell<Vec<(usize, Diagnostic)>>,
    errors: Cell<usize>,
    names_compared: Cell<usize>,
    /// Whether parts of the text were not understood.
    damaged: Cell<bool>,
}

impl<'a> Report<'a> {
    pub(super) fn new(file: &str, text: &'a str) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self {
            file: file.into(),
            text,
            line_starts,
            paths: None,
            findings: RefCell::new(Vec::new()),
            errors: Cell::new(0),
            names_compared: Cell::new(0),
            damaged: Cell::new(false),
        }
    }

    /// For values without a text, each with a path to it.
    pub(super) fn of_values(paths: Paths) -> Self {
        Self { paths: Some(paths), ..Self::new("", "") }
    }

    /// The path to a value, where there is no text.
    pub(super) fn path(&self, span: &Span) -> Option<String> {
        self.paths.as_ref().map(|paths| paths.show(span.start))
    }

    /// What stands between the name of a thing and its field.
    pub(super) fn separator(&self) -> &'static str {
        if self.paths.is_some() { "." } else { ": " }
    }

    /// The name of a list in messages: that of its tables in a file.
    pub(super) fn list<'n>(&self, table: &'n str) -> &'n str {
        if self.paths.is_some() { plural(table) } else { table }
    }

    /// Where something stands, in words.
    pub(super) fn place(&self, span: &Span) -> String {
        match self.path(span) {
            Some(path) => path,
            None => format!("line {}", self.line_of(span.start)),
        }
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// Notes that parts of the text were not understood.
    pub(super) fn set_damaged(&self) {
        self.damaged.set(true);
    }

    /// Whether there was no syntax error: else what seems to be missing may be in the part that was not understood.
    pub(super) fn is_well_formed(&self) -> bool {
        !self.damaged.get()
    }

    /// The number of errors so far.
    pub(super) fn errors(&self) -> usize {
        self.errors.get()
    }

    pub(super) fn error(
        &self,
        span: &Span,
        field: impl Into<String>,
        reason: impl Into<String>,
        suggestion: impl Into<Option<String>>,
    ) {
        self.errors.set(self.errors.get() + 1);
        self.add(Severity::Error, span, field.into(), reason.into(), suggestion.into());
    }

    pub(super) fn warning(
        &self,
        span: &Span,
        field: impl Into<String>,
        reason: impl Into<String>,
        suggestion: impl Into<Option<String>>,
    ) {
        self.add(Severity::Warning, span, field.into(), reason.into(), suggestion.into());
    }

    /// "did you mean NAME?", while the work for it is bearable.
    pub(super) fn did_you_mean<'n>(
        &self,
        wrong: &str,
        known: impl ExactSizeIterator<Item = &'n str>,
    ) -> Option<String> {
        let compared = self.names_compared.get().saturating_add(known.len());
        self.names_compared.set(compared);
        if compared > MAX_NAMES_COMPARED { None } else { suggest::did_you_mean(wrong, known) }
    }

    /// The value with its warnings, or all findings when one of them is an error.
    pub(super) fn finish<T>(self, value: T) -> Result<Loaded<T>, Diagnostics> {
        let errors = self.errors.get();
        let mut findings = self.findings.into_inner();
        findings.sort_by_key(|(at, d)| (d.line, d.column, *at, d.severity));
        let mut findings: Vec<Diagnostic> = findings.into_iter().map(|(_, finding)| finding).collect();
        // What does not fit is said, so that nobody takes the list for complete.
        if findings.len() == MAX_FINDINGS {
            let reason =
                format!("more than {MAX_FINDINGS} findings ({errors} errors); the rest is not shown");
            findings.push(Diagnostic::about_file(Severity::Warning, &self.file, reason, None));
        }
        if errors == 0 { Ok(Loaded { value, warnings: findings }) } else { Err(Diagnostics(findings)) }
    }

    /// The line (from 1) that holds byte `at`.
    fn line_of(&self, at: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= at)
    }

    fn add(
        &self,
        severity: Severity,
        span: &Span,
        field: String,
        reason: String,
        suggestion: Option<String>,
    ) {
        let mut findings = self.findings.borrow_mut();
        if findings.len() >= MAX_FINDINGS {
            return;
        }
        if let Some(path) = self.path(span) {
            // An element of a list says more than the list.
            let element = path.strip_prefix(&*field).is_some_and(|rest| rest.starts_with('['));
            let field = if element { path } else { field };
            let finding = Diagnostic::about_file(severity, "", reason, suggestion);
            findings.push((span.start, Diagnostic { field, ..finding }));
            return;
        }
        let line = self.line_of(span.start);
        let start = self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
        // On a line of megabytes the column is in bytes: counting characters for each finding would take minutes.
        let before = match self.text.get(start..span.start) {
            Some(before) if before.len() <= MAX_LINE_BYTES => before.chars().count(),
            _ => span.start.saturating_sub(start),
        };
        let line_text = first_line(self.text.get(start..).unwrap_or(""));
        let meant = first_line(self.text.get(span.clone()).unwrap_or("")).chars().count();
        let shown: String =
            line_text.chars().take(MAX_EXCERPT).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let excerpt = (before < MAX_EXCERPT).then(|| {
            let room = shown.chars().count().saturating_sub(before);
            (shown, count(meant.min(room).max(1)))
        });
        let finding = Diagnostic {
            severity,
            file: Arc::clone(&self.file),
            line: count(line),
            column: count(before + 1),
            field,
            reason,
            suggestion,
            excerpt,
        };
        findings.push((0, finding));
    }
}

/// A user's text inside a message: quoted, control characters escaped, cut when long.
pub(super) fn quote(text: &str) -> String {
    const MAX: usize = 64;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{:?}...", text.get(..end).unwrap_or("")),
        None => format!("{text:?}"),
    }
}

/// The first line of `text`, as far as it is looked at.
fn first_line(text: &str) -> &str {
    let end = (0..=MAX_LINE_BYTES.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    text.get(..end).unwrap_or("").lines().next().unwrap_or("")
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
