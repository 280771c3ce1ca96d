//! A column of a row group: its dictionary, its pages, and what is said about them.

use bytes::Bytes;
use parquet::basic::{BoundaryOrder, Compression, Encoding, PageType, Type as Physical, ZstdLevel};
use parquet::column::page::{CompressedPage, Page, PageWriteSpec, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{
    ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder, PageEncodingStats,
};
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

use super::dictionary::{Places, TextList};
use super::packing::{bits, deltas, hybrid};
use super::{Gathered, Values};

/// Rows of a page: the least that a filter reads of a column.
const PAGE_ROWS: usize = 8192;
/// After so many values it is decided whether a dictionary pays.
const TRIAL: usize = 2048;
/// Texts that are longer have no statistics.
const MAX_STATISTIC: usize = 64;
const LEVEL: i32 = 1;

/// How a column is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Form {
    /// Queries look for its values: each page says what is in it.
    pub(crate) filter: bool,
    /// As differences: values that are near the one before.
    pub(crate) deltas: bool,
    /// As they are: nearly every record has another one.
    pub(crate) plain: bool,
    /// Times are signed for their readers, all other numbers are not.
    pub(crate) signed: bool,
}

/// Writes columns, one after the other.
pub(crate) struct Encoder {
    compressor: zstd::bulk::Compressor<'static>,
    known: Places<u64>,
    /// The values of a dictionary, and for each value of the column its place there.
    distinct: Vec<u64>,
    places: Vec<u32>,
    page: Vec<u8>,
}

/// Where the values of a page are found.
enum Body<'a> {
    Places(&'a [u32]),
    Narrow(&'a [u32]),
    Wide(&'a [u64]),
    Deltas(&'a [u64]),
}

/// The smallest and the largest value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Range {
    Narrow([u32; 2]),
    /// Shifted, if signed, so that they compare as unsigned ones.
    Wide([u64; 2]),
    Text([String; 2]),
}

impl Encoder {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            compressor: zstd::bulk::Compressor::new(LEVEL)?,
            known: Places::default(),
            distinct: Vec::new(),
            places: Vec::new(),
            page: Vec::new(),
        })
    }

    /// Writes the column of a row group of so many rows.
    pub(crate) fn encode(
        &mut self,
        column: &Gathered,
        rows: usize,
        form: Form,
        description: &ColumnDescPtr,
    ) -> Result<(Bytes, ColumnCloseResult)> {
        let mut chunk = Chunk::new(description.physical_type());
        let mut places = std::mem::take(&mut self.places);
        let texts = if let Values::Text(texts) = &column.values { Some(texts) } else { None };
        let dictionary =
            texts.is_none() && !form.plain && !form.deltas && self.intern(&column.values, &mut places);
        let coded = texts.map(|texts| texts.places.as_slice()).or(dictionary.then_some(places.as_slice()));
        let coded = coded.filter(|places| !places.is_empty());
        let distinct =
            if coded.is_some() { texts.map_or(self.distinct.len(), |texts| texts.list.len()) } else { 0 };
        if coded.is_some() {
            self.page.clear();
            match (&column.values, texts) {
                (_, Some(texts)) => plain_texts(&texts.list, &mut self.page),
                (Values::Narrow(_), _) => {
                    self.page.extend(self.distinct.iter().flat_map(|value| {
                        let [a, b, c, d, ..] = value.to_le_bytes();
                        [a, b, c, d]
                    }));
                }
                _ => self.page.extend(self.distinct.iter().flat_map(|value| value.to_le_bytes())),
            }
            let buf = self.compressor.compress(&self.page)?.into();
            let page = Page::DictionaryPage {
                buf,
                num_values: count(distinct)?,
                encoding: Encoding::PLAIN,
                is_sorted: false,
            };
            chunk.write(page, self.page.len())?;
        }
        // Where all values are the same, or there is none, a page more says nothing more.
        let values = column.len();
        let page_rows = if values == 0 || distinct == 1 { rows } else { PAGE_ROWS };
        let keys = match texts {
            Some(texts) if form.filter => text_keys(&texts.list),
            _ => Vec::new(),
        };
        let (mut row, mut value) = (0, 0);
        while row < rows {
            let in_page = page_rows.min(rows - row);
            let present = column.present.as_ref().map(|present| slice(present, row, in_page));
            let there = present.map_or(in_page, |present| present.iter().map(|&is| usize::from(is)).sum());
            let body = match (coded, &column.values) {
                (Some(places), _) => Body::Places(slice(places, value, there)),
                (None, Values::Wide(wide)) if form.deltas => Body::Deltas(slice(wide, value, there)),
                (None, Values::Wide(wide)) => Body::Wide(slice(wide, value, there)),
                (None, Values::Narrow(narrow)) => Body::Narrow(slice(narrow, value, there)),
                (None, Values::Text(_)) => Body::Narrow(&[]),
            };
            self.page.clear();
            if let Some(present) = present {
                self.page.extend([0; 4]);
                hybrid(present, 1, &mut self.page);
                let length = count(self.page.len() - 4)?.to_le_bytes();
                self.page.iter_mut().zip(length).for_each(|(byte, of_length)| *byte = of_length);
            }
            let encoding = body.write(&mut self.page);
            let buf = self.compressor.compress(&self.page)?.into();
            let page = Page::DataPage {
                buf,
                num_values: count(in_page)?,
                encoding,
                def_level_encoding: Encoding::RLE,
                rep_level_encoding: Encoding::RLE,
                statistics: None,
            };
            chunk.data(page, self.page.len(), in_page)?;
            if form.filter {
                let range = match (texts, &column.values) {
                    (Some(texts), _) => text_range(slice(&texts.places, value, there), &keys, &texts.list),
                    (None, Values::Narrow(narrow)) => narrow_range(slice(narrow, value, there)),
                    (None, Values::Wide(wide)) => wide_range(slice(wide, value, there), form),
                    (None, Values::Text(_)) => None,
                };
                chunk.page_range(range.as_ref(), form, there == 0, in_page - there)?;
            }
            row += in_page;
            value += there;
        }
        let range = match (texts, &column.values) {
            // Of texts that nobody looks for, none of the statistics would be of use.
            (Some(_), _) => chunk.range.take().filter(|_| chunk.whole),
            (None, Values::Narrow(narrow)) if coded.is_none() => narrow_range(narrow),
            (None, Values::Wide(wide)) if coded.is_none() => wide_range(wide, form),
            (None, Values::Narrow(_)) => wide_range(&self.distinct, Form::default()).and_then(Range::narrow),
            (None, _) => wide_range(&self.distinct, form),
        };
        let result = chunk.close(description, range.as_ref(), form, rows, rows - values);
        self.places = places;
        result
    }

    /// Makes a dictionary of numbers, if one pays.
    fn intern(&mut self, values: &Values, places: &mut Vec<u32>) -> bool {
        self.known.clear();
        self.distinct.clear();
        places.clear();
        match values {
            Values::Narrow(values) => self.intern_all(values.iter().map(|&value| value.into()), places),
            Values::Wide(values) => self.intern_all(values.iter().copied(), places),
            Values::Text(_) => false,
        }
    }

    fn intern_all(&mut self, mut values: impl ExactSizeIterator<Item = u64>, places: &mut Vec<u32>) -> bool {
        places.reserve(values.len());
        for part in [TRIAL, usize::MAX] {
            let mut latest = None;
            for value in values.by_ref().take(part) {
                let place = match latest {
                    Some((before, place)) if before == value => place,
                    _ => {
                        let (place, new) = self.known.place(value);
                        if new {
                            self.distinct.push(value);
                        }
                        latest = Some((value, place));
                        place
                    }
                };
                places.push(place);
            }
            if places.len() == TRIAL && self.distinct.len() > TRIAL / 16 * 15 {
                return false;
            }
        }
        true
    }
}

