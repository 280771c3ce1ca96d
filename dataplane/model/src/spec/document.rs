//! What is the shape of a document: which fields are there, and of which type?
//!
//! Gives values with their places; finds unknown fields, wrong types and TOML syntax errors. What the values mean is
//! not its business.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use toml::de::DeTable;

use super::source::{At, Report, Span, quote};
use super::tree::{self, Integer, Node, Table, Value};

/// Finds the syntax errors, and gives the text without the tables that hold them: these are blanked, so that places
/// stay what they are and the other tables can still be read.
///
/// Of each table only the first error is reported. One forgotten bracket makes a dozen, which nobody wants to read.
pub(super) fn intact<'a>(report: &Report<'a>) -> Cow<'a, str> {
    let text = report.text();
    let (_, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Cow::Borrowed(text);
    }
    report.set_damaged();
    let syntax = |error: &toml::de::Error, start: usize| {
        let span = error.span().unwrap_or(text.len()..text.len());
        let span = start + span.start..start + span.end;
        report.error(&span, "", format!("TOML syntax: {}", error.message()), None);
    };
    let mut clean = String::with_capacity(text.len());
    for table in tables(text) {
        let (_, errors) = DeTable::parse_recoverable(table);
        match errors.first() {
            Some(error) => {
                syntax(error, clean.len());
                clean.extend(table.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
            }
            None => clean.push_str(table),
        }
    }
    // Two tables may be right one by one and not together.
    if report.errors() == 0 {
        for error in &errors {
            syntax(error, 0);
        }
    }
    Cow::Owned(clean)
}

/// Reads a text that [`intact`] gave.
pub(super) fn parse(text: &str) -> Table<'_> {
    tree::from_toml(DeTable::parse_recoverable(text).0.into_inner())
}

/// The text in parts, each but the first from one `[table]` line to the next; `[a.b]` belongs to the `[a]` before.
fn tables(text: &str) -> impl Iterator<Item = &str> {
    let header = |line: &str| line.trim_start().starts_with('[') && !line.contains('.');
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut end = 0;
        for line in rest.split_inclusive('\n') {
            if end > 0 && header(line) {
                break;
            }
            end += line.len();
        }
        let (table, after) = rest.split_at_checked(end)?;
        rest = after;
        (!table.is_empty()).then_some(table)
    })
}

/// The fields of one table. Every field that is asked for is known; [`Fields::finish`] complains about the others.
#[derive(Debug)]
pub(super) struct Fields<'d> {
    table: &'d Table<'d>,
    report: &'d Report<'d>,
    /// Where the table stands.
    pub(super) span: Span,
    /// What it describes: `policy "web"`; empty at the top.
    pub(super) label: String,
    prefix: String,
    asked: Vec<&'static str>,
}

/// Text or number as written in a list: `"80,8000-8100"`, `80`, `"@clients"`.
#[derive(Clone, Debug)]
pub(super) struct Word<'d> {
    pub(super) text: Cow<'d, str>,
    pub(super) span: Span,
}

impl<'d> Fields<'d> {
    pub(super) fn new(table: &'d Table<'d>, span: Span, label: String, report: &'d Report<'d>) -> Self {
        Self { table, report, span, label, prefix: String::new(), asked: Vec::new() }
    }

    /// The full name of a field for messages: `policy "web": collect.ports`.
    pub(super) fn field(&self, key: &str) -> String {
        let separator = if self.label.is_empty() { "" } else { self.report.separator() };
        format!("{}{separator}{}{key}", self.label, self.prefix)
    }

    /// The raw value of a field, which becomes known by asking.
    fn get(&mut self, key: &'static str) -> Option<&'d Node<'d>> {
        self.asked.push(key);
        self.table.get(key).map(|field| &field.node)
    }

    fn wrong_type(&self, key: &str, node: &Node<'_>, wanted: &str, example: &str) {
        let found = node.value.type_name();
        let article = if found.starts_with(['a', 'i']) { "an" } else { "a" };
        let suggestion = format!("write {key} = {example}");
        self.report.error(
            &node.span,
            self.field(key),
            format!("{article} {found} where {wanted} is needed"),
            suggestion,
        );
    }

