//! How do records become columns?
//!
//! The schema follows from the declaration of the fields: numbers are unsigned integers of their width, times are
//! timestamps in microseconds (UTC), all the rest is text. Addresses are text because every reader compares, groups and
//! prints text as it is, and because they are then what the JSON lines say.

use std::fs::File;
use std::sync::Arc;

use parquet::basic::{LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::errors::Result;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{Type, TypePtr};
use sluice_model::fields::{Field, FieldKind, FieldValue};

use super::encode::{Encoder, Form, Gathered, Values};

/// Records that are turned into columns together: they fit the second-level cache.
const CHUNK_ROWS: usize = 256;

/// The fields of a table, and their schema.
#[derive(Debug)]
pub(crate) struct Columns<R: 'static> {
    fields: Vec<(&'static Field<R>, Form)>,
    schema: TypePtr,
    /// The columns of the row group before, whose memory is used again.
    gathered: Vec<Gathered>,
}

impl<R> Columns<R> {
    pub(crate) fn new(
        fields: impl Iterator<Item = &'static Field<R>>,
        form: fn(&str, FieldKind) -> Form,
    ) -> Result<Self> {
        let fields: Vec<_> = fields.map(|field| (field, form(field.name, field.kind))).collect();
        let columns = fields.iter().map(|(field, _)| Ok(Arc::new(column(field)?)));
        let schema = Type::group_type_builder("sluice").with_fields(columns.collect::<Result<_>>()?);
        let gathered = fields.iter().map(|(field, _)| Gathered::new(field)).collect();
        Ok(Self { schema: Arc::new(schema.build()?), fields, gathered })
    }

    pub(crate) fn schema(&self) -> &TypePtr {
        &self.schema
    }

    /// Writes the records of `rows` that `order` names, in this order, as a row group.
    pub(crate) fn write<K>(
        &mut self,
        rows: &[R],
        order: &[(K, u32)],
        encoder: &mut Encoder,
        file: &mut SerializedFileWriter<File>,
    ) -> Result<()> {
        self.gathered.iter_mut().for_each(Gathered::clear);
        let mut chunk: Vec<&R> = Vec::with_capacity(CHUNK_ROWS);
        for places in order.chunks(CHUNK_ROWS) {
            chunk.clear();
            chunk.extend(places.iter().filter_map(|(_, place)| rows.get(*place as usize)));
            for (column, (field, _)) in self.gathered.iter_mut().zip(&self.fields) {
                column.extend(field.value, &chunk);
            }
        }
        let descriptions = file.schema_descr().columns().to_vec();
        let mut group = file.next_row_group()?;
        for ((column, (_, form)), description) in self.gathered.iter().zip(&self.fields).zip(&descriptions) {
            let (bytes, close) = encoder.encode(column, order.len(), *form, description)?;
            group.append_column(&bytes, close)?;
        }
        group.close()?;
        Ok(())
    }
}

/// A column of the schema.
fn column<R>(field: &Field<R>) -> Result<Type> {
    let (physical, logical) = match field.kind {
        FieldKind::U8 => (Physical::INT32, LogicalType::integer(8, false)),
        FieldKind::U16 => (Physical::INT32, LogicalType::integer(16, false)),
        FieldKind::U32 => (Physical::INT32, LogicalType::integer(32, false)),
        FieldKind::U64 => (Physical::INT64, LogicalType::integer(64, false)),
        FieldKind::Time => (Physical::INT64, LogicalType::timestamp(true, TimeUnit::MICROS)),
        FieldKind::Mac | FieldKind::Ipv4 | FieldKind::Ipv6 | FieldKind::Text => {
            (Physical::BYTE_ARRAY, LogicalType::String)
        }
    };
    let repetition = if field.null.is_empty() { Repetition::REQUIRED } else { Repetition::OPTIONAL };
    let column = Type::primitive_type_builder(field.name, physical);
    column.with_repetition(repetition).with_logical_type(Some(logical)).build()
}

impl Gathered {
    fn new<R>(field: &Field<R>) -> Self {
        let values = match field.kind {
            FieldKind::U8 | FieldKind::U16 | FieldKind::U32 => Values::Narrow(Vec::new()),
            FieldKind::U64 | FieldKind::Time => Values::Wide(Vec::new()),
            FieldKind::Mac | FieldKind::Ipv4 | FieldKind::Ipv6 | FieldKind::Text => {
                Values::Text(Box::default())
            }
        };
        let most = match field.kind {
            FieldKind::U8 => u8::MAX.into(),
            FieldKind::U16 => u16::MAX.into(),
            FieldKind::U32 => u32::MAX.into(),
            FieldKind::Time => i64::MAX.cast_unsigned(),
            _ => u64::MAX,
        };
        Self { values, most, present: (!field.null.is_empty()).then(Vec::new) }
    }

    fn clear(&mut self) {
        match &mut self.values {
            Values::Narrow(values) => values.clear(),
            Values::Wide(values) => values.clear(),
            Values::Text(texts) => texts.clear(),
        }
        self.present.iter_mut().for_each(Vec::clear);
    }

    fn extend<R>(&mut self, value: fn(&R) -> FieldValue<'_>, rows: &[&R]) {
        let most = self.most;
        match &mut self.values {
            Values::Narrow(values) => numbers(&mut self.present, value, rows, |number| {
                values.push(u32::try_from(number.min(most)).unwrap_or(u32::MAX));
            }),
            Values::Wide(values) => {
                numbers(&mut self.present, value, rows, |number| values.push(number.min(most)));
            }
            Values::Text(texts) => {
                for row in rows {
                    let is = texts.push(value(row));
                    if let Some(present) = &mut self.present {
                        present.push(is.into());
                    } else if !is {
                        // A null that the declaration does not allow.
                        texts.push(FieldValue::Text(""));
                    }
                }
            }
        }
    }
}

/// Appends numbers. A null that the declaration does not allow is a zero.
fn numbers<R>(
    present: &mut Option<Vec<u8>>,
    value: fn(&R) -> FieldValue<'_>,
    rows: &[&R],
    mut push: impl FnMut(u64),
) {
    match present {
        None => {
            for row in rows {
                push(if let FieldValue::Number(number) = value(row) { number } else { 0 });
            }
        }
        Some(present) => {
            for row in rows {
                let number = if let FieldValue::Number(number) = value(row) { Some(number) } else { None };
                present.push(number.is_some().into());
                if let Some(number) = number {
                    push(number);
                }
            }
        }
    }
}