impl Gathered {
    /// How many values there are.
    fn len(&self) -> usize {
        match &self.values {
            Values::Narrow(values) => values.len(),
            Values::Wide(values) => values.len(),
            Values::Text(texts) => texts.places.len(),
        }
    }
}

impl Body<'_> {
    /// Appends the values; says how.
    fn write(&self, out: &mut Vec<u8>) -> Encoding {
        match self {
            Self::Places(places) => {
                let width = bits(places.iter().copied().max().unwrap_or(0).into());
                out.extend(width.to_le_bytes().first());
                hybrid(places, width, out);
                Encoding::RLE_DICTIONARY
            }
            Self::Deltas(values) => {
                deltas(values, out);
                Encoding::DELTA_BINARY_PACKED
            }
            Self::Narrow(values) => {
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                Encoding::PLAIN
            }
            Self::Wide(values) => {
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                Encoding::PLAIN
            }
        }
    }
}

/// A chunk that grows.
struct Chunk {
    bytes: TrackedWrite<Vec<u8>>,
    dictionary_offset: Option<i64>,
    data_offset: Option<i64>,
    compressed: usize,
    uncompressed: usize,
    encodings: Vec<PageEncodingStats>,
    offsets: OffsetIndexBuilder,
    index: ColumnIndexBuilder,
    /// Whether there is an index.
    indexed: bool,
    /// Of all pages, where pages say theirs, and whether each does.
    range: Option<Range>,
    whole: bool,
    /// Of the page before, and whether each page is above the one before.
    latest: Option<Range>,
    ascending: bool,
}