    pub(super) fn string(&mut self, key: &'static str, example: &str) -> Option<At<&'d str>> {
        let node = self.get(key)?;
        let Some(value) = node.value.as_str() else {
            self.wrong_type(key, node, "a string", example);
            return None;
        };
        Some(At { value, span: node.span.clone() })
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> Option<At<bool>> {
        let node = self.get(key)?;
        let Value::Boolean(value) = node.value else {
            self.wrong_type(key, node, "true or false", "true");
            return None;
        };
        Some(At { value, span: node.span.clone() })
    }

    /// `true`, `false`, or the word `other`, which is `None` as a missing field is.
    pub(super) fn boolean_or(&mut self, key: &'static str, other: &'static str) -> Option<bool> {
        let node = self.get(key)?;
        let value = if let Value::Boolean(value) = node.value { Some(value) } else { None };
        if value.is_none() && node.value.as_str() != Some(other) {
            let wanted = format!("true, false or {}", quote(other));
            match node.value.as_str() {
                Some(text) => {
                    let reason = format!("{} is not one of the choices", quote(text));
                    self.report.error(&node.span, self.field(key), reason, format!("write {wanted}"));
                }
                None => self.wrong_type(key, node, &wanted, &quote(other)),
            }
        }
        value
    }

    /// An integer within bounds; `unit` says what is counted.
    pub(super) fn integer(
        &mut self,
        key: &'static str,
        bounds: RangeInclusive<u64>,
        unit: &str,
    ) -> Option<At<u64>> {
        let node = self.get(key)?;
        let Value::Integer(integer) = &node.value else {
            self.wrong_type(key, node, "an integer", &bounds.start().to_string());
            return None;
        };
        let value = u64::from_str_radix(&integer.digits, integer.radix).ok();
        let Some(value) = value.filter(|v| bounds.contains(v)) else {
            let (low, high) = bounds.into_inner();
            let reason = format!("{integer} is out of range");
            let suggestion = format!("{unit} may be {low} to {high}");
            self.report.error(&node.span, self.field(key), reason, suggestion);
            return None;
        };
        Some(At { value, span: node.span.clone() })
    }

    /// One of a few names.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<At<T>> {
        let example = choices.first().map_or(String::new(), |(name, _)| quote(name));
        let text = self.string(key, &example)?;
        if let Some(&(_, value)) = choices.iter().find(|(name, _)| *name == text.value) {
            return Some(At { value, span: text.span });
        }
        let suggestion = self.report.did_you_mean(text.value, choices.iter().map(|&(name, _)| name));
        self.report.error(
            &text.span,
            self.field(key),
            format!("{} is not one of the choices", quote(text.value)),
            suggestion,
        );
        None
    }

    /// An array of strings.
    pub(super) fn strings(&mut self, key: &'static str, example: &str) -> Option<At<Vec<At<&'d str>>>> {
        let node = self.get(key)?;
        let Value::Array(array) = &node.value else {
            let example = match node.value.as_str() {
                Some(text) => format!("[{}]", quote(text)),
                None => example.to_owned(),
            };
            self.wrong_type(key, node, "an array of strings", &example);
            return None;
        };
        let mut value = Vec::with_capacity(array.len());
        for item in array {
            match item.value.as_str() {
                Some(text) => value.push(At { value: text, span: item.span.clone() }),
                None => self.wrong_type(key, item, "a string", example),
            }
        }
        Some(At { value, span: node.span.clone() })
    }

    /// A list of words: a string with commas, an integer, or an array of these. Never empty.
    pub(super) fn words(&mut self, key: &'static str, example: &str) -> Option<At<Vec<Word<'d>>>> {
        let node = self.get(key)?;
        let errors = self.report.errors();
        let mut value = Vec::new();
        let mut add = |fields: &Self, item: &'d Node<'d>| match &item.value {
            Value::Text(text) => fields.split_words(key, text, item.span.clone(), &mut value),
            Value::Integer(integer) => value.push(Word { text: decimal(integer), span: item.span.clone() }),
            _ => fields.wrong_type(key, item, "a string or an integer", example),
        };
        match &node.value {
            Value::Array(array) => array.iter().for_each(|item| add(self, item)),
            _ => add(self, node),
        }
        if value.is_empty() {
            if self.report.errors() == errors {
                let suggestion = format!("leave {key} out for any, or write {key} = {example}");
                self.report.error(&node.span, self.field(key), "an empty list matches nothing", suggestion);
            }
            return None;
        }
        Some(At { value, span: node.span.clone() })
    }

    /// Splits `text` at its commas; each word gets its own place where the text stands in the file as it is.
    fn split_words(&self, key: &str, text: &'d str, span: Span, words: &mut Vec<Word<'d>>) {
        let verbatim =
            self.report.text().get(span.start + 1..span.end.saturating_sub(1)).is_some_and(|raw| raw == text);
        if text.trim().is_empty() {
            return;
        }
        let mut at = 0;
        for part in text.split(',') {
            let lead = part.len() - part.trim_start().len();
            let word = part.trim();
            let start = span.start + 1 + at + lead;
            let place = if verbatim && !word.is_empty() { start..start + word.len() } else { span.clone() };
            if word.is_empty() {
                let suggestion = "remove the comma that is too many".to_owned();
                let reason = format!("an empty element in {}", quote(text));
                self.report.error(&place, self.field(key), reason, suggestion);
            } else {
                words.push(Word { text: Cow::Borrowed(word), span: place });
            }
            at += part.len() + 1;
        }
    }

    /// A table inside this one.
    pub(super) fn table(&mut self, key: &'static str, example: &str) -> Option<Self> {
        let node = self.get(key)?;
        let Value::Table(table) = &node.value else {
            self.wrong_type(key, node, "a table", example);
            return None;
        };
        let prefix = format!("{}{key}.", self.prefix);
        let label = self.label.clone();
        Some(Self { table, report: self.report, span: node.span.clone(), label, prefix, asked: Vec::new() })
    }

    /// The tables `[[key]]`, each labelled by its name.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<Self> {
        let Some(node) = self.get(key) else { return Vec::new() };
        let Value::Array(array) = &node.value else {
            let found = node.value.type_name();
            let suggestion = format!("write [[{key}]] with two brackets, once for each {key}");
            let reason = format!("{key} is a list of tables, not a {found}");
            self.report.error(&node.span, self.field(key), reason, suggestion);
            return Vec::new();
        };
        let mut tables = Vec::with_capacity(array.len());
        for (i, item) in array.iter().enumerate() {
            let Value::Table(table) = &item.value else {
                self.wrong_type(key, item, "a table", "[{ name = \"...\" }]");
                continue;
            };
            let name = table.get("name").and_then(|name| name.node.value.as_str());
            let label = match (self.report.path(&item.span), name) {
                (Some(path), _) => path,
                (None, Some(name)) if !name.is_empty() => format!("{key} {}", quote(name)),
                (None, _) => format!("{key}[{i}]"),
            };
            tables.push(Self::new(table, item.span.clone(), label, self.report));
        }
        tables
    }

    /// A field that must be there.
    pub(super) fn missing(&self, key: &str, suggestion: impl Into<String>) {
        // A field of the file itself may be in the part that was not understood.
        if self.report.is_well_formed() || !self.label.is_empty() {
            self.report.error(&self.span, self.field(key), "missing", suggestion.into());
        }
    }

    /// The place of a field's name, where it is given.
    pub(super) fn place_of(&self, key: &str) -> Option<Span> {
        self.table.get(key).map(|field| field.key_span.clone())
    }

    /// Complains about every field that nobody asked for.
    pub(super) fn finish(self) {
        for (key, field) in self.table {
            let name: &str = key;
            if !self.asked.contains(&name) {
                let mut known = self.asked.clone();
                known.sort_unstable();
                let suggestion = self.report.did_you_mean(name, known.into_iter());
                self.report.error(&field.key_span, self.field(&bare(name)), "unknown field", suggestion);
            }
        }
    }
}

/// A key as it would be written.
fn bare(key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if plain && key.len() <= 64 { key.to_owned() } else { quote(key) }
}

/// An integer in decimal, whatever its base was; as it stands if it needs more than 64 bits.
fn decimal<'d>(integer: &'d Integer<'_>) -> Cow<'d, str> {
    if integer.radix == 10 {
        return Cow::Borrowed(&integer.digits);
    }
    match u64::from_str_radix(&integer.digits, integer.radix) {
        Ok(value) => Cow::Owned(value.to_string()),
        Err(_) => Cow::Owned(integer.to_string()),
    }
}
