//! How do records become Arrow columns?
//!
//! The schema follows from the declaration of the fields: numbers are unsigned integers of their width, times are
//! timestamps in microseconds (UTC), all the rest is text. Addresses are text because every reader compares, groups and
//! prints text as it is, and because they are then what the JSON lines say.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::types::{Int32Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{
    ArrayRef, ArrowPrimitiveType, DictionaryArray, PrimitiveArray, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow_buffer::{NullBufferBuilder, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Field as ArrowField, Schema, SchemaRef, TimeUnit};
use sluice_model::fields::{Field, FieldKind, FieldValue};

/// Records that are turned into columns together: they fit the second-level cache.
const CHUNK_ROWS: usize = 256;

/// The fields of a table, and their schema.
#[derive(Debug)]
pub(crate) struct Columns<R: 'static> {
    fields: Vec<&'static Field<R>>,
    schema: SchemaRef,
}

impl<R: Clone> Columns<R> {
    pub(crate) fn new(fields: impl Iterator<Item = &'static Field<R>>) -> Self {
        let fields: Vec<_> = fields.collect();
        let arrow =
            |field: &&Field<R>| ArrowField::new(field.name, data_type(field.kind), !field.null.is_empty());
        let schema = Arc::new(Schema::new(fields.iter().map(arrow).collect::<Vec<_>>()));
        Self { fields, schema }
    }

    pub(crate) fn fields(&self) -> &[&'static Field<R>] {
        &self.fields
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The records of `rows` that `order` names, in this order.
    pub(crate) fn batch<K>(&self, rows: &[R], order: &[(K, u32)]) -> Result<RecordBatch, ArrowError> {
        let mut columns: Vec<_> = self.fields.iter().map(|field| Column::new(field, order.len())).collect();
        let mut chunk: Vec<R> = Vec::with_capacity(CHUNK_ROWS);
        for places in order.chunks(CHUNK_ROWS) {
            chunk.clear();
            chunk.extend(places.iter().filter_map(|(_, place)| rows.get(*place as usize)).cloned());
            for (column, field) in columns.iter_mut().zip(&self.fields) {
                column.extend(field.value, &chunk);
            }
        }
        let arrays = columns.into_iter().map(Column::finish).collect::<Result<_, _>>()?;
        RecordBatch::try_new(Arc::clone(&self.schema), arrays)
    }
}

fn data_type(kind: FieldKind) -> DataType {
    match kind {
        FieldKind::U8 => DataType::UInt8,
        FieldKind::U16 => DataType::UInt16,
        FieldKind::U32 => DataType::UInt32,
        FieldKind::U64 => DataType::UInt64,
        FieldKind::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        // In the file it is plain text: the dictionary only saves work on the way.
        FieldKind::Mac | FieldKind::Ipv4 | FieldKind::Ipv6 | FieldKind::Text => {
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
        }
    }
}

/// A column that grows.
struct Column {
    values: Values,
    nulls: NullBufferBuilder,
    nullable: bool,
}

enum Values {
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    Time(Vec<i64>),
    Text(Box<Texts>),
}

impl Column {
    fn new<R>(field: &Field<R>, rows: usize) -> Self {
        let values = match field.kind {
            FieldKind::U8 => Values::U8(Vec::with_capacity(rows)),
            FieldKind::U16 => Values::U16(Vec::with_capacity(rows)),
            FieldKind::U32 => Values::U32(Vec::with_capacity(rows)),
            FieldKind::U64 => Values::U64(Vec::with_capacity(rows)),
            FieldKind::Time => Values::Time(Vec::with_capacity(rows)),
            FieldKind::Mac | FieldKind::Ipv4 | FieldKind::Ipv6 | FieldKind::Text => {
                Values::Text(Box::new(Texts { keys: Vec::with_capacity(rows), ..Texts::default() }))
            }
        };
        Self { values, nulls: NullBufferBuilder::new(rows), nullable: !field.null.is_empty() }
    }