impl Chunk {
    fn new(physical: Physical) -> Self {
        Self {
            bytes: TrackedWrite::new(Vec::new()),
            dictionary_offset: None,
            data_offset: None,
            compressed: 0,
            uncompressed: 0,
            encodings: Vec::new(),
            offsets: OffsetIndexBuilder::new(),
            index: ColumnIndexBuilder::new(physical),
            indexed: false,
            range: None,
            whole: true,
            latest: None,
            ascending: true,
        }
    }

    fn write(&mut self, page: Page, uncompressed: usize) -> Result<PageWriteSpec> {
        let (page_type, encoding) = (page.page_type(), page.encoding());
        let spec =
            SerializedPageWriter::new(&mut self.bytes).write_page(CompressedPage::new(page, uncompressed))?;
        self.compressed += spec.compressed_size;
        self.uncompressed += spec.uncompressed_size;
        let offset = long(spec.offset)?;
        if page_type == PageType::DICTIONARY_PAGE {
            self.dictionary_offset = Some(offset);
        } else {
            self.data_offset.get_or_insert(offset);
        }
        match self.encodings.last_mut() {
            Some(last) if last.page_type == page_type => last.count += 1,
            _ => self.encodings.push(PageEncodingStats { page_type, encoding, count: 1 }),
        }
        Ok(spec)
    }

    fn data(&mut self, page: Page, uncompressed: usize, rows: usize) -> Result<()> {
        let spec = self.write(page, uncompressed)?;
        self.offsets.append_offset_and_size(long(spec.offset)?, i32::try_from(spec.compressed_size)?);
        self.offsets.append_row_count(i64::try_from(rows)?);
        Ok(())
    }

    /// Notes what is in the page.
    fn page_range(&mut self, range: Option<&Range>, form: Form, empty: bool, nulls: usize) -> Result<()> {
        self.indexed = true;
        let [least, most] = range.map(|range| range.bytes(form)).unwrap_or_default();
        if range.is_none() && !empty {
            self.index.to_invalid();
            self.whole = false;
        }
        self.index.append(empty, least, most, i64::try_from(nulls)?);
        let Some(range) = range else { return Ok(()) };
        self.ascending &= self.latest.as_ref().is_none_or(|latest| latest.is_below(range));
        self.latest = Some(range.clone());
        self.range = match self.range.take() {
            Some(before) => before.with(range),
            None => Some(range.clone()),
        };
        Ok(())
    }

    fn close(
        mut self,
        description: &ColumnDescPtr,
        range: Option<&Range>,
        form: Form,
        rows: usize,
        nulls: usize,
    ) -> Result<(Bytes, ColumnCloseResult)> {
        let bytes = Bytes::from(self.bytes.into_inner()?);
        let order = if self.ascending { BoundaryOrder::ASCENDING } else { BoundaryOrder::UNORDERED };
        self.index.set_boundary_order(order);
        let mut encodings: Vec<_> = self.encodings.iter().map(|stats| stats.encoding).collect();
        encodings.push(Encoding::RLE);
        let mut metadata = ColumnChunkMetaData::builder(description.clone())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(LEVEL)?))
            .set_encodings(encodings)
            .set_page_encoding_stats(self.encodings)
            .set_total_compressed_size(i64::try_from(self.compressed)?)
            .set_total_uncompressed_size(i64::try_from(self.uncompressed)?)
            .set_num_values(i64::try_from(rows)?)
            .set_data_page_offset(self.data_offset.unwrap_or(0))
            .set_dictionary_page_offset(self.dictionary_offset);
        let nulls = u64::try_from(nulls).unwrap_or(0);
        if range.is_some() || nulls > 0 {
            metadata = metadata.set_statistics(statistics(range, description.physical_type(), form, nulls));
        }
        let column_index = (self.indexed && self.index.valid()).then(|| self.index.build()).transpose()?;
        let close = ColumnCloseResult {
            bytes_written: u64::try_from(bytes.len())?,
            rows_written: u64::try_from(rows)?,
            metadata: metadata.build()?,
            bloom_filter: None,
            column_index,
            offset_index: Some(self.offsets.build()),
        };
        Ok((bytes, close))
    }
}

/// What is known of a chunk.
fn statistics(range: Option<&Range>, physical: Physical, form: Form, nulls: u64) -> Statistics {
    let nulls = Some(nulls);
    match range {
        Some(Range::Narrow([least, most])) => {
            Statistics::new(Some(least.cast_signed()), Some(most.cast_signed()), None, nulls, false)
        }
        Some(Range::Wide(range)) => {
            let [least, most] = range.map(|value| shifted(value, form).cast_signed());
            Statistics::new(Some(least), Some(most), None, nulls, false)
        }
        Some(Range::Text([least, most])) => {
            let text = |text: &String| Some(ByteArray::from(text.as_str()));
            Statistics::new(text(least), text(most), None, nulls, false)
        }
        None => match physical {
            Physical::INT32 => Statistics::new::<i32>(None, None, None, nulls, false),
            Physical::INT64 => Statistics::new::<i64>(None, None, None, nulls, false),
            _ => Statistics::new::<ByteArray>(None, None, None, nulls, false),
        },
    }
}

