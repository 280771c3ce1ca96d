//! What is wrong with a file, said so that it can be mended: place, field, reason and suggestion?

use std::fmt;
use std::sync::Arc;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is taken, but probably does not say what was meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One finding in a file.
///
/// `Display` is one line, `policy.toml:12:9: error: policy "web": collect.ports: reversed range 90-80; write 80-90`;
/// [`Diagnostic::render`] shows the line of the file, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The file, as it was named when it was opened; empty for values that came without a text.
    pub file: Arc<str>,
    /// The line, from 1; 0 when the finding has no place in the text.
    pub line: u32,
    /// The column in characters, from 1; 0 when the finding has no place in the text.
    pub column: u32,
    /// The field: `policy "web": collect.ports`, or its path `policies[3].collect.ports[1]` where there is no text;
    /// empty for a finding about the whole.
    pub field: String,
    /// What is wrong.
    pub reason: String,
    /// What to write instead.
    pub suggestion: Option<String>,
    /// The line of the file, without control characters, and how many of its characters are meant.
    pub(super) excerpt: Option<(String, u32)>,
}

impl Diagnostic {
    /// A finding about a file as a whole.
    #[must_use]
    pub fn about_file(severity: Severity, file: &str, reason: String, suggestion: Option<String>) -> Self {
        Self {
            severity,
            file: file.into(),
            line: 0,
            column: 0,
            field: String::new(),
            reason,
            suggestion,
            excerpt: None,
        }
    }

    /// Several lines for a terminal: the finding, the line of the file with the place marked, and the suggestion.
    #[must_use]
    pub fn render(&self) -> String {
        let separator = if self.field.is_empty() { "" } else { ": " };
        let gutter = self.line.to_string().len();
        let place = if self.line == 0 { String::new() } else { format!(":{}:{}", self.line, self.column) };
        let mut lines = vec![format!("{}: {}{separator}{}", self.severity, self.field, self.reason)];
        if !self.file.is_empty() {
            lines.push(format!("{:gutter$}--> {}{place}", "", self.file));
        }
        if let Some((text, width)) = &self.excerpt {
            let before = " ".repeat(usize::try_from(self.column).unwrap_or(1).saturating_sub(1));
            let carets = "^".repeat(usize::try_from(*width).unwrap_or(1).max(1));
            lines.push(format!("{:gutter$} |", ""));
            lines.push(format!("{} | {text}", self.line));
            lines.push(format!("{:gutter$} | {before}{carets}", ""));
        }
        if let Some(suggestion) = &self.suggestion {
            lines.push(format!("{:gutter$} = help: {suggestion}", ""));
        }
        lines.join("\n")
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        let separator = if self.file.is_empty() { "" } else { ": " };
        write!(f, "{separator}{}: ", self.severity)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "; {suggestion}"),
            None => Ok(()),
        }
    }
}

/// All findings in a file, errors and warnings, in the order of the text. At least one is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// How many of them are errors.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.0.iter().filter(|d| d.severity == Severity::Error).count()
    }

    /// All of them as [`Diagnostic::render`] shows each, with an empty line between.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.iter().map(Diagnostic::render).collect::<Vec<_>>().join("\n\n")
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// What was read from a file without an error, and what is odd about it.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    /// The validated content.
    pub value: T,
    /// Warnings, in the order of the text.
    pub warnings: Vec<Diagnostic>,
}