    fn extend<R>(&mut self, value: fn(&R) -> FieldValue<'_>, rows: &[R]) {
        let nulls = &mut self.nulls;
        match &mut self.values {
            Values::U8(values) => numbers(values, nulls, value, rows, u8::MAX),
            Values::U16(values) => numbers(values, nulls, value, rows, u16::MAX),
            Values::U32(values) => numbers(values, nulls, value, rows, u32::MAX),
            Values::U64(values) => numbers(values, nulls, value, rows, u64::MAX),
            Values::Time(values) => numbers(values, nulls, value, rows, i64::MAX),
            Values::Text(texts) => {
                for row in rows {
                    let key = texts.key(value(row));
                    nulls.append(key.is_some());
                    texts.keys.push(key.unwrap_or(0));
                }
            }
        }
    }

    fn finish(self) -> Result<ArrayRef, ArrowError> {
        fn array<T: ArrowPrimitiveType>(
            values: Vec<T::Native>,
            nulls: Option<arrow_buffer::NullBuffer>,
        ) -> Result<ArrayRef, ArrowError> {
            Ok(Arc::new(PrimitiveArray::<T>::try_new(ScalarBuffer::from(values), nulls)?))
        }
        // A null that the declaration does not allow is the zero that stands in its place.
        let nulls = self.nulls.build().filter(|_| self.nullable);
        match self.values {
            Values::U8(values) => array::<UInt8Type>(values, nulls),
            Values::U16(values) => array::<UInt16Type>(values, nulls),
            Values::U32(values) => array::<UInt32Type>(values, nulls),
            Values::U64(values) => array::<UInt64Type>(values, nulls),
            Values::Time(values) => {
                let times = TimestampMicrosecondArray::try_new(ScalarBuffer::from(values), nulls)?;
                Ok(Arc::new(times.with_timezone("UTC")))
            }
            Values::Text(mut texts) => {
                if texts.list.is_empty() {
                    texts.list.push(String::new());
                }
                let keys = PrimitiveArray::<Int32Type>::try_new(ScalarBuffer::from(texts.keys), nulls)?;
                let texts = Arc::new(StringArray::from(texts.list));
                Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(keys, texts)?))
            }
        }
    }
}

/// Appends numbers; what does not fit is the largest that does.
fn numbers<R, T: TryFrom<u64> + Default + Copy>(
    values: &mut Vec<T>,
    nulls: &mut NullBufferBuilder,
    value: fn(&R) -> FieldValue<'_>,
    rows: &[R],
    largest: T,
) {
    for row in rows {
        if let FieldValue::Number(number) = value(row) {
            values.push(T::try_from(number).unwrap_or(largest));
            nulls.append_non_null();
        } else {
            values.push(T::default());
            nulls.append_null();
        }
    }
}

/// Texts, each kept once.
#[derive(Default)]
struct Texts {
    keys: Vec<i32>,
    list: Vec<String>,
    addresses: HashMap<u128, i32>,
    names: HashMap<String, i32>,
    latest: Option<(u128, i32)>,
}

impl Texts {
    /// The number of a text; `None` for null.
    fn key(&mut self, value: FieldValue<'_>) -> Option<i32> {
        match value {
            FieldValue::Null | FieldValue::Number(_) => None,
            FieldValue::Mac(mac) => {
                let [a, b, c, d, e, f] = mac.0;
                let bits = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
                self.address(u128::from(bits), || mac.to_string())
            }
            FieldValue::Ipv4(address) => self.address(u128::from(u32::from(address)), || address.to_string()),
            FieldValue::Ipv6(address) => self.address(u128::from(address), || address.to_string()),
            FieldValue::Name(text) | FieldValue::Text(text) => {
                if let Some(key) = self.names.get(text) {
                    return Some(*key);
                }
                let key = i32::try_from(self.list.len()).ok()?;
                self.names.insert(text.to_owned(), key);
                self.list.push(text.to_owned());
                Some(key)
            }
        }
    }

    /// The number of an address; a column has one kind only.
    fn address(&mut self, bits: u128, text: impl FnOnce() -> String) -> Option<i32> {
        if let Some((latest, key)) = self.latest
            && latest == bits
        {
            return Some(key);
        }
        let next = i32::try_from(self.list.len()).ok()?;
        let key = *self.addresses.entry(bits).or_insert(next);
        if key == next {
            self.list.push(text());
        }
        self.latest = Some((bits, key));
        Some(key)
    }
}