/// Signed values, moved so that they compare as unsigned ones; and back.
fn shifted(value: u64, form: Form) -> u64 {
    if form.signed { value ^ 1 << 63 } else { value }
}

impl Range {
    fn bytes(&self, form: Form) -> [Vec<u8>; 2] {
        match self {
            Self::Narrow(range) => range.map(|value| value.to_le_bytes().to_vec()),
            Self::Wide(range) => range.map(|value| shifted(value, form).to_le_bytes().to_vec()),
            Self::Text(range) => range.each_ref().map(|text| text.as_bytes().to_vec()),
        }
    }

    fn narrow(self) -> Option<Self> {
        match self {
            Self::Wide([least, most]) => {
                Some(Self::Narrow([u32::try_from(least).ok()?, u32::try_from(most).ok()?]))
            }
            Self::Narrow(_) | Self::Text(_) => None,
        }
    }

    /// Whether neither end of `next` is below that of this one.
    fn is_below(&self, next: &Self) -> bool {
        match (self, next) {
            (Self::Narrow(a), Self::Narrow(b)) => a[0] <= b[0] && a[1] <= b[1],
            (Self::Wide(a), Self::Wide(b)) => a[0] <= b[0] && a[1] <= b[1],
            (Self::Text(a), Self::Text(b)) => a[0] <= b[0] && a[1] <= b[1],
            _ => false,
        }
    }

    /// Both together.
    fn with(self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Narrow([a, b]), Self::Narrow([c, d])) => Some(Self::Narrow([a.min(*c), b.max(*d)])),
            (Self::Wide([a, b]), Self::Wide([c, d])) => Some(Self::Wide([a.min(*c), b.max(*d)])),
            (Self::Text([a, b]), Self::Text([c, d])) => {
                Some(Self::Text([a.min(c.clone()), b.max(d.clone())]))
            }
            _ => None,
        }
    }
}

fn narrow_range(values: &[u32]) -> Option<Range> {
    Some(Range::Narrow([*values.iter().min()?, *values.iter().max()?]))
}

fn wide_range(values: &[u64], form: Form) -> Option<Range> {
    let shifted = || values.iter().map(|&value| shifted(value, form));
    Some(Range::Wide([shifted().min()?, shifted().max()?]))
}

/// The first sixteen bytes of each text: they compare as the texts do, unless they are equal.
fn text_keys(list: &TextList) -> Vec<u128> {
    let key = |place| {
        let mut key = [0; 16];
        key.iter_mut().zip(list.get(place).bytes()).for_each(|(to, from)| *to = from);
        u128::from_be_bytes(key)
    };
    (0..list.len()).map(key).collect()
}

/// The range of the texts at these places; `None` when there is none, or one of its ends is too long.
fn text_range(places: &[u32], keys: &[u128], list: &TextList) -> Option<Range> {
    let key = |place: u32| keys.get(place as usize).copied().unwrap_or(0);
    let text = |place: u32| list.get(place as usize);
    let first = *places.first()?;
    let (mut least, mut most) = ((key(first), first), (key(first), first));
    for &place in places {
        let key = key(place);
        if key < least.0 || key == least.0 && place != least.1 && text(place) < text(least.1) {
            least = (key, place);
        }
        if key > most.0 || key == most.0 && place != most.1 && text(place) > text(most.1) {
            most = (key, place);
        }
    }
    let ends = [text(least.1), text(most.1)];
    ends.iter().all(|end| end.len() <= MAX_STATISTIC).then(|| Range::Text(ends.map(str::to_owned)))
}

fn plain_texts(list: &TextList, out: &mut Vec<u8>) {
    for text in (0..list.len()).map(|place| list.get(place)) {
        out.extend(u32::try_from(text.len()).unwrap_or(0).to_le_bytes());
        out.extend(text.as_bytes());
    }
}

fn slice<T>(all: &[T], begin: usize, length: usize) -> &[T] {
    all.get(begin..begin + length).unwrap_or_default()
}

fn count(count: usize) -> Result<u32> {
    u32::try_from(count).map_err(too_large)
}

fn long(offset: u64) -> Result<i64> {
    i64::try_from(offset).map_err(too_large)
}

fn too_large(error: std::num::TryFromIntError) -> ParquetError {
    ParquetError::External(Box::new(error))
}
