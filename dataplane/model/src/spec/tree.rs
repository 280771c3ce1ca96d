//! What is the plain form of a document, whatever it was written in?
//!
//! TOML text and the values of a [`PolicySetSpec`](super::PolicySetSpec) both become this tree, so that everything that
//! reads fields has one input. Places are spans of the text, or numbers of paths: the
//! [`Report`](super::source::Report) knows which.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::source::Span;

/// A value and its place.
#[derive(Debug)]
pub(super) struct Node<'d> {
    pub(super) value: Value<'d>,
    pub(super) span: Span,
}

/// A field's value, and the place of its name.
#[derive(Debug)]
pub(super) struct Field<'d> {
    pub(super) key_span: Span,
    pub(super) node: Node<'d>,
}

/// Fields by their names.
pub(super) type Table<'d> = BTreeMap<Cow<'d, str>, Field<'d>>;

/// What stands in a document.
#[derive(Debug)]
pub(super) enum Value<'d> {
    Text(Cow<'d, str>),
    Integer(Integer<'d>),
    Boolean(bool),
    Array(Vec<Node<'d>>),
    Table(Table<'d>),
    /// What no field takes, by the name of its type.
    Other(&'static str),
}

/// An integer as it was written.
#[derive(Debug)]
pub(super) struct Integer<'d> {
    pub(super) digits: Cow<'d, str>,
    pub(super) radix: u32,
}

impl Value<'_> {
    /// The name of the type for messages.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) => "string",
            Self::Integer(_) => "integer",
            Self::Boolean(_) => "boolean",
            Self::Array(_) => "array",
            Self::Table(_) => "table",
            Self::Other(name) => name,
        }
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
}

impl fmt::Display for Integer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.radix {
            2 => "0b",
            8 => "0o",
            16 => "0x",
            _ => "",
        })?;
        f.write_str(&self.digits)
    }
}

/// The tree of a TOML document.
pub(super) fn from_toml<'d>(table: DeTable<'d>) -> Table<'d> {
    let field = |(key, value): (Spanned<Cow<'d, str>>, Spanned<DeValue<'d>>)| {
        let key_span = key.span();
        (key.into_inner(), Field { key_span, node: node(value) })
    };
    table.into_iter().map(field).collect()
}

fn node(value: Spanned<DeValue<'_>>) -> Node<'_> {
    let span = value.span();
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text),
        DeValue::Integer(integer) => {
            // A number of TOML gives its digits only to look at.
            let digits = Cow::Owned(integer.as_str().to_owned());
            Value::Integer(Integer { digits, radix: integer.radix() })
        }
        DeValue::Boolean(value) => Value::Boolean(value),
        DeValue::Array(array) => Value::Array(array.into_iter().map(node).collect()),
        DeValue::Table(table) => Value::Table(from_toml(table)),
        other @ (DeValue::Float(_) | DeValue::Datetime(_)) => Value::Other(other.type_str()),
    };
    Node { value, span }
}

/// The way to each value of a tree that has no text: a value is known by its number.
#[derive(Debug)]
pub(super) struct Paths(Vec<(usize, Step)>);

/// The last step to a value, after the way to what holds it.
#[derive(Debug)]
enum Step {
    Whole,
    Field(Box<str>),
    Element(usize),
}

impl Paths {
    /// The path to value `number`, such as `policies[3].collect.ports[1]`; empty for the whole.
    pub(super) fn show(&self, number: usize) -> String {
        let Some((parent, step)) = self.0.get(number) else { return String::new() };
        match step {
            Step::Whole => String::new(),
            Step::Element(index) => format!("{}[{index}]", self.show(*parent)),
            Step::Field(name) if *parent == 0 => plural(name).to_owned(),
            Step::Field(name) => format!("{}.{name}", self.show(*parent)),
        }
    }

    fn add(&mut self, parent: usize, step: Step) -> usize {
        self.0.push((parent, step));
        self.0.len() - 1
    }
}

/// The tree of plain values; the place of each is its number among the paths.
pub(super) fn from_values(table: toml::Table) -> (Table<'static>, Paths) {
    let mut paths = Paths(vec![(0, Step::Whole)]);
    let table = plant_table(table, 0, &mut paths);
    (table, paths)
}

fn plant_table(table: toml::Table, number: usize, paths: &mut Paths) -> Table<'static> {
    let mut fields = Table::new();
    for (key, value) in table {
        let node = plant(value, number, Step::Field(key.as_str().into()), paths);
        fields.insert(Cow::Owned(key), Field { key_span: node.span.clone(), node });
    }
    fields
}

fn plant(value: toml::Value, parent: usize, step: Step, paths: &mut Paths) -> Node<'static> {
    let number = paths.add(parent, step);
    let value = match value {
        toml::Value::String(text) => Value::Text(Cow::Owned(text)),
        toml::Value::Integer(integer) => {
            Value::Integer(Integer { digits: Cow::Owned(integer.to_string()), radix: 10 })
        }
        toml::Value::Boolean(value) => Value::Boolean(value),
        toml::Value::Array(array) => {
            let items = array.into_iter().enumerate();
            Value::Array(items.map(|(i, item)| plant(item, number, Step::Element(i), paths)).collect())
        }
        toml::Value::Table(table) => Value::Table(plant_table(table, number, paths)),
        toml::Value::Float(_) => Value::Other("float"),
        toml::Value::Datetime(_) => Value::Other("datetime"),
    };
    Node { value, span: number..number + 1 }
}

/// The lists of a set, by the name of the table that a file has for each element.
pub(super) fn plural(table: &str) -> &str {
    match table {
        "destination" => "destinations",
        "group" => "groups",
        "policy" => "policies",
        other => other,
    }
}
